//! A device by pread, pwrite and fdatasync on threads: for where io_uring is disabled.

use super::file::OpenFile;
use crate::in_place;
use crate::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, write_zeros};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Operations that run at once.
const THREADS: usize = 16;

/// The device. Dropping the future of an operation leaves the operation running; its buffer lives with it.
pub struct PlainDevice {
    open: Arc<OpenFile>,
    handle: Handle,
    threads: Arc<Semaphore>,
}

impl PlainDevice {
    /// Opens a file, loop device or block device. Call it inside a tokio runtime.
    pub fn open(path: &Path) -> Result<Arc<Self>, DeviceError> {
        Ok(Self::over(OpenFile::open(path)?))
    }

    pub(super) fn over(open: OpenFile) -> Arc<Self> {
        let threads = Arc::new(Semaphore::new(THREADS));
        Arc::new(Self {
            open: Arc::new(open),
            handle: Handle::current(),
            threads,
        })
    }

    /// The open file description of all its I/O, for the slot lock (HZ-17).
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.open.descriptor()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OpenFile) -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        if in_place::is_allowed() {
            return work(&self.open);
        }
        let permit = self
            .threads
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let open = self.open.clone();
        let job = self.handle.spawn_blocking(move || {
            let result = work(&open);
            drop(permit);
            result
        });
        job.await.expect("device work does not panic")
    }
}

impl BlockDevice for PlainDevice {
    fn geometry(&self) -> Geometry {
        self.open.geometry()
    }

    fn read(&self, offset: u64, mut buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.open.check("read", offset, buffer.len())?;
            self.run(move |open| open.read(offset, &mut buffer).map(|()| buffer))
                .await
        })
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.open.check("write", offset, buffer.len())?;
            self.run(move |open| open.write(offset, &buffer).map(|()| buffer))
                .await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(self.run(OpenFile::flush))
    }

    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.open
                .check("discard", offset, usize::try_from(length).unwrap_or(usize::MAX))?;
            self.run(move |open| open.discard(offset, length)).await
        })
    }

    fn discards_to_zeros(&self) -> bool {
        self.open.discards_to_zeros()
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.open
                .check("zero", offset, usize::try_from(length).unwrap_or(usize::MAX))?;
            if self.run(move |open| open.zero(offset, length)).await? {
                return Ok(());
            }
            write_zeros(self, offset, length).await
        })
    }
}
