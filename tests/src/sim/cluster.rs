//! Nodes on a world: started, killed, stopped, restarted.

use super::disk::{DiskOptions, SimDisk};
use super::fencer::Locks;
use super::network::{NetworkOptions, SimNetwork, SimTransport};
use super::runtime::SimRuntime;
use super::world::{CrashHook, Life, World, WorldOptions};
use aquifer_dss::seam::{BlockDevice, BoxFuture, Fencer, Runtime};
use aquifer_dss_proto::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// What a node gets from its world.
#[derive(Clone)]
pub struct NodeContext {
    /// Which node.
    pub node: NodeId,
    /// Which of its lives.
    pub life: Life,
    /// Clock, tasks, randomness.
    pub runtime: Arc<dyn Runtime>,
    /// Messages; to be attached to the node's receiver.
    pub transport: Arc<SimTransport>,
    /// The shared disk.
    pub device: Arc<dyn BlockDevice>,
    /// Locks and kills.
    pub fencer: Arc<dyn Fencer>,
}

/// The program that runs as a node.
pub trait NodeProgram: Send + Sync + 'static {
    /// The main task of a new life.
    fn start(&self, context: NodeContext) -> BoxFuture<'static, ()>;
}

/// Everything a cluster is made of.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// The executor.
    pub world: WorldOptions,
    /// The network.
    pub network: NetworkOptions,
    /// The disk.
    pub disk: DiskOptions,
    /// Number of nodes.
    pub nodes: u8,
}

/// A simulated cluster.
pub struct Cluster {
    /// Its world.
    pub world: Arc<World>,
    /// Its network.
    pub network: Arc<SimNetwork>,
    /// Its disk.
    pub disk: Arc<SimDisk>,
    /// Its locks.
    pub locks: Arc<Locks>,
    nodes: Vec<NodeId>,
    program: Arc<dyn NodeProgram>,
    /// Nodes that come back by themselves after a crash.
    restarts: Mutex<Option<(Duration, Duration)>>,
    down: Mutex<BTreeSet<NodeId>>,
    random: Mutex<super::random::Random>,
}

impl Cluster {
    /// A cluster of nodes that are all down, on a blank disk.
    pub fn new(options: ClusterOptions, program: Arc<dyn NodeProgram>) -> Arc<Self> {
        let world = World::new(options.world);
        let network = SimNetwork::new(&world, options.network);
        let disk = SimDisk::new(&world, options.disk);
        let locks = Locks::new(&world, disk.clone());
        let nodes: Vec<NodeId> = (1..=options.nodes).filter_map(NodeId::new).collect();
        let random = super::random::Random::fork(world.seed(), "cluster");
        let cluster = Arc::new(Self {
            network,
            disk,
            locks,
            program,
            restarts: Mutex::new(None),
            down: Mutex::new(nodes.iter().copied().collect()),
            nodes,
            random: Mutex::new(random),
            world: world.clone(),
        });
        world.add_hook(Arc::new(Restarter {
            cluster: Arc::downgrade(&cluster),
        }));
        cluster
    }

    /// All nodes, up or down.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Nodes whose process is there.
    pub fn living(&self) -> Vec<NodeId> {
        self.nodes
            .iter()
            .copied()
            .filter(|node| self.world.life(*node).is_some())
            .collect()
    }

    /// Starts `node`; nothing happens when it is up.
    pub fn start(&self, node: NodeId) {
        if self.world.life(node).is_some() {
            return;
        }
        let life = self.world.start_life(node);
        self.down.lock().remove(&node);
        let context = NodeContext {
            node,
            life,
            runtime: SimRuntime::new(self.world.clone(), life),
            transport: self.network.transport(life),
            device: self.disk.port(Some(life)),
            fencer: self.locks.fencer(life),
        };
        let main = self.program.start(context);
        self.world.spawn(Some(life), "main", main);
    }

    /// Starts every node.
    pub fn start_all(&self) {
        for node in &self.nodes {
            self.start(*node);
        }
    }

    /// kill -9.
    pub fn crash(&self, node: NodeId, reason: &str) {
        if let Some(life) = self.world.life(node) {
            self.world.crash(life, reason);
        }
    }

    /// The power of the whole cluster fails: every node ends, un-flushed writes are kept, torn or lost.
    pub fn cut_power(&self) {
        for node in &self.nodes {
            self.crash(*node, "power cut");
        }
        self.disk.cut_power();
    }

    /// From now on ended nodes start again after a time in this range (`None`: never).
    pub fn set_restarts(&self, after: Option<(Duration, Duration)>) {
        *self.restarts.lock() = after;
    }

    /// Runs `work` as a task of `node`, as a session of a client there would. `None` when the node's life ended before
    /// the answer: the outcome is unknown.
    pub async fn call<T: Send + 'static>(
        &self,
        node: NodeId,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let life = self.world.life(node)?;
        let (sender, receiver) = oneshot::channel();
        let task = async move {
            let _ = sender.send(work.await);
        };
        self.world.spawn(Some(life), name, Box::pin(task));
        receiver.await.ok()
    }

    /// Ends everything; call it at the end of a run, or the world keeps itself alive.
    pub fn shut_down(&self) {
        self.set_restarts(None);
        self.world.shut_down();
    }
}

struct Restarter {
    cluster: Weak<Cluster>,
}

impl CrashHook for Restarter {
    fn crashed(&self, life: Life) {
        let Some(cluster) = self.cluster.upgrade() else {
            return;
        };
        cluster.down.lock().insert(life.node);
        let Some((low, high)) = *cluster.restarts.lock() else {
            return;
        };
        let delay = cluster.random.lock().duration(low, high);
        let again = self.cluster.clone();
        cluster.world.after(delay, None, move || {
            if let Some(cluster) = again.upgrade()
                && cluster.restarts.lock().is_some()
            {
                cluster.start(life.node);
            }
        });
    }
}
