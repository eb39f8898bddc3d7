//! Operations on files, directories and links that programs ask for, with the meaning of POSIX.

use super::claims::Life;
use super::file_operation::{AttributeChange, FileOperation, NewNode};
use super::inode::{Attributes, EXTENT_WEIGHT, Entry, INODE_WEIGHT, Node};
use super::tree::is_name;
use super::{Catalog, Extent, FileKind, OperationError, Outcome, PATH_BYTES, Removed, Reply, extents};
use crate::FileId;
use crate::defect::{Defect, planted};
use alloc::vec::Vec;

/// Largest file in bytes.
pub const FILE_BYTES: u64 = 1 << 60;
/// Logical units of a file at most.
const FILE_UNITS: u64 = u32::MAX as u64;
/// Permission bits.
const MODE_BITS: u16 = 0o7777;

/// When and for whom an operation is done.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) sequence: u64,
    pub(super) time: u64,
    pub(super) life: Option<Life>,
}

impl Catalog {
    pub(super) fn perform_on_files(&mut self, asked: Asked, operation: &FileOperation) -> Outcome {
        let Asked { time, life, .. } = asked;
        match operation {
            FileOperation::Make {
                entry,
                node,
                mode,
                uid,
                gid,
                exclusive,
            } => {
                let attributes = Attributes {
                    uid: *uid,
                    gid: *gid,
                    ..Attributes::new(*mode & MODE_BITS, time)
                };
                self.make(entry, node, attributes, *exclusive)
            }
            FileOperation::Link { file, entry } => self.link(time, *file, entry),
            FileOperation::Unlink { entry } => self.unlink(asked, entry),
            FileOperation::RemoveDirectory { entry } => self.remove_directory(asked, entry),
            FileOperation::Move { from, to, replace } => self.move_entry(asked, from, to, *replace),
            FileOperation::SetAttributes { file, change } => self.set_attributes(time, *file, *change),
            FileOperation::SetSize { file, size } => self.set_size(asked, *file, *size),
            FileOperation::Written { file, size, modified } => self.written(*file, *size, *modified),
            FileOperation::Append { file, length } => self.append(asked, *file, *length),
            FileOperation::Appended { file } => self.appended(life, *file),
            FileOperation::Reserve { units } => self.reserve(life, *units),
            FileOperation::Attach {
                file,
                reservation,
                unit,
                count,
            } => self.attach(life, *file, *reservation, *unit, *count),
            FileOperation::Return { reservation } => self.give_reservation_back(life, *reservation),
            FileOperation::Punch { file, unit, count } => self.punch(asked, *file, *unit, *count),
            FileOperation::ClaimTail { file } => self.claim_tail(life, *file),
            FileOperation::TailZeroed { file } => self.tail_zeroed(life, *file),
        }
    }

    /// What is under a name; refuses one that cannot be.
    fn at(&self, entry: &Entry) -> Result<Option<FileId>, OperationError> {
        if is_name(&entry.name) {
            self.child(entry.directory, &entry.name)
        } else {
            Err(OperationError::Invalid)
        }
    }

    fn require_foreign(&self, file: FileId) -> Result<(), OperationError> {
        if self.inodes[&file].node.is_engine() {
            Err(OperationError::Protected)
        } else {
            Ok(())
        }
    }

    pub(super) fn require_size(&self, size: u64) -> Result<(), OperationError> {
        if size <= FILE_BYTES && size.div_ceil(self.au_bytes) <= FILE_UNITS {
            Ok(())
        } else {
            Err(OperationError::TooLarge)
        }
    }

    fn make(&mut self, entry: &Entry, node: &NewNode, attributes: Attributes, exclusive: bool) -> Outcome {
        if let Some(existing) = self.at(entry)? {
            let is_file = matches!(self.inodes[&existing].node, Node::File { .. });
            return if is_file && *node == NewNode::File && !exclusive {
                Ok(Reply::File(existing))
            } else {
                Err(OperationError::AlreadyExists)
            };
        }
        let node = match node {
            NewNode::File => Node::File {
                kind: FileKind::Plain,
                size: 0,
                extents: Vec::new(),
            },
            NewNode::Directory => Node::directory(false),
            NewNode::Symlink { target } => {
                if target.is_empty() || target.len() > PATH_BYTES || target.contains('\0') {
                    return Err(OperationError::Invalid);
                }
                Node::Symlink {
                    target: target.clone(),
                }
            }
        };
        let target = if let Node::Symlink { target } = &node {
            target.len()
        } else {
            0
        };
        self.require_room(INODE_WEIGHT + Entry::weight(&entry.name) + target)?;
        Ok(Reply::File(self.insert(entry.clone(), attributes, node)))
    }

    fn link(&mut self, time: u64, file: FileId, entry: &Entry) -> Outcome {
        let inode = self.inode(file).ok_or(OperationError::NotFound)?;
        if inode.node.is_directory() {
            return Err(OperationError::IsADirectory);
        }
        self.require_foreign(file)?;
        if self.at(entry)?.is_some() {
            return Err(OperationError::AlreadyExists);
        }
        self.require_room(Entry::weight(&entry.name))?;
        self.add_name(file, entry.clone(), time);
        self.inode_mut(file).attributes.changed = time;
        Ok(Reply::File(file))
    }

    fn unlink(&mut self, asked: Asked, entry: &Entry) -> Outcome {
        let file = self.at(entry)?.ok_or(OperationError::NotFound)?;
        if self.inodes[&file].node.is_directory() {
            return Err(OperationError::IsADirectory);
        }
        self.require_foreign(file)?;
        self.remove_entry(asked.sequence, asked.time, file, entry)
    }

    fn remove_directory(&mut self, asked: Asked, entry: &Entry) -> Outcome {
        let file = self.at(entry)?.ok_or(OperationError::NotFound)?;
        if !self.inodes[&file].node.is_directory() {
            return Err(OperationError::NotADirectory);
        }
        self.require_foreign(file)?;
        self.remove_entry(asked.sequence, asked.time, file, entry)
    }

    /// rename(2): what is at `to` goes in the same step.
    fn move_entry(&mut self, asked: Asked, from: &Entry, to: &Entry, replace: bool) -> Outcome {
        let file = self.at(from)?.ok_or(OperationError::NotFound)?;
        let target = self.at(to)?;
        self.require_foreign(file)?;
        if target.is_some() && !replace {
            return Err(OperationError::AlreadyExists);
        }
        if target == Some(file) {
            return Ok(Reply::File(file)); // Two names of one file: both stay, as POSIX has it.
        }
        let is_directory = self.inodes[&file].node.is_directory();
        if is_directory && self.is_below(to.directory, file) {
            return Err(OperationError::Invalid);
        }
        if let Some(target) = target {
            self.require_replaceable(target, is_directory)?;
            self.remove_entry(asked.sequence, asked.time, target, to)?;
        } else {
            self.require_room(Entry::weight(&to.name))?;
        }
        self.move_name(file, from, to.clone(), asked.time);
        Ok(Reply::File(file))
    }

    fn require_replaceable(&self, target: FileId, by_directory: bool) -> Result<(), OperationError> {
        self.require_foreign(target)?;
        match (&self.inodes[&target].node, by_directory) {
            (Node::Directory { .. }, true) if !self.is_empty(target) => Err(OperationError::NotEmpty),
            (Node::Directory { .. }, false) => Err(OperationError::IsADirectory),
            (Node::File { .. } | Node::Symlink { .. }, true) => Err(OperationError::NotADirectory),
            _ => Ok(()),
        }
    }

    fn set_attributes(&mut self, time: u64, file: FileId, change: AttributeChange) -> Outcome {
        self.open_inode(file).ok_or(OperationError::NotFound)?;
        self.require_foreign(file)?;
        let attributes = &mut self.inode_mut(file).attributes;
        attributes.mode = change.mode.map_or(attributes.mode, |mode| mode & MODE_BITS);
        attributes.uid = change.uid.unwrap_or(attributes.uid);
        attributes.gid = change.gid.unwrap_or(attributes.gid);
        attributes.modified = change.modified.unwrap_or(attributes.modified);
        attributes.changed = time;
        Ok(Reply::Done)
    }

    /// Size and extents of a file that programs may change.
    fn content(&mut self, file: FileId) -> Result<(&mut u64, &mut Vec<Extent>), OperationError> {
        match self.inodes.get_mut(&file).map(|inode| &mut inode.node) {
            Some(Node::File { kind, .. }) if kind.is_engine() => Err(OperationError::Protected),
            Some(Node::File { size, extents, .. }) => Ok((size, extents)),
            Some(Node::Directory { .. }) => Err(OperationError::IsADirectory),
            Some(Node::Symlink { .. }) => Err(OperationError::Invalid),
            None => Err(OperationError::NotFound),
        }
    }

    fn set_size(&mut self, asked: Asked, file: FileId, size: u64) -> Outcome {
        let old = *self.content(file)?.0;
        self.require_size(size)?;
        self.require_own_tail(asked.life, file)?;
        self.require_zeroed_tail(file, size > old)?;
        let au_bytes = self.au_bytes;
        let (current, runs) = self.content(file)?;
        *current = size;
        if size < old {
            let end = u32::try_from(size.div_ceil(au_bytes)).expect("checked by `require_size`");
            let before = runs.len();
            let gone = extents::cut(runs, end, u32::MAX);
            let leaves_tail = !size.is_multiple_of(au_bytes) && extents::end(runs) == end;
            let after = runs.len();
            self.weight = self.weight + after * EXTENT_WEIGHT - before * EXTENT_WEIGHT;
            if leaves_tail {
                self.set_tail(file, asked.life);
            } else {
                self.clear_tail(file);
            }
            self.bury_units(asked.sequence, file, gone);
        }
        self.inode_mut(file).attributes.change_content(asked.time);
        Ok(Reply::Done)
    }

    /// A file that grows shows what is past its end: that must be zeros.
    fn require_zeroed_tail(&self, file: FileId, grows: bool) -> Result<(), OperationError> {
        if grows && self.tail(file).is_some() && !planted(Defect::GrowOverTail) {
            return Err(OperationError::Busy);
        }
        Ok(())
    }

    fn written(&mut self, file: FileId, size: u64, modified: u64) -> Outcome {
        let old = *self.content(file)?.0;
        self.require_size(size)?;
        self.require_zeroed_tail(file, size > old)?;
        *self.content(file)?.0 = size.max(old);
        self.inode_mut(file).attributes.change_content(modified);
        Ok(Reply::Done)
    }

    fn append(&mut self, asked: Asked, file: FileId, length: u64) -> Outcome {
        let offset = *self.content(file)?.0;
        let life = asked.life.ok_or(OperationError::Invalid)?;
        let size = offset.checked_add(length).ok_or(OperationError::TooLarge)?;
        self.require_size(size)?;
        self.require_zeroed_tail(file, length > 0)?;
        self.claim_end(life, file)?;
        *self.content(file)?.0 = size;
        self.inode_mut(file).attributes.change_content(asked.time);
        Ok(Reply::Offset(offset))
    }

    fn attach(
        &mut self,
        life: Option<Life>,
        file: FileId,
        reservation: u64,
        unit: u32,
        count: u32,
    ) -> Outcome {
        let end = unit.checked_add(count).ok_or(OperationError::TooLarge)?;
        let holes = extents::holes(self.content(file)?.1, unit, end);
        if !self.has_reserved(life, reservation) {
            return Err(OperationError::NotFound);
        }
        let runs = self
            .reservation(reservation)
            .map_or(0, |reserved| reserved.extents.len());
        self.require_room((holes.len() + runs) * EXTENT_WEIGHT)?;
        let mut taken = Vec::new();
        for (mut unit, mut count) in holes {
            while count > 0
                && let Some(run) = self.take_reserved(reservation, unit, count)
            {
                unit += run.count;
                count -= run.count;
                taken.push(run);
            }
        }
        self.change(file, |inode| {
            if let Node::File { extents, .. } = &mut inode.node {
                taken.into_iter().for_each(|run| extents::insert(extents, run));
            }
        });
        Ok(Reply::Done)
    }

    fn punch(&mut self, asked: Asked, file: FileId, unit: u32, count: u32) -> Outcome {
        let end = unit.checked_add(count).ok_or(OperationError::TooLarge)?;
        self.content(file)?;
        self.require_own_tail(asked.life, file)?;
        let au_bytes = self.au_bytes;
        let (size, runs) = self.content(file)?;
        let last = size.div_ceil(au_bytes);
        let before = runs.len();
        let gone = extents::cut(runs, unit, end);
        let after = runs.len();
        // A hole in the middle of a run makes two of it.
        self.weight = self.weight + after * EXTENT_WEIGHT - before * EXTENT_WEIGHT;
        if u64::from(unit) < last && u64::from(end) >= last {
            self.clear_tail(file);
        }
        self.bury_units(asked.sequence, file, gone);
        self.inode_mut(file).attributes.change_content(asked.time);
        Ok(Reply::Done)
    }

    /// Ids of removed files that wait in limbo since journal entry `through` or before.
    pub fn removed_files(&self, through: u64) -> Vec<FileId> {
        let waiting = self.limbo.values().filter(|limbo| limbo.sequence <= through);
        waiting
            .filter(|limbo| limbo.what == Removed::File)
            .map(|limbo| limbo.file)
            .collect()
    }
}
