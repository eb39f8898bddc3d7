//! Where each possessed page is: a sharded map from page to frame. A shard is locked for the look-up only.

use aquifer_buffer_pool_proto::PageId;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 64;

/// Multiplicative hashing of the two numbers of a page; the same in every run.
#[derive(Default)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

#[derive(Default)]
struct Shard {
    map: RwLock<HashMap<PageId, usize, BuildHasherDefault<PageHasher>>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The page table.
pub(crate) struct PageTable {
    shards: Vec<Shard>,
}

impl PageTable {
    pub fn new() -> Self {
        Self {
            shards: std::iter::repeat_with(Shard::default).take(SHARDS).collect(),
        }
    }

    fn shard(&self, page: PageId) -> &Shard {
        let mixed = (page.file.0 ^ u64::from(page.number)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        &self.shards[(mixed >> 40) as usize % SHARDS]
    }

    pub fn get(&self, page: PageId) -> Option<usize> {
        self.shard(page).map.read().get(&page).copied()
    }

    pub fn insert(&self, page: PageId, index: usize) {
        let before = self.shard(page).map.write().insert(page, index);
        assert!(before.is_none(), "{page} is in one frame");
    }

    pub fn remove(&self, page: PageId) {
        self.shard(page)
            .map
            .write()
            .remove(&page)
            .expect("a bound page is in the table");
    }

    pub fn count(&self, page: PageId, hit: bool) {
        let shard = self.shard(page);
        if hit { &shard.hits } else { &shard.misses }.fetch_add(1, Ordering::Relaxed);
    }

    /// Hits and misses.
    pub fn counted(&self) -> (u64, u64) {
        let sum = |pick: fn(&Shard) -> &AtomicU64| {
            self.shards.iter().map(|s| pick(s).load(Ordering::Relaxed)).sum()
        };
        (sum(|s| &s.hits), sum(|s| &s.misses))
    }
}
