//! What is asked of the files of a volume group over the admin channel, and what comes back.

use serde::{Deserialize, Serialize};

/// Bytes of a file that one request carries at most: in base64 they fit a line.
pub const CHUNK: u64 = 40 << 10;
/// Entries of a directory that one answer carries at most.
pub const PAGE: usize = 512;
/// Extents of a file that one answer carries at most.
pub const EXTENTS: usize = 4096;

/// One request. Paths are absolute paths in the volume group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum FileRequest {
    /// A [`FileInfo`].
    Stat {
        /// Where.
        path: String,
        /// Whether a link is followed.
        follow: bool,
    },
    /// A [`Listing`] of a directory: a page of it, in the order of names.
    List {
        /// Where.
        path: String,
        /// Only names after this one; all of them are.
        #[serde(default)]
        after: String,
    },
    /// Makes an empty file and answers its [`FileInfo`].
    Create {
        /// Where.
        path: String,
        /// Refuse when it exists.
        exclusive: bool,
    },
    /// Makes a directory.
    MakeDirectory {
        /// Where.
        path: String,
        /// Those above it too, and fine when it exists.
        parents: bool,
    },
    /// Makes a symbolic link.
    Symlink {
        /// What it stands for.
        target: String,
        /// Where.
        path: String,
    },
    /// Gives a file one more name.
    Link {
        /// A name that it has.
        existing: String,
        /// The new one.
        path: String,
    },
    /// Moves a name.
    Move {
        /// From here.
        from: String,
        /// To here.
        to: String,
        /// Whether what is there goes.
        replace: bool,
    },
    /// Takes a name of a file or link away.
    Unlink {
        /// Where.
        path: String,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// Where.
        path: String,
    },
    /// Cuts a file, or makes it longer by a hole.
    SetSize {
        /// Where.
        path: String,
        /// Bytes.
        size: u64,
    },
    /// Sets the time of modification to now.
    Touch {
        /// Where.
        path: String,
    },
    /// Bytes of a file, as [`Bytes`].
    Read {
        /// Which file.
        id: u64,
        /// From here.
        offset: u64,
        /// At most so many, and never more than [`CHUNK`].
        length: u64,
    },
    /// Writes bytes into a file.
    Write {
        /// Which file.
        id: u64,
        /// From here.
        offset: u64,
        /// What, in base64.
        data: String,
    },
    /// Makes what was written durable.
    Sync {
        /// Which file.
        id: u64,
    },
}

impl FileRequest {
    /// Whether it changes something.
    pub const fn changes(&self) -> bool {
        !matches!(self, Self::Stat { .. } | Self::List { .. } | Self::Read { .. })
    }
}

/// A page of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// At most [`PAGE`].
    pub entries: Vec<FileInfo>,
    /// The name after which the next page begins; nothing when this is the last one.
    pub next: Option<String>,
}

/// A file, directory or link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Name in its directory; of a path that was asked for, the path.
    pub name: String,
    /// "directory", "link", or what the file is for: "plain", "tree", "redo", "status", "doublewrite".
    pub kind: String,
    /// File id.
    pub id: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes of the units that it has.
    pub allocated: u64,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification, nanoseconds since 1970.
    pub modified: u64,
    /// Names that it has.
    pub links: u32,
    /// What a link stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Its space: first unit of the file, volume, first unit there, number of units. The first [`EXTENTS`] of them; none in a listing.
    pub extents: Vec<(u32, u16, u32, u32)>,
    /// How many there are in all.
    #[serde(default)]
    pub extent_count: u64,
}

impl FileInfo {
    /// Whether it has entries.
    pub fn is_directory(&self) -> bool {
        self.kind == "directory"
    }

    /// Whether it stands for another path.
    pub fn is_link(&self) -> bool {
        self.kind == "link"
    }
}

/// Bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// In base64.
    pub data: String,
}
