//! A device that fails on demand, around another one: for tests and drills on real devices.

use crate::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, Runtime};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Each operation takes this much longer.
    Delay(Duration),
    /// After this many more operations, each fails with this errno and does nothing.
    Fail {
        /// How many still succeed.
        after: u64,
        /// errno(3).
        errno: i32,
    },
    /// Flushes succeed and do nothing.
    LoseFlushes,
    /// After this many more writes, each succeeds and does nothing.
    DropWrites {
        /// How many are still done.
        after: u64,
    },
    /// After this many more writes, each writes its first 512 bytes only and succeeds.
    TearWrites {
        /// How many are still whole.
        after: u64,
    },
}

/// The device.
pub struct FaultDevice {
    inner: Arc<dyn BlockDevice>,
    runtime: Arc<dyn Runtime>,
    faults: Mutex<Vec<Fault>>,
}

/// Whether a countdown is over; counts down.
fn is_over(left: &mut u64) -> bool {
    let over = *left == 0;
    *left = left.saturating_sub(1);
    over
}

impl FaultDevice {
    /// Around `inner`, without a fault yet.
    pub fn new(inner: Arc<dyn BlockDevice>, runtime: Arc<dyn Runtime>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            runtime,
            faults: Mutex::default(),
        })
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.faults.lock().push(fault);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.faults.lock().clear();
    }

    /// Delays, and fails when it is time.
    async fn begin(&self, operation: &'static str, offset: u64, length: usize) -> Result<(), DeviceError> {
        let (mut delay, mut failure) = (Duration::ZERO, None);
        for fault in self.faults.lock().iter_mut() {
            match fault {
                Fault::Delay(more) => delay += *more,
                Fault::Fail { after, errno } => failure = is_over(after).then_some(*errno).or(failure),
                _ => {}
            }
        }
        if delay > Duration::ZERO {
            self.runtime.sleep(delay).await;
        }
        let message = String::from("injected");
        failure.map_or(Ok(()), |errno| {
            Err(DeviceError::Io {
                operation,
                offset,
                length,
                errno,
                message,
            })
        })
    }

    /// How many bytes of a write are really written.
    fn bytes_written(&self, length: usize) -> usize {
        let mut written = length;
        for fault in self.faults.lock().iter_mut() {
            match fault {
                Fault::DropWrites { after } => written = if is_over(after) { 0 } else { written },
                Fault::TearWrites { after } => {
                    written = if is_over(after) { written.min(512) } else { written }
                }
                _ => {}
            }
        }
        written
    }

    /// A write of which only the first `written` bytes arrive.
    async fn write_part(&self, offset: u64, buffer: &IoBuffer, written: usize) -> Result<(), DeviceError> {
        if written == 0 {
            return Ok(());
        }
        let block = self.geometry().block as usize;
        let part = IoBuffer::zeroed(written.next_multiple_of(block).min(buffer.len()));
        let mut part = self.inner.read(offset, part).await?;
        part[..written].copy_from_slice(&buffer[..written]);
        self.inner.write(offset, part).await.map(drop)
    }
}

impl BlockDevice for FaultDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.begin("read", offset, buffer.len()).await?;
            self.inner.read(offset, buffer).await
        })
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.begin("write", offset, buffer.len()).await?;
            let written = self.bytes_written(buffer.len());
            if written == buffer.len() {
                return self.inner.write(offset, buffer).await;
            }
            self.write_part(offset, &buffer, written).await?;
            Ok(buffer)
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.begin("flush", 0, 0).await?;
            if self.faults.lock().contains(&Fault::LoseFlushes) {
                return Ok(());
            }
            self.inner.flush().await
        })
    }

    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.begin("discard", offset, length as usize).await?;
            self.inner.discard(offset, length).await
        })
    }

    fn discards_to_zeros(&self) -> bool {
        self.inner.discards_to_zeros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{SimDisk, SimDiskOptions};
    use crate::testing::TestRuntime;

    #[test]
    fn faults_do_what_they_say_and_heal() {
        let runtime = TestRuntime::new(1);
        let disk = SimDisk::new(SimDiskOptions::new(1 << 16, 1));
        let device = FaultDevice::new(disk.attach(runtime.clone()), runtime.clone());
        let ones = || {
            let mut buffer = IoBuffer::zeroed(4096);
            buffer.fill(1);
            buffer
        };
        runtime.block_on(async {
            device.inject(Fault::TearWrites { after: 0 });
            device.write(0, ones()).await.unwrap();
            assert_eq!(disk.peek(0, 1024).iter().filter(|byte| **byte == 1).count(), 512);
            device.heal();
            device.inject(Fault::Fail { after: 1, errno: 5 });
            device.write(0, ones()).await.unwrap();
            assert!(matches!(
                device.flush().await,
                Err(DeviceError::Io { errno: 5, .. })
            ));
            device.heal();
            device.inject(Fault::LoseFlushes);
            device.flush().await.unwrap();
            assert_eq!(disk.durable_copy(2).peek(0, 1), [0]);
            device.heal();
            device.flush().await.unwrap();
            assert_eq!(disk.durable_copy(2).peek(0, 1), [1]);
        });
    }
}
