//! Block devices: what implements [`crate::seam::BlockDevice`].
//!
//! A real device is opened once per process: its I/O and its OFD lock go through the same open file description,
//! which is close-on-exec (HZ-17).

mod fault;
mod file;
mod open;
mod plain;
mod sim;
mod uring;

pub use fault::{Fault, FaultDevice};
pub use file::create_sparse;
pub use open::{FileDevice, OpenMode, open_device};
pub use plain::PlainDevice;
pub use sim::{CutPoint, DiskCounters, Port, SimDevice, SimDisk, SimDiskOptions};
pub use uring::UringDevice;
