//! Hazards that need a situation of their own: each test passes, and fails when its rule is removed.

use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_engine::{Error, Isolation};
use aquifer_tests::sim::{Cluster, ClusterOptions, PortFault};
use aquifer_tests::swarm::Tuning;
use aquifer_tests::workload::{EngineProgram, Sessions};
use std::sync::Arc;
use std::time::Duration;

/// A node whose storage hangs has what it needs in memory, and must not answer from there once others may have gone on.
#[test]
fn a_statement_is_refused_once_the_gate_of_the_lease_is_closed() {
    let program = EngineProgram::new(Arc::new(Sessions::default()), 32, 1 << 20, Tuning::default());
    let options = ClusterOptions {
        nodes: 1,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::new(options, program.clone());
    let inside = cluster.clone();
    let scenario = async move {
        let one = NodeId::new(1).unwrap();
        program.prepare(&inside).await.unwrap();
        inside.start_all();
        while program.node(one).is_none_or(|node| !node.engine().is_serving()) {
            inside.world.sleep(Duration::from_millis(10)).await;
        }
        let node = program.node(one).unwrap();
        let engine = node.engine().clone();
        let work = async move {
            let tree = engine.create_tree().await.unwrap();
            let mut writer = engine.begin(Isolation::Snapshot);
            writer.statement().await.unwrap();
            writer.insert(tree, b"key", b"value").await.unwrap();
            writer.commit().await.unwrap();
            tree
        };
        let tree = inside.call(one, "writer", work).await.unwrap();
        let hangs = PortFault {
            errors: 0,
            delay: Duration::from_secs(60),
        };
        inside.disk.set_fault(one, hangs);
        let engine = node.engine().clone();
        let world = inside.world.clone();
        let read = async move {
            while node
                .membership()
                .lease_valid(aquifer_dss_proto::Instant(world.local_time(one)))
            {
                world.sleep(Duration::from_millis(10)).await;
            }
            let mut reader = engine.begin(Isolation::ReadCommitted);
            match reader.statement().await {
                Ok(()) => reader.get(tree, b"key").await.map(|_| ()),
                refused => refused,
            }
        };
        let answer = inside.call(one, "reader", read).await.unwrap();
        assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    };
    cluster.world.block_on(scenario).unwrap();
    cluster.shut_down();
}

#[test]
fn a_result_without_a_lease_is_missed_when_it_leaves() {
    let refused: fn() = a_statement_is_refused_once_the_gate_of_the_lease_is_closed;
    assert!(fails_with(Defect::AnswerWithoutLease, refused));
}
