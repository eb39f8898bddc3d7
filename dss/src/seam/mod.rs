//! The seams: what the real world and the simulator both implement.

mod buffer;
mod device;
mod fencer;
mod opener;
mod runtime;
mod timer;
mod transport;

pub use buffer::{BLOCK, IoBuffer};
pub use device::{BlockDevice, DeviceError, Geometry, write_zeros};
pub use fencer::{FenceError, Fencer, LockState, ProcessIdentity};
pub use opener::VolumeOpener;
pub use runtime::{BoxFuture, Runtime};
pub use timer::{Sleeper, Timer, Until};
pub use transport::{Inbound, Receiver, Service, Tail, Transport, hand_over};
