//! One node: its parts put together, and what it does when a view is installed.
//!
//! Rules:
//! - NOD-1 the order at a view: metadata leader, then requests and transactions, then pages, then the slot says installed;
//! - NOD-2 a node writes nothing of its own before its earlier life's stream is clean;
//! - NOD-3 the leader admits a node only when its stream is clean (REC-7).

mod bring_up;
mod config;
mod install;
mod redo;
mod router;
mod status;

pub use config::{LEAST_FRAMES, Links, NodeConfig, Seams};
pub use redo::NodeRedo;
pub use router::Router;
pub use status::{NodeStatus, Reform};

use crate::engine::{Engine, EngineParts};
use crate::rpc::{EngineHandler, EngineRequest, EngineResponse, Reply, Rpc};
use crate::status::StatusFiles;
use crate::store::{GroupStore, PageJudge};
use crate::transaction::TransactionManager;
use crate::wal::RedoStream;
use aquifer_buffer_pool::Pool;
use aquifer_dss::group::{StorageError, VolumeGroup};
use aquifer_dss::membership::{Membership, MembershipConfig, MembershipError, MembershipEvent};
use aquifer_dss::seam::{Runtime, Service, Transport};
use aquifer_dss_proto::{Epoch, NodeId, View};
use parking_lot::Mutex;
use status::Unclean;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The volume group cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node cannot become a member.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// It has memory for fewer than [`LEAST_FRAMES`] pages.
    #[error("memory for {0} pages is too little: a node needs {LEAST_FRAMES} at least")]
    Memory(usize),
}

/// A clean stop waits so long for others to write back what this node changed.
const STOP_WAITS: Duration = Duration::from_secs(3);

/// ... and asks them again after this long.
const STOP_ASKS_AGAIN: Duration = Duration::from_millis(20);

/// A running node.
pub struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) group: Arc<VolumeGroup>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) rpc: Arc<Rpc>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) store: Arc<GroupStore>,
    pub(crate) redo: Arc<NodeRedo>,
    pub(crate) status_files: Arc<StatusFiles>,
    pub(crate) txns: Arc<TransactionManager>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) unclean: Arc<Mutex<Unclean>>,
    pub(crate) epoch: watch::Sender<Epoch>,
    pub(crate) installed: Mutex<Arc<View>>,
    pub(crate) brought_up: AtomicBool,
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) stop_reason: Mutex<Option<String>>,
}

impl Node {
    /// Takes the slot, joins the cluster (or forms it) and begins to come up; [`serving`](Self::serving) tells when it is.
    pub async fn start(config: NodeConfig, seams: Seams) -> Result<Arc<Self>, NodeError> {
        let Seams {
            runtime,
            devices,
            opener,
            lost_side,
            transport,
            links,
            fencer,
            router,
        } = seams;
        if config.pool.frames < LEAST_FRAMES {
            return Err(NodeError::Memory(config.pool.frames));
        }
        let group = VolumeGroup::open_without(runtime.clone(), devices, opener, config.id, lost_side).await?;
        group.set_judge(Arc::new(PageJudge(group.page_size())));
        let mut config = config;
        config.pool.page_size = group.page_size();
        let membership = Membership::start(
            runtime.clone(),
            group.metadata(),
            transport.clone(),
            fencer,
            membership_config(&config, &group),
        )
        .await?;
        links.start(membership.incarnation());
        group.attach(transport.clone());
        let node = Self::assemble(config, &runtime, transport, group, membership);
        node.connect(&router, &links);
        runtime.spawn("node", Box::pin(node.clone().follow_membership()));
        Ok(node)
    }

    /// The parts above storage and membership.
    fn assemble(
        config: NodeConfig,
        runtime: &Arc<dyn Runtime>,
        transport: Arc<dyn Transport>,
        group: Arc<VolumeGroup>,
        membership: Arc<Membership>,
    ) -> Arc<Self> {
        let me = config.id;
        let rpc = Rpc::new(runtime.clone(), transport.clone(), me);
        let store = Arc::new(GroupStore::new(group.clone()));
        let redo = Arc::new(NodeRedo::new(me));
        let pool = Pool::new(
            config.pool.clone(),
            runtime.clone(),
            transport,
            store.clone(),
            redo.clone(),
        );
        let status_files = Arc::new(StatusFiles::default());
        let txns = TransactionManager::start(
            runtime.clone(),
            rpc.clone(),
            me,
            config.transactions,
            redo.clone(),
            status_files.clone(),
            membership.clone(),
        );
        let lease = {
            let (membership, runtime) = (membership.clone(), runtime.clone());
            Box::new(move || membership.lease_valid(runtime.now()))
        };
        let parts = EngineParts {
            runtime: runtime.clone(),
            group: group.clone(),
            pool: pool.clone(),
            redo: redo.clone(),
            txns: txns.clone(),
            lease,
        };
        let engine = Engine::new(me, parts);
        status_files.attach(&engine);
        Arc::new(Self {
            config,
            runtime: runtime.clone(),
            group,
            membership,
            rpc,
            pool,
            store,
            redo,
            status_files,
            txns,
            engine,
            unclean: Arc::default(),
            epoch: watch::Sender::new(Epoch(0)),
            installed: Mutex::new(Arc::new(View::none())),
            brought_up: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
            stop_reason: Mutex::default(),
        })
    }

    fn connect(self: &Arc<Self>, router: &Router, links: &Arc<dyn Links>) {
        self.rpc.serve(Arc::new(Answers(Arc::downgrade(self))));
        let unclean = self.unclean.clone();
        self.membership
            .set_admit(Arc::new(move |node| unclean.lock().admits(node)));
        let links = links.clone();
        self.membership
            .set_on_slots(Arc::new(move |slots| links.peers(slots)));
        let membership = self.membership.clone();
        router.route(Service::Membership, move |from, life, body| {
            membership.receive(from, life, body)
        });
        let group = self.group.clone();
        router.route(Service::Storage, move |from, life, body| {
            group.receive(from, life, body)
        });
        let pool = self.pool.clone();
        router.route_pages(move |from, life| Box::new(pool.receiver(from, life)));
        let rpc = self.rpc.clone();
        router.route(Service::Engine, move |from, life, body| {
            rpc.receive(from, life, body)
        });
        let membership = self.membership.clone();
        router.route_disconnected(move |peer, life| membership.disconnected(peer, life));
    }

    async fn follow_membership(self: Arc<Self>) {
        loop {
            match self.membership.next_event().await {
                MembershipEvent::Install { view, previous, dead } => {
                    if let Err(error) = self.install(view, &previous, &dead).await {
                        // Without the metadata journal this node is of no use to the others.
                        self.runtime
                            .abort(&format!("the new view cannot be installed: {error}"));
                        return;
                    }
                }
                MembershipEvent::Stop { reason } => {
                    tracing::error!(reason, "this node must stop");
                    *self.stop_reason.lock() = Some(reason);
                    self.engine.serving.send_replace(false);
                    self.stopping.send_replace(true);
                    return;
                }
            }
        }
    }

    /// Which node.
    pub const fn id(&self) -> NodeId {
        self.config.id
    }

    /// Transactions at this node.
    pub const fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The page cache.
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The volume group.
    pub const fn group(&self) -> &Arc<VolumeGroup> {
        &self.group
    }

    /// The membership.
    pub const fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Waits until statements are served, or the node stops (false).
    pub async fn serving(&self) -> bool {
        let mut serving = self.engine.serving.subscribe();
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            biased;
            ready = serving.wait_for(|serving| *serving) => ready.is_ok(),
            _ = stopping.wait_for(|stopping| *stopping) => false,
        }
    }

    /// Waits until the node must stop, or was stopped; says why if it had to.
    pub async fn stopped(&self) -> Option<String> {
        let mut stopping = self.stopping.subscribe();
        // The sender lives in `self`.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        self.stop_reason.lock().clone()
    }

    /// Stops cleanly: no statement any more, every page written back and given up, the stream sealed, the slot left.
    /// Transactions that are open are rolled back.
    pub async fn stop(&self) -> Result<(), NodeError> {
        self.engine.serving.send_replace(false);
        if let Err(error) = self.pool.flush_all().await {
            tracing::error!(%error, "pages could not be written back; the others will redo them");
        } else if let Some(stream) = self.redo.stream() {
            self.wait_for_write_backs(stream).await;
            if let Err(error) = stream.close_clean().await {
                tracing::info!(%error, "the redo stream stays to be recovered by the others");
            }
        }
        tokio::select! {
            biased;
            given = async {
                self.group.end_discards().await;
                self.group.give_intents_back().await
            } => if let Err(error) = given {
                tracing::info!(%error, "the others compare what this node may have been writing");
            },
            () = self.runtime.sleep(STOP_WAITS) => {}
        }
        self.stopping.send_replace(true);
        self.membership.leave().await?;
        Ok(())
    }

    /// Others may hold pages dirty that this node changed, and a notice may be on its way or lost: asks until everything
    /// is on storage, or for [`STOP_WAITS`].
    async fn wait_for_write_backs(&self, stream: &RedoStream) {
        let until = self.runtime.now() + STOP_WAITS;
        while self.runtime.now() < until {
            let pages: Vec<_> = stream.retention().iter().map(|entry| entry.page).collect();
            if pages.is_empty() {
                return;
            }
            self.pool.want_flush(&pages);
            self.runtime.sleep(STOP_ASKS_AGAIN).await;
        }
    }
}

fn membership_config(config: &NodeConfig, group: &VolumeGroup) -> MembershipConfig {
    let mut membership = MembershipConfig::new(config.id);
    membership.timing = config.timing;
    membership.addresses = config.addresses.clone();
    membership.volumes = Some(group.open_volumes_handle());
    membership
}

/// Answers requests of peers.
struct Answers(Weak<Node>);

impl EngineHandler for Answers {
    fn handle(&self, from: NodeId, request: EngineRequest) -> Reply {
        let Some(node) = self.0.upgrade() else {
            return Reply::NotNow;
        };
        match node.txns.handle(from, request) {
            Ok(reply) => reply,
            Err(EngineRequest::Retention) => {
                let entries = node
                    .redo
                    .stream()
                    .map_or_else(Vec::new, |stream| stream.retention());
                Reply::Now(EngineResponse::Retention(entries))
            }
            Err(_) => Reply::Now(EngineResponse::Refused(
                "not a request of this version".to_owned(),
            )),
        }
    }
}
