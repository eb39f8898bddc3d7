//! What pages' services say to each other. Each message travels in an [`Envelope`] with the epoch of its sender; a
//! message of another epoch changes nothing (DIR-5). Each message of a conversion carries the page and the
//! conversion's number (HZ-4), so that each may be lost, repeated or late.

use crate::page::{ImageInfo, Mode, PageId, Psn};
use alloc::vec::Vec;
use aquifer_dss_proto::{Epoch, NodeId, NodeSet};
use serde::{Deserialize, Serialize};

/// Number of a conversion: unique per home and epoch, rising per page over all epochs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Conversion {
    /// Epoch in which the home began it.
    pub epoch: Epoch,
    /// Counter of the home.
    pub number: u64,
}

/// Number of an Acquire or Release, so that a home acts on each exactly once; or, counted apart, of a node's question for a copy, so
/// that each finds its own answer. The default answers to none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// Rises by one per (node, home, epoch), without gaps.
    pub number: u64,
    /// Version of the slot's assignment to which it was addressed: it names the home, and a home that the slot has left and come
    /// back to does not act on it (LOC-3).
    pub version: u32,
}

/// What a home lists of a page, as it goes to the next home.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SlotEntry {
    /// The page.
    pub page: PageId,
    /// The Exclusive holder.
    pub owner: Option<NodeId>,
    /// The Shared holders.
    pub sharers: NodeSet,
    /// The sharer that may have the duty to write back, and since when.
    pub duty: Option<(NodeId, Conversion)>,
}

/// From where a granted page comes when no holder sends it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Source {
    /// Nobody holds it: storage is current.
    Storage,
    /// The requester has it already; no image moves.
    Upgrade,
    /// The receiver retained the only image: it compares it with storage and holds the page when it is newer (HZ-3).
    Retained,
}

/// How a holder is to send a page to `to`, which asked for it by `request`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The conversion that begins.
    pub conversion: Conversion,
    /// What the requester gets.
    pub mode: Mode,
    /// The requester.
    pub to: NodeId,
    /// Its request.
    pub request: Request,
}

/// What a node says of a page to a home that rebuilds its directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The page.
    pub page: PageId,
    /// How it is held.
    pub held: Held,
    /// PSN of what is held.
    pub psn: Psn,
}

/// How a claimed page is held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Held {
    /// Exclusive.
    Exclusive,
    /// Shared; whether storage is behind it, and whether the claimer has the duty to write it back.
    Shared {
        /// Storage is (as far as the claimer knows) behind.
        dirty: bool,
        /// The claimer is the dirty holder.
        duty: bool,
    },
    /// Shipped away in this conversion and kept: a candidate only (HZ-3).
    Retained(Conversion),
}

/// What became of a page the leader had to redo.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Redone {
    /// The leader holds it exclusively, dirty.
    Held,
    /// Storage was at the target already.
    Current,
    /// It could not be redone.
    Failed,
}

/// A message and the epoch of its sender.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The sender's epoch.
    pub epoch: Epoch,
    /// What it says.
    pub message: Message,
}

/// What nodes say to each other about pages.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "the fields are named after the glossary; the variants are documented"
)]
pub enum Message {
    /// Requester to home: wants the page. Again until granted.
    Acquire {
        page: PageId,
        mode: Mode,
        request: Request,
    },
    /// Home to requester: the page is broken.
    Denied { page: PageId, request: Request },
    /// Holder without duty to home: gave the page up. Again until acknowledged.
    Release { page: PageId, request: Request },
    /// Answer to Release.
    ReleaseAck { page: PageId, request: Request },
    /// Home to requester: take it, from `source`.
    Grant {
        page: PageId,
        conversion: Conversion,
        request: Request,
        mode: Mode,
        source: Source,
    },
    /// Home to a holder: send the image to `to`.
    Transfer { page: PageId, order: Order },
    /// Home to the requester of a conversion under way: as soon as you possess the page, this order is the next one. Said once,
    /// never answered: after Done it is repeated as Transfer.
    Next { page: PageId, order: Order },
    /// Home to a sharer: give it up.
    Invalidate { page: PageId, conversion: Conversion },
    /// Answer to Invalidate.
    Invalidated {
        page: PageId,
        conversion: Conversion,
        retained: bool,
    },
    /// Answer to Transfer or Inherit of a node that does not hold the page any more.
    Gone { page: PageId, conversion: Conversion },
    /// Holder to requester, with the image behind it.
    Page {
        page: PageId,
        conversion: Conversion,
        request: Request,
        mode: Mode,
        info: ImageInfo,
    },
    /// Requester to home: possessed. Again until acknowledged.
    Done { page: PageId, conversion: Conversion },
    /// Requester to home: storage refused, or a retained image was old. Again until acknowledged.
    Refused { page: PageId, conversion: Conversion },
    /// Answer to Done and Refused.
    DoneAck { page: PageId, conversion: Conversion },
    /// Home to a node that shipped the page: the image is not needed any more. Again until answered.
    Drop { page: PageId, conversion: Conversion },
    /// Answer to Drop.
    Dropped { page: PageId, conversion: Conversion },
    /// Home to a sharer: the dirty holder is dead, the duty to write back is yours.
    Inherit { page: PageId, conversion: Conversion },
    /// Answer to Inherit.
    Inherited { page: PageId, conversion: Conversion },
    /// Dirty holder that is a sharer to home: written back; `conversion` is the last one that it took part in.
    Cleaned { page: PageId, conversion: Conversion },
    /// Dirty holder to a contributor, or to the leader for a contributor `by` that is not in the view: on storage at
    /// these PSNs (HZ-5).
    WrittenBack { by: NodeId, pages: Vec<(PageId, Psn)> },
    /// Anybody to home: my redo is pinned by this page.
    FlushWanted { page: PageId },
    /// Home to holders: write it back soon if you have the duty, and tell `by`, whose redo is pinned; if your image is
    /// clean, tell `by` at once.
    WriteBackWanted { page: PageId, by: NodeId },
    /// Home to the asker of FlushWanted: nobody has to write it back, storage is current.
    NotHeld { page: PageId },
    /// Home to members at a view change: say what you hold of these slots (ranges, ends included) and pages.
    Query {
        slots: Vec<(u16, u16)>,
        pages: Vec<PageId>,
    },
    /// Answer to Query, in chunks; a later `answer` replaces an earlier one.
    Claims {
        answer: u64,
        chunk: u32,
        chunks: u32,
        entries: Vec<Claim>,
    },
    /// Leader to home: the targets of its pages, in chunks.
    Analysis {
        chunk: u32,
        chunks: u32,
        targets: Vec<(PageId, Psn)>,
    },
    /// Answer to Analysis.
    AnalysisAck { chunk: u32 },
    /// Home to leader: redo these (NeedRedo), in chunks.
    NeedRedo {
        chunk: u32,
        chunks: u32,
        pages: Vec<(PageId, Psn, Conversion)>,
    },
    /// Answer to NeedRedo.
    NeedRedoAck { chunk: u32 },
    /// Home to leader: somebody waits for this page.
    RedoUrgent { page: PageId },
    /// Leader to home: what became of it. Again until acknowledged.
    Redone {
        page: PageId,
        conversion: Conversion,
        outcome: Redone,
    },
    /// Answer to Redone.
    RedoneAck { page: PageId, conversion: Conversion },
    /// Reader to home: a copy of the page, if somebody owns it (HZ-8). Again until answered.
    AskCopy { page: PageId, request: Request },
    /// Home to owner: send a copy to `to`.
    CopyWanted {
        page: PageId,
        to: NodeId,
        request: Request,
    },
    /// Owner to reader, with the image behind it.
    Copy {
        page: PageId,
        request: Request,
        psn: Psn,
    },
    /// Home or owner to reader: there is no copy, take possession.
    NoCopy { page: PageId, request: Request },
    /// Home to the node that is to be the next home of the slot: what it lists, in chunks. Again until acknowledged.
    Slot {
        slot: u16,
        version: u32,
        chunk: u32,
        chunks: u32,
        entries: Vec<SlotEntry>,
        next_conversion: u64,
    },
    /// Answer to Slot.
    SlotAck { slot: u16, version: u32, chunk: u32 },
    /// A node that does not answer for the page, or was asked before it did, to the asker: who does; nothing came of `request`.
    Moved {
        page: PageId,
        home: NodeId,
        version: u32,
        request: Request,
    },
}
