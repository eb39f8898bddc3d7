//! Where each possessed page is. A look-up writes nothing: no lock, no counter that others write.
//!
//! An open table of atomic words, at most a quarter full: the hash of the page and its frame. Only whoever has the core lock changes it.
//! Under that lock a look-up is exact. Without it one may miss a page while another entry moves up; then the page is acquired, which
//! looks under the lock. A frame found is believed only after it has been latched and still has the page.

use crate::announce::{self, Reader};
use crate::frame::Frames;
use crate::huge_array::HugeArray;
use aquifer_buffer_pool_proto::PageId;
use crossbeam::utils::CachePadded;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

#[inline]
fn hash(page: PageId) -> u32 {
    let mut hasher = PageHasher::default();
    hasher.write_u64(page.file.0);
    hasher.write_u32(page.number);
    (hasher.finish() >> 32) as u32
}

const EMPTY: u64 = 0;

/// Entries for each frame, at least: so many that the first one looked at is mostly the right one. A processor that guesses wrong which
/// it is cannot look ahead to the next hit.
const SPARSE: usize = 4;

/// An entry that is not empty: hash and number of the frame.
fn entry(hash: u32, index: usize) -> u64 {
    let number = u32::try_from(index + 1).expect("a pool has fewer than 2^32 frames");
    u64::from(hash) << 32 | u64::from(number)
}

fn hash_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

fn index_of(entry: u64) -> usize {
    (entry as u32 - 1) as usize
}

#[derive(Default)]
struct Stripe {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The page table.
pub(crate) struct PageTable {
    frames: Arc<Frames>,
    entries: HugeArray<AtomicU64>,
    stripes: Vec<CachePadded<Stripe>>,
}

impl PageTable {
    pub fn new(frames: Arc<Frames>) -> Self {
        let size = (SPARSE * frames.len()).next_power_of_two();
        Self {
            frames,
            entries: HugeArray::new(size),
            stripes: std::iter::repeat_with(CachePadded::<Stripe>::default)
                .take(announce::THREADS + 1)
                .collect(),
        }
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.entries.len() - 1)
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.entries.len() - 1)
    }

    /// Place and frame of a page: the first entry of its hash whose frame `is_it`.
    #[inline]
    fn probe(&self, page: PageId, is_it: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
        let hash = hash(page);
        let mut place = self.home(hash);
        loop {
            let found = self.entries[place].load(Ordering::Acquire);
            if found == EMPTY {
                return None;
            }
            if hash_of(found) == hash && is_it(index_of(found)) {
                return Some((place, index_of(found)));
            }
            place = self.after(place);
        }
    }

    #[inline]
    fn find(&self, page: PageId) -> Option<(usize, usize)> {
        self.probe(page, |index| self.frames.frame(index).holds_page(page))
    }

    #[inline]
    pub fn get(&self, page: PageId) -> Option<usize> {
        self.find(page).map(|(_, index)| index)
    }

    /// The frame has the page's name already.
    pub fn insert(&self, page: PageId, index: usize) {
        assert!(self.find(page).is_none(), "{page} is in one frame");
        let hash = hash(page);
        let mut place = self.home(hash);
        while self.entries[place].load(Ordering::Relaxed) != EMPTY {
            place = self.after(place);
        }
        self.entries[place].store(entry(hash, index), Ordering::Release);
    }

    /// The frame still has the page's name.
    pub fn remove(&self, page: PageId) {
        let (mut hole, _) = self.find(page).expect("a bound page is in the table");
        let mut place = hole;
        loop {
            place = self.after(place);
            let next = self.entries[place].load(Ordering::Relaxed);
            if next == EMPTY {
                break;
            }
            // An entry moves up unless its home lies behind the hole.
            let mask = self.entries.len() - 1;
            let from_home = place.wrapping_sub(self.home(hash_of(next))) & mask;
            let from_hole = place.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.entries[hole].store(next, Ordering::Release);
                hole = place;
            }
        }
        self.entries[hole].store(EMPTY, Ordering::Release);
    }

    /// The frame of a page, unless another one of the same hash is before it: whoever uses it must look whether it has the page.
    #[inline]
    pub fn likely(&self, page: PageId) -> Option<usize> {
        self.probe(page, |_| true).map(|(_, index)| index)
    }

    /// A hit of this thread.
    #[inline]
    pub fn count_hit(&self, reader: &Reader) {
        // No other thread writes there.
        let hits = &self.stripes[reader.number as usize].hits;
        hits.store(hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub fn count(&self, hit: bool) {
        match announce::reader() {
            Some(reader) if hit => self.count_hit(reader),
            reader => {
                let stripe = &self.stripes[reader.map_or(announce::THREADS, |reader| reader.number as usize)];
                let counter = if hit { &stripe.hits } else { &stripe.misses };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Hits and misses.
    pub fn counted(&self) -> (u64, u64) {
        let sum = |pick: fn(&Stripe) -> &AtomicU64| {
            self.stripes.iter().map(|s| pick(s).load(Ordering::Relaxed)).sum()
        };
        (sum(|s| &s.hits), sum(|s| &s.misses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::{FileId, PageSize};
    use std::collections::BTreeMap;

    /// Pages come and go as in a map, in a table so small that entries collide, wrap and move all the time.
    #[test]
    fn it_is_a_map() {
        let frames = Arc::new(Frames::new(16, PageSize::LEAST));
        let table = PageTable::new(frames.clone());
        let mut model: BTreeMap<u32, usize> = BTreeMap::new();
        let mut free: Vec<usize> = (0..16).collect();
        let mut state = 1u64;
        let page = |number| PageId {
            file: FileId(3),
            number,
        };
        for _ in 0..100_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let number = (state >> 33) as u32 % 64;
            if let Some(index) = model.remove(&number) {
                table.remove(page(number));
                free.push(index);
            } else if let Some(index) = free.pop() {
                frames.frame(index).name(page(number));
                table.insert(page(number), index);
                model.insert(number, index);
            }
            let asked = (state >> 40) as u32 % 64;
            assert_eq!(table.get(page(asked)), model.get(&asked).copied());
        }
        for number in 0..64 {
            assert_eq!(table.get(page(number)), model.get(&number).copied());
        }
    }
}
