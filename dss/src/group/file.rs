//! A file that a program has open: bytes at any offset, on any number of nodes.
//!
//! Rules:
//! - what is written is on the device when the call returns, visible to every node, and durable after
//!   [`sync`](File::sync); size and time of modification are seen on this node at once, and elsewhere after `sync` or
//!   [`close`](File::close);
//! - past the end of a file its units hold zeros, so that it can grow without being touched; what a cut leaves in the
//!   last unit is zeroed before the file grows again;
//! - writes that share a block follow each other on one node; on two nodes programs must agree who writes which block
//!   of 4 KiB, but for [`append`](File::append), which sees to that itself;
//! - a removed file lives on while it is open anywhere.

use super::error::StorageError;
use super::names::{Owner, refused};
use super::open_files::{OpenFile, Progress};
use super::places::Access;
use super::volume_group::{FileStat, FileType, VolumeGroup};
use crate::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{Catalog, FILE_BYTES, FileOperation, NewNode, Node, OperationError, Reply};
use aquifer_dss_proto::defect::{Defect, planted};
use std::io::{IoSlice, IoSliceMut};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// How long somebody waits before it asks again for the end of a file that another node works on ...
const END_AGAIN: Duration = Duration::from_millis(2);
/// ... and how often, which makes a minute.
const END_TRIES: u32 = 30_000;

/// How a file shall be opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Make it when it is not there.
    pub create: bool,
    /// Refuse when it is there.
    pub exclusive: bool,
    /// Cut it to nothing.
    pub truncate: bool,
    /// Owner and permissions of a file that is made.
    pub owner: Owner,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            create: false,
            exclusive: false,
            truncate: false,
            owner: Owner {
                mode: 0o644,
                uid: 0,
                gid: 0,
            },
        }
    }
}

/// An open file. Clones are the same file; the last one closes it here.
#[derive(Clone)]
pub struct File {
    group: Arc<VolumeGroup>,
    open: Arc<OpenFile>,
}

/// Bytes that were read, without a copy where they were contiguous.
pub struct FileBytes {
    buffer: Option<IoBuffer>,
    skip: usize,
    length: usize,
}

impl Deref for FileBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[self.skip..self.skip + self.length],
            None => &[],
        }
    }
}

const fn floor(offset: u64) -> u64 {
    offset / BLOCK as u64 * BLOCK as u64
}

const fn ceiling(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK as u64)
}

fn size_of(catalog: &Catalog, file: FileId) -> Option<u64> {
    match &catalog.open_inode(file)?.node {
        Node::File { size, .. } => Some(*size),
        _ => None,
    }
}

impl VolumeGroup {
    /// Opens a file by its id, as of now: everything that others closed or synced before is seen.
    pub async fn open_file(self: &Arc<Self>, file: FileId) -> Result<File, StorageError> {
        self.catch_up().await?;
        self.open_known(file)
    }

    /// Opens a file by its id, as this node knows it.
    pub fn open_known(self: &Arc<Self>, file: FileId) -> Result<File, StorageError> {
        let known = self.known.read();
        let open = self
            .open_files
            .open(&known.catalog, file)
            .ok_or(StorageError::NoSuchFile(file))?;
        drop(known);
        match self.stat_open(file).map(|stat| stat.what) {
            Some(FileType::File) => Ok(File {
                group: self.clone(),
                open,
            }),
            Some(FileType::Directory) => Err(refused("", OperationError::IsADirectory)),
            Some(FileType::Symlink) => Err(refused("", OperationError::TooManyLinks)),
            None => Err(StorageError::NoSuchFile(file)),
        }
    }

    /// Opens the file at an absolute path; links are followed.
    ///
    /// # Errors
    /// Those of the catalogue: `NotFound`, `AlreadyExists`, `IsADirectory`, `NotADirectory`, `Invalid`, `TooManyLinks`;
    /// `Unavailable` and device errors.
    pub async fn open_path(self: &Arc<Self>, path: &str, options: OpenOptions) -> Result<File, StorageError> {
        self.catch_up().await?;
        let file = match self.with_catalog(|catalog| catalog.lookup(path)) {
            Ok(_) if options.create && options.exclusive => {
                return Err(refused(path, OperationError::AlreadyExists));
            }
            Ok(file) => file,
            Err(OperationError::NotFound) if options.create => {
                let entry = self.entry(path).await?;
                self.make(entry, NewNode::File, options.owner, options.exclusive)
                    .await?
            }
            Err(error) => return Err(refused(path, error)),
        };
        let file = self.open_known(file)?;
        if options.truncate {
            file.set_len(0).await?;
        }
        Ok(file)
    }
}

impl File {
    /// Its id.
    pub fn id(&self) -> FileId {
        self.open.id
    }

    /// What this node knows of it, its own writes included.
    pub fn stat(&self) -> Result<FileStat, StorageError> {
        self.group
            .stat_open(self.open.id)
            .ok_or(StorageError::NoSuchFile(self.open.id))
    }

    /// Bytes, as this node knows it.
    pub fn size(&self) -> Result<u64, StorageError> {
        let of_catalog = self.group.with_catalog(|catalog| size_of(catalog, self.open.id));
        let of_catalog = of_catalog.ok_or(StorageError::NoSuchFile(self.open.id))?;
        Ok(of_catalog.max(self.open.progress.lock().end))
    }

    pub(super) const fn group(&self) -> &Arc<VolumeGroup> {
        &self.group
    }

    /// What all handles of the file on this node share.
    pub(super) fn shared(&self) -> &OpenFile {
        &self.open
    }

    /// Bytes that every node knows of, without what was written here since the last [`report`](Self::report); 0 when the file is gone.
    pub fn known_size(&self) -> u64 {
        self.group
            .with_catalog(|catalog| size_of(catalog, self.open.id))
            .unwrap_or(0)
    }

    /// Up to `length` bytes from byte `offset`: fewer at the end of the file, none past it. Holes are zeros.
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<FileBytes, StorageError> {
        let end = offset.saturating_add(length as u64).min(self.size()?);
        if offset >= end {
            return Ok(FileBytes {
                buffer: None,
                skip: 0,
                length: 0,
            });
        }
        let from = floor(offset);
        let buffer = IoBuffer::zeroed((ceiling(end) - from) as usize);
        let buffer = self
            .group
            .read_as(Access::Opened, self.open.id, from, buffer)
            .await?;
        Ok(FileBytes {
            buffer: Some(buffer),
            skip: (offset - from) as usize,
            length: (end - offset) as usize,
        })
    }

    /// Fills the slices one after another from byte `offset`; gives the bytes that were there.
    pub async fn read_vectored_at(
        &self,
        offset: u64,
        slices: &mut [IoSliceMut<'_>],
    ) -> Result<usize, StorageError> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let bytes = self.read_at(offset, wanted).await?;
        let mut rest: &[u8] = &bytes;
        for slice in slices {
            let (part, after) = rest.split_at(slice.len().min(rest.len()));
            slice[..part.len()].copy_from_slice(part);
            rest = after;
        }
        Ok(bytes.len())
    }

    /// Writes `bytes` at byte `offset`; a file that is shorter grows, with a hole in between.
    ///
    /// # Errors
    /// `NoSpace`, `TooLarge`, `Protected` (a file of the engine), device errors. After an error any part of the range may
    /// have its new content.
    pub async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.write_vectored_at(offset, &[IoSlice::new(bytes)]).await
    }

    /// Writes the slices one after another at byte `offset`, in one operation.
    pub async fn write_vectored_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<(), StorageError> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length == 0 {
            return Ok(());
        }
        let end = self.end_of(offset, length)?;
        let (from, to) = (floor(offset), ceiling(end));
        self.prepare_growth(end).await?;
        let _range = self.open.ranges.lock(from, to).await;
        self.fill(from, to).await?;
        let mut buffer = IoBuffer::zeroed((to - from) as usize);
        self.read_edges(from, offset, end, &mut buffer).await?;
        let mut at = (offset - from) as usize;
        for slice in slices {
            buffer[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        self.write_locked(from, end, buffer).await.map(drop)
    }

    /// Writes whole blocks at a block's offset without a copy; gives the buffer back.
    pub async fn write_blocks(&self, offset: u64, buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        let end = self.end_of(offset, buffer.len())?;
        if !offset.is_multiple_of(BLOCK as u64) || !end.is_multiple_of(BLOCK as u64) {
            return Err(refused("", OperationError::Invalid));
        }
        self.prepare_growth(end).await?;
        let _range = self.open.ranges.lock(offset, end).await;
        self.fill(offset, end).await?;
        self.write_locked(offset, end, buffer).await
    }

    /// Writes `bytes` at the end, wherever that is when its turn comes: several nodes may append to one file, and each
    /// gets a range of its own. Gives the offset.
    pub async fn append(&self, bytes: &[u8]) -> Result<u64, StorageError> {
        let _one = self.open.appending.lock().await;
        self.report().await?;
        let file = self.open.id;
        let append = FileOperation::Append {
            file,
            length: bytes.len() as u64,
        };
        let Reply::Offset(offset) = self.ask_at_end(append, false).await? else {
            return Err(StorageError::Damaged("the leader named no offset".into()));
        };
        let written = self.write_at(offset, bytes).await;
        let appended = self.group.submit_file("", FileOperation::Appended { file }).await;
        written.and(appended.map(|_| offset))
    }

    /// Cuts the file to `size` bytes, or makes it longer by a hole.
    pub async fn set_len(&self, size: u64) -> Result<(), StorageError> {
        let _all = self.open.ranges.lock_all().await;
        // The catalogue must know how far the file goes, to know what it cuts.
        self.report_as(true).await?;
        let file = self.open.id;
        self.ask_at_end(FileOperation::SetSize { file, size }, true)
            .await?;
        self.settle_tail(true).await
    }

    /// Gets units for a range, so that writing it later finds space. Grows the file unless `keep_size`.
    pub async fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> Result<(), StorageError> {
        let end = self.end_of(offset, usize::try_from(length).unwrap_or(usize::MAX))?;
        self.fill(offset, end).await?;
        if !keep_size && end > self.size()? {
            self.advance(end);
            self.report().await?;
        }
        Ok(())
    }

    /// Makes a range read as zeros, and gives its whole units back. The size stays.
    pub async fn punch(&self, offset: u64, length: u64) -> Result<(), StorageError> {
        self.require_writable()?;
        let end = offset.saturating_add(length).min(ceiling(self.size()?));
        if offset >= end {
            return Ok(());
        }
        let _all = self.open.ranges.lock_all().await;
        let au_bytes = self.group.label.au_bytes;
        let (first, last) = (offset.div_ceil(au_bytes), end / au_bytes);
        if first < last {
            let punch = FileOperation::Punch {
                file: self.open.id,
                unit: first as u32,
                count: (last - first) as u32,
            };
            self.ask_at_end(punch, true).await?;
            self.zero(offset, first * au_bytes).await?;
            self.zero(last * au_bytes, end).await?;
        } else {
            self.zero(offset, end).await?;
        }
        self.touch();
        Ok(())
    }

    /// Makes everything that was written before this call durable, size and times too, and shows them to all nodes.
    pub async fn sync(&self) -> Result<(), StorageError> {
        self.group.flush().await?;
        self.report().await
    }

    /// Makes the data durable; the size too, when the file grew.
    pub async fn sync_data(&self) -> Result<(), StorageError> {
        self.group.flush().await?;
        self.report_size().await
    }

    /// Shows size and times to all nodes. What this handle wrote is seen by whoever opens the file afterwards.
    pub async fn close(self) -> Result<(), StorageError> {
        self.report().await
    }

    /// Whether something was written here that the catalogue was not told yet.
    pub fn has_unreported(&self) -> bool {
        *self.open.progress.lock() != Progress::default()
    }

    /// Shows the size to all nodes when the file grew here; its time stays here.
    pub async fn report_size(&self) -> Result<(), StorageError> {
        if self.open.progress.lock().end > 0 {
            self.report().await?;
        }
        Ok(())
    }

    /// Tells the catalogue what was written here.
    pub async fn report(&self) -> Result<(), StorageError> {
        self.report_as(false).await
    }

    async fn report_as(&self, locked: bool) -> Result<(), StorageError> {
        let progress = *self.open.progress.lock();
        if progress == Progress::default() {
            return Ok(());
        }
        let written = FileOperation::Written {
            file: self.open.id,
            size: progress.end,
            modified: progress.modified,
        };
        self.ask_at_end(written, locked).await?;
        let mut now = self.open.progress.lock();
        // What was written meanwhile is told the next time.
        if now.end == progress.end {
            now.end = 0;
        }
        if now.modified == progress.modified {
            now.modified = 0;
        }
        Ok(())
    }

    /// Refuses to write a file of the engine: the catalogue refuses what changes its space, but is not asked about bytes in units that are there.
    fn require_writable(&self) -> Result<(), StorageError> {
        let is_engine = self.group.with_catalog(|catalog| {
            let inode = catalog.open_inode(self.open.id);
            inode.is_some_and(|inode| inode.node.is_engine())
        });
        if is_engine {
            return Err(refused("", OperationError::Protected));
        }
        Ok(())
    }

    /// Where a write of `length` bytes ends; asked before each.
    pub(super) fn end_of(&self, offset: u64, length: usize) -> Result<u64, StorageError> {
        self.require_writable()?;
        let end = offset.checked_add(length as u64).filter(|end| *end <= FILE_BYTES);
        let limit = u64::from(u32::MAX) * self.group.label.au_bytes;
        end.filter(|end| *end <= limit)
            .ok_or_else(|| refused("", OperationError::TooLarge))
    }

    /// Units for every byte from `from` up to `to`.
    pub(super) async fn fill(&self, from: u64, to: u64) -> Result<(), StorageError> {
        let au_bytes = self.group.label.au_bytes;
        let unit = |unit: u64| u32::try_from(unit).expect("checked by `end_of`");
        let (first, last) = (unit(from / au_bytes), unit(to.div_ceil(au_bytes)));
        self.group.fill(self.open.id, first, last).await
    }

    /// Reads the first and the last block of a range, where the write leaves a part of them as it is.
    async fn read_edges(
        &self,
        from: u64,
        offset: u64,
        end: u64,
        buffer: &mut IoBuffer,
    ) -> Result<(), StorageError> {
        let (size, last) = (self.size()?, floor(end));
        let mut edges = Vec::with_capacity(2);
        if from < offset {
            edges.push(from);
        }
        if last < end && (last > from || from == offset) {
            edges.push(last);
        }
        // A block past the end holds zeros.
        for edge in edges.into_iter().filter(|edge| *edge < size) {
            let block = self
                .group
                .read_as(Access::Opened, self.open.id, edge, IoBuffer::zeroed(BLOCK))
                .await?;
            let at = (edge - from) as usize;
            buffer[at..at + BLOCK].copy_from_slice(&block);
        }
        Ok(())
    }

    /// Writes whole blocks of a range that is locked and has units; the file reaches to `end` then.
    async fn write_locked(&self, from: u64, end: u64, buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        let buffer = self
            .group
            .write_as(Access::Opened, self.open.id, from, buffer)
            .await?;
        self.advance(end);
        Ok(buffer)
    }

    /// A write reached to `end`.
    pub(super) fn advance(&self, end: u64) {
        let known = self.known_size();
        let now = self.group.runtime.wall_clock();
        let mut progress = self.open.progress.lock();
        if end > known {
            progress.end = progress.end.max(end);
        }
        progress.modified = now;
    }

    /// The content changed inside the file.
    fn touch(&self) {
        self.open.progress.lock().modified = self.group.runtime.wall_clock();
    }

    /// Zeroes the bytes from `from` up to `to`, in units that are there.
    async fn zero(&self, from: u64, to: u64) -> Result<(), StorageError> {
        if from >= to {
            return Ok(());
        }
        let (inner, outer) = (ceiling(from), floor(to));
        if inner > outer {
            return self.zero_part(outer, from, to).await; // Inside one block.
        }
        if from < inner {
            self.zero_part(floor(from), from, inner).await?;
        }
        if outer < to {
            self.zero_part(outer, outer, to).await?;
        }
        if inner == outer {
            return Ok(());
        }
        let length = usize::try_from(outer - inner).unwrap_or(usize::MAX);
        self.group
            .zero_as(Access::Opened, self.open.id, inner, length)
            .await
    }

    /// Zeroes the bytes from `from` up to `to` of the block at `block`; those of a hole are zeros.
    async fn zero_part(&self, block: u64, from: u64, to: u64) -> Result<(), StorageError> {
        let file = self.open.id;
        let content = IoBuffer::zeroed(BLOCK);
        let mut content = self.group.read_as(Access::Opened, file, block, content).await?;
        content[(from - block) as usize..(to - block) as usize].fill(0);
        match self.group.write_as(Access::Opened, file, block, content).await {
            Ok(_) | Err(StorageError::Hole { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks for an operation that another node's work on the end of the file may hold up. `locked`: the caller has the
    /// whole file locked.
    async fn ask_at_end(&self, operation: FileOperation, locked: bool) -> Result<Reply, StorageError> {
        for _ in 0..END_TRIES {
            match self.group.submit_file("", operation.clone()).await {
                Err(error) if error.is(OperationError::Busy) => {}
                Err(error) if error.is(OperationError::NotFound) => {
                    return Err(StorageError::NoSuchFile(self.open.id));
                }
                done => return done,
            }
            self.settle_tail(locked).await?;
            self.group.runtime.sleep(END_AGAIN).await;
        }
        Err(refused("", OperationError::Busy))
    }

    /// Before a write past the end: what a cut left in the last unit is zeroed, or the write would be zeroed later.
    pub(super) async fn prepare_growth(&self, end: u64) -> Result<(), StorageError> {
        for _ in 0..END_TRIES {
            let stale = self
                .group
                .with_catalog(|catalog| catalog.tail(self.open.id).is_some());
            if !stale || end <= self.known_size() || planted(Defect::GrowOverTail) {
                return Ok(());
            }
            self.settle_tail(false).await?;
            if self
                .group
                .with_catalog(|catalog| catalog.tail(self.open.id).is_some())
            {
                self.group.runtime.sleep(END_AGAIN).await;
                self.group.catch_up().await?;
            }
        }
        Err(refused("", OperationError::Busy))
    }

    /// Zeroes what a cut left in the last unit, when that is this node's work or nobody's.
    async fn settle_tail(&self, locked: bool) -> Result<(), StorageError> {
        if planted(Defect::GrowOverTail) {
            return Ok(());
        }
        let _all = if locked {
            None
        } else {
            Some(self.open.ranges.lock_all().await)
        };
        let file = self.open.id;
        let holder = || self.group.with_catalog(|catalog| catalog.tail(file));
        if holder() == Some(None) {
            match self
                .group
                .submit_file("", FileOperation::ClaimTail { file })
                .await
            {
                Err(error) if error.is(OperationError::Busy) => return Ok(()),
                done => drop(done?),
            }
        }
        if holder() != Some(Some(self.group.life())) {
            return Ok(());
        }
        let size = self.known_size();
        let end = size.next_multiple_of(self.group.label.au_bytes);
        self.zero(size, end).await?;
        self.group.flush().await?;
        match self
            .group
            .submit_file("", FileOperation::TailZeroed { file })
            .await
        {
            Err(error) if error.is(OperationError::Busy) => Ok(()),
            done => done.map(drop),
        }
    }
}
