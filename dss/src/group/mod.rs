//! Volume groups: labels, control blocks, the catalogue and its journal, and the data of files.
//!
//! Rules (DSS-n) are in this crate's README. The catalogue is one state machine in memory, persisted as a journal
//! with two checkpoints; one leader appends, the others read.

mod control;
mod data;
mod error;
mod format;
mod journal;
mod leader;
mod request;
#[cfg(test)]
mod tests;
mod volume_group;

pub use control::{AllBlocks, ControlBlocks};
pub use error::StorageError;
pub use format::{GroupIdentity, GroupOptions};
pub use volume_group::{CreateOptions, FileStat, Space, VolumeGroup};
