//! What can go wrong with a volume group. Each text is one line that says what to do.

use crate::seam::DeviceError;
use aquifer_dss_proto::catalog::OperationError;
use aquifer_dss_proto::label::Uuid;
use aquifer_dss_proto::{FileId, NodeId};

/// An operating error of storage.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The device failed or refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device has no label.
    #[error("no volume group here: format the device first (`aquifer init`), or name the right one")]
    NoLabel,
    /// Both copies of the label are damaged.
    #[error(
        "both copies of the label are damaged: restore the first 128 KiB of the device, or format it with force"
    )]
    DamagedLabel,
    /// Written by another version.
    #[error(
        "the volume group has format version {found}, this program reads {expected}: use the matching version"
    )]
    OtherVersion {
        /// On the device.
        found: u32,
        /// Of this program.
        expected: u32,
    },
    /// Formatting would destroy a volume group.
    #[error(
        "the device has volume group '{name}' ({group}) already: pick another device, or format with force"
    )]
    InUse {
        /// Its name.
        name: String,
        /// Its id.
        group: Uuid,
    },
    /// Formatting would destroy something unknown.
    #[error(
        "the device is not blank (bytes near offset {offset}): pick another device, or format with force"
    )]
    NotBlank {
        /// Where something was found.
        offset: u64,
    },
    /// The device is too small.
    #[error(
        "the device has {size} bytes but at least {needed} are needed: enlarge it or choose smaller areas"
    )]
    TooSmall {
        /// Bytes it has.
        size: u64,
        /// Bytes it needs.
        needed: u64,
    },
    /// One of two places of the metadata is not there, and the other one may be old.
    #[error(
        "side {side} of volume 0 cannot be used ({reason}), and what the other side has may be old: bring it back, or say that it is lost for good (`--lost-side {side}`)"
    )]
    OneSide {
        /// The side that is not there.
        side: u8,
        /// Why.
        reason: String,
    },
    /// The volumes that were named do not belong together.
    #[error("volume {volume} belongs to group {found}, not to {expected}: name the volumes of one group")]
    OtherGroup {
        /// UUID of the volume.
        volume: Uuid,
        /// Group of that device.
        found: Uuid,
        /// Group of the volume with the metadata.
        expected: Uuid,
    },
    /// A device has a label of this group that the catalogue does not agree with.
    #[error("the device with volume {uuid} is refused: {reason}")]
    RefusedVolume {
        /// UUID of the volume.
        uuid: Uuid,
        /// Why.
        reason: String,
    },
    /// A volume of the group cannot be used by this node.
    #[error("volume {volume} ({uuid}, last seen as '{path}') cannot be used: {reason}")]
    MissingVolume {
        /// Its id.
        volume: u16,
        /// Its UUID.
        uuid: Uuid,
        /// Its device as the node saw it that added it.
        path: String,
        /// Why.
        reason: String,
    },
    /// An option makes no sense.
    #[error("invalid option: {0}")]
    Invalid(String),
    /// The metadata on the device contradicts itself.
    #[error("metadata is damaged ({0}): run `aquifer check`")]
    Damaged(String),
    /// The catalogue refused the operation.
    #[error("{path}: {error}")]
    Operation {
        /// What it was about.
        path: String,
        /// Why.
        error: OperationError,
    },
    /// No such file.
    #[error("file {} does not exist", .0.0)]
    NoSuchFile(FileId),
    /// Past the end of a file, or not aligned.
    #[error("{length} bytes at {offset} are not inside file {} of {size} bytes", file.0)]
    OutsideFile {
        /// The file.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: usize,
        /// Size of the file.
        size: u64,
    },
    /// A write where the file has no units.
    #[error("{length} bytes at {offset} of file {} are in a hole", file.0)]
    Hole {
        /// The file.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: usize,
    },
    /// Only the storage leader does this.
    #[error("only the storage leader does this{}", .0.map_or_else(String::new, |node| format!(": ask node {node}")))]
    NotLeader(Option<NodeId>),
    /// No leader answered in time; the operation may or may not have been done.
    #[error("no storage leader answered in time: look at `aquifer status`; the outcome is unknown")]
    Unavailable,
}

impl StorageError {
    /// Whether the catalogue answered exactly this.
    pub fn is(&self, wanted: OperationError) -> bool {
        matches!(self, Self::Operation { error, .. } if *error == wanted)
    }
}
