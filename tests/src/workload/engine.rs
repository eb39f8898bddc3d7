//! The engine behind the workloads' trait, and the program of a whole node: what production assembles, over simulated seams.

use super::client::Sessions;
use super::database::{Change, Database, DatabaseError, Pairs, TransactionHandle};
use super::volumes;
use crate::sim::{Cluster, NodeContext, NodeProgram, SimDisk, SimTransport, World};
use crate::swarm::{Layout, Tuning};
use aquifer_dss::group::{GroupOptions, VolumeGroup};
use aquifer_dss::membership::SlotView;
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::{FileId, Incarnation, NodeId};
use aquifer_engine::node::{Links, Node, NodeConfig, Router, Seams};
use aquifer_engine::{Engine, Error, Isolation, Transaction, TreeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often it is looked whether a scrub is done.
const SCRUB_LOOKS: u32 = 500;

/// Nodes that run the engine.
pub struct EngineProgram {
    sessions: Arc<Sessions>,
    frames: usize,
    redo_bytes: u64,
    tuning: Tuning,
    world: std::sync::OnceLock<Weak<World>>,
    nodes: Arc<Mutex<BTreeMap<NodeId, Weak<Node>>>>,
    disk: std::sync::OnceLock<Weak<SimDisk>>,
    broken: volumes::Broken,
}

impl EngineProgram {
    /// Nodes with `frames` pages of memory and redo streams of `redo_bytes`.
    pub fn new(sessions: Arc<Sessions>, frames: usize, redo_bytes: u64, tuning: Tuning) -> Arc<Self> {
        Arc::new(Self {
            sessions,
            frames,
            redo_bytes,
            tuning,
            world: std::sync::OnceLock::new(),
            nodes: Arc::default(),
            disk: std::sync::OnceLock::new(),
            broken: Arc::default(),
        })
    }

    /// The last life of `node`, once it has started.
    pub fn node(&self, node: NodeId) -> Option<Arc<Node>> {
        self.nodes.lock().get(&node).and_then(Weak::upgrade)
    }

    /// Copy images that came for readers, in the last lives of all nodes.
    pub fn copies(&self) -> u64 {
        let nodes = self.nodes.lock();
        let living = nodes.values().filter_map(Weak::upgrade);
        living.map(|node| node.pool().counters().copies_in).sum()
    }

    /// Lets the second leg of a mirror return, and has both compared: what decayed is right again afterwards.
    pub async fn scrub(&self, cluster: &Cluster) -> Result<(), String> {
        if self.tuning.layout != Layout::Mirror {
            return Ok(());
        }
        self.broken.end();
        let mut trouble = String::from("nobody leads");
        for _ in 0..SCRUB_LOOKS {
            cluster.world.sleep(Duration::from_millis(200)).await;
            let nodes: Vec<_> = self.nodes.lock().values().filter_map(Weak::upgrade).collect();
            let Some(leader) = nodes.iter().find(|node| node.group().leading().is_some()) else {
                continue;
            };
            let status = leader.group().scrub_status();
            if status.running {
                continue;
            }
            if status.run != 0 && status.problem.is_none() && status.done > 0 {
                return match status.different {
                    0 => Ok(()),
                    count => Err(format!("{count} places differ: {:?}", status.differences)),
                };
            }
            trouble = status.problem.unwrap_or_default();
            let _may_lead_no_more = leader.group().scrub();
        }
        Err(format!("it cannot be scrubbed: {trouble}"))
    }

    /// Formats the disk of `cluster`; before any node starts.
    pub async fn prepare(&self, cluster: &Cluster) -> Result<(), String> {
        let _ = self.world.set(Arc::downgrade(&cluster.world));
        let _ = self.disk.set(Arc::downgrade(&cluster.disk));
        if self.tuning.layout == Layout::Mirror {
            cluster.world.spawn(
                None,
                "repair of a leg",
                Box::pin(volumes::repair(cluster.world.clone(), self.broken.clone())),
            );
        }
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&cluster.world.seed().to_le_bytes());
        self.broken.choose(cluster.world.seed());
        let options = GroupOptions {
            name: "simulated".to_owned(),
            au_bytes: 1 << 20,
            journal_bytes: 1 << 20,
            checkpoint_bytes: 1 << 20,
            page_size: self.tuning.page_size,
            home_slots: self.tuning.home_slots,
            seed: Some(seed),
            mirror: self.tuning.layout == Layout::Mirror,
            ..GroupOptions::default()
        };
        let port = cluster.disk.port(None);
        let (devices, paths) = (
            volumes::devices(&port, self.tuning.layout, &self.broken),
            volumes::paths(),
        );
        let formatted = VolumeGroup::format_all(&volumes::named(&devices, &paths), &options).await;
        formatted.map(|_| ()).map_err(|error| format!("format: {error}"))
    }
}

struct SimLinks(Arc<SimTransport>);

impl Links for SimLinks {
    fn start(&self, incarnation: Incarnation) {
        self.0.set_incarnation(incarnation);
    }
    fn peers(&self, _slots: &[SlotView]) {}
}

impl NodeProgram for EngineProgram {
    fn start(&self, context: NodeContext) -> BoxFuture<'static, ()> {
        let (sessions, nodes) = (self.sessions.clone(), self.nodes.clone());
        let (layout, broken) = (self.tuning.layout, self.broken.clone());
        let decays = self.tuning.decays;
        let is_cut = layout != Layout::Whole;
        let operators = is_cut && self.tuning.operators;
        let world = self
            .world
            .get()
            .and_then(Weak::upgrade)
            .expect("prepared before the first start");
        let disk = self.disk.get().and_then(Weak::upgrade);
        let mut config = NodeConfig::new(context.node, self.frames);
        config.redo_bytes = self.redo_bytes;
        config.timing = self.tuning.timing;
        config.clean_every = self.tuning.clean_every;
        config.pool.clean_after = self.tuning.clean_after;
        config.pool.prefetch = self.tuning.prefetch;
        config.pool.locality = self.tuning.locality;
        config.redo.margin_bytes = self.redo_bytes / 4;
        config.redo.recovery_bytes = self.redo_bytes / 2;
        Box::pin(async move {
            let router = Arc::new(Router::new());
            context.transport.attach(router.clone());
            let seams = Seams {
                runtime: context.runtime.clone(),
                devices: volumes::devices(&context.device, layout, &broken),
                opener: is_cut.then(|| volumes::opener(context.device.clone(), &broken)),
                lost_side: None,
                transport: context.transport.clone(),
                links: Arc::new(SimLinks(context.transport.clone())),
                fencer: context.fencer.clone(),
                router,
            };
            let node = match Node::start(config, seams).await {
                Ok(node) => node,
                Err(error) => {
                    // As the daemon does: it says why and exits; its supervisor starts it again.
                    world.exit(context.life, &format!("does not start: {error}"));
                    return;
                }
            };
            nodes.lock().insert(context.node, Arc::downgrade(&node));
            if node.serving().await {
                if operators {
                    volumes::operate(&context.runtime, &node, layout, &broken, disk.filter(|_| decays));
                }
                world.record(
                    "serving",
                    [context.node.get().into(), context.life.number, 0, 0],
                    "node serves",
                );
                sessions.open(context.life, Arc::new(EngineDatabase(node.engine().clone())));
            }
            // A clean stop goes on until the slot is left; whoever asked for it ends the life.
            if let Some(reason) = node.stopped().await {
                world.exit(context.life, &format!("stopped: {reason}"));
            }
        })
    }
}

struct EngineDatabase(Arc<Engine>);

fn error_of(error: Error) -> DatabaseError {
    let text = error.to_string();
    match error {
        Error::DuplicateKey => DatabaseError::Duplicate,
        Error::OutcomeUnknown(_) => DatabaseError::Unknown(text),
        error if error.is_retryable() => DatabaseError::Retry(text),
        _ => DatabaseError::Wrong(text),
    }
}

const fn tree_of(tree: u64) -> TreeId {
    TreeId(FileId(tree))
}

impl Database for EngineDatabase {
    fn create_tree(&self) -> BoxFuture<'_, Result<u64, DatabaseError>> {
        Box::pin(async { self.0.create_tree().await.map(|tree| tree.0.0).map_err(error_of) })
    }

    fn retire_tree(&self, tree: u64) {
        self.0.retire_tree(tree_of(tree));
    }

    fn begin(&self, one_snapshot: bool) -> BoxFuture<'_, Result<Box<dyn TransactionHandle>, DatabaseError>> {
        let isolation = if one_snapshot {
            Isolation::Snapshot
        } else {
            Isolation::ReadCommitted
        };
        let transaction = EngineTransaction(self.0.begin(isolation));
        Box::pin(async move { Ok(Box::new(transaction) as Box<dyn TransactionHandle>) })
    }
}

struct EngineTransaction(Transaction);

impl TransactionHandle for EngineTransaction {
    fn get<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>> {
        Box::pin(async move {
            self.0.statement().await.map_err(error_of)?;
            self.0.get(tree_of(tree), key).await.map_err(error_of)
        })
    }

    fn intend<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>> {
        Box::pin(async move {
            self.0.statement().await.map_err(error_of)?;
            self.0.intend(tree_of(tree), key).await.map_err(error_of)
        })
    }

    fn take_over<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>> {
        Box::pin(async move {
            self.0.statement().await.map_err(error_of)?;
            let value = self
                .0
                .get_for_update(tree_of(tree), key)
                .await
                .map_err(error_of)?;
            let wait = self.0.wait_for_intents(tree_of(tree), key);
            wait.await.map_err(error_of).map(|()| value)
        })
    }

    fn scan(
        &mut self,
        tree: u64,
        from: Bound<Vec<u8>>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Pairs, DatabaseError>> {
        Box::pin(async move {
            self.0.statement().await.map_err(error_of)?;
            self.0
                .scan(tree_of(tree), (from, Bound::Unbounded), false, limit)
                .await
                .map_err(error_of)
        })
    }

    fn insert<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
        value: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), DatabaseError>> {
        Box::pin(async move {
            self.0.statement().await.map_err(error_of)?;
            self.0.insert(tree_of(tree), key, &value).await.map_err(error_of)
        })
    }

    fn update_with<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
        change: Change<'a>,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>> {
        Box::pin(async move {
            self.0.statement().await.map_err(error_of)?;
            self.0
                .update_with(tree_of(tree), key, change)
                .await
                .map_err(error_of)
        })
    }

    fn delete<'a>(&'a mut self, tree: u64, key: &'a [u8]) -> BoxFuture<'a, Result<bool, DatabaseError>> {
        Box::pin(async move {
            self.0.statement().await.map_err(error_of)?;
            self.0.delete(tree_of(tree), key).await.map_err(error_of)
        })
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), DatabaseError>> {
        Box::pin(async move { self.0.commit().await.map(|_| ()).map_err(error_of) })
    }

    fn rollback(self: Box<Self>) -> BoxFuture<'static, Result<(), DatabaseError>> {
        Box::pin(async move {
            self.0.rollback().await;
            Ok(())
        })
    }
}
