//! Block devices: what implements [`crate::seam::BlockDevice`].
//!
//! A real device is opened once per process: its I/O and its OFD lock go through the same open file description,
//! which is close-on-exec (HZ-17).

mod sim;

pub use sim::{CutPoint, DiskCounters, Port, SimDevice, SimDisk, SimDiskOptions};
