//! What is asked of files, directories and links, beside what the engine asks.
//!
//! A place is named by a directory and a name in it, as POSIX does with open directories: it stays right when a
//! directory above moves. Files are named by id; an operation on an id also works while a removed file is open somewhere.

use super::Entry;
use crate::FileId;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// What a new inode is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NewNode {
    /// An empty file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// The path that it stands for: 1 to 1024 bytes.
        target: String,
    },
}

/// Attributes to change; `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AttributeChange {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// When the content changed.
    pub modified: Option<u64>,
}

/// One change to files. The time of the change is that of the record's origin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FileOperation {
    /// Makes a file, directory or link.
    Make {
        /// Where.
        entry: Entry,
        /// What.
        node: NewNode,
        /// Permission bits.
        mode: u16,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Refuse when it exists; otherwise a file that exists is the answer.
        exclusive: bool,
    },
    /// Gives a file one more name.
    Link {
        /// Which file.
        file: FileId,
        /// The new name, which must be free.
        entry: Entry,
    },
    /// Takes a name of a file or link away. With its last name a file goes to limbo, until nobody has it open (HZ-7).
    Unlink {
        /// Which name.
        entry: Entry,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// Which.
        entry: Entry,
    },
    /// Moves a name, as rename(2).
    Move {
        /// From here.
        from: Entry,
        /// To here.
        to: Entry,
        /// Whether a file or an empty directory that is there is replaced; otherwise it is refused.
        replace: bool,
    },
    /// Changes attributes.
    SetAttributes {
        /// Of which inode.
        file: FileId,
        /// How.
        change: AttributeChange,
    },
    /// Cuts a file, or makes it longer by a hole. What is cut waits in limbo (HZ-7).
    SetSize {
        /// Which file.
        file: FileId,
        /// Bytes.
        size: u64,
    },
    /// A writer tells how far it wrote and when: the size becomes at least this.
    Written {
        /// Which file.
        file: FileId,
        /// Bytes.
        size: u64,
        /// When.
        modified: u64,
    },
    /// Gives the asker the next `length` bytes at the end of a file, and the file's end until [`Appended`](Self::Appended).
    Append {
        /// Which file.
        file: FileId,
        /// Bytes.
        length: u64,
    },
    /// What the asker appended is written: another node may append.
    Appended {
        /// To which file.
        file: FileId,
    },
    /// Sets units aside for the asker, who zeroes them before they go into a file.
    Reserve {
        /// How many.
        units: u32,
    },
    /// Puts units that the asker reserved and zeroed into the holes of a range, as far as they go.
    Attach {
        /// Into which file.
        file: FileId,
        /// The reservation.
        reservation: u64,
        /// First logical unit of the range.
        unit: u32,
        /// Units of the range.
        count: u32,
    },
    /// Gives the rest of a reservation back.
    Return {
        /// Which.
        reservation: u64,
    },
    /// Makes a hole of whole units; they wait in limbo (HZ-7).
    Punch {
        /// Of which file.
        file: FileId,
        /// First logical unit.
        unit: u32,
        /// Units.
        count: u32,
    },
    /// The asker will zero the rest of the last unit, which a cut left behind.
    ClaimTail {
        /// Of which file.
        file: FileId,
    },
    /// The asker zeroed it.
    TailZeroed {
        /// Of which file.
        file: FileId,
    },
}
