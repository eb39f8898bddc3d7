//! What sessions of this node wait for: how often and how long, by cause. For operators, and to know what to make faster.

use crate::Blocked;
use aquifer_buffer_pool_proto::Mode;
use aquifer_dss_proto::Instant;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a session waited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitCause {
    /// A page in Shared mode.
    PageShared,
    /// A page in Exclusive mode.
    PageExclusive,
    /// A copy of a page that another node owns.
    PageCopy,
    /// The end of the transaction that locks a row.
    Row,
    /// The outcome of a transaction of another node.
    Status,
    /// Space in a file, transaction numbers, or room in the redo ring.
    Space,
    /// A snapshot.
    Snapshot,
    /// A commit: its SCN, its status record, and its flush.
    Commit,
}

impl WaitCause {
    const ALL: [Self; 8] = [
        Self::PageShared,
        Self::PageExclusive,
        Self::PageCopy,
        Self::Row,
        Self::Status,
        Self::Space,
        Self::Snapshot,
        Self::Commit,
    ];

    /// Its name, as counters have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PageShared => "page_shared",
            Self::PageExclusive => "page_exclusive",
            Self::PageCopy => "page_copy",
            Self::Row => "row",
            Self::Status => "status",
            Self::Space => "space",
            Self::Snapshot => "snapshot",
            Self::Commit => "commit",
        }
    }

    /// The cause behind a step's answer; `None` for one that fails the statement.
    pub(crate) const fn of(blocked: &Blocked) -> Option<Self> {
        match blocked {
            Blocked::Page(_, Mode::Shared) | Blocked::Leaf(_) => Some(Self::PageShared),
            Blocked::Page(_, Mode::Exclusive) => Some(Self::PageExclusive),
            Blocked::Transaction(_) => Some(Self::Row),
            Blocked::Status(_) => Some(Self::Status),
            Blocked::Space(_) => Some(Self::Space),
            Blocked::Corrupt(_) | Blocked::Failed(_) => None,
        }
    }
}

/// Waits since the node started.
#[derive(Default)]
pub struct Waits {
    figures: [(AtomicU64, AtomicU64); WaitCause::ALL.len()],
}

impl Waits {
    /// A wait for `cause` that took from `begun` to `ended`.
    pub(crate) fn add(&self, cause: WaitCause, begun: Instant, ended: Instant) {
        let (count, nanoseconds) = &self.figures[cause as usize];
        count.fetch_add(1, Ordering::Relaxed);
        nanoseconds.fetch_add(ended.0.saturating_sub(begun.0), Ordering::Relaxed);
    }

    /// Cause, number of waits, nanoseconds waited.
    pub fn figures(&self) -> impl Iterator<Item = (WaitCause, u64, u64)> + '_ {
        WaitCause::ALL.into_iter().map(|cause| {
            let (count, nanoseconds) = &self.figures[cause as usize];
            (
                cause,
                count.load(Ordering::Relaxed),
                nanoseconds.load(Ordering::Relaxed),
            )
        })
    }
}
