//! A member for the length of one command: a node without SQL and without an admin socket, while nobody else runs.

use super::assemble::member_failure;
use crate::failure::Failure;
use crate::units::absolute;
use aquifer_dss::group::VolumeGroup;
use aquifer_dss_proto::NodeId;
use aquifer_member::{Member, MemberOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A member that has not joined by then cannot: somebody lives that is not reached.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// The member. It leaves by [`stop`](Self::stop).
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
