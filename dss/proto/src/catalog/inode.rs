//! Inodes: what the catalogue knows of a file, a directory or a symbolic link.

use super::{Extent, FileKind, ROOT};
use crate::FileId;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Bytes an extent takes in a checkpoint at most.
pub(super) const EXTENT_WEIGHT: usize = 18;
/// Bytes an inode takes in a checkpoint at most, beside its names and content: its entry of limbo is paid here too, so
/// that a removal never needs more room than it gives.
pub(super) const INODE_WEIGHT: usize = 104;

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The directory.
    pub directory: FileId,
    /// The name there: 1 to 255 bytes, without `/` and NUL, neither `.` nor `..`.
    pub name: String,
}

impl Entry {
    /// The name `name` in `directory`.
    pub fn new(directory: FileId, name: &str) -> Self {
        Self {
            directory,
            name: name.into(),
        }
    }

    /// Bytes it takes in a checkpoint at most.
    pub(super) const fn weight(name: &str) -> usize {
        12 + name.len()
    }
}

/// Who may do what with a file, and when it changed. Times are nanoseconds since 1970 by the clock of who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attributes {
    /// The twelve permission bits of POSIX.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content changed.
    pub modified: u64,
    /// When content, names or attributes changed.
    pub changed: u64,
}

impl Attributes {
    /// Of user and group 0, made at `time`.
    pub const fn new(mode: u16, time: u64) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            modified: time,
            changed: time,
        }
    }

    /// The content changed at `time`. The times grow by a nanosecond at least, whatever the clocks of the nodes say, so
    /// that who compares them sees every change.
    pub(super) fn change_content(&mut self, time: u64) {
        self.modified = time.max(self.modified.saturating_add(1));
        self.changed = time.max(self.changed.saturating_add(1));
    }
}

/// A file, a directory or a symbolic link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Its names, oldest first. A directory has one, a file as many as it has hard links; the root has none, and
    /// neither has a removed file that waits in limbo.
    pub names: Vec<Entry>,
    /// Owner, permissions, times.
    pub attributes: Attributes,
    /// What it is.
    pub node: Node,
}

/// What an inode is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory: what it names is said by [`Catalog::entries_of`](super::Catalog::entries_of).
    Directory {
        /// Whether the engine keeps files here: then it is neither moved nor removed by others.
        engine: bool,
    },
    /// A file.
    File {
        /// What it is for.
        kind: FileKind,
        /// Bytes.
        size: u64,
        /// Its units in logical order. Where there is none is a hole, which reads as zeros; there can be some past
        /// the end.
        extents: Vec<Extent>,
    },
    /// A symbolic link.
    Symlink {
        /// The path that it stands for, as it was given.
        target: String,
    },
}

impl Node {
    pub(super) const fn directory(engine: bool) -> Self {
        Self::Directory { engine }
    }

    /// Whether it is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// Whether it is the engine's, so that nobody else may change or remove it.
    pub fn is_engine(&self) -> bool {
        match self {
            Self::Directory { engine } => *engine,
            Self::File { kind, .. } => kind.is_engine(),
            Self::Symlink { .. } => false,
        }
    }
}

impl Inode {
    pub(super) const fn root() -> Self {
        Self {
            names: Vec::new(),
            attributes: Attributes::new(0o755, 0),
            node: Node::directory(false),
        }
    }

    /// The directory that names it first; the root is its own.
    pub fn parent(&self) -> FileId {
        self.names.first().map_or(ROOT, |entry| entry.directory)
    }

    /// Whether it has lost its last name. `file` is its id.
    pub fn is_removed(&self, file: FileId) -> bool {
        self.names.is_empty() && file != ROOT
    }

    /// Bytes it takes in a checkpoint at most.
    pub(super) fn weight(&self) -> usize {
        let content = match &self.node {
            Node::Directory { .. } => 0,
            Node::File { extents, .. } => extents.len() * EXTENT_WEIGHT,
            Node::Symlink { target } => target.len(),
        };
        let names: usize = self.names.iter().map(|entry| Entry::weight(&entry.name)).sum();
        INODE_WEIGHT + names + content
    }
}
