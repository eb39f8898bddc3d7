//! Opening a device the best way the system allows.

use super::file::OpenFile;
use super::plain::PlainDevice;
use super::uring::UringDevice;
use crate::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// How to do the I/O of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OpenMode {
    /// io_uring where it is enabled, otherwise threads; which one is told in the log.
    #[default]
    Best,
    /// io_uring, or an error.
    Uring,
    /// Threads.
    Plain,
}

/// An open file or block device, by either way.
#[derive(Clone)]
pub enum FileDevice {
    /// By io_uring.
    Uring(Arc<UringDevice>),
    /// By threads.
    Plain(Arc<PlainDevice>),
}

/// Opens a file, loop device or block device. Call it inside the tokio runtime that will use it.
pub fn open_device(path: &Path, mode: OpenMode) -> Result<Arc<FileDevice>, DeviceError> {
    let open = OpenFile::open(path)?;
    if mode == OpenMode::Plain {
        return Ok(Arc::new(FileDevice::Plain(PlainDevice::over(open))));
    }
    match UringDevice::over(open) {
        Ok(device) => Ok(Arc::new(FileDevice::Uring(device))),
        Err((_, error)) if mode == OpenMode::Uring => Err(error),
        Err((open, error)) => {
            tracing::warn!(path = %path.display(), %error, "no io_uring here: I/O goes through threads, slower");
            Ok(Arc::new(FileDevice::Plain(PlainDevice::over(open))))
        }
    }
}

impl FileDevice {
    /// The open file description of all its I/O, for the slot lock (HZ-17).
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Uring(device) => device.descriptor(),
            Self::Plain(device) => device.descriptor(),
        }
    }

    /// "io_uring" or "threads".
    pub const fn way(&self) -> &'static str {
        match self {
            Self::Uring(_) => "io_uring",
            Self::Plain(_) => "threads",
        }
    }

    fn inner(&self) -> &dyn BlockDevice {
        match self {
            Self::Uring(device) => &**device,
            Self::Plain(device) => &**device,
        }
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> Geometry {
        self.inner().geometry()
    }

    fn read(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        self.inner().read(offset, buffer)
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        self.inner().write(offset, buffer)
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.inner().flush()
    }

    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.inner().discard(offset, length)
    }

    fn discards_to_zeros(&self) -> bool {
        self.inner().discards_to_zeros()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(Self::descriptor(self))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.inner().write_zeroes(offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::create_sparse;

    fn path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("aquifer-{}-{name}", std::process::id()))
    }

    async fn exercise(device: &Arc<FileDevice>) {
        let Geometry { size, block } = device.geometry();
        assert_eq!(size, 1 << 20);
        let writes: Vec<_> = (0..64u64)
            .map(|number| {
                let device = device.clone();
                tokio::spawn(async move {
                    let mut buffer = IoBuffer::zeroed(4096);
                    buffer.fill(number as u8 + 1);
                    device.write(number * 4096, buffer).await.unwrap();
                })
            })
            .collect();
        for write in writes {
            write.await.unwrap();
        }
        device.flush().await.unwrap();
        let read = device.read(0, IoBuffer::zeroed(65 * 4096)).await.unwrap();
        assert!(
            read.chunks(4096)
                .zip(1..=64)
                .all(|(chunk, number)| chunk.iter().all(|byte| *byte == number))
        );
        assert!(read[64 * 4096..].iter().all(|byte| *byte == 0));
        for (offset, length) in [(size, 4096), (u64::from(block) / 2, 4096), (u64::MAX - 511, 4096)] {
            let refused = device.read(offset, IoBuffer::zeroed(length)).await;
            assert!(
                matches!(refused, Err(DeviceError::OutOfRange { .. })),
                "{refused:?}"
            );
        }
        // A future that is dropped leaves its buffer with the driver.
        for _ in 0..100 {
            let mut dropped = device.read(0, IoBuffer::zeroed(65 * 4096));
            let waker = std::task::Waker::noop();
            let _pending = dropped.as_mut().poll(&mut std::task::Context::from_waker(waker));
        }
        device.discard(0, 4096).await.unwrap();
        let mut ones = IoBuffer::zeroed(4 * 4096);
        ones.fill(1);
        device.write(8192, ones).await.unwrap();
        device.write_zeroes(12288, 8192).await.unwrap();
        let read = device.read(8192, IoBuffer::zeroed(4 * 4096)).await.unwrap();
        let blocks: Vec<u8> = read.chunks(4096).map(|block| block[4095]).collect();
        assert_eq!(blocks, [1, 0, 0, 1]);
    }

    #[test]
    fn both_ways_read_what_was_written() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        for mode in [OpenMode::Plain, OpenMode::Best] {
            let path = path(&format!("{mode:?}"));
            create_sparse(&path, 1 << 20).unwrap();
            assert!(
                create_sparse(&path, 1 << 20).is_err(),
                "an existing file is refused"
            );
            runtime.block_on(async { exercise(&open_device(&path, mode).unwrap()).await });
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_path_that_is_no_device_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            for path in ["/nowhere/at/all", "/tmp", "/dev/null"] {
                assert!(open_device(Path::new(path), OpenMode::Best).is_err(), "{path}");
            }
        });
    }
}
