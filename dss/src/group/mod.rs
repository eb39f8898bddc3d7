//! Volume groups: labels, control blocks, the catalogue and its journal, and the data of files.
//!
//! Rules (DSS-n) are in this crate's README. The catalogue is one state machine in memory, persisted as a journal
//! with two checkpoints; one leader appends, the others read.

mod barrier;
mod checkpoint;
mod control;
mod data;
#[cfg(test)]
mod decrees;
mod discard;
#[cfg(test)]
mod discard_tests;
mod drive;
mod error;
mod file;
#[cfg(test)]
mod file_cuts;
#[cfg(test)]
mod file_tests;
mod fill;
mod fill_metadata;
mod format;
mod heal;
pub(crate) mod image;
mod in_flight;
mod intents;
mod journal;
mod leader;
mod legs;
mod mend;
#[cfg(test)]
mod mend_tests;
mod metadata_area;
mod metadata_devices;
#[cfg(test)]
mod metadata_leg_tests;
#[cfg(test)]
mod metadata_tests;
#[cfg(test)]
mod mirror_tests;
#[cfg(test)]
mod move_tests;
mod moves;
mod names;
mod open_files;
mod open_metadata;
mod open_volumes;
#[cfg(test)]
mod pair_tests;
mod places;
mod prepared;
#[cfg(test)]
mod prepared_tests;
mod range_lock;
mod replace;
mod request;
mod resync;
mod scrub;
mod sides;
#[cfg(test)]
mod tests;
mod volume_change;
mod volume_group;
mod volume_label;
#[cfg(test)]
mod volume_tests;
mod volumes;
mod worker;

pub use aquifer_dss_proto::catalog::FILE_BYTES;
pub use control::{AllBlocks, ControlBlocks};
pub use discard::DiscardStatus;
pub use error::StorageError;
pub use file::{File, FileBytes, OpenOptions};
pub use format::{GroupIdentity, GroupOptions, NewDevice};
pub use image::{CheckpointImage, GroupImage};
pub use metadata_devices::MetadataDevices;
pub use moves::{MOVE_RATE_KEY, MoveStatus, Problem};
pub use names::Owner;
pub use open_volumes::OpenVolumes;
pub use prepared::{DevicePlace, FileAddress, Prepared};
pub use replace::ReplaceLegOptions;
pub use resync::ResyncStatus;
pub use scrub::{Difference, ScrubStatus};
pub use sides::{Check, Judge, MendCounts, Quality, Sides};
pub use volume_change::{AddVolumeOptions, DISCARD_KEY, SecondDevice};
pub use volume_group::{CreateOptions, FileStat, FileType, Space, VolumeGroup};
pub use volume_label::{LabelCopies, read_label_copies};
pub use volumes::VolumeStatus;
