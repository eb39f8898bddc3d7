//! A node's own memory: scans of what is not in it, and work with next to none.

use aquifer_dss_proto::NodeId;
use aquifer_engine::node::{LEAST_FRAMES, Node};
use aquifer_engine::{Engine, Error, Isolation, TreeId};
use aquifer_tests::sim::{Cluster, ClusterOptions, World, release_panics};
use aquifer_tests::swarm::Tuning;
use aquifer_tests::workload::{EngineProgram, Sessions};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

const ROWS: u32 = 3000;

/// What `work` answers at the one node of a cluster, with `frames` pages of memory. The world fails when nothing can go on any more.
fn on_one_node<T, F>(
    frames: usize,
    tuning: Tuning,
    work: impl FnOnce(Arc<World>, Arc<Node>) -> F + Send + 'static,
) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let sessions = Arc::new(Sessions::default());
    let program = EngineProgram::new(sessions.clone(), frames, 4 << 20, tuning);
    let id = NodeId::new(1).unwrap();
    let options = ClusterOptions {
        nodes: 1,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::new(options, program.clone());
    let inside = cluster.clone();
    let run = async move {
        program.prepare(&inside).await?;
        inside.start_all();
        let node = loop {
            inside.world.sleep(Duration::from_millis(10)).await;
            if let Some(node) = program.node(id).filter(|node| node.engine().is_serving()) {
                break node;
            }
        };
        let done = inside.call(id, "work", work(inside.world.clone(), node));
        done.await.ok_or_else(|| "the node ended".to_owned())
    };
    let result = cluster.world.block_on(run);
    sessions.close();
    cluster.shut_down();
    release_panics();
    result.unwrap().unwrap()
}

async fn filled(engine: &Arc<Engine>) -> Result<TreeId, Error> {
    let tree = engine.create_tree().await?;
    for part in 0..ROWS / 100 {
        let mut txn = engine.begin(Isolation::ReadCommitted);
        txn.statement().await?;
        for row in part * 100..(part + 1) * 100 {
            txn.insert(tree, &row.to_be_bytes(), &[7; 1000]).await?;
        }
        txn.commit().await?;
    }
    Ok(tree)
}

async fn rows(engine: &Arc<Engine>, tree: TreeId, reverse: bool) -> Result<u32, Error> {
    let mut txn = engine.begin(Isolation::Snapshot);
    txn.statement().await?;
    let (mut lower, mut upper, mut count) = (Bound::Unbounded, Bound::Unbounded, 0);
    loop {
        let batch = txn
            .scan(tree, (lower.clone(), upper.clone()), reverse, 50)
            .await?;
        let Some((last, _)) = batch.last() else {
            return Ok(count);
        };
        count += batch.len() as u32;
        *(if reverse { &mut upper } else { &mut lower }) = Bound::Excluded(last.clone());
    }
}

/// Milliseconds of virtual time, and pages read from storage, of a scan over a table that is larger than memory.
fn cold_scan(prefetch: usize, reverse: bool) -> (u64, u64) {
    let tuning = Tuning {
        prefetch,
        ..Tuning::default()
    };
    on_one_node(128, tuning, move |world, node| async move {
        let (engine, pool) = (node.engine(), node.pool());
        let tree = filled(engine).await.unwrap();
        // Another table takes its place in memory.
        let other = filled(engine).await.unwrap();
        for _ in 0..2 {
            assert_eq!(rows(engine, other, reverse).await.unwrap(), ROWS);
        }
        let (begun, before) = (world.now(), pool.counters());
        assert_eq!(rows(engine, tree, reverse).await.unwrap(), ROWS);
        let after = pool.counters();
        assert_eq!(after.prefetches > before.prefetches, prefetch > 0);
        ((world.now() - begun) / 1_000_000, after.fetches - before.fetches)
    })
}

#[test]
fn a_scan_of_what_is_not_in_memory_overlaps_its_reads() {
    for reverse in [false, true] {
        let (alone, needed) = cold_scan(0, reverse);
        let (ahead, fetched) = cold_scan(8, reverse);
        println!("reverse {reverse}: {alone} ms alone, {ahead} ms ahead; {needed} and {fetched} pages");
        assert!(ahead * 3 < alone, "{ahead} ms instead of {alone} ms");
        assert_eq!(fetched, needed, "no page is read twice, or in vain");
    }
}

/// Accounts of each node, of 900 bytes: eight to a leaf.
const ACCOUNTS: u32 = 64;
const BEGINNING: i64 = 1000;
const WORKERS: u32 = 16;
const ROUNDS: u32 = 12;

fn balance(row: &[u8]) -> i64 {
    i64::from_le_bytes(row[..8].try_into().unwrap())
}

fn account(balance: i64) -> Vec<u8> {
    let mut row = vec![1; 900];
    row[..8].copy_from_slice(&balance.to_le_bytes());
    row
}

/// The sum of all balances under one snapshot.
async fn sum(engine: &Arc<Engine>, accounts: TreeId) -> Result<i64, Error> {
    let mut txn = engine.begin(Isolation::Snapshot);
    txn.statement().await?;
    let all = (Bound::Unbounded, Bound::Unbounded);
    let rows = txn.scan(accounts, all, false, usize::MAX).await?;
    Ok(rows.iter().map(|(_, row)| balance(row)).sum())
}

/// Moves money, in the order of keys so that nobody waits in a circle, and adds rows in places all over the other tree, whose pages split.
async fn worker(engine: Arc<Engine>, accounts: TreeId, log: TreeId, me: u32) -> Result<(), Error> {
    for round in 0..ROUNDS {
        let number = me * ROUNDS + round;
        let (one, other) = (number * 7 % ACCOUNTS, (number * 29 + 1) % ACCOUNTS);
        let mut txn = engine.begin(Isolation::ReadCommitted);
        txn.statement().await?;
        if one != other {
            for (key, sign) in [(one.min(other), 1), (one.max(other), -1)] {
                let change = |row: &[u8]| Some(account(balance(row) + sign * i64::from(round)));
                txn.update_with(accounts, &key.to_be_bytes(), change).await?;
            }
        }
        for part in 0..2u32 {
            let place = (2 * number + part).wrapping_mul(0x9E37_79B9);
            txn.insert(log, &place.to_be_bytes(), &[me as u8; 1500]).await?;
        }
        txn.commit().await?;
        if round % 4 == me % 4 {
            let expected = i64::from(ACCOUNTS) * BEGINNING;
            assert_eq!(sum(&engine, accounts).await?, expected);
        }
    }
    Ok(())
}

async fn made(engine: &Arc<Engine>) -> Result<(TreeId, TreeId), Error> {
    let (accounts, log) = (engine.create_tree().await?, engine.create_tree().await?);
    let mut txn = engine.begin(Isolation::ReadCommitted);
    txn.statement().await?;
    for number in 0..ACCOUNTS {
        txn.insert(accounts, &number.to_be_bytes(), &account(BEGINNING))
            .await?;
    }
    txn.commit().await?;
    Ok((accounts, log))
}

/// Transfers, splits and scans of many tasks at once, over trees several times as large as memory.
fn many_tasks_with(frames: usize) {
    let (evicted, seconds) = on_one_node(frames, Tuning::default(), move |world, node| async move {
        let engine = node.engine().clone();
        let begun = world.now();
        let (accounts, log) = made(&engine).await.unwrap();
        let workers: Vec<_> = (0..WORKERS)
            .map(|me| {
                let (done, end) = tokio::sync::oneshot::channel();
                let work = worker(engine.clone(), accounts, log, me);
                let work = Box::pin(async move { drop(done.send(work.await)) });
                world.spawn(world.life(engine.node()), "worker", work);
                end
            })
            .collect();
        for end in workers {
            end.await.unwrap().unwrap();
        }
        assert_eq!(rows(&engine, log, true).await.unwrap(), WORKERS * ROUNDS * 2);
        assert_eq!(
            sum(&engine, accounts).await.unwrap(),
            i64::from(ACCOUNTS) * BEGINNING
        );
        let evicted = node.pool().counters().evictions;
        (evicted, (world.now() - begun) / 1_000_000_000)
    });
    println!("{frames} frames: {evicted} evictions, {seconds} s");
    assert!(evicted > 100, "{evicted} evictions");
    assert!(seconds < 60, "{seconds} s");
}

#[test]
fn many_tasks_work_with_64_frames() {
    many_tasks_with(64);
}

#[test]
fn many_tasks_work_with_as_few_frames_as_a_node_takes() {
    many_tasks_with(LEAST_FRAMES);
}
