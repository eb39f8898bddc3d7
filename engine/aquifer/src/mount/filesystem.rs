//! The kernel's requests, each answered on the thread that took it.

use super::attributes::{BLOCK, attributes, errno, nanoseconds};
use super::cache::{Seen, State};
use super::handles::{Handles, Listed};
use aquifer_dss::group::{File, FileStat, Owner, StorageError, VolumeGroup};
use aquifer_dss::in_place::block_on;
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{AttributeChange, Entry, NewNode, Node, OperationError};
use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

/// Names are looked up each time, and what is found there is asked for again (MNT-1).
const NOT_KEPT: Duration = Duration::ZERO;
/// How long the kernel may answer from the attributes of a file that it asked for: for files that are open, since every path
/// leads to a look-up. A database asks for the size of its files several times in each transaction.
const KEPT: Duration = Duration::from_secs(1);
/// File ids are never reused, so that each has one generation.
const GENERATION: Generation = Generation(0);
/// Most bytes of one write.
const WRITE_BYTES: u32 = 1 << 20;
/// Set-group-id bit: what is made in such a directory has its group.
const SET_GROUP: u16 = 0o2000;

/// The file system of a mount.
pub struct PoolFilesystem {
    group: Arc<VolumeGroup>,
    seen: Arc<Seen>,
    runtime: Handle,
    handles: Handles,
}

type Answer<T> = Result<T, Errno>;

/// A name that the catalogue can have.
fn text(name: &OsStr) -> Answer<&str> {
    name.to_str().ok_or(Errno::EILSEQ)
}

fn entry(parent: INodeNo, name: &OsStr) -> Answer<Entry> {
    let name = text(name)?;
    if name.len() > 255 {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(Entry::new(FileId(parent.0), name))
}

impl PoolFilesystem {
    /// Of a volume group; operations of the device run on `runtime`.
    pub fn new(group: Arc<VolumeGroup>, seen: Arc<Seen>, runtime: Handle) -> Self {
        Self {
            group,
            seen,
            runtime,
            handles: Handles::default(),
        }
    }

    /// Waits for a storage operation; a thread of the mount has no other at the time.
    fn wait<T>(&self, work: impl Future<Output = Result<T, StorageError>>) -> Answer<T> {
        block_on(&self.runtime, work).map_err(|error| errno(&error))
    }

    /// Reads what others have changed.
    fn catch_up(&self) -> Answer<()> {
        self.wait(self.group.catch_up())
    }

    /// What the catalogue says of the content of a file, without what this mount has not told it yet.
    fn state(&self, file: FileId) -> Option<State> {
        self.group.with_catalog(|catalog| {
            let inode = catalog.open_inode(file)?;
            match &inode.node {
                Node::File { size, .. } => Some((inode.attributes.modified, *size)),
                _ => None,
            }
        })
    }

    fn stat(&self, file: FileId) -> Answer<FileStat> {
        let stat = self.group.stat_open(file).ok_or(Errno::ESTALE)?;
        if let Some(state) = self.state(file) {
            self.seen.look(file, state);
        }
        Ok(stat)
    }

    fn attributes(&self, file: FileId) -> Answer<FileAttr> {
        Ok(attributes(&self.stat(file)?, self.group.label().au_bytes))
    }

    fn handle(&self, handle: FileHandle) -> Answer<File> {
        self.handles.file(handle).ok_or(Errno::EBADF)
    }

    /// The open file of a handle, or the file by its id.
    fn file(&self, ino: INodeNo, handle: Option<FileHandle>) -> Answer<File> {
        match handle.and_then(|handle| self.handles.file(handle)) {
            Some(file) => Ok(file),
            None => self.wait(self.group.open_file(FileId(ino.0))),
        }
    }

    /// Does work that tells the catalogue what was written, and remembers that it was this mount.
    fn told<T>(&self, file: &File, work: impl Future<Output = Result<T, StorageError>>) -> Answer<T> {
        let (tells, before) = (file.has_unreported(), self.state(file.id()));
        let done = self.wait(work)?;
        // Nothing told: what the catalogue shows then is somebody else's change.
        if tells && let (Some(before), Some(after)) = (before, self.state(file.id())) {
            self.seen.wrote(file.id(), before, after);
        }
        Ok(done)
    }

    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        node: NewNode,
        mode: u32,
        exclusive: bool,
    ) -> Answer<FileId> {
        let entry = entry(parent, name)?;
        let above = self
            .group
            .stat_open(entry.directory)
            .ok_or(Errno::ENOENT)?
            .attributes;
        let inherits = above.mode & SET_GROUP != 0;
        let bit = if inherits && node == NewNode::Directory {
            SET_GROUP
        } else {
            0
        };
        let owner = Owner {
            mode: (mode & 0o7777) as u16 | bit,
            uid: request.uid(),
            gid: if inherits { above.gid } else { request.gid() },
        };
        self.wait(self.group.make(entry, node, owner, exclusive))
    }

    fn lookup_entry(&self, parent: INodeNo, name: &OsStr) -> Answer<FileAttr> {
        let entry = entry(parent, name)?;
        self.catch_up()?;
        let found = self
            .group
            .with_catalog(|catalog| catalog.child(entry.directory, &entry.name));
        match found {
            Ok(Some(file)) => self.attributes(file),
            Ok(None) => Err(Errno::ENOENT),
            Err(error) => Err(errno(&StorageError::Operation {
                path: String::new(),
                error,
            })),
        }
    }

    fn open_file(&self, ino: INodeNo) -> Answer<(FileHandle, FopenFlags)> {
        let file = FileId(ino.0);
        let open = self.wait(self.group.open_file(file))?;
        let keeps = self.state(file).is_some_and(|state| self.seen.open(file, state));
        let flags = if keeps {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        };
        Ok((self.handles.keep(open), flags))
    }

    fn change(
        &self,
        ino: INodeNo,
        handle: Option<FileHandle>,
        size: Option<u64>,
        change: AttributeChange,
    ) -> Answer<FileAttr> {
        let file = FileId(ino.0);
        if let Some(size) = size {
            let open = self.file(ino, handle)?;
            self.told(&open, open.set_len(size))?;
        }
        if change != AttributeChange::default() {
            // What was written before must not bring a later time back.
            if change.modified.is_some()
                && let Ok(open) = self.group.open_known(file)
            {
                self.told(&open, open.report())?;
            }
            let before = self.state(file);
            self.wait(self.group.set_attributes(file, change))?;
            if let (Some(before), Some(after)) = (before, self.state(file)) {
                self.seen.wrote(file, before, after);
            }
        }
        self.catch_up()?;
        self.attributes(file)
    }

    fn list(&self, ino: INodeNo) -> Answer<FileHandle> {
        let directory = FileId(ino.0);
        self.catch_up()?;
        let listed = self.group.with_catalog(|catalog| {
            let entries = catalog.entries_of(directory)?;
            let parent = catalog.inode(directory).map_or(directory, |inode| inode.parent());
            let kind = |id: FileId| match catalog.inode(id).map(|inode| &inode.node) {
                Some(Node::Directory { .. }) => fuser::FileType::Directory,
                Some(Node::Symlink { .. }) => fuser::FileType::Symlink,
                _ => fuser::FileType::RegularFile,
            };
            let listed = |name: &str, id: FileId| Listed {
                name: name.into(),
                id,
                kind: kind(id),
            };
            let mut all = vec![listed(".", directory), listed("..", parent)];
            all.extend(entries.iter().map(|(name, id)| listed(name, *id)));
            Ok(all)
        });
        let listed = listed.map_err(|error: OperationError| {
            errno(&StorageError::Operation {
                path: String::new(),
                error,
            })
        })?;
        Ok(self.handles.keep_directory(listed))
    }

    fn allocate(&self, handle: FileHandle, offset: u64, length: u64, mode: i32) -> Answer<()> {
        const PUNCHED: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let file = self.handle(handle)?;
        match mode {
            0 => self.told(&file, file.allocate(offset, length, false)),
            libc::FALLOC_FL_KEEP_SIZE => self.told(&file, file.allocate(offset, length, true)),
            PUNCHED => self.told(&file, file.punch(offset, length)),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn replies(&self, file: Answer<FileId>, reply: ReplyEntry) {
        match file.and_then(|file| self.attributes(file)) {
            Ok(found) => reply.entry(&NOT_KEPT, &found, GENERATION),
            Err(error) => reply.error(error),
        }
    }
}

fn empty(done: Answer<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn attribute_reply(found: Answer<FileAttr>, reply: ReplyAttr) {
    match found {
        Ok(found) => reply.attr(&KEPT, &found),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for PoolFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each is a wish: the kernel's own bound is taken where it is lower.
        if let Err(least) = config.set_max_write(WRITE_BYTES) {
            let _ = config.set_max_write(least);
        }
        let _ = config.set_max_background(64);
        for wish in [
            fuser::InitFlags::FUSE_PARALLEL_DIROPS,
            fuser::InitFlags::FUSE_ASYNC_DIO,
        ] {
            let _ = config.add_capabilities(wish);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.lookup_entry(parent, name) {
            Ok(found) => reply.entry(&NOT_KEPT, &found, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.catch_up().and_then(|()| self.attributes(FileId(ino.0)));
        attribute_reply(found, reply);
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = AttributeChange {
            mode: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            modified: modified.map(|time| match time {
                TimeOrNow::SpecificTime(time) => nanoseconds(time),
                TimeOrNow::Now => self.group.wall_clock(),
            }),
        };
        attribute_reply(self.change(ino, handle, size, change), reply);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.wait(self.group.read_link(FileId(ino.0))) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::EPERM); // Devices, pipes and sockets belong to one machine.
        }
        self.replies(self.make(request, parent, name, NewNode::File, mode, true), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.replies(
            self.make(request, parent, name, NewNode::Directory, mode, true),
            reply,
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = text(target.as_os_str()).and_then(|target| {
            let link = NewNode::Symlink {
                target: target.into(),
            };
            self.make(request, parent, name, link, 0o777, true)
        });
        self.replies(made, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            entry(parent, name).and_then(|entry| self.wait(self.group.unlink(entry))),
            reply,
        );
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = entry(parent, name).and_then(|entry| self.wait(self.group.remove_directory(entry)));
        empty(done, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let refuses = flags == RenameFlags::RENAME_NOREPLACE;
        if !flags.is_empty() && !refuses {
            return reply.error(Errno::EINVAL);
        }
        let done = entry(parent, name).and_then(|from| {
            let to = entry(new_parent, new_name)?;
            self.wait(self.group.move_entry(from, to, !refuses))
        });
        empty(done, reply);
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let file = FileId(ino.0);
        let done = entry(parent, name).and_then(|entry| self.wait(self.group.link(file, entry)));
        self.replies(done.map(|()| file), reply);
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(ino) {
            Ok((handle, flags)) => reply.opened(handle, flags),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let exclusive = flags & libc::O_EXCL != 0;
        let made = self
            .make(request, parent, name, NewNode::File, mode, exclusive)
            .and_then(|file| {
                let (handle, flags) = self.open_file(INodeNo(file.0))?;
                Ok((self.attributes(file)?, handle, flags))
            });
        match made {
            Ok((found, handle, flags)) => reply.created(&NOT_KEPT, &found, GENERATION, handle, flags),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.handle(handle).and_then(|file| {
            let read = file.read_at(offset, size as usize);
            self.wait(read)
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Pages of a mapping may come without the handle that they were written by.
        let written = self
            .file(ino, Some(handle))
            .and_then(|file| self.wait(file.write_at(offset, data)));
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let done = self
            .handle(handle)
            .and_then(|file| self.told(&file, file.report()));
        empty(done, reply);
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let done = match self.handles.release(handle) {
            Some(file) => self.told(&file, file.report()),
            None => Err(Errno::EBADF),
        };
        empty(done, reply);
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let done = self.handle(handle).and_then(|file| {
            if data_only {
                self.told(&file, file.sync_data())
            } else {
                self.told(&file, file.sync())
            }
        });
        empty(done, reply);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.list(ino) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(entries) = self.handles.directory(handle) else {
            return reply.error(Errno::EBADF);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, listed) in entries.iter().enumerate().skip(from) {
            if reply.add(INodeNo(listed.id.0), index as u64 + 1, listed.kind, &listed.name) {
                break; // The buffer is full.
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handles.release_directory(handle);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok(); // A change of names is durable when it returns (DSS-2).
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let space = self.group.space();
        let blocks = |units: u64| units * (space.unit_bytes / u64::from(BLOCK));
        let files = self.group.with_catalog(|catalog| catalog.inode_count() as u64);
        let free = blocks(space.free);
        reply.statfs(blocks(space.units), free, free, files, free, BLOCK, 255, BLOCK);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        empty(self.allocate(handle, offset, length, mode), reply);
    }
}
