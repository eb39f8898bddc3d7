//! Slots of the nodes, read without being one of them.

use crate::admin::NodeReport;
use crate::failure::Failure;
use aquifer_dss_proto::NodeId;
use std::path::Path;

fn missing() -> Failure {
    Failure::unavailable("membership is not part of this build")
}

/// What the slots say.
pub async fn read_slots(_path: &Path) -> Result<Vec<NodeReport>, Failure> {
    Err(missing())
}

/// Whether some process holds a slot's lock on this device.
pub fn anybody_runs(_path: &Path) -> Result<bool, Failure> {
    Ok(false)
}

/// Kills a node of this machine and proves it.
pub async fn fence(_path: &Path, _id: NodeId) -> Result<(), Failure> {
    Err(missing())
}
