//! What the pool is told, what it needs of others, and what it answers.

use aquifer_buffer_pool_proto::{ImageInfo, Lsn, Mode, PageId, PageSize, Psn};
use aquifer_dss::seam::{BoxFuture, IoBuffer, Tail};
use aquifer_dss_proto::{Epoch, NodeId};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How a pool chooses the page that makes room for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Eviction {
    /// Second chance: cheap; a scan drives everything else out.
    Clock,
    /// Scan-resistant: pages used once leave first.
    #[default]
    S3Fifo,
}

/// When a slot of the directory moves to the node that uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Locality {
    /// Homes look at what was measured this often.
    pub interval: Duration,
    /// Requests of late that the node must have made, besides nearly all of the slot's. A move costs four messages, or fewer, and each
    /// of these requests cost three.
    pub requests: u32,
}

impl Default for Locality {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            requests: 8,
        }
    }
}

/// Sizes and times of a pool.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// This node.
    pub me: NodeId,
    /// Pages of memory.
    pub frames: usize,
    /// Size of a page: that of the volume group.
    pub page_size: PageSize,
    /// A fresh [`Hold`](crate::Hold) keeps a page from being surrendered at most this long.
    pub hold_limit: Duration,
    /// After this long without an answer, a message of a conversion is sent again.
    pub retransmit: Duration,
    /// The cleaner writes pages that have been dirty longer than this, though nobody asks for it: it bounds what a recovery of an idle
    /// node has to redo.
    pub clean_after: Duration,
    /// Pages of one write-back batch.
    pub write_batch: usize,
    /// Pages that a scan may be ahead of itself, where there are enough frames.
    pub prefetch: usize,
    /// Which page makes room for another.
    pub eviction: Eviction,
    /// When slots move (LOC-1); `None`: never.
    pub locality: Option<Locality>,
}

impl PoolConfig {
    /// Usual times for `frames` pages of memory, of the usual size, at node `me`.
    pub fn new(me: NodeId, frames: usize) -> Self {
        Self {
            me,
            frames,
            page_size: PageSize::default(),
            hold_limit: Duration::from_millis(20),
            retransmit: Duration::from_millis(100),
            clean_after: Duration::from_secs(10),
            write_batch: 64,
            prefetch: 8,
            eviction: Eviction::default(),
            locality: Some(Locality::default()),
        }
    }
}

/// Why the page store could not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PageStoreError {
    /// Storage refused.
    #[error("page storage: {0}")]
    Failed(String),
    /// The file of the page was removed; its id is never used again, so nobody needs the page or its redo.
    #[error("the file of page {0} was removed")]
    Gone(PageId),
}

/// Where pages live when nobody holds them.
pub trait PageStore: Send + Sync + 'static {
    /// The bytes of a page, as they are; zeros past the end of what was ever written.
    fn read(&self, page: PageId) -> BoxFuture<'_, Result<IoBuffer, PageStoreError>>;
    /// Writes pages, which come in the order of file and number, so that none can be torn; they are durable when it returns. Pages of
    /// removed files are left out. Who calls it has the memory again afterwards.
    fn write_batch<'a>(&'a self, pages: &'a [(PageId, Tail)]) -> BoxFuture<'a, Result<(), PageStoreError>>;
    /// The newest version of a page whose bytes are damaged, made of whatever else storage has and proven to be the newest; or why
    /// not, in one line. Called while a grant from storage stands: nobody has the page or writes it. Changes nothing on storage.
    fn rebuild(&self, page: PageId) -> BoxFuture<'_, Result<IoBuffer, String>>;
}

/// This node's redo stream, as far as the pool needs it.
pub trait Redo: Send + Sync + 'static {
    /// Everything before this position is durable.
    fn durable(&self) -> Lsn;
    /// Asks for a flush up to `position` soon.
    fn request(&self, position: Lsn);
    /// Told whenever [`durable`](Self::durable) has risen.
    fn risen(&self) -> Arc<Notify>;
    /// Until everything before `position` is durable.
    fn wait(&self, position: Lsn) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let told = self.risen();
            loop {
                let mut risen = pin!(told.notified());
                risen.as_mut().enable();
                if self.durable() >= position {
                    return;
                }
                self.request(position);
                risen.await;
            }
        })
    }
    /// `pages` are on storage at these PSNs, so that `by`'s redo up to and including them is not needed for them.
    /// Called at node `by`, and at the leader for a `by` that is not in the view.
    fn written_back(&self, by: NodeId, pages: &[(PageId, Psn)]);
}

/// The page is not possessed in the mode asked for: [`Pool::acquire`](crate::Pool::acquire) it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Miss {
    /// The page.
    pub page: PageId,
    /// What was wanted.
    pub mode: Mode,
}

/// Why a page cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Its bytes are damaged, or its redo failed.
    #[error("page {0} is corrupt")]
    Corrupt(PageId),
    /// Storage refused.
    #[error("page {page} cannot be read: {message}")]
    Storage {
        /// The page.
        page: PageId,
        /// What storage said.
        message: String,
    },
    /// Its file was removed.
    #[error("the file of page {0} was removed")]
    Gone(PageId),
    /// The pool was shut down.
    #[error("the pool is shut down")]
    Closed,
}

/// A page to be redone by the leader. Give it back to `redone`, `redo_current` or `redo_failed`.
#[derive(Debug)]
pub struct RedoTask {
    /// The page.
    pub page: PageId,
    /// PSN it must reach.
    pub target: Psn,
    /// A better base than storage, if some survivor retained one.
    pub base: Option<(IoBuffer, ImageInfo)>,
    /// The epoch that asked; a task of an older one has no effect when it is given back.
    pub epoch: Epoch,
}

/// Figures since the pool was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Local hits (reads and writes).
    pub hits: u64,
    /// Reads and writes that had to acquire.
    pub misses: u64,
    /// Pages read from storage.
    pub fetches: u64,
    /// Pages asked for before their reader came to them.
    pub prefetches: u64,
    /// Images received from peers.
    pub transfers_in: u64,
    /// Images sent to peers.
    pub transfers_out: u64,
    /// Copy images received for readers (HZ-8).
    pub copies_in: u64,
    /// Copy images sent to readers of other nodes.
    pub copies_out: u64,
    /// Copies given up because another node asked.
    pub invalidations: u64,
    /// Pages written back.
    pub write_backs: u64,
    /// Batches in which they were written.
    pub write_batches: u64,
    /// Pages that this node has to write back now.
    pub dirty: u64,
    /// Pages that were damaged on storage and rebuilt.
    pub rebuilt: u64,
    /// Frames taken from a page to hold another.
    pub evictions: u64,
    /// Messages sent to peers.
    pub messages: u64,
    /// Slots of the directory handed over to the node that uses them.
    pub slots_moved: u64,
    /// Messages sent again.
    pub retransmits: u64,
    /// Messages of another epoch, or of a life not in the view (DIR-5).
    pub dropped_epoch: u64,
    /// Messages that could not be decoded.
    pub dropped_malformed: u64,
    /// Messages of a conversion that is over (HZ-4).
    pub dropped_stale: u64,
    /// Messages of a member whose part in the protocol it is not to send them (DIR-8).
    pub dropped_role: u64,
    /// Messages of a member with contents that no member can mean (DIR-8).
    pub dropped_content: u64,
    /// Messages of a member that would make this node remember more than any member needs (DIR-8).
    pub dropped_limit: u64,
    /// Microseconds that surrenders waited for redo to be durable (DIR-3).
    pub surrender_redo_us: u64,
    /// Microseconds that surrenders waited for a write of the page in flight (HZ-2).
    pub surrender_write_us: u64,
    /// Microseconds that surrenders waited for a step that had asked for the page.
    pub surrender_hold_us: u64,
}
