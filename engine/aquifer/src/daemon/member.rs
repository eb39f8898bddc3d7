//! A member for the length of one command, while nobody else runs: a node without SQL, and without an admin socket or with one.

use super::StopSignals;
use super::assemble::{Running, member_failure};
use super::history;
use super::service::NodeService;
use crate::admin::{self, AdminSocket};
use crate::failure::Failure;
use crate::units::absolute;
use aquifer_dss::group::VolumeGroup;
use aquifer_dss_proto::NodeId;
use aquifer_member::{Member, MemberOptions, default_admin};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A member that has not joined by then cannot: somebody lives that is not reached.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// A member that uses files. It leaves by [`stop`](Self::stop).
pub struct ShortMember(Member);

impl ShortMember {
    /// Joins the cluster on `device` as node `id`, or forms it.
    pub async fn start(device: &Path, id: NodeId) -> Result<Self, Failure> {
        let options = MemberOptions::new(id, vec![absolute(device)?]);
        let member = Member::join(&options, JOIN_LIMIT).await;
        member.map(Self).map_err(|error| member_failure(&error))
    }

    /// The volume group.
    pub fn group(&self) -> &Arc<VolumeGroup> {
        self.0.group()
    }

    /// Leaves the cluster.
    pub async fn stop(self) -> Result<(), Failure> {
        self.0.leave().await.map_err(|error| member_failure(&error))
    }
}

/// A node that answers admin requests; the slot says where, so that other commands find it too. It leaves by [`stop`](Self::stop).
pub struct ShortNode {
    running: Arc<Running>,
    admin: String,
    signals: StopSignals,
    tasks: Vec<JoinHandle<()>>,
}

impl ShortNode {
    /// Joins the cluster on `device` as node `id`, or forms it.
    pub async fn start(device: &Path, id: NodeId) -> Result<Self, Failure> {
        let asked = Arc::new(Notify::new());
        let mut signals = StopSignals::new(Arc::clone(&asked))?;
        let device = absolute(device)?;
        let socket = default_admin(id.get(), &device);
        let admin = format!("unix:{}", socket.display());
        let socket = AdminSocket::bind(&socket)?;
        let options = MemberOptions {
            admin: admin.clone(),
            ..MemberOptions::new(id, vec![device])
        };
        let running = tokio::select! {
            running = Running::join(&options, JOIN_LIMIT) => Arc::new(running?),
            by = signals.recv() => return Err(Failure::failed(format!("stopped by {by} before anything was done"))),
        };
        let service = Arc::new(NodeService::new(Arc::clone(&running), asked));
        let tasks = vec![
            tokio::spawn(admin::serve(socket, service)),
            tokio::spawn(history::record(Arc::clone(&running))),
        ];
        Ok(Self {
            running,
            admin,
            signals,
            tasks,
        })
    }

    /// Where it answers.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Returns when somebody wants it to stop, or it had to, with the reason.
    pub async fn cut_short(&mut self) -> String {
        tokio::select! {
            by = self.signals.recv() => by.to_owned(),
            reason = self.running.ended() => reason,
        }
    }

    /// Leaves the cluster.
    pub async fn stop(self) -> Result<(), Failure> {
        let stopped = self.running.stop().await;
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        stopped
    }
}
