//! An open volume group.

use super::control::ControlBlocks;
use super::error::StorageError;
use super::format::{self, GroupIdentity, GroupOptions};
use crate::seam::{BlockDevice, Runtime};
use aquifer_dss_proto::catalog::{Extent, FileKind};
use aquifer_dss_proto::label::Label;
use aquifer_dss_proto::{FileId, NodeId};
use std::sync::Arc;

/// How a file shall be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    /// Bytes that get space at once.
    pub size: u64,
    /// What it is for.
    pub kind: FileKind,
    /// Refuse when it exists; otherwise the existing file is the answer, as it is.
    pub exclusive: bool,
}

/// What is known of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Its id.
    pub id: FileId,
    /// Its absolute path.
    pub path: String,
    /// What it is for; `None` for a directory.
    pub kind: Option<FileKind>,
    /// Bytes.
    pub size: u64,
    /// Its space.
    pub extents: Vec<Extent>,
}

/// An open volume group.
pub struct VolumeGroup {
    label: Label,
    devices: Vec<Arc<dyn BlockDevice>>,
}

impl VolumeGroup {
    /// Writes a fresh volume group onto a device.
    pub async fn format(
        device: &dyn BlockDevice,
        options: &GroupOptions,
    ) -> Result<GroupIdentity, StorageError> {
        format::format(device, options).await
    }

    /// Opens a group as a follower. Damaged copies of labels are repaired.
    pub async fn open(
        _runtime: Arc<dyn Runtime>,
        devices: Vec<Arc<dyn BlockDevice>>,
        _me: NodeId,
    ) -> Result<Arc<Self>, StorageError> {
        let first = devices.first().ok_or_else(|| StorageError::Invalid("no device was named".into()))?;
        let label = format::read_label(&**first).await?;
        Ok(Arc::new(Self { label, devices }))
    }

    /// The label of the first volume.
    pub const fn label(&self) -> &Label {
        &self.label
    }

    /// The device of a volume.
    pub fn device(&self, volume: u16) -> &Arc<dyn BlockDevice> {
        &self.devices[usize::from(volume)]
    }

    /// Slots, ballot blocks and bodies on the first volume.
    pub fn control(&self) -> ControlBlocks {
        ControlBlocks::new(self.devices[0].clone())
    }
}
