//! What the buffer pool knows as "the redo": this node's stream once it is open, and the retention of dead streams that a
//! recovering leader inherits.
//!
//! Rules:
//! - RDO-1 before the own stream is open nothing on this node can be ahead of it: no page was changed here;
//! - RDO-2 a dead stream is clean only when every page it changed is on storage at or past its last change there.

use crate::wal::RedoStream;
use aquifer_buffer_pool::Redo;
use aquifer_buffer_pool_proto::{Lsn, PageId, Psn};
use aquifer_dss_proto::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// Pages that dead nodes changed and that are not known on storage at these PSNs.
type Inherited = BTreeMap<NodeId, BTreeMap<PageId, Psn>>;

/// What this node knows of the retention of nodes that are not in the view.
#[derive(Default)]
struct Retained {
    wanted: Inherited,
    /// Leader, before its recovery knows what to wait for: the notices that came meanwhile.
    early: Option<BTreeMap<PageId, Psn>>,
}

/// [`Redo`] of a node.
pub struct NodeRedo {
    me: NodeId,
    stream: OnceLock<Arc<RedoStream>>,
    inherited: Mutex<Retained>,
    flushed: Notify,
    /// Never told: without a stream nothing waits for redo (RDO-1).
    nothing: Arc<Notify>,
}

impl NodeRedo {
    /// Without a stream yet.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            stream: OnceLock::new(),
            inherited: Mutex::default(),
            flushed: Notify::new(),
            nothing: Arc::default(),
        }
    }

    /// The own stream is open from now on.
    pub fn open(&self, stream: Arc<RedoStream>) {
        let set = self.stream.set(stream).is_ok();
        assert!(set, "a node opens its stream once in a life");
    }

    /// The own stream, once open.
    pub fn stream(&self) -> Option<&Arc<RedoStream>> {
        self.stream.get()
    }

    /// A new view is about to be installed: whoever leads it plans again (REC-6).
    pub fn forget(&self, leads: bool) {
        *self.inherited.lock() = Retained {
            wanted: Inherited::new(),
            early: leads.then(BTreeMap::new),
        };
        self.flushed.notify_waiters();
    }

    /// Takes over the pages of these dead streams, less what was reported written meanwhile.
    pub fn inherit(&self, streams: Inherited) {
        let mut retained = self.inherited.lock();
        let early = retained.early.take().unwrap_or_default();
        retained.wanted = streams;
        for (page, psn) in early {
            retained
                .wanted
                .values_mut()
                .for_each(|wanted| settle(wanted, page, psn));
        }
    }

    /// This page is on storage already, whoever changed it.
    pub fn on_storage(&self, page: PageId, psn: Psn) {
        self.inherited
            .lock()
            .wanted
            .values_mut()
            .for_each(|wanted| settle(wanted, page, psn));
        self.flushed.notify_waiters();
    }

    /// Up to `limit` pages that the stream of `dead` still waits for.
    pub fn outstanding(&self, dead: NodeId, limit: usize) -> Vec<PageId> {
        let retained = self.inherited.lock();
        retained
            .wanted
            .get(&dead)
            .map_or_else(Vec::new, |pages| pages.keys().take(limit).copied().collect())
    }

    /// Until something inherited was flushed or given up.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.flushed.notified()
    }
}

impl Redo for NodeRedo {
    fn durable(&self) -> Lsn {
        self.stream.get().map_or(Lsn(u64::MAX), |stream| stream.durable()) // RDO-1
    }

    fn request(&self, position: Lsn) {
        if let Some(stream) = self.stream.get() {
            stream.request(position);
        }
    }

    fn risen(&self) -> Arc<Notify> {
        self.stream
            .get()
            .map_or_else(|| self.nothing.clone(), |stream| stream.risen())
    }

    fn written_back(&self, by: NodeId, pages: &[(PageId, Psn)]) {
        if by == self.me
            && let Some(stream) = self.stream.get()
        {
            stream.written_back(by, pages);
        }
        // Whoever's redo the notice is about: these pages are on storage at these PSNs.
        let mut retained = self.inherited.lock();
        for (page, psn) in pages {
            retained
                .wanted
                .values_mut()
                .for_each(|wanted| settle(wanted, *page, *psn));
            if let Some(early) = &mut retained.early {
                let known = early.entry(*page).or_default();
                *known = (*known).max(*psn);
            }
        }
        drop(retained);
        self.flushed.notify_waiters();
    }
}

fn settle(wanted: &mut BTreeMap<PageId, Psn>, page: PageId, psn: Psn) {
    if wanted.get(&page).is_some_and(|needed| *needed <= psn) {
        wanted.remove(&page);
    }
}
