//! The seam of devices that turn up while a node runs.

use super::{BlockDevice, BoxFuture, DeviceError};
use std::sync::Arc;

/// Opens devices by path: volumes that another node added, or that this one shall add.
pub trait VolumeOpener: Send + Sync + 'static {
    /// Opens the device. All I/O of this process on it, and the lock of its slot there, go through what this gives
    /// (HZ-17): the same path gives the same device again.
    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>>;
    /// The device is not needed any more: nobody reads or writes it.
    fn close(&self, path: &str);
}
