//! Pages in memory that are missing now and then, with a redo log that can be replayed.

use crate::Blocked;
use crate::mtr::{Appended, Pages, ReadPage, RedoSink, WritePage};
use crate::tree::{FileSpace, Tree};
use aquifer_buffer_pool_proto::{Lsn, Mode, PageId, PageSize, Psn, Stamp};
use aquifer_dss_proto::{FileId, NodeId};
use aquifer_engine_proto::group::group_length;
use aquifer_engine_proto::page::{self, Redone};
use aquifer_engine_proto::{RedoRecord, TreeId};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(super) type Bytes = Vec<u8>;

pub(super) const TREE: TreeId = TreeId(FileId(77));

pub(super) struct Memory {
    page_size: PageSize,
    pages: Vec<RwLock<Bytes>>,
    pub(super) log: Mutex<Vec<RedoRecord>>,
    /// Ends of groups: in the log, and in the bytes of the stream that it stands for.
    pub(super) groups: Mutex<Vec<(usize, Lsn)>>,
    stamps: Mutex<Vec<Stamp>>,
    pub(super) allocated: AtomicU32,
    /// One call in so many misses; 0: none.
    pub(super) miss_every: AtomicU64,
    random: AtomicU64,
}

pub(super) struct Reading<'a>(RwLockReadGuard<'a, Bytes>);
pub(super) struct Writing<'a>(RwLockWriteGuard<'a, Bytes>, &'a Memory, u32);

impl ReadPage for Reading<'_> {
    fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl WritePage for Writing<'_> {
    fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }
    fn psn(&self) -> Psn {
        page::psn_of(self.0.as_slice()).unwrap()
    }
    fn finish(self, psn: Psn, redo_end: Lsn) {
        assert_eq!(self.psn(), psn);
        let Self(_, memory, number) = &self;
        let (log, groups) = (memory.log.lock(), memory.groups.lock());
        let group = groups.binary_search_by_key(&redo_end, |(_, end)| *end);
        let group = group.expect("HZ-11: a page waits for the end of a group");
        let begin = group.checked_sub(1).map_or(0, |before| groups[before].0);
        let own = &log[begin..groups[group].0];
        let last = |record: &RedoRecord| record.page.number == *number && record.prev_psn.0 + 1 == psn.0;
        assert!(own.iter().any(last), "HZ-11: a page waits for its own group");
    }
}

impl Memory {
    pub(super) fn new(pages: u32) -> Self {
        Self::of(PageSize::default(), pages)
    }

    pub(super) fn of(page_size: PageSize, pages: u32) -> Self {
        Self {
            page_size,
            pages: (0..pages)
                .map(|_| RwLock::new(vec![0; page_size.bytes()]))
                .collect(),
            log: Mutex::default(),
            groups: Mutex::default(),
            stamps: Mutex::default(),
            allocated: AtomicU32::new(8),
            miss_every: AtomicU64::new(0),
            random: AtomicU64::new(1),
        }
    }

    pub(super) fn tree(&self) -> Tree<'_, Self> {
        Tree::new(self, self, self, TREE, NodeId::new(1).unwrap())
    }

    fn misses(&self) -> bool {
        let every = self.miss_every.load(Ordering::Relaxed);
        let next = |x: u64| {
            x.wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
        };
        let value = self
            .random
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(next(x)))
            .unwrap();
        every != 0 && (value >> 33).is_multiple_of(every)
    }

    pub(super) fn copy(&self) -> Vec<Bytes> {
        self.pages.iter().map(|page| page.read().clone()).collect()
    }

    /// The pages that redo of the first `groups` groups gives.
    pub(super) fn replayed(&self, groups: usize) -> Self {
        let other = Self::of(self.page_size, self.pages.len() as u32);
        other
            .allocated
            .store(self.allocated.load(Ordering::Relaxed), Ordering::Relaxed);
        let end = if groups == 0 {
            0
        } else {
            self.groups.lock()[groups - 1].0
        };
        for (record, stamp) in self.log.lock()[..end].iter().zip(&*self.stamps.lock()) {
            let mut bytes = other.pages[record.page.number as usize].write();
            let mut redo = || page::redo(bytes.as_mut_slice(), record, *stamp).unwrap();
            assert_eq!(redo(), Redone::Applied);
            assert_eq!(redo(), Redone::Skipped);
        }
        other
    }

    /// Runs a step until it is not blocked by a page or by the file's size.
    pub(super) fn run<R>(&self, mut step: impl FnMut(&Tree<'_, Self>) -> Result<R, Blocked>) -> R {
        for _ in 0..100_000 {
            match step(&self.tree()) {
                Ok(result) => return result,
                Err(Blocked::Page(..) | Blocked::Leaf(_)) => {}
                Err(Blocked::Space(_)) => {
                    self.allocated.fetch_add(8, Ordering::Relaxed);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("a step makes no progress");
    }
}

impl Pages for Memory {
    type Read<'a> = Reading<'a>;
    type Write<'a> = Writing<'a>;
    fn page_size(&self) -> PageSize {
        self.page_size
    }
    fn read(&self, page: PageId) -> Result<Reading<'_>, Blocked> {
        assert!(
            page.number < self.allocated.load(Ordering::Relaxed),
            "{page} is past the end of the file"
        );
        if self.misses() {
            return Err(Blocked::Page(page, Mode::Shared));
        }
        Ok(Reading(self.pages[page.number as usize].read()))
    }
    fn write(&self, page: PageId) -> Result<Writing<'_>, Blocked> {
        assert!(
            page.number < self.allocated.load(Ordering::Relaxed),
            "{page} is past the end of the file"
        );
        if self.misses() {
            return Err(Blocked::Page(page, Mode::Exclusive));
        }
        Ok(Writing(
            self.pages[page.number as usize].write(),
            self,
            page.number,
        ))
    }
}

impl RedoSink for Memory {
    fn append(&self, records: &[RedoRecord], pages: Stamp) -> Appended {
        let mut log = self.log.lock();
        log.extend_from_slice(records);
        let mut groups = self.groups.lock();
        let begin = groups.last().map_or(0, |(_, end)| end.0);
        let end = Lsn(begin + group_length(records) as u64);
        groups.push((log.len(), end));
        let mut stamps = self.stamps.lock();
        let stamp = pages.max(stamps.last().copied().unwrap_or_default()).next();
        stamps.resize(log.len(), stamp);
        Appended { end, stamp }
    }
}

impl FileSpace for Memory {
    fn pages(&self, _: TreeId) -> u32 {
        self.allocated.load(Ordering::Relaxed)
    }
}
