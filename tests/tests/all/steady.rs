//! Without faults: a ring of redo far smaller than what is written to it, and clean stops.

use aquifer_dss_proto::NodeId;
use aquifer_engine::Isolation;
use aquifer_engine::node::Node;
use aquifer_engine::wal::{GroupFile, read_header};
use aquifer_tests::sim::{Cluster, ClusterOptions, release_panics};
use aquifer_tests::swarm::Tuning;
use aquifer_tests::swarm::{Configuration, Layout, Overrides, Subject, run};
use aquifer_tests::workload::{Client, EngineProgram, Sessions, Size, workload};
use std::sync::Arc;
use std::time::Duration;

fn id(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn with_small_ring(seed: u64, workload: Option<&str>, calm: bool) -> Configuration {
    let overrides = Overrides {
        nodes: workload.map(|_| 3),
        workload: workload.map(str::to_owned),
        calm,
        trace: false,
        subject: Subject::Engine,
        defect: None,
        layout: Layout::Whole,
    };
    let mut configuration = Configuration::draw(seed, &overrides);
    configuration.redo_bytes = 1 << 20;
    configuration
}

/// Three nodes change the same few pages and pages of their own. Each commit writes a block at least, so each ring of 1 MiB
/// is written several times, and load goes on only if horizons move.
#[test]
fn a_small_ring_never_stalls_the_load() {
    for name in ["tree", "bank", "register"] {
        let mut configuration = with_small_ring(1, Some(name), true);
        configuration.frames = 64;
        configuration.size = Size {
            clients: 8,
            keys: 64,
            value: 1500,
        };
        configuration.length = Duration::from_secs(300);
        let report = run(&configuration);
        release_panics();
        assert_eq!(report.failure, None, "{name}: {}", report.summary);
        let committed = report.summary.split_whitespace().nth(1).unwrap();
        assert!(committed.parse::<u64>().unwrap() >= 4_000, "{}", report.summary);
    }
}

/// The same with nodes that die: who recovers, and who comes back, must let horizons move too.
#[test]
fn a_small_ring_survives_faults() {
    for seed in 1..=8 {
        let report = run(&with_small_ring(seed, None, false));
        release_panics();
        assert_eq!(report.failure, None, "seed {seed}: {}", report.summary);
    }
}

/// Writers on three nodes want the same page of a small tree. Whoever has it Shared lets it go before it asks for Exclusive:
/// else they wait for each other until their holds run out, at each change.
#[test]
fn writers_of_one_page_do_not_wait_for_holds_to_run_out() {
    let mut configuration = with_small_ring(3, Some("register"), true);
    configuration.frames = 64;
    configuration.size = Size {
        clients: 9,
        keys: 16,
        value: 64,
    };
    configuration.length = Duration::from_secs(10);
    let report = run(&configuration);
    release_panics();
    assert_eq!(report.failure, None, "{}", report.summary);
    let committed = report.summary.split_whitespace().nth(1).unwrap();
    assert!(committed.parse::<u64>().unwrap() >= 3_000, "{}", report.summary);
}

async fn is_clean(asked: &Node, stream: NodeId) -> bool {
    let group = asked.group();
    let stat = group.stat_path(&format!("/redo/{stream}")).await.unwrap();
    let file = GroupFile::new(group.clone(), stat.id, stat.size);
    read_header(&file, stream).await.unwrap().clean
}

type Inside = (Arc<Cluster>, Arc<EngineProgram>);

/// Three nodes that have worked for some seconds on the same rows, and then what `scenario` does with them.
fn after_work<F>(scenario: impl FnOnce(Inside) -> F + Send + 'static)
where
    F: Future<Output = Result<(), String>> + Send,
{
    let sessions = Arc::new(Sessions::default());
    let program = EngineProgram::new(sessions.clone(), 64, 4 << 20, Tuning::default());
    let mut options = ClusterOptions {
        nodes: 3,
        ..ClusterOptions::default()
    };
    options.world.seed = 7;
    let cluster = Cluster::new(options, program.clone());
    let size = Size {
        clients: 4,
        keys: 16,
        value: 64,
    };
    let chosen = workload("bank", size).unwrap();
    let (inside, open) = (cluster.clone(), sessions.clone());
    let run = async move {
        program.prepare(&inside).await?;
        inside.start_all();
        let client = |number| Client::new(inside.clone(), open.clone(), number);
        chosen.prepare(client(u64::MAX)).await?;
        for number in 0..size.clients {
            open.set_end(inside.world.now() + 800_000_000);
            chosen.run(client(number)).await?;
        }
        scenario((inside.clone(), program)).await
    };
    let result = cluster.world.block_on(run);
    sessions.close();
    cluster.shut_down();
    release_panics();
    assert_eq!(result, Ok(Ok(())), "{:?}", cluster.world.aborts());
}

/// A node stops while the others have pages dirty that it changed: it waits until they are written back, so that nobody has
/// to recover it.
#[test]
fn a_clean_stop_leaves_nothing_to_recover() {
    for leaver in [1, 3] {
        after_work(move |(cluster, program)| async move {
            let (leaving, staying) = (program.node(id(leaver)).unwrap(), program.node(id(2)).unwrap());
            let stopped = cluster.call(id(leaver), "stop", async move { leaving.stop().await.is_ok() });
            assert_eq!(stopped.await, Some(true));
            assert!(is_clean(&staying, id(leaver)).await, "stream of node {leaver}");
            Ok(())
        });
    }
}

/// Both that are left stop at the same time, while the third is being recovered.
#[test]
fn two_nodes_stop_together_after_a_death() {
    for pause in [0, 300, 1_500, 5_000] {
        after_work(move |(cluster, program)| async move {
            cluster.crash(id(3), "killed by the test");
            cluster.world.sleep(Duration::from_millis(pause)).await;
            let begun = cluster.world.now();
            let stops = [1, 2].map(|n| {
                let (node, cluster) = (program.node(id(n)).unwrap(), cluster.clone());
                async move {
                    let stop = async move { node.stop().await.map_err(|error| error.to_string()) };
                    cluster.call(id(n), "stop", stop).await
                }
            });
            let [one, two] = stops;
            assert_eq!(tokio::join!(one, two), (Some(Ok(())), Some(Ok(()))));
            let seconds = (cluster.world.now() - begun) / 1_000_000_000;
            assert!(seconds < 30, "the stops took {seconds} s");
            Ok(())
        });
    }
}

/// Pages of removed trees are dirty in the pools and named by redo: they hold up neither the cleaner, nor the horizon, nor the
/// recovery of a node that dies, nor its return.
#[test]
fn removed_trees_hold_up_nothing() {
    after_work(|(cluster, program)| async move {
        for round in 0..150u8 {
            let engine = program
                .node(id(1 + round % 3))
                .ok_or("a node is missing")?
                .engine()
                .clone();
            let home = engine.node();
            let work = async move {
                let tree = engine.create_tree().await?;
                let mut txn = engine.begin(Isolation::ReadCommitted);
                txn.statement().await?;
                for row in 0..120u32 {
                    txn.insert(tree, &row.to_be_bytes(), &[round; 1000]).await?;
                }
                txn.commit().await?;
                engine.drop_tree(tree).await
            };
            let done = cluster.call(home, "removed tree", work).await;
            done.ok_or("the node ended")?.map_err(|error| error.to_string())?;
        }
        let killed = program.node(id(2)).ok_or("a node is missing")?;
        cluster.crash(id(2), "killed by the test");
        cluster.start(id(2));
        let until = cluster.world.now() + 60_000_000_000;
        while cluster.world.now() < until {
            cluster.world.sleep(Duration::from_millis(20)).await;
            if let Some(node) = program.node(id(2))
                && !Arc::ptr_eq(&node, &killed)
                && node.engine().is_serving()
            {
                return Ok(());
            }
        }
        Err("the killed node did not come back".to_owned())
    });
}
