//! Readers under a snapshot beside a writer of another node, which keeps its pages (HZ-8).

use aquifer_buffer_pool::PoolCounters;
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_engine::node::Node;
use aquifer_engine::{Engine, Isolation, TreeId};
use aquifer_tests::sim::{Cluster, ClusterOptions};
use aquifer_tests::swarm::Tuning;
use aquifer_tests::workload::{EngineProgram, Sessions};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

const KEY: &[u8] = b"key";

/// Two nodes: one that writes and one that reads.
struct Pair {
    cluster: Arc<Cluster>,
    writer: Arc<Node>,
    reader: Arc<Node>,
    tree: TreeId,
}

async fn write(engine: Arc<Engine>, tree: TreeId, value: Vec<u8>) {
    let mut writer = engine.begin(Isolation::ReadCommitted);
    writer.statement().await.unwrap();
    if !writer.update(tree, KEY, &value).await.unwrap() {
        writer.insert(tree, KEY, &value).await.unwrap();
    }
    writer.commit().await.unwrap();
}

/// What a scan sees and what a look-up sees, which is the same.
async fn read(engine: Arc<Engine>, tree: TreeId) -> Vec<u8> {
    let mut reader = engine.begin(Isolation::Snapshot);
    reader.statement().await.unwrap();
    let value = reader.get(tree, KEY).await.unwrap().unwrap();
    let all = (Bound::Unbounded, Bound::Unbounded);
    let rows = reader.scan(tree, all, false, 10).await.unwrap();
    assert_eq!(rows, [(KEY.to_vec(), value.clone())]);
    value
}

impl Pair {
    async fn start(cluster: Arc<Cluster>, program: Arc<EngineProgram>) -> Self {
        program.prepare(&cluster).await.unwrap();
        cluster.start_all();
        let ids = [1, 2].map(|id| NodeId::new(id).unwrap());
        let serves = |id| program.node(id).is_some_and(|node| node.engine().is_serving());
        while !ids.iter().all(|id| serves(*id)) {
            cluster.world.sleep(Duration::from_millis(10)).await;
        }
        let [writer, reader] = ids.map(|id| program.node(id).unwrap());
        let engine = writer.engine().clone();
        let make = async move { engine.create_tree().await.unwrap() };
        let tree = cluster.call(ids[0], "writer", make).await.unwrap();
        Self {
            cluster,
            writer,
            reader,
            tree,
        }
    }

    async fn write(&self, value: u32) {
        let work = write(
            self.writer.engine().clone(),
            self.tree,
            value.to_le_bytes().to_vec(),
        );
        let node = self.writer.engine().node();
        self.cluster.call(node, "writer", work).await.unwrap();
    }

    async fn read(&self) -> u32 {
        let work = read(self.reader.engine().clone(), self.tree);
        let node = self.reader.engine().node();
        let value = self.cluster.call(node, "reader", work).await.unwrap();
        u32::from_le_bytes(value.try_into().unwrap())
    }

    fn counters(&self) -> (PoolCounters, PoolCounters) {
        (self.writer.pool().counters(), self.reader.pool().counters())
    }
}

fn with_pair<F: Future<Output = ()> + Send + 'static>(scenario: impl FnOnce(Pair) -> F + Send + 'static) {
    let program = EngineProgram::new(Arc::new(Sessions::default()), 32, 1 << 20, Tuning::default());
    let options = ClusterOptions {
        nodes: 2,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::new(options, program.clone());
    let inside = cluster.clone();
    let all = async move { scenario(Pair::start(inside, program).await).await };
    cluster.world.block_on(all).unwrap();
    cluster.shut_down();
}

/// Every read sees the last commit, and the writer's pages stay where they are.
#[test]
fn a_reader_sees_every_commit_and_takes_nothing_from_the_writer() {
    with_pair(|pair| async move {
        // The reader learns that the tree is one leaf, from the page itself; then the writer takes that back.
        for value in 0..2 {
            pair.write(value).await;
            assert_eq!(pair.read().await, value);
        }
        let before = pair.counters();
        for value in 2..20 {
            pair.write(value).await;
            assert_eq!(pair.read().await, value);
        }
        let after = pair.counters();
        assert_eq!(after.1.transfers_in, before.1.transfers_in);
        assert_eq!(after.0.invalidations, before.0.invalidations);
        // A look-up and a scan each, and none of them a copy that was there already.
        assert_eq!(after.1.copies_in - before.1.copies_in, 2 * 18);
        assert_eq!(after.0.copies_out - before.0.copies_out, 2 * 18);
    });
}

#[test]
fn a_copy_that_is_kept_for_later_snapshots_is_missed() {
    let sees: fn() = a_reader_sees_every_commit_and_takes_nothing_from_the_writer;
    assert!(fails_with(Defect::KeepCopies, sees));
}

/// A page that is read and not changed becomes Shared: copies would go over the network for ever.
#[test]
fn a_page_that_is_only_read_becomes_shared() {
    with_pair(|pair| async move {
        for value in 0..2 {
            pair.write(value).await;
            pair.read().await;
        }
        pair.write(2).await;
        for _ in 0..10 {
            assert_eq!(pair.read().await, 2);
        }
        let before = pair.counters().1;
        assert_eq!(pair.read().await, 2);
        let after = pair.counters().1;
        assert_eq!(
            (after.copies_in, after.transfers_in),
            (before.copies_in, before.transfers_in)
        );
    });
}

/// What a transaction that is not at its end has written is in the copy, and is not seen.
#[test]
fn a_copy_shows_nothing_of_a_transaction_that_has_not_committed() {
    with_pair(|pair| async move {
        for value in 0..2 {
            pair.write(value).await;
            pair.read().await;
        }
        let (engine, tree) = (pair.writer.engine().clone(), pair.tree);
        let open = async move {
            let mut writer = engine.begin(Isolation::ReadCommitted);
            writer.statement().await.unwrap();
            assert!(writer.update(tree, KEY, &7_u32.to_le_bytes()).await.unwrap());
            writer
        };
        let node = pair.writer.engine().node();
        let writer = pair.cluster.call(node, "writer", open).await.unwrap();
        let before = pair.counters().1.copies_in;
        assert_eq!(pair.read().await, 1);
        assert!(pair.counters().1.copies_in > before);
        let commit = async move { writer.commit().await.map(|_| ()) };
        pair.cluster.call(node, "writer", commit).await.unwrap().unwrap();
        assert_eq!(pair.read().await, 7);
    });
}

/// The reader takes the root for the only leaf and asks for a copy of it; what that leads to is not there, so it possesses the root.
#[test]
fn a_copy_that_leads_to_other_pages_is_not_needed_to_get_there() {
    with_pair(|pair| async move {
        for value in 0..2 {
            pair.write(value).await;
            pair.read().await;
        }
        let (engine, tree) = (pair.writer.engine().clone(), pair.tree);
        let fill = async move {
            let mut writer = engine.begin(Isolation::ReadCommitted);
            writer.statement().await.unwrap();
            for number in 0..100_u32 {
                let row = number.to_be_bytes();
                writer.insert(tree, &row, &[1; 400]).await.unwrap();
            }
            writer.commit().await.unwrap();
        };
        let node = pair.writer.engine().node();
        pair.cluster.call(node, "writer", fill).await.unwrap();
        let engine = pair.reader.engine().clone();
        let count = async move {
            let mut reader = engine.begin(Isolation::Snapshot);
            reader.statement().await.unwrap();
            let all = (Bound::Unbounded, Bound::Unbounded);
            reader.scan(tree, all, false, 1000).await.unwrap().len()
        };
        let before = pair.counters().1.copies_in;
        let node = pair.reader.engine().node();
        assert_eq!(pair.cluster.call(node, "reader", count).await.unwrap(), 101);
        // Root and leaves.
        assert!(pair.counters().1.copies_in > before + 2);
    });
}
