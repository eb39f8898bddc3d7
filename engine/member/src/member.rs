//! A node put together from its production parts.

use crate::address::Address;
use crate::devices::Devices;
use crate::error::MemberError;
use crate::options::{MemberOptions, runtime_directory};
use crate::runtime::MemberRuntime;
use aquifer_dss::group::{StorageError, VolumeGroup};
use aquifer_dss::membership::{Addresses, MembershipError, SlotState, SlotView, read_slot};
use aquifer_dss::net::{MEMORY, NetConfig, NetTransport, PATIENCE};
use aquifer_dss::seam::{BlockDevice, Fencer, Inbound, LockState, Runtime};
use aquifer_dss_proto::catalog::Catalog;
use aquifer_dss_proto::{Incarnation, NodeId, PageSize};
use aquifer_engine::node::{Links, Node, NodeConfig, NodeError, Router, Seams};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Pages of memory of a node at least. The engine works with fewer, but several sessions then wait for each other's frames.
pub const LEAST_PAGES: usize = 64;

/// So long may the lock of a life that has left still be held.
const LET_GO: Duration = Duration::from_secs(1);

/// ... and is looked at this often.
const LET_GO_LOOK: Duration = Duration::from_millis(1);

/// A process as a member of the cluster: a whole node. Dropped without [`leave`](Self::leave) or [`end`](Self::end) it goes on until the
/// process ends; the others then prove it dead and redo its log.
pub struct Member {
    node: Arc<Node>,
    runtime: Arc<MemberRuntime>,
    devices: Vec<PathBuf>,
    transport: Arc<NetTransport>,
}

/// Tells the transport what the node learns from the slots.
struct NetLinks {
    transport: Arc<NetTransport>,
    router: Arc<Router>,
}

impl Links for NetLinks {
    fn start(&self, incarnation: Incarnation) {
        let inbound: Arc<dyn Inbound> = self.router.clone();
        self.transport.start(incarnation, inbound);
    }

    fn peers(&self, slots: &[SlotView]) {
        self.transport
            .set_lives(slots.iter().map(|s| (s.node, s.incarnation)).collect());
        self.transport
            .set_peers(slots.iter().map(|s| (s.node, s.addresses.peer.clone())).collect());
    }
}

/// Devices, and why another one is not among them.
type Opened = (Vec<Arc<dyn BlockDevice>>, Option<MemberError>);

/// Opens the devices that this node was told of. One that is not there may be a side of a mirrored volume: its error comes beside
/// the others.
fn open(devices: &Devices, paths: &[PathBuf]) -> Result<Opened, MemberError> {
    let (mut opened, mut missing): (Vec<Arc<dyn BlockDevice>>, _) = (Vec::new(), None);
    for path in paths {
        if !path.exists() {
            missing = Some(MemberError::NoDevice(path.clone()));
            continue;
        }
        match devices.open_path(path) {
            Ok(device) => opened.push(device),
            Err(error) => {
                let path = path.clone();
                missing = Some(MemberError::Device { path, error });
            }
        }
    }
    match missing {
        Some(error) if opened.is_empty() => Err(error),
        missing => Ok((opened, missing)),
    }
}

async fn listen(options: &MemberOptions, group: [u8; 16]) -> Result<Arc<NetTransport>, MemberError> {
    if let Address::Unix(path) = &options.peer {
        make_directory(path)?;
        clear_socket(path)?;
    }
    let config = NetConfig {
        me: options.id,
        group,
        listen: vec![options.peer.to_string()],
        patience: PATIENCE,
        memory: options.peer_memory.then(|| MEMORY.into()),
    };
    NetTransport::bind(config)
        .await
        .map_err(|error| MemberError::Listen {
            address: options.peer.clone(),
            error,
        })
}

fn socket_error(path: &Path) -> impl FnOnce(std::io::Error) -> MemberError {
    let path = path.to_owned();
    |error| MemberError::Socket { path, error }
}

/// Makes the directory of this user's sockets when the socket is there; any other has to exist.
fn make_directory(socket: &Path) -> Result<(), MemberError> {
    let directory = runtime_directory();
    if socket.parent() != Some(&directory) {
        return Ok(());
    }
    let mut make = std::fs::DirBuilder::new();
    make.recursive(true).mode(0o700);
    make.create(&directory).map_err(socket_error(socket))
}

/// Takes away the socket of an earlier life; one that answers is another node's.
fn clear_socket(path: &Path) -> Result<(), MemberError> {
    if !path.exists() {
        return Ok(());
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(MemberError::SocketInUse(path.to_owned()));
    }
    std::fs::remove_file(path).map_err(socket_error(path))
}

/// A life that has left lets go of its lock with its last descriptor, which may be a moment after its slot said that it left: then this waits
/// for it. Whoever else has the lock is told of where it is taken.
async fn let_go(runtime: &dyn Runtime, group: &VolumeGroup, fencer: &dyn Fencer, me: NodeId) {
    let Ok(Some(slot)) = read_slot(&group.metadata(), me).await else {
        return;
    };
    let until = runtime.now() + LET_GO;
    let is_held = || matches!(fencer.observe(me, slot.incarnation), Ok(LockState::Held));
    while slot.state == SlotState::Down && is_held() && runtime.now() < until {
        runtime.sleep(LET_GO_LOOK).await;
    }
}

/// Pages of memory that fit `bytes`.
fn frames(bytes: u64, page_size: PageSize) -> Result<usize, MemberError> {
    let frames = usize::try_from(page_size.pages(bytes)).unwrap_or(usize::MAX);
    if frames < LEAST_PAGES {
        return Err(MemberError::Memory { bytes, page_size });
    }
    Ok(frames)
}

fn start_error(options: &MemberOptions, error: NodeError) -> MemberError {
    let devices = options.shown_devices();
    match error {
        NodeError::Storage(error) => MemberError::Storage { devices, error },
        NodeError::Membership(MembershipError::SlotBusy(id)) => MemberError::SlotBusy { id, devices },
        NodeError::Membership(error) => MemberError::Membership { devices, error },
        other => MemberError::Node(other),
    }
}

impl Member {
    /// Becomes a member, or forms the cluster when nobody lives; returns when the node serves, or after `limit` with
    /// [`MemberError::JoinLimit`]. Call it inside the tokio runtime that shall run the node. When it fails, nothing of the member is left.
    pub async fn join(options: &MemberOptions, limit: Duration) -> Result<Self, MemberError> {
        let runtime = Arc::new(MemberRuntime::current(options.on_exit.clone()));
        let mut started = None;
        let joined = tokio::time::timeout(limit, async {
            let member = started.insert(Self::start_on(&runtime, options).await?);
            member.ready().await
        });
        let joined = joined.await.unwrap_or_else(|_| {
            Err(MemberError::JoinLimit {
                devices: options.shown_devices(),
                limit,
            })
        });
        if let Err(error) = joined {
            match started {
                Some(member) => member.end().await,
                None => runtime.stop().await,
            }
            return Err(error);
        }
        Ok(started.expect("who serves has started"))
    }

    /// Puts the parts together and starts them, without waiting until the node serves.
    pub async fn start(options: &MemberOptions) -> Result<Self, MemberError> {
        let runtime = Arc::new(MemberRuntime::current(options.on_exit.clone()));
        let started = Self::start_on(&runtime, options).await;
        if started.is_err() {
            runtime.stop().await;
        }
        started
    }

    async fn start_on(runtime: &Arc<MemberRuntime>, options: &MemberOptions) -> Result<Self, MemberError> {
        let tasks = runtime.clone();
        let runtime: Arc<dyn Runtime> = runtime.clone();
        let opener = Arc::new(Devices::default());
        let (devices, mut missing) = open(&opener, &options.devices)?;
        // Opened once before the node does, because the transport has to know the group, and the fencer its volumes.
        let group = VolumeGroup::open_without(
            runtime.clone(),
            devices.clone(),
            Some(opener.clone()),
            options.id,
            options.lost_side,
        );
        let group = match (group.await, missing.take()) {
            (Ok(group), None) => group,
            (Ok(group), Some(error)) if group.with_catalog(Catalog::is_mirrored) => {
                tracing::warn!(%error, "a device is missing: this node starts without it");
                group
            }
            // What is missing is said there, and what can be done.
            (Err(error @ StorageError::OneSide { .. }), _) => {
                let devices = options.shown_devices();
                return Err(MemberError::Storage { devices, error });
            }
            (_, Some(error)) => return Err(error),
            (Err(error), None) => {
                let devices = options.shown_devices();
                return Err(MemberError::Storage { devices, error });
            }
        };
        let transport = listen(options, group.label().group.0).await?;
        let frames = frames(options.buffer, group.page_size())?;
        let fencer = opener.fencer(runtime.clone()).map_err(MemberError::Identity)?;
        let_go(&*runtime, &group, &*fencer, options.id).await;
        drop(group);
        let router = Arc::new(Router::new());
        let links = NetLinks {
            transport: transport.clone(),
            router: router.clone(),
        };
        let mut config = NodeConfig::new(options.id, frames);
        config.addresses = Addresses {
            peer: transport.addresses().first().cloned().unwrap_or_default(),
            sql: options.sql.clone(),
            admin: options.admin.clone(),
        };
        let seams = Seams {
            runtime: runtime.clone(),
            devices,
            opener: Some(opener),
            lost_side: options.lost_side,
            transport: transport.clone(),
            links: Arc::new(links),
            fencer,
            router,
        };
        let node = Node::start(config, seams).await;
        let node = node.map_err(|error| start_error(options, error))?;
        Ok(Self {
            node,
            runtime: tasks,
            devices: options.devices.clone(),
            transport,
        })
    }

    /// Returns when the node serves.
    pub async fn ready(&self) -> Result<(), MemberError> {
        if self.node.serving().await {
            return Ok(());
        }
        Err(MemberError::Stopped(self.ended().await))
    }

    /// Returns when the node stopped, with the reason when it had to stop by itself.
    pub async fn ended(&self) -> String {
        let reason = self.node.stopped().await;
        reason.unwrap_or_else(|| "it was stopped".into())
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The volume group: its files, names, space and configuration.
    pub fn group(&self) -> &Arc<VolumeGroup> {
        self.node.group()
    }

    /// The devices that were named when it joined.
    pub fn devices(&self) -> &[PathBuf] {
        &self.devices
    }

    /// What is left of this node's lease.
    pub fn lease_left(&self) -> Duration {
        self.node.membership().lease_left(self.runtime.now())
    }

    /// Ends the process, because this node cannot go on (MBR-3).
    pub fn abort(&self, reason: &str) {
        self.runtime.abort(reason);
    }

    /// Connections to the peers.
    pub fn transport(&self) -> &NetTransport {
        &self.transport
    }

    /// Leaves the cluster: dirty pages written back, the redo stream sealed, the slot given up. Then it ends as by [`end`](Self::end),
    /// also when it could not leave.
    pub async fn leave(&self) -> Result<(), MemberError> {
        let left = self.node.stop().await;
        self.end().await;
        left.map_err(MemberError::Leave)
    }

    /// Ends the member's tasks and connections; the others recover a node that has not left. Its devices are closed, and the lock of its slot is
    /// let go, when this and everything that was had from it ([`group`](Self::group), [`node`](Self::node), files) is dropped (MBR-3).
    pub async fn end(&self) {
        self.transport.stop().await;
        self.runtime.stop().await;
        // What was told of slots holds the transport and the way into the node.
        self.node.membership().set_on_slots(Arc::new(|_| {}));
    }
}
