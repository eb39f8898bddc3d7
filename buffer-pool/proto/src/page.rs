//! Names and positions of pages.

use aquifer_dss_proto::{FileId, NodeSet, View};
use core::fmt;
use serde::{Deserialize, Serialize};

/// A page: a file of the volume group and the page's number in it. Byte offset in the file: [`PageSize::offset`](aquifer_dss_proto::PageSize::offset) of the number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PageId {
    /// The file.
    pub file: FileId,
    /// Number of the page in the file, from 0.
    pub number: u32,
}

impl PageId {
    /// The directory slot, of those of `view`: neighbours (64 pages) share one.
    pub fn slot(self, view: &View) -> usize {
        let group = u64::from(self.number / 64);
        let mixed =
            (self.file.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ group).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed >> 32) as usize & (view.slots() - 1)
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.file.0, self.number)
    }
}

/// Page sequence number: +1 per change of a page, whoever makes it. 0 is a page never formatted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Psn(pub u64);

/// Orders changes of all pages in all redo streams, as a Lamport clock does: the stamp of a redo group is above the stamps of
/// the group before it in its stream and of the last changes of all pages it changes. 0 is before every change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The stamp of what comes right after this.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Byte position in one node's redo stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

/// Cluster-wide commit timestamp. 0 is "not known".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Scn(pub u64);

/// What a node wants to do with a page, and may do once it possesses it so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// Read.
    Shared,
    /// Read and change.
    Exclusive,
}

/// What travels with a page image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ImageInfo {
    /// PSN of the image.
    pub psn: Psn,
    /// Whether storage is behind this image.
    pub dirty: bool,
    /// Nodes that changed the page since it was last on storage.
    pub contributors: NodeSet,
    /// Somebody's redo is pinned by this page: write it back soon.
    pub flush_wanted: bool,
}
