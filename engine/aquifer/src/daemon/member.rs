//! A member for the length of one command: a node without SQL and without an admin socket, while nobody else runs.

use super::NodeSettings;
use super::assemble::Running;
use crate::failure::Failure;
use crate::units::{Address, absolute};
use aquifer_dss::group::VolumeGroup;
use aquifer_dss_proto::NodeId;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A member that has not joined by then cannot: somebody lives that is not reached.
const JOIN_LIMIT: Duration = Duration::from_secs(30);
/// Memory for pages: the least that a node takes for the largest ones, because no page is read.
const BUFFER: u64 = 2 << 20;

/// The member. It leaves by [`stop`](Self::stop).
pub struct ShortMember {
    running: Running,
}

impl ShortMember {
    /// Joins the cluster on `device` as node `id`, or forms it.
    pub async fn start(device: &Path, id: NodeId) -> Result<Self, Failure> {
        let device = absolute(device)?;
        let admin = crate::node::default_admin(id.get(), &device);
        let directory = crate::node::runtime_directory();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|e| Failure::failed(format!("cannot make {}: {e}", directory.display())))?;
        let settings = NodeSettings {
            id,
            peer: Address::Unix(admin.with_extension("peer")),
            admin,
            devices: vec![device],
            sql: None,
            buffer: BUFFER,
            log: None,
            peer_memory: true,
            mount: None,
        };
        let running = Running::start(&settings, None).await?;
        match tokio::time::timeout(JOIN_LIMIT, running.ready()).await {
            Ok(ready) => ready.map(|()| Self { running }),
            Err(_) => Err(Failure::refused(format!(
                "cannot join the cluster on {} within {} s: its nodes live and do not answer, or cannot be proven dead",
                settings.shown_devices().display(),
                JOIN_LIMIT.as_secs()
            ))),
        }
    }

    /// The volume group.
    pub fn group(&self) -> &Arc<VolumeGroup> {
        self.running.group()
    }

    /// Leaves the cluster.
    pub async fn stop(self) -> Result<(), Failure> {
        self.running.stop().await
    }
}
