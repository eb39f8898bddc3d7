//! This side: a file of a volume group, as a database process uses it.

use super::{Kind, Work};
use crate::device::storage_failure;
use crate::failure::Failure;
use aquifer_dss::device::{OpenMode, open_device};
use aquifer_dss::group::{CreateOptions, GroupOptions, StorageError, VolumeGroup};
use aquifer_dss::seam::{BlockDevice, IoBuffer};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::{Epoch, FileId, NodeId};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Bytes of a write when the file is filled.
const FILL: usize = 1 << 20;

/// Files for whose metadata there is room: as many as the measurement of creates may make.
const FILES: u64 = 1_000_000;

/// A moment by the clock and by the processor time of this process.
#[derive(Clone, Copy)]
struct Moment {
    time: Instant,
    processor: Duration,
}

impl Moment {
    fn now() -> Self {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self {
            time: Instant::now(),
            processor: Duration::new(used.tv_sec as u64, used.tv_nsec as u32),
        }
    }
}

/// A group on a device, led by this process, with one file.
pub struct Pool {
    group: Arc<VolumeGroup>,
    path: PathBuf,
    file: FileId,
    size: u64,
    range: Range<u64>,
    /// Where work in order goes on.
    next: Arc<AtomicU64>,
}

impl Pool {
    /// Formats `path` and fills a file of `size` bytes.
    pub async fn make(path: &Path, size: u64) -> Result<Self, Failure> {
        Self::build(path, size)
            .await
            .map_err(|e| storage_failure(path, &e))
    }

    async fn build(path: &Path, size: u64) -> Result<Self, StorageError> {
        let device: Arc<dyn BlockDevice> = open_device(path, OpenMode::Best)?;
        let options = GroupOptions {
            files: Some(FILES),
            ..GroupOptions::default()
        };
        VolumeGroup::format(&*device, &options.sized_for(device.geometry().size)).await?;
        let me = NodeId::new(1).expect("1 is a node");
        let group = VolumeGroup::open(Arc::new(TokioRuntime::current()), vec![device], me).await?;
        group.lead(Epoch(1)).await?;
        let options = CreateOptions {
            size,
            kind: FileKind::Tree,
            ..CreateOptions::default()
        };
        let file = group.create("/bench", options).await?;
        for offset in (0..size).step_by(FILL) {
            let mut buffer = IoBuffer::zeroed(FILL.min((size - offset) as usize));
            buffer.fill(1 + (offset / FILL as u64) as u8 % 250);
            group.write_at(file, offset, buffer).await?;
        }
        group.flush().await?;
        let stat = group.stat(file).await?;
        let [extent] = stat.extents.as_slice() else {
            return Err(StorageError::Invalid(
                "a fresh group gave the file in pieces".into(),
            ));
        };
        let start = group.label().au_offset + u64::from(extent.start) * group.label().au_bytes;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            range: start..start + size,
            next: Arc::default(),
            group,
        })
    }

    /// Where the file is on the device.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// One turn: `kind.depth` tasks that do one operation after the other.
    pub async fn run(&self, kind: Kind, turn: Duration) -> Result<Work, Failure> {
        let begun = Moment::now();
        let end = begun.time + turn;
        let mut tasks = JoinSet::new();
        for number in 0..kind.depth {
            let worker = Worker {
                group: self.group.clone(),
                file: self.file,
                places: self.size / kind.bytes as u64,
                next: self.next.clone(),
                random: 0x9E37_79B9_7F4A_7C15 ^ ((number as u64 + 1) << 32),
                kind,
            };
            tasks.spawn(worker.run(end));
        }
        self.total(tasks, begun).await
    }
}

impl Pool {
    /// One turn of `callers` tasks that make empty files, each durable when it is answered. `round` keeps names apart.
    pub async fn create_files(&self, round: u32, callers: usize, turn: Duration) -> Result<Work, Failure> {
        let begun = Moment::now();
        let end = begun.time + turn;
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let group = self.group.clone();
            tasks.spawn(async move {
                let mut made = 0u64;
                while Instant::now() < end {
                    let path = format!("/made/{round}-{caller}-{made}");
                    group.create(&path, CreateOptions::default()).await?;
                    made += 1;
                }
                Ok(made)
            });
        }
        self.total(tasks, begun).await
    }

    /// One turn of writes of 4 KiB, each flushed: what an entry of the journal costs at least.
    pub async fn write_and_flush(&self, turn: Duration) -> Result<Work, Failure> {
        let begun = Moment::now();
        let end = begun.time + turn;
        let (group, file) = (self.group.clone(), self.file);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut buffer, mut done) = (IoBuffer::zeroed(4096), 0u64);
            while Instant::now() < end {
                buffer = group.write_at(file, done % 1024 * 4096, buffer).await?;
                group.flush().await?;
                done += 1;
            }
            Ok(done)
        });
        self.total(tasks, begun).await
    }

    async fn total(
        &self,
        mut tasks: JoinSet<Result<u64, StorageError>>,
        begun: Moment,
    ) -> Result<Work, Failure> {
        let mut operations = 0;
        while let Some(done) = tasks.join_next().await {
            let done = done.map_err(|e| Failure::failed(format!("a worker ended: {e}")))?;
            operations += done.map_err(|e| storage_failure(&self.path, &e))?;
        }
        let ended = Moment::now();
        Ok(Work {
            operations: operations as f64,
            seconds: (ended.time - begun.time).as_secs_f64(),
            processor: (ended.processor - begun.processor).as_secs_f64(),
        })
    }
}

/// One of the operations at once.
struct Worker {
    group: Arc<VolumeGroup>,
    file: FileId,
    places: u64,
    next: Arc<AtomicU64>,
    random: u64,
    kind: Kind,
}

impl Worker {
    fn place(&mut self) -> u64 {
        let number = if self.kind.random {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random
        } else {
            self.next.fetch_add(1, Ordering::Relaxed)
        };
        number % self.places * self.kind.bytes as u64
    }

    async fn run(mut self, end: Instant) -> Result<u64, StorageError> {
        let mut buffer = IoBuffer::zeroed(self.kind.bytes);
        buffer.fill(7);
        let mut operations = 0;
        while Instant::now() < end {
            let offset = self.place();
            buffer = if self.kind.write {
                self.group.write_at(self.file, offset, buffer).await?
            } else {
                self.group.read_at(self.file, offset, buffer).await?
            };
            if self.kind.durable {
                self.group.flush().await?;
            }
            operations += 1;
        }
        Ok(operations)
    }
}
