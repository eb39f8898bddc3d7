//! A node of the daemon: a member, and what people are told of it.

use super::NodeSettings;
use super::views;
use super::watch::ViewWatch;
use crate::admin::{Counters, NodeReport, Reform, StatusReport};
use crate::device::storage_failure;
use crate::failure::{Exit, Failure};
use crate::units::{boottime, show_size};
use aquifer_dss::group::VolumeGroup;
use aquifer_dss::net::Refusal;
use aquifer_dss_proto::{Instant, NodeId};
use aquifer_engine::node::Node;
use aquifer_member::{Address, LEAST_PAGES, Member, MemberError, MemberOptions};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A running node.
pub struct Running {
    member: Member,
    views: ViewWatch,
    shutdown: watch::Sender<bool>,
}

impl Running {
    /// Starts it.
    pub async fn start(settings: &NodeSettings, sql: Option<SocketAddr>) -> Result<Self, Failure> {
        let options = MemberOptions {
            id: settings.id,
            devices: settings.devices.clone(),
            peer: settings.peer.clone(),
            peer_memory: settings.peer_memory,
            lost_side: settings.lost_side,
            buffer: settings.buffer,
            sql: sql.map(|address| address.to_string()).unwrap_or_default(),
            admin: format!("unix:{}", settings.admin.display()),
            on_exit: None,
        };
        let member = Member::start(&options).await;
        member.map(Self::of).map_err(|error| member_failure(&error))
    }

    /// Starts it; returns when it serves, or fails when that takes longer than `limit`.
    pub async fn join(options: &MemberOptions, limit: Duration) -> Result<Self, Failure> {
        let member = Member::join(options, limit).await;
        member.map(Self::of).map_err(|error| member_failure(&error))
    }

    fn of(member: Member) -> Self {
        Self {
            member,
            views: ViewWatch::default(),
            shutdown: watch::channel(false).0,
        }
    }

    /// Returns when the node serves.
    pub async fn ready(&self) -> Result<(), Failure> {
        self.member.ready().await.map_err(|error| member_failure(&error))
    }

    /// Returns when the node had to stop by itself, with the reason.
    pub async fn ended(&self) -> String {
        self.member.ended().await
    }

    /// Which node.
    pub fn id(&self) -> NodeId {
        self.node().id()
    }

    fn node(&self) -> &Node {
        self.member.node()
    }

    /// Serves SQL until the node stops.
    pub async fn serve_sql(self: Arc<Self>, listener: TcpListener) {
        let engine = self.node().engine().clone();
        let server = aquifer_sql::Server::new(engine, wall_clock_microseconds);
        let server = views::all(&self)
            .into_iter()
            .fold(server, aquifer_sql::Server::with_view);
        aquifer_sql::serve(listener, Arc::new(server), self.shutdown.subscribe()).await;
    }

    /// For `status`.
    pub fn status(&self) -> StatusReport {
        let status = self.node().status();
        let view = &status.view;
        let label = self.node().group().label();
        let slots = self.node().membership().slots();
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
            redo_outstanding: self.node().pool().redo_outstanding() as u64,
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
        let id = self.id();
        missing
            .map(|(reason, volume, path)| format!("node {id} cannot use volume {volume} ({path}): {reason}"))
            .collect()
    }

    fn lease_left_ms(&self) -> Option<u64> {
        let left = self.member.lease_left();
        u64::try_from(left.as_millis()).ok()
    }

    /// For `counters`.
    pub fn counters(&self) -> Counters {
        let status = self.node().status();
        let (pool, net) = (status.pool, self.member.transport().counters());
        let memory = self.node().pool().memory();
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
            .node()
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
                .chain(refused.chain(self.exclusions()))
                .chain(waits.chain(self.upkeep()))
                .collect(),
        }
    }

    fn upkeep(&self) -> [(String, u64); 4] {
        let (mends, discards) = (self.group().mend_counts(), self.group().discard_status());
        [
            ("mirror_reads_wrong", mends.wrong),
            ("mirror_bytes_mended", mends.mended_bytes),
            ("discard_bytes", discards.bytes),
            ("discard_failures", discards.failures),
        ]
        .map(|(name, count)| (name.to_owned(), count))
    }

    fn exclusions(&self) -> [(String, u64); 3] {
        let excluded = self.node().membership().exclusions();
        [
            ("dead", excluded.dead),
            ("silent", excluded.silent),
            ("apart", excluded.apart),
        ]
        .map(|(reason, count)| (format!("members_excluded_{reason}"), count))
    }

    /// The last reform: membership's instants and the engine's.
    pub fn timeline(&self) -> Option<Reform> {
        let status = self.node().status();
        let view = &status.view;
        if view.epoch.0 == 0 {
            return None;
        }
        let dead = self.views.dead(view, &self.node().membership().slots());
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
        self.node().group()
    }

    /// A configuration entry of the volume group, as far as this node knows.
    pub fn config(&self, key: &str) -> Option<String> {
        self.node()
            .group()
            .with_catalog(|catalog| catalog.config(key).map(str::to_owned))
    }

    /// Reads the metadata journal to its end.
    pub async fn catch_up(&self) -> Result<(), Failure> {
        self.node()
            .group()
            .catch_up()
            .await
            .map_err(|e| Failure::unavailable(e.to_string()))
    }

    /// Writes a configuration entry.
    pub async fn set_config(&self, key: &str, value: &str) -> Result<(), Failure> {
        self.node()
            .group()
            .set_config(key, Some(value))
            .await
            .map_err(|e| Failure::unavailable(e.to_string()))
    }

    /// Clean stop: sessions first, then the node.
    pub async fn stop(&self) -> Result<(), Failure> {
        self.shutdown.send_replace(true);
        self.member.leave().await.map_err(|error| member_failure(&error))
    }
}

fn wall_clock_microseconds() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The one line for a node that does not start or does not stop cleanly.
pub fn member_failure(error: &MemberError) -> Failure {
    match error {
        MemberError::NoDevice(path) => {
            let shown = path.display();
            Failure::usage(format!(
                "{error}: make it with `aquifer cluster init --vg NAME {shown}`"
            ))
        }
        MemberError::Storage { devices, error } => storage_failure(devices, error),
        MemberError::Listen { address, error } => Failure::unavailable(format!(
            "cannot listen on --peer {address}: {error}; choose another address, or stop what listens there"
        )),
        MemberError::SocketInUse(path) => {
            let address = Address::Unix(path.clone());
            Failure::unavailable(format!(
                "--peer {address} is in use: choose another, or stop that node"
            ))
        }
        MemberError::Memory { bytes, page_size } => Failure::usage(format!(
            "--buffer {} is too little for pages of {page_size}: at least {}, which is {LEAST_PAGES} pages",
            show_size(*bytes),
            show_size((LEAST_PAGES * page_size.bytes()) as u64)
        )),
        MemberError::SlotBusy { id, devices } => Failure::refused(format!(
            "node {id} runs already on {}: choose another --id, or stop it with `aquifer node stop {id}`",
            devices.display()
        )),
        MemberError::JoinLimit { .. } => Failure::refused(error),
        MemberError::Leave(_) => Failure::new(Exit::Degraded, error),
        MemberError::Socket { .. } | MemberError::Identity(_) | MemberError::Node(_) => {
            Failure::failed(error)
        }
        MemberError::Device { .. } | MemberError::Membership { .. } | MemberError::Stopped(_) => {
            Failure::unavailable(error)
        }
    }
}
