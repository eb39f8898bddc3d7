//! Devices of a node: opened once per path, locked through the descriptor of their I/O (HZ-17).

use aquifer_dss::device::{FileDevice, OpenMode, open_device};
use aquifer_dss::fence::{Descriptor, LocalFencer};
use aquifer_dss::seam::{BlockDevice, BoxFuture, DeviceError, Runtime, VolumeOpener};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A device's descriptor for the slot locks.
struct DeviceDescriptor(Arc<FileDevice>);

impl AsFd for DeviceDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.descriptor()
    }
}

struct Opened {
    device: Arc<FileDevice>,
    descriptor: Descriptor,
}

#[derive(Default)]
struct State {
    open: BTreeMap<PathBuf, Opened>,
    /// Once there is one, it locks whatever is opened.
    fencer: Option<Arc<LocalFencer>>,
}

/// Every device that this process has open.
#[derive(Default)]
pub struct Devices(Mutex<State>);

/// One name for a device, however it is written.
fn key(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

impl Devices {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the devices")
    }

    /// Opens a device, or gives the one that is open.
    pub fn open_path(&self, path: &Path) -> Result<Arc<FileDevice>, DeviceError> {
        let mut state = self.state();
        let key = key(path);
        if let Some(opened) = state.open.get(&key) {
            return Ok(opened.device.clone());
        }
        let device = open_device(path, OpenMode::Best)?;
        let descriptor: Descriptor = Arc::new(DeviceDescriptor(device.clone()));
        if let Some(fencer) = &state.fencer {
            fencer.add(descriptor.clone()).map_err(|error| DeviceError::Io {
                operation: "open",
                offset: 0,
                length: 0,
                errno: 0,
                message: format!("{}: {error}", path.display()),
            })?;
        }
        let opened = Opened {
            device: device.clone(),
            descriptor,
        };
        state.open.insert(key, opened);
        Ok(device)
    }

    /// The fencer of this process, with a lock on every device that is open and on those that come.
    pub fn fencer(&self, runtime: Arc<dyn Runtime>) -> std::io::Result<Arc<LocalFencer>> {
        let mut state = self.state();
        let descriptors = state.open.values().map(|opened| opened.descriptor.clone());
        let fencer = Arc::new(LocalFencer::new(runtime, descriptors.collect())?);
        state.fencer = Some(fencer.clone());
        Ok(fencer)
    }
}

impl VolumeOpener for Devices {
    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        Box::pin(async move {
            let device: Arc<dyn BlockDevice> = self.open_path(Path::new(path))?;
            Ok(device)
        })
    }

    fn close(&self, path: &str) {
        let mut state = self.state();
        let Some(closed) = state.open.remove(&key(Path::new(path))) else {
            return;
        };
        if let Some(fencer) = &state.fencer {
            fencer.remove(&closed.descriptor);
        }
    }
}
