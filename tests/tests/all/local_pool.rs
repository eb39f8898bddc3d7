//! What a node's own memory does for it: scans of what is not there, and work with next to no memory.

use aquifer_dss_proto::NodeId;
use aquifer_engine::node::Node;
use aquifer_engine::{Engine, Error, Isolation, TreeId};
use aquifer_tests::sim::{Cluster, ClusterOptions, World, release_panics};
use aquifer_tests::swarm::Tuning;
use aquifer_tests::workload::{EngineProgram, Sessions};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

const ROWS: u32 = 3000;

/// What `work` answers at the one node of a cluster, with `frames` pages of memory.
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
        // Both ends of the table are out of memory.
        assert_eq!(rows(engine, tree, !reverse).await.unwrap(), ROWS);
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
        assert!(
            fetched <= needed + needed / 20,
            "{fetched} pages instead of {needed}"
        );
    }
}
