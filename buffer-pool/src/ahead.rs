//! Pages that will be read soon: asked for before their reader comes to them, so that reads from storage overlap.
//!
//! Rule BUF-13: nobody waits for such a page and nothing holds it, so it is given up and evicted like any other that was not used yet. At most
//! one frame in eight is waited for in this way. Nothing is taken from a node that owns the page and changes it.

use crate::pool::{Pool, count};
use aquifer_buffer_pool_proto::{Mode, PageId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Of so many frames one may be waited for.
const ASKED_PART: usize = 8;

/// Of so many frames one may be ahead of a scan. The small queue of the eviction policy, where the pages wait to be read, has one in ten.
const AHEAD_PART: usize = 16;

impl Pool {
    /// How many pages a scan should be ahead of itself.
    pub fn prefetch_window(&self) -> usize {
        self.config.prefetch.min(self.frames.len() / AHEAD_PART)
    }

    /// Asks for `pages` in Shared mode, those first that come first; waits for nothing. Those that are here are [touched](Self::touch). A page that another node owns and changes is left to it, and
    /// `owned_elsewhere` set: its reader reads a copy.
    pub fn prefetch(self: &Arc<Self>, pages: &[PageId], owned_elsewhere: &Arc<AtomicBool>) {
        let absent = |page: &&PageId| {
            let here = self.table.get(**page);
            here.inspect(|index| self.frames.touch(*index)).is_none()
        };
        let absent: Vec<PageId> = pages.iter().filter(absent).copied().collect();
        if absent.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for page in absent {
            let room = inner.asked_ahead.len() < self.frames.len() / ASKED_PART;
            if inner.closed || !room {
                return;
            }
            let coming = inner.core.possessed(page).is_some() || inner.core.wanted(page);
            if coming || !inner.asked_ahead.insert(page) {
                continue;
            }
            count(&self.figures.prefetches);
            let work = self.clone().fetch_ahead(page, owned_elsewhere.clone());
            self.runtime.spawn("pool-prefetch", Box::pin(work));
        }
    }

    async fn fetch_ahead(self: Arc<Self>, page: PageId, owned_elsewhere: Arc<AtomicBool>) {
        if self.copy(page).await.is_some() {
            owned_elsewhere.store(true, Ordering::Relaxed);
        } else {
            // If the page cannot be had, its reader will be told why.
            drop(self.acquire(page, Mode::Shared).await);
        }
        self.lock().asked_ahead.remove(&page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemoryNetwork, MemoryStore, NullRedo, SoloPool, TestClock};
    use crate::{Hold, Lsn, PoolConfig, Psn};
    use aquifer_dss::seam::Runtime;
    use aquifer_dss_proto::{FileId, Incarnation, Member, NodeId, NodeSet, View};
    use std::time::Duration;

    fn page(number: u32) -> PageId {
        let file = FileId(9);
        PageId { file, number }
    }

    fn pages(from: u32, count: u32) -> Vec<PageId> {
        (from..from + count).map(page).collect()
    }

    async fn read(pool: &Arc<Pool>, page: PageId) {
        let mut hold: Option<Hold> = None;
        while pool.read(page).is_err() {
            hold = Some(pool.acquire(page, Mode::Shared).await.unwrap());
        }
        drop(hold);
    }

    fn here(pool: &Pool, pages: &[PageId]) -> usize {
        pages
            .iter()
            .filter(|page| pool.table.get(**page).is_some())
            .count()
    }

    #[test]
    fn pages_come_before_their_reader_and_not_too_many_are_waited_for() {
        let solo = SoloPool::new(64);
        let owned = Arc::default();
        assert_eq!(solo.pool.prefetch_window(), 4);
        solo.pool.prefetch(&pages(0, 4), &owned);
        solo.pool.prefetch(&pages(0, 20), &owned);
        assert_eq!(solo.pool.counters().prefetches, 8, "one frame in eight");
        solo.clock.block_on(solo.clock.sleep(Duration::from_millis(1)));
        assert_eq!(here(&solo.pool, &pages(0, 20)), 8);
        solo.pool.prefetch(&pages(0, 9), &owned);
        solo.clock.block_on(solo.clock.sleep(Duration::from_millis(1)));
        assert_eq!(
            here(&solo.pool, &pages(0, 20)),
            9,
            "what is here is not asked for"
        );
        assert_eq!(solo.pool.counters().fetches, 9);
        assert!(!owned.load(Ordering::Relaxed));
    }

    #[test]
    fn a_pool_with_few_frames_reads_nothing_ahead() {
        let solo = SoloPool::new(8);
        assert_eq!(solo.pool.prefetch_window(), 0);
    }

    #[test]
    fn a_scan_ahead_of_itself_leaves_pages_that_are_in_use_alone() {
        let solo = SoloPool::new(64);
        let owned = Arc::default();
        solo.clock.block_on(async {
            for _ in 0..4 {
                for hot in pages(0, 40) {
                    read(&solo.pool, hot).await;
                }
            }
            for number in 1000..1500 {
                let next = pages(number + 1, solo.pool.prefetch_window() as u32);
                solo.pool.prefetch(&next, &owned);
                read(&solo.pool, page(number)).await;
            }
        });
        assert_eq!(here(&solo.pool, &pages(0, 40)), 40);
        let counters = solo.pool.counters();
        assert!(counters.prefetches >= 500 - 4, "{counters:?}");
        assert!(
            counters.fetches <= 40 + 500 + 4,
            "each page is read once: {counters:?}"
        );
    }

    #[test]
    fn a_page_that_another_node_changes_is_left_to_it() {
        let clock = TestClock::default();
        let network = MemoryNetwork::new(Arc::new(clock.clone()));
        let store = Arc::new(MemoryStore::default());
        let nodes: Vec<NodeId> = (1..=2).filter_map(NodeId::new).collect();
        let members = nodes.iter().map(|node| Member {
            node: *node,
            incarnation: Incarnation(1),
        });
        let view = Arc::new(View::none().successor(members.collect()));
        let pool = |node: &NodeId| {
            let (runtime, redo) = (Arc::new(clock.clone()), Arc::new(NullRedo));
            let config = PoolConfig::new(*node, 64);
            let pool = Pool::new(config, runtime, network.transport(*node), store.clone(), redo);
            network.attach(*node, Incarnation(1), &pool);
            pool
        };
        let pools: Vec<Arc<Pool>> = nodes.iter().map(pool).collect();
        for pool in &pools {
            pool.install_view(view.clone(), NodeSet::EMPTY, false);
        }
        let owned = Arc::default();
        clock.block_on(async {
            // The home learns who owns it a moment later.
            let hold = pools[0].acquire(page(0), Mode::Exclusive).await;
            pools[0].write(page(0)).unwrap().finish(Psn(1), Lsn(0));
            drop(hold);
            clock.sleep(Duration::from_millis(5)).await;
            pools[1].prefetch(&[page(1), page(0)], &owned);
            clock.sleep(Duration::from_millis(5)).await;
        });
        assert_eq!(pools[0].possessions(), [(page(0), Mode::Exclusive)]);
        assert_eq!(pools[1].possessions(), [(page(1), Mode::Shared)]);
        assert!(owned.load(Ordering::Relaxed));
        assert!(pools[1].lock().asked_ahead.is_empty());
    }
}
