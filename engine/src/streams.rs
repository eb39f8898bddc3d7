//! Where the redo streams and the double-write areas of all nodes lie, found with one look at the catalogue.

use crate::wal::GroupFile;
use aquifer_dss::group::{StorageError, VolumeGroup};
use aquifer_dss_proto::catalog::OperationError;
use aquifer_dss_proto::{FileId, NodeId};
use std::sync::Arc;

const REDO: &str = "/redo";
const DOUBLE_WRITE: &str = "/doublewrite";

/// Path of the redo stream of `node`.
pub fn redo_path(node: NodeId) -> String {
    format!("{REDO}/{node}")
}

/// Path of the double-write area of `node`.
pub fn double_write_path(node: NodeId) -> String {
    format!("{DOUBLE_WRITE}/{node}")
}

/// The redo streams there are, in order of their nodes.
pub async fn redo_streams(group: &Arc<VolumeGroup>) -> Result<Vec<(NodeId, GroupFile)>, StorageError> {
    let mut streams = Vec::new();
    for (node, file) in files_by_node(group, REDO).await? {
        let stat = group.stat(file).await?;
        streams.push((node, GroupFile::new(group.clone(), stat.id, stat.size)));
    }
    Ok(streams)
}

/// The double-write areas there are, in order of their nodes.
pub async fn double_write_areas(group: &VolumeGroup) -> Result<Vec<(NodeId, FileId)>, StorageError> {
    files_by_node(group, DOUBLE_WRITE).await
}

/// Files that are named by a node id. Other names are files that are being made.
async fn files_by_node(group: &VolumeGroup, directory: &str) -> Result<Vec<(NodeId, FileId)>, StorageError> {
    let listed = match group.list(directory).await {
        Err(error) if error.is(OperationError::NotFound) => Vec::new(),
        listed => listed?,
    };
    let node = |name: &str| name.parse().ok().and_then(NodeId::new);
    let mut files: Vec<_> = listed
        .into_iter()
        .filter_map(|(name, file)| Some((node(&name)?, file)))
        .collect();
    files.sort_unstable();
    Ok(files)
}
