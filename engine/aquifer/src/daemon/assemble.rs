//! A node from its production parts: io_uring device, tokio, sockets, locks. The only place that knows them all.

use super::NodeSettings;
use super::opener::Devices;
use super::views;
use super::watch::ViewWatch;
use crate::admin::{Counters, NodeReport, Reform, StatusReport};
use crate::device::storage_failure;
use crate::failure::{Exit, Failure};
use crate::units::{Address, boottime, show_size};
use aquifer_dss::group::VolumeGroup;
use aquifer_dss::membership::{Addresses, MembershipError, SlotView};
use aquifer_dss::net::{MEMORY, NetConfig, NetTransport, PATIENCE, Refusal};
use aquifer_dss::seam::{BlockDevice, Inbound, Runtime};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::{Incarnation, Instant, NodeId, PageSize};
use aquifer_engine::node::{Links, Node, NodeConfig, NodeError, Router, Seams};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A running node.
pub struct Running {
    node: Arc<Node>,
    transport: Arc<NetTransport>,
    views: ViewWatch,
    shutdown: watch::Sender<bool>,
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

/// Opens the devices that this node was told of.
fn open(devices: &Devices, paths: &[PathBuf]) -> Result<Vec<Arc<dyn BlockDevice>>, Failure> {
    let mut opened: Vec<Arc<dyn BlockDevice>> = Vec::new();
    for path in paths {
        let shown = path.display();
        if !path.exists() {
            return Err(Failure::usage(format!(
                "{shown} does not exist: make it with `aquifer cluster init --vg NAME {shown}`"
            )));
        }
        let device = devices.open_path(path);
        opened.push(device.map_err(|e| Failure::unavailable(format!("{shown}: {e}")))?);
    }
    Ok(opened)
}

async fn listen(settings: &NodeSettings, group: [u8; 16]) -> Result<Arc<NetTransport>, Failure> {
    if let Address::Unix(path) = &settings.peer {
        clear_socket(path)?;
    }
    let config = NetConfig {
        me: settings.id,
        group,
        listen: vec![settings.peer.to_string()],
        patience: PATIENCE,
        memory: settings.peer_memory.then(|| MEMORY.into()),
    };
    NetTransport::bind(config).await.map_err(|e| {
        Failure::unavailable(format!(
            "cannot listen on --peer {}: {e}; choose another address, or stop what listens there",
            settings.peer
        ))
    })
}

/// Takes away the socket of an earlier life; one that answers is another node's.
fn clear_socket(path: &Path) -> Result<(), Failure> {
    if !path.exists() {
        return Ok(());
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Failure::unavailable(format!(
            "--peer unix:{} is in use: choose another, or stop that node",
            path.display()
        )));
    }
    std::fs::remove_file(path).map_err(|e| Failure::failed(format!("cannot replace {}: {e}", path.display())))
}

/// Pages of memory of a node at least. The engine works with fewer, but several sessions then wait for each other's frames.
pub const LEAST_PAGES: usize = 64;

/// Pages of memory that fit `buffer` bytes.
fn frames(buffer: u64, page_size: PageSize) -> Result<usize, Failure> {
    let frames = usize::try_from(page_size.pages(buffer)).unwrap_or(usize::MAX);
    if frames < LEAST_PAGES {
        return Err(Failure::usage(format!(
            "--buffer {} is too little for pages of {page_size}: at least {}, which is {LEAST_PAGES} pages",
            show_size(buffer),
            show_size((LEAST_PAGES * page_size.bytes()) as u64)
        )));
    }
    Ok(frames)
}

impl Running {
    /// Puts the parts together and starts them.
    pub async fn start(settings: &NodeSettings, sql: Option<SocketAddr>) -> Result<Self, Failure> {
        let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::current());
        let opener = Arc::new(Devices::default());
        let devices = open(&opener, &settings.devices)?;
        // Opened once before the node does, because the transport has to know the group, and the fencer its volumes.
        let storage = |e| storage_failure(&settings.shown_devices(), &e);
        let group = VolumeGroup::open_with(
            runtime.clone(),
            devices.clone(),
            Some(opener.clone()),
            settings.id,
        )
        .await
        .map_err(storage)?;
        let transport = listen(settings, group.label().group.0).await?;
        let frames = frames(settings.buffer, group.page_size())?;
        drop(group);
        let fencer = opener
            .fencer(runtime.clone())
            .map_err(|e| Failure::failed(format!("/proc does not say who this process is: {e}")))?;
        let router = Arc::new(Router::new());
        let links = NetLinks {
            transport: transport.clone(),
            router: router.clone(),
        };
        let mut config = NodeConfig::new(settings.id, frames);
        config.addresses = Addresses {
            peer: transport.addresses().first().cloned().unwrap_or_default(),
            sql: sql.map(|address| address.to_string()).unwrap_or_default(),
            admin: format!("unix:{}", settings.admin.display()),
        };
        let seams = Seams {
            runtime,
            devices,
            opener: Some(opener),
            transport: transport.clone(),
            links: Arc::new(links),
            fencer,
            router,
        };
        let node = Node::start(config, seams)
            .await
            .map_err(|e| start_failure(settings, &e))?;
        Ok(Self {
            node,
            transport,
            views: ViewWatch::default(),
            shutdown: watch::channel(false).0,
        })
    }

    /// Returns when the node serves.
    pub async fn ready(&self) -> Result<(), Failure> {
        if self.node.serving().await {
            return Ok(());
        }
        let reason = self
            .node
            .stopped()
            .await
            .unwrap_or_else(|| "it was stopped".into());
        Err(Failure::unavailable(format!("this node cannot serve: {reason}")))
    }

    /// Returns when the node had to stop by itself, with the reason.
    pub async fn ended(&self) -> String {
        self.node
            .stopped()
            .await
            .unwrap_or_else(|| "it was stopped".into())
    }

    /// Serves SQL until the node stops.
    pub async fn serve_sql(self: Arc<Self>, listener: TcpListener) {
        let engine = self.node.engine().clone();
        let server = aquifer_sql::Server::new(engine, wall_clock_microseconds);
        let server = views::all(&self)
            .into_iter()
            .fold(server, aquifer_sql::Server::with_view);
        aquifer_sql::serve(listener, Arc::new(server), self.shutdown.subscribe()).await;
    }

    /// For `status`.
    pub fn status(&self) -> StatusReport {
        let status = self.node.status();
        let view = &status.view;
        let label = self.node.group().label();
        let slots = self.node.membership().slots();
        let nodes = slots.iter().map(|slot| {
            let mut report = crate::device::report(slot);
            report.member = view.incarnation(slot.node) == Some(slot.incarnation);
            if report.member {
                report.homes = view.homes.iter().filter(|home| **home == slot.node).count();
                report.state = "member".into();
                report.role = if view.leader == slot.node {
                    "leader"
                } else {
                    "member"
                }
                .into();
                report.preferred_role = report.role.clone();
            } else if report.state == "member" {
                report.state = "dead".into();
            }
            if slot.node == status.node {
                report.lease_left_ms = self.lease_left_ms();
            }
            report
        });
        let nodes: Vec<NodeReport> = nodes.collect();
        StatusReport {
            cluster: label.name.clone(),
            uuid: label.group.to_string(),
            node: status.node.get(),
            incarnation: status.incarnation.0,
            epoch: view.epoch.0,
            leader: view.leader.get(),
            serving: status.serving && status.lease_valid,
            redo_outstanding: self.node.pool().redo_outstanding() as u64,
            alarm: status.alarm.clone(),
            volumes_missing: self.volumes_missing(),
            nodes,
            reform: self.timeline(),
        }
    }

    /// A line for each volume that this node cannot use.
    fn volumes_missing(&self) -> Vec<String> {
        let status = self.group().volume_status().into_iter();
        let missing = status.filter_map(|volume| Some((volume.missing?, volume.id, volume.volume.path)));
        let id = self.node.id();
        missing
            .map(|(reason, volume, path)| format!("node {id} cannot use volume {volume} ({path}): {reason}"))
            .collect()
    }

    fn lease_left_ms(&self) -> Option<u64> {
        let left = self.node.membership().lease_left(Instant(boottime()));
        u64::try_from(left.as_millis()).ok()
    }

    /// For `counters`.
    pub fn counters(&self) -> Counters {
        let status = self.node.status();
        let (pool, net) = (status.pool, self.transport.counters());
        let memory = self.node.pool().memory();
        let (redo_used, redo_ring) = status.redo.unwrap_or_default();
        let values = [
            ("hits", pool.hits),
            ("misses", pool.misses),
            ("fetches", pool.fetches),
            ("prefetches", pool.prefetches),
            ("transfers_in", pool.transfers_in),
            ("transfers_out", pool.transfers_out),
            ("copies_in", pool.copies_in),
            ("copies_out", pool.copies_out),
            ("invalidations", pool.invalidations),
            ("page_memory_bytes", memory.bytes),
            ("page_memory_huge_bytes", memory.huge_bytes),
            ("write_backs", pool.write_backs),
            ("write_batches", pool.write_batches),
            ("dirty_pages", pool.dirty),
            ("rebuilt", pool.rebuilt),
            ("evictions", pool.evictions),
            ("messages", pool.messages),
            ("slots_moved", pool.slots_moved),
            ("retransmits", pool.retransmits),
            ("dropped_epoch", pool.dropped_epoch),
            ("dropped_malformed", pool.dropped_malformed),
            ("dropped_stale", pool.dropped_stale),
            ("dropped_role", pool.dropped_role),
            ("dropped_content", pool.dropped_content),
            ("dropped_limit", pool.dropped_limit),
            ("surrender_redo_us", pool.surrender_redo_us),
            ("surrender_write_us", pool.surrender_write_us),
            ("surrender_hold_us", pool.surrender_hold_us),
            ("redo_bytes_to_recover", redo_used),
            ("redo_ring_bytes", redo_ring),
            ("transactions_open", status.transactions as u64),
            ("net_frames_sent", net.sent.0),
            ("net_bytes_sent", net.sent.1),
            ("net_frames_received", net.received.0),
            ("net_bytes_received", net.received.1),
            ("net_frames_sent_by_memory", net.by_memory.0),
            ("net_frames_received_by_memory", net.by_memory.1),
            ("net_dropped", net.dropped),
            ("net_connections", net.connections),
        ];
        let refused = Refusal::ALL.into_iter().map(|reason| {
            let count = net.refused.get(&reason).copied().unwrap_or_default();
            (format!("net_refused_{}", reason.name()), count)
        });
        let waits = self
            .node
            .engine()
            .waits()
            .figures()
            .flat_map(|(cause, count, nanoseconds)| {
                let name = cause.name();
                [
                    (format!("waits_{name}"), count),
                    (format!("wait_us_{name}"), nanoseconds / 1000),
                ]
            });
        Counters {
            at: boottime(),
            values: values
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .chain(refused)
                .chain(waits)
                .collect(),
        }
    }

    /// The last reform: membership's instants and the engine's.
    pub fn timeline(&self) -> Option<Reform> {
        let status = self.node.status();
        let view = &status.view;
        if view.epoch.0 == 0 {
            return None;
        }
        let dead = self.views.dead(view, &self.node.membership().slots());
        let of = |instant: Option<Instant>| instant.map_or(0, |i| i.0);
        let same = status.timeline.epoch == view.epoch;
        let membership = |instant: Option<Instant>| if same { of(instant) } else { 0 };
        Some(Reform {
            epoch: view.epoch.0,
            members: view.members.iter().map(|m| m.node.get()).collect(),
            dead: dead.iter().map(|n: &NodeId| n.get()).collect(),
            detected: membership(status.timeline.detected),
            decided: membership(status.timeline.decided),
            fenced: membership(status.timeline.fenced),
            installed: if status.reform.epoch == view.epoch {
                of(status.reform.installed)
            } else {
                0
            },
            recovered: if status.reform.epoch == view.epoch {
                of(status.reform.recovered)
            } else {
                0
            },
        })
    }

    /// The volume group.
    pub fn group(&self) -> &Arc<VolumeGroup> {
        self.node.group()
    }

    /// A configuration entry of the volume group, as far as this node knows.
    pub fn config(&self, key: &str) -> Option<String> {
        self.node
            .group()
            .with_catalog(|catalog| catalog.config(key).map(str::to_owned))
    }

    /// Reads the metadata journal to its end.
    pub async fn catch_up(&self) -> Result<(), Failure> {
        self.node
            .group()
            .catch_up()
            .await
            .map_err(|e| Failure::unavailable(e.to_string()))
    }

    /// Writes a configuration entry.
    pub async fn set_config(&self, key: &str, value: &str) -> Result<(), Failure> {
        self.node
            .group()
            .set_config(key, Some(value))
            .await
            .map_err(|e| Failure::unavailable(e.to_string()))
    }

    /// Clean stop: sessions first, then the node.
    pub async fn stop(&self) -> Result<(), Failure> {
        self.shutdown.send_replace(true);
        self.node.stop().await.map_err(|e| {
            Failure::new(
                Exit::Degraded,
                format!("the clean stop failed, the others recover this node: {e}"),
            )
        })
    }
}

fn wall_clock_microseconds() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The one line for a node that does not start.
fn start_failure(settings: &NodeSettings, error: &NodeError) -> Failure {
    match error {
        NodeError::Storage(e) => storage_failure(&settings.shown_devices(), e),
        NodeError::Membership(MembershipError::SlotBusy(id)) => Failure::refused(format!(
            "node {id} runs already on {}: choose another --id, or stop it with `aquifer node stop {id}`",
            settings.shown_devices().display()
        )),
        NodeError::Memory(_) => Failure::usage(error.to_string()),
        NodeError::Membership(e) => {
            Failure::unavailable(format!("{}: {e}", settings.shown_devices().display()))
        }
    }
}
