//! S3-FIFO (Yang et al., SOSP 2023): pages come into a small queue; those that were used again there go on to the main queue, the
//! others leave, and their names are remembered for a while: who comes back soon goes to the main queue at once. A scan
//! passes through the small queue and leaves the rest alone.
//!
//! The use for which a page was fetched counts as one: more than one is a page used again.

use super::{Counted, EvictionPolicy, USES_MOST};
use aquifer_buffer_pool_proto::PageId;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// The small queue has one of so many frames.
const SMALL_PART: usize = 10;

/// One stay of a page in a frame; an entry whose stay is over is skipped.
#[derive(Clone, Copy)]
struct Entry {
    index: usize,
    stay: u64,
}

#[derive(Clone, Copy)]
struct Resident {
    page: PageId,
    stay: u64,
    small: bool,
}

/// Multiplicative hashing of the two numbers of a page; the same in every run.
#[derive(Default)]
struct PageHasher(u64);

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

pub(crate) struct S3Fifo {
    small: VecDeque<Entry>,
    main: VecDeque<Entry>,
    /// What is in each frame.
    residents: Vec<Option<Resident>>,
    /// Pages of the small queue that are here: entries of ended stays do not count.
    small_pages: usize,
    /// Names of pages that left the small queue, oldest first, with the number under which they are remembered.
    ghosts: VecDeque<(PageId, u64)>,
    remembered: HashMap<PageId, u64, BuildHasherDefault<PageHasher>>,
    stays: u64,
}

impl S3Fifo {
    pub fn new(frames: usize) -> Self {
        Self {
            small: VecDeque::new(),
            main: VecDeque::new(),
            residents: vec![None; frames],
            small_pages: 0,
            ghosts: VecDeque::new(),
            remembered: HashMap::default(),
            stays: 0,
        }
    }

    fn remember(&mut self, resident: Resident) {
        self.remembered.insert(resident.page, resident.stay);
        self.ghosts.push_back((resident.page, resident.stay));
        if self.ghosts.len() > self.residents.len()
            && let Some((oldest, stay)) = self.ghosts.pop_front()
            && self.remembered.get(&oldest) == Some(&stay)
        {
            self.remembered.remove(&oldest);
        }
    }

    fn leave(&mut self, index: usize) -> Option<Resident> {
        let resident = self.residents[index].take()?;
        self.small_pages -= usize::from(resident.small);
        Some(resident)
    }

    /// Drops the entries of ended stays. Pages that other nodes take and give back leave one each time, and nobody else clears them
    /// away while there are free frames. At most half of the entries stay, so this costs each admission a constant.
    fn forget_ended(&mut self) {
        let residents = &self.residents;
        let lives =
            |entry: &Entry| residents[entry.index].is_some_and(|resident| resident.stay == entry.stay);
        self.small.retain(lives);
        self.main.retain(lives);
    }

    /// The page of an entry, if it is still there.
    fn resident(&mut self, entry: Entry) -> Option<&mut Resident> {
        self.residents[entry.index]
            .as_mut()
            .filter(|resident| resident.stay == entry.stay)
    }

    fn step_small(
        &mut self,
        entry: Entry,
        frames: &dyn Counted,
        possible: &mut dyn FnMut(usize) -> bool,
    ) -> Option<usize> {
        let resident = self.resident(entry)?;
        if frames.uses(entry.index) > 1 {
            resident.small = false;
            self.small_pages -= 1;
            frames.set_uses(entry.index, 0);
            self.main.push_back(entry);
            return None;
        }
        if !possible(entry.index) {
            self.small.push_back(entry);
            return None;
        }
        if let Some(resident) = self.leave(entry.index) {
            self.remember(resident);
        }
        Some(entry.index)
    }

    fn step_main(
        &mut self,
        entry: Entry,
        frames: &dyn Counted,
        possible: &mut dyn FnMut(usize) -> bool,
    ) -> Option<usize> {
        self.resident(entry)?;
        let uses = frames.uses(entry.index);
        if uses > 0 {
            frames.set_uses(entry.index, uses - 1);
        } else if possible(entry.index) {
            self.leave(entry.index);
            return Some(entry.index);
        }
        self.main.push_back(entry);
        None
    }
}

impl S3Fifo {
    fn take_small(&mut self, frames: &dyn Counted, possible: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        (0..self.small.len()).find_map(|_| {
            let entry = self.small.pop_front()?;
            self.step_small(entry, frames, possible)
        })
    }

    /// A page may be passed over as often as it has uses, and once when it cannot go.
    fn take_main(&mut self, frames: &dyn Counted, possible: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        (0..self.main.len() * (usize::from(USES_MOST) + 1)).find_map(|_| {
            let entry = self.main.pop_front()?;
            self.step_main(entry, frames, possible)
        })
    }
}

impl EvictionPolicy for S3Fifo {
    fn admitted(&mut self, index: usize, page: PageId) {
        self.stays += 1;
        let small = self.remembered.remove(&page).is_none();
        let stay = self.stays;
        self.residents[index] = Some(Resident { page, stay, small });
        self.small_pages += usize::from(small);
        let queue = if small { &mut self.small } else { &mut self.main };
        queue.push_back(Entry { index, stay });
        if self.small.len() + self.main.len() > 2 * self.residents.len() {
            self.forget_ended();
        }
    }

    fn removed(&mut self, index: usize) {
        self.leave(index);
    }

    fn take(&mut self, frames: &dyn Counted, possible: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        let small_most = (frames.len() / SMALL_PART).max(1);
        if self.small_pages < small_most
            && let Some(index) = self.take_main(frames, possible)
        {
            return Some(index);
        }
        self.take_small(frames, possible)
            .or_else(|| self.take_main(frames, possible))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::FileId;

    #[test]
    fn pages_that_come_and_go_without_an_eviction_leave_nothing_behind() {
        let mut policy = S3Fifo::new(8);
        for number in 0..10_000 {
            let file = FileId(1);
            policy.admitted(number as usize % 8, PageId { file, number });
            policy.removed(number as usize % 8);
            assert!(policy.small.len() + policy.main.len() <= 16, "page {number}");
        }
    }
}
