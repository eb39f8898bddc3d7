//! A device through plain positioned I/O with O_DIRECT: for commands that open it for a moment.

use crate::failure::Failure;
use aquifer_dss::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, VolumeOpener};
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;

/// A device opened read-only or for formatting. Its operations block; commands have nothing else to do.
pub struct PlainDevice {
    file: std::fs::File,
    size: u64,
}

impl PlainDevice {
    /// Opens a file or block device.
    pub fn open(path: &Path, writable: bool) -> Result<Self, Failure> {
        let shown = path.display();
        let kind = std::fs::metadata(path)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Failure::usage(format!("{shown} does not exist: name the device of the volume group, or make one with `aquifer cluster init`")),
                _ => Failure::unavailable(format!("cannot look at {shown}: {e}")),
            })?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Failure::usage(format!(
                "{shown} is neither a file nor a block device"
            )));
        }
        let mode = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let descriptor = rustix::fs::open(path, mode | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Failure::unavailable(format!("cannot open {shown}: {e}")))?;
        let size = rustix::fs::seek(&descriptor, SeekFrom::End(0))
            .map_err(|e| Failure::unavailable(format!("{shown} has no size: {e}")))?;
        Ok(Self {
            file: descriptor.into(),
            size,
        })
    }

    /// The open file, for its locks.
    pub fn into_file(self) -> std::fs::File {
        self.file
    }

    fn check(&self, operation: &'static str, offset: u64, length: usize) -> Result<(), DeviceError> {
        let inside = offset
            .checked_add(length as u64)
            .is_some_and(|end| end <= self.size);
        if inside && offset.is_multiple_of(512) {
            Ok(())
        } else {
            Err(DeviceError::OutOfRange {
                operation,
                offset,
                length,
            })
        }
    }
}

fn error(operation: &'static str, offset: u64, length: usize, e: &std::io::Error) -> DeviceError {
    DeviceError::Io {
        operation,
        offset,
        length,
        errno: e.raw_os_error().unwrap_or(0),
        message: e.to_string(),
    }
}

impl BlockDevice for PlainDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.size,
            block: 4096,
        }
    }

    fn read(&self, offset: u64, mut buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.check("read", offset, buffer.len())?;
            let length = buffer.len();
            self.file
                .read_exact_at(&mut buffer, offset)
                .map_err(|e| error("read", offset, length, &e))?;
            Ok(buffer)
        })
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.check("write", offset, buffer.len())?;
            self.file
                .write_all_at(&buffer, offset)
                .map_err(|e| error("write", offset, buffer.len(), &e))?;
            Ok(buffer)
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move { self.file.sync_all().map_err(|e| error("flush", 0, 0, &e)) })
    }

    fn discard(&self, _offset: u64, _length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Opens further volumes read-only.
pub struct PlainOpener;

impl VolumeOpener for PlainOpener {
    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        Box::pin(async move {
            let device = PlainDevice::open(Path::new(path), false);
            let device = device.map_err(|failure| DeviceError::Io {
                operation: "open",
                offset: 0,
                length: 0,
                errno: 0,
                message: failure.message,
            })?;
            Ok(Arc::new(device) as Arc<dyn BlockDevice>)
        })
    }

    fn close(&self, _path: &str) {}
}
