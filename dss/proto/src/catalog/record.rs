//! What is asked of the catalogue and what it answers: the records of the journal.

use crate::{Epoch, FileId, NodeId};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What a file is for. Storage treats all alike; tools show it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum FileKind {
    /// Anything.
    #[default]
    Plain,
    /// Pages of one tree.
    Tree,
    /// A node's redo stream.
    Redo,
    /// A node's transaction status pages.
    Status,
    /// A node's double-write area.
    DoubleWrite,
}

/// A run of allocation units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// Which volume.
    pub volume: u16,
    /// First unit.
    pub start: u32,
    /// How many units, at least one.
    pub count: u32,
}

/// One change that is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Makes a file (and the directories above it) with space for `size` bytes.
    Create {
        /// Absolute path.
        path: String,
        /// Bytes.
        size: u64,
        /// What it is for.
        kind: FileKind,
        /// Refuse when it exists; otherwise an existing file is the answer.
        exclusive: bool,
    },
    /// Grows a file to `size` bytes; a smaller size changes nothing.
    Allocate {
        /// Which file.
        file: FileId,
        /// Bytes.
        size: u64,
    },
    /// Takes a file or an empty directory away. Its units wait until every member let go of them (HZ-7).
    Remove {
        /// Absolute path.
        path: String,
    },
    /// Gives a file or directory another path, which must be free.
    Rename {
        /// Absolute path.
        from: String,
        /// Absolute path.
        to: String,
    },
    /// Makes a directory and those above it; fine when it exists.
    MakeDirectory {
        /// Absolute path.
        path: String,
    },
    /// Sets or (with `None`) takes away a small value.
    SetConfig {
        /// Key.
        key: String,
        /// Value.
        value: Option<String>,
    },
    /// Frees the units that were removed at or before this journal sequence: every member let go of them (HZ-7).
    Release {
        /// Journal sequence.
        through: u64,
    },
    /// A storage leader starts (HZ-18).
    Lead {
        /// Its epoch.
        epoch: Epoch,
        /// Who.
        leader: NodeId,
    },
}

/// Who asked, so that a repetition is answered and not done again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The node that asks.
    pub node: NodeId,
    /// One life of that node, drawn at random.
    pub session: u64,
    /// Number of the request in that life, from 1.
    pub request: u64,
    /// Requests below this number have their answers: these may be forgotten.
    pub settled: u64,
}

/// One record of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Who asked; `None` for the leader's own records.
    pub origin: Option<Origin>,
    /// What.
    pub operation: Operation,
}

/// What a successful operation answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The file.
    File(FileId),
}

/// Why an operation changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum OperationError {
    /// No such file or directory.
    #[error("no such file or directory")]
    NotFound,
    /// The path is taken.
    #[error("already exists")]
    AlreadyExists,
    /// A directory with entries cannot go.
    #[error("directory is not empty")]
    NotEmpty,
    /// A directory was wanted.
    #[error("not a directory")]
    NotADirectory,
    /// A file was wanted.
    #[error("is a directory")]
    IsADirectory,
    /// Not enough free allocation units.
    #[error("no space left in the volume group")]
    NoSpace,
    /// The metadata would no longer fit into a checkpoint.
    #[error("no space left for metadata in the volume group")]
    NoMetadataSpace,
    /// Not an absolute path of sound names, or a directory into itself, or a value too long.
    #[error("invalid path or value")]
    Invalid,
    /// A repetition of a request that was already answered.
    #[error("request was already answered")]
    Settled,
}

/// What an operation came to.
pub type Outcome = Result<Reply, OperationError>;

/// A stretch of history for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Journal sequence.
    pub sequence: u64,
    /// Who leads from here.
    pub leader: NodeId,
    /// In which epoch.
    pub epoch: Epoch,
}

/// Units of a removed file that wait for every member to let go (HZ-7).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limbo {
    /// Journal sequence of the removal.
    pub sequence: u64,
    /// The file they belonged to.
    pub file: FileId,
    /// The units.
    pub extents: Vec<Extent>,
}
