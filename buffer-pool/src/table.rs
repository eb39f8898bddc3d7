//! Where each possessed page is. A look-up writes nothing: no lock, no counter that others write.
//!
//! An open table of atomic numbers of frames, at most a quarter full; whose page a frame has, its name says. Only whoever has the core lock
//! changes it. Under that lock a look-up is exact. Without it one may miss a page while another entry moves up; then the page is acquired,
//! which looks under the lock. A frame found is believed only after it has been latched and still has the page.
//!
//! The place of a page is a multiple of the golden ratio, so the pages of one file that follow each other lie as far apart as there is room:
//! none of them is in the place of another. That matters for hits, which believe the first entry (see [`PageTable::first`]).

use crate::announce::{self, Reader};
use crate::frame::Frames;
use crate::huge_array::HugeArray;
use aquifer_buffer_pool_proto::PageId;
use crossbeam::utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const EMPTY: u32 = 0;

/// Entries for each frame, at least: so many that the first one looked at is mostly the right one. A processor that guesses wrong which
/// it is cannot look ahead to the next hit.
const SPARSE: usize = 4;

/// 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
/// Keeps files apart: odd, and nothing else is known of it.
const FILE: u64 = 0xD6E8_FEB8_6659_FD93;

/// An entry that is not empty: the number of the frame, from one.
fn entry(index: usize) -> u32 {
    u32::try_from(index + 1).expect("a pool has fewer than 2^32 frames")
}

struct Stripe {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Stripe {
    const fn new() -> Self {
        Self {
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }
}

/// The page table.
pub(crate) struct PageTable {
    frames: Arc<Frames>,
    entries: HugeArray<AtomicU32>,
    /// One for each thread that can announce readings.
    stripes: Box<[CachePadded<Stripe>; announce::THREADS]>,
    /// For all others.
    others: CachePadded<Stripe>,
}

impl PageTable {
    pub fn new(frames: Arc<Frames>) -> Self {
        let entries = HugeArray::new(SPARSE * frames.len());
        Self {
            frames,
            entries,
            stripes: Box::new([const { CachePadded::new(Stripe::new()) }; announce::THREADS]),
            others: CachePadded::new(Stripe::new()),
        }
    }

    #[inline]
    fn home(&self, page: PageId) -> usize {
        let number = page
            .file
            .0
            .wrapping_mul(FILE)
            .wrapping_add(u64::from(page.number));
        // A part of the table, of 2^64.
        ((u128::from(number.wrapping_mul(GOLDEN)) * self.entries.len() as u128) >> 64) as usize
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        if place + 1 < self.entries.len() {
            place + 1
        } else {
            0
        }
    }

    /// How many places `to` comes after `from`.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to - from
        } else {
            to + self.entries.len() - from
        }
    }

    /// Place and frame of a page.
    #[inline]
    fn find(&self, page: PageId) -> Option<(usize, usize)> {
        let mut place = self.home(page);
        loop {
            let found = self.entries[place].load(Ordering::Acquire);
            if found == EMPTY {
                return None;
            }
            let index = found as usize - 1;
            if self.frames.frame(index).holds_page(page) {
                return Some((place, index));
            }
            place = self.after(place);
        }
    }

    #[inline]
    pub fn get(&self, page: PageId) -> Option<usize> {
        self.find(page).map(|(_, index)| index)
    }

    /// The frame of the page, if the page is here and no other one is in its place; if not, another frame, or the number of none. Whoever
    /// uses it must look whether it has the page.
    #[inline]
    pub fn first(&self, page: PageId) -> usize {
        // An empty place gives the greatest number.
        self.entries[self.home(page)]
            .load(Ordering::Acquire)
            .wrapping_sub(1) as usize
    }

    /// The frame has the page's name already.
    pub fn insert(&self, page: PageId, index: usize) {
        assert!(self.find(page).is_none(), "{page} is in one frame");
        let mut place = self.home(page);
        while self.entries[place].load(Ordering::Relaxed) != EMPTY {
            place = self.after(place);
        }
        self.entries[place].store(entry(index), Ordering::Release);
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
            let home = self.home(self.frames.frame(next as usize - 1).page());
            if self.distance(home, place) >= self.distance(hole, place) {
                self.entries[hole].store(next, Ordering::Release);
                hole = place;
            }
        }
        self.entries[hole].store(EMPTY, Ordering::Release);
    }

    /// A hit of this thread.
    #[inline]
    pub fn count_hit(&self, reader: &Reader) {
        // No other thread writes there.
        let hits = &self.stripes[usize::from(reader.number)].hits;
        hits.store(hits.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub fn count(&self, hit: bool) {
        match announce::reader() {
            Some(reader) if hit => self.count_hit(reader),
            reader => {
                let stripe = reader.map_or(&self.others, |reader| &self.stripes[usize::from(reader.number)]);
                let counter = if hit { &stripe.hits } else { &stripe.misses };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Hits and misses.
    pub fn counted(&self) -> (u64, u64) {
        let sum = |pick: fn(&Stripe) -> &AtomicU64| {
            self.stripes
                .iter()
                .chain([&self.others])
                .map(|s| pick(s).load(Ordering::Relaxed))
                .sum()
        };
        (sum(|s| &s.hits), sum(|s| &s.misses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::{FileId, PageSize};
    use std::collections::BTreeMap;

    #[test]
    fn the_first_pages_of_a_file_are_not_in_each_others_places() {
        for file in [1, 7, 4711] {
            let frames = Arc::new(Frames::new(5000, PageSize::LEAST));
            let table = PageTable::new(frames.clone());
            for number in 0..5000 {
                let page = PageId {
                    file: FileId(file),
                    number,
                };
                frames.frame(number as usize).name(page);
                assert_eq!(table.first(page), u32::MAX as usize);
                table.insert(page, number as usize);
                assert_eq!(table.first(page), number as usize);
            }
        }
    }

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
