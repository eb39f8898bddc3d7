//! What is asked of the catalogue and what it answers: the records of the journal.

use super::intents::VolumeUnit;
use super::{FileOperation, NewLeg, NewVolume};
use crate::{Epoch, FileId, Member, NodeId};
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

impl FileKind {
    /// Whether the engine uses it: such a file has all its units from the start, their content is undefined until it is
    /// written, and nobody else changes it.
    pub const fn is_engine(self) -> bool {
        !matches!(self, Self::Plain)
    }
}

/// A run of allocation units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// First unit of the file that is here; what no extent covers is a hole.
    pub unit: u32,
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
    /// Makes a file (and the directories above it) of `size` bytes: with space for them when it is the engine's,
    /// otherwise all hole.
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
    /// Grows a file of the engine to `size` bytes, with space for them; a smaller size changes nothing.
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
    /// Frees what these entries of limbo hold: every member let go of it (HZ-7).
    Release {
        /// Numbers of the entries.
        entries: Vec<u64>,
    },
    /// A storage leader starts (HZ-18).
    Lead {
        /// Its epoch.
        epoch: Epoch,
        /// Who.
        leader: NodeId,
        /// The lives of the view. What others may have been writing is torn (HZ-21).
        members: Vec<Member>,
    },
    /// A life of a node is over, and it can write no more: what was set aside for it is free, its claims are void.
    Forfeit {
        /// Which node.
        node: NodeId,
        /// Which life.
        session: u64,
    },
    /// Of files, directories and links.
    Files(FileOperation),
    /// Adds a volume whose label is on its device and durable.
    AddVolume(NewVolume),
    /// Gives a volume another number of units. Units that would go must be free.
    ResizeVolume {
        /// Which volume.
        volume: u16,
        /// Units afterwards.
        units: u32,
    },
    /// Takes no new units from a volume and moves those it has away, or (`drain` false) uses it again.
    DrainVolume {
        /// Which volume.
        volume: u16,
        /// Drain, or use again.
        drain: bool,
    },
    /// Takes a drained, empty volume away for good.
    RemoveVolume {
        /// Which volume.
        volume: u16,
    },
    /// Every member read the journal up to this entry and finished what it began before (HZ-7): volumes that joined and
    /// units that move go on.
    Passed {
        /// Journal sequence.
        through: u64,
    },
    /// Moves units of a file to a volume that takes units; as many of them as fit there in one run.
    BeginMove {
        /// Which file.
        file: FileId,
        /// The units, inside one of its extents.
        from: Extent,
    },
    /// The units of a move are copied, and the copy is durable.
    EndMove {
        /// Which move.
        number: u64,
    },
    /// Gives a move up; nobody copies any more.
    CancelMove {
        /// Which move.
        number: u64,
    },
    /// Uses one leg of a volume no more: it failed, or somebody wants it so. What may have been written on one side is dirty.
    Detach {
        /// Which volume.
        volume: u16,
        /// Which leg.
        leg: u8,
        /// The stay of the leg that this is about; an earlier one changes nothing.
        generation: u64,
        /// What the asker has written on the other leg alone: first units, and how many.
        units: Vec<(u32, u32)>,
    },
    /// Marks units that only one leg will get.
    MarkDirty {
        /// Which volume, with a leg that is out.
        volume: u16,
        /// First units, and how many.
        units: Vec<(u32, u32)>,
    },
    /// Lets a leg in again whose label says so, durably: what is not dirty is written there from now on.
    Resync {
        /// Which volume.
        volume: u16,
        /// Which leg.
        leg: u8,
        /// What its label says.
        generation: u64,
    },
    /// Members stop writing dirty units, to have them copied; or units of which one leg has wrong bytes, to have these written again.
    BeginSync {
        /// Which volume.
        volume: u16,
        /// First unit.
        start: u32,
        /// How many.
        count: u32,
    },
    /// These units are copied, or right again, durably.
    EndSync {
        /// Which volume.
        volume: u16,
        /// First unit.
        start: u32,
        /// How many.
        count: u32,
    },
    /// The units that a life may be writing on two legs (HZ-21).
    Intend {
        /// Which life.
        life: Member,
        /// Units that come.
        add: Vec<VolumeUnit>,
        /// Units that go: both legs were flushed after the last write.
        clear: Vec<VolumeUnit>,
    },
    /// Both legs are alike in these units, durably.
    Healed {
        /// Which.
        units: Vec<VolumeUnit>,
    },
    /// Puts another device, whose label says so, durably, in the place of a leg that is out. It has nothing of the volume yet.
    ReplaceLeg(NewLeg),
}

impl Operation {
    /// Whether only the storage leader itself may say so.
    pub const fn is_leaders(&self) -> bool {
        matches!(
            self,
            Self::Release { .. }
                | Self::Lead { .. }
                | Self::Forfeit { .. }
                | Self::AddVolume(_)
                | Self::ResizeVolume { .. }
                | Self::RemoveVolume { .. }
                | Self::Passed { .. }
                | Self::BeginMove { .. }
                | Self::EndMove { .. }
                | Self::CancelMove { .. }
                | Self::Resync { .. }
                | Self::BeginSync { .. }
                | Self::EndSync { .. }
                | Self::Healed { .. }
                | Self::ReplaceLeg(_)
        )
    }
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
    /// When it was asked, in nanoseconds since 1970 by the clock of that node.
    pub time: u64,
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
    /// Where the range starts that was given.
    Offset(u64),
    /// The reservation.
    Reservation(u64),
    /// The volume.
    Volume(u16),
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
    /// Belongs to the engine: others may look at it and no more.
    #[error("belongs to the engine: not to be changed by hand")]
    Protected,
    /// Symbolic links that lead in a circle, or through too many of each other.
    #[error("too many levels of symbolic links")]
    TooManyLinks,
    /// Longer than a file may be.
    #[error("file too large")]
    TooLarge,
    /// Another node is at work on the end of this file: ask again soon.
    #[error("another node is at work on the end of this file")]
    Busy,
    /// A repetition of a request that was already answered.
    #[error("request was already answered")]
    Settled,
    /// No such volume, or it was removed.
    #[error("no such volume")]
    NoSuchVolume,
    /// The volume holds units of files, or is not drained.
    #[error("the volume is in use: drain it first")]
    VolumeInUse,
    /// Somebody else changed the volumes meanwhile, or a volume is still joining.
    #[error("the volumes are being changed by somebody else: look at `vg status` and try again")]
    VolumeRaced,
    /// The group has had as many volumes as it can.
    #[error("a volume group has at most 256 volumes in its life")]
    TooManyVolumes,
    /// The volume has one leg only.
    #[error("the volume is not mirrored")]
    NotMirrored,
    /// The other leg is out of use, or lacks something.
    #[error("the other side of the mirror is not whole: this one is needed")]
    LastLeg,
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

/// What was removed and waits for every member to let go of it (HZ-7).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limbo {
    /// Number of this entry.
    pub number: u64,
    /// Journal sequence of the removal.
    pub sequence: u64,
    /// The file.
    pub file: FileId,
    /// What waits.
    pub what: Removed,
}

/// What waits in limbo.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Removed {
    /// The whole file, which lost its last name. Whoever has it open still reads and writes it by its id.
    File,
    /// Units that were cut off a file.
    Units(Vec<Extent>),
}
