//! Policies over counters alone: what they keep of a trace.

use super::*;
use aquifer_dss_proto::FileId;
use std::cell::Cell;
use std::collections::HashMap;

/// A cache of names.
struct Cache {
    policy: Box<dyn EvictionPolicy>,
    uses: Vec<Cell<u8>>,
    pages: Vec<Option<u32>>,
    places: HashMap<u32, usize>,
    pinned: Option<u32>,
    hits: u64,
    asked: u64,
}

impl Counted for Vec<Cell<u8>> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn uses(&self, index: usize) -> u8 {
        self[index].get()
    }

    fn set_uses(&self, index: usize, uses: u8) {
        self[index].set(uses);
    }
}

impl Cache {
    fn new(eviction: Eviction, frames: usize) -> Self {
        Self {
            policy: policy(eviction, frames),
            uses: (0..frames).map(|_| Cell::new(0)).collect(),
            pages: vec![None; frames],
            places: HashMap::new(),
            pinned: None,
            hits: 0,
            asked: 0,
        }
    }

    fn room(&mut self) -> Option<usize> {
        if let Some(free) = self.pages.iter().position(Option::is_none) {
            return Some(free);
        }
        let (pages, pinned) = (&self.pages, self.pinned);
        let index = self
            .policy
            .take(&self.uses, &mut |index| pages[index] != pinned)?;
        self.places
            .remove(&self.pages[index].take().expect("it was full"));
        Some(index)
    }

    fn access(&mut self, number: u32) {
        self.asked += 1;
        if let Some(index) = self.places.get(&number) {
            self.hits += 1;
            return self.add_use(*index);
        }
        let index = self.room().expect("not everything is pinned");
        self.pages[index] = Some(number);
        self.places.insert(number, index);
        self.uses[index].set(0);
        let file = FileId(1);
        self.policy.admitted(index, PageId { file, number });
        self.add_use(index);
    }

    fn add_use(&self, index: usize) {
        let uses = &self.uses[index];
        uses.set(USES_MOST.min(uses.get() + 1));
    }

    fn give_up(&mut self, number: u32) {
        let index = self.places.remove(&number).expect("it is here");
        self.pages[index] = None;
        self.policy.removed(index);
    }

    fn ratio(&self) -> f64 {
        self.hits as f64 / self.asked as f64
    }
}

/// Look-ups over 4,000 pages by rank^-1, and now and then a scan of 2,000 others.
fn trace(scans: bool) -> Vec<u32> {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut trace = Vec::new();
    for round in 0..40u32 {
        for _ in 0..5_000 {
            trace.push((4_000f64.powf(random()) - 1.0) as u32);
        }
        if scans {
            trace.extend((0..2_000).map(|n| 10_000 + round * 2_000 + n));
        }
    }
    trace
}

fn hit_ratio(eviction: Eviction, scans: bool) -> f64 {
    let mut cache = Cache::new(eviction, 400);
    for number in trace(scans) {
        cache.access(number);
    }
    cache.ratio()
}

#[test]
fn a_scan_does_not_drive_out_what_is_used() {
    let (clock, s3_fifo) = (
        hit_ratio(Eviction::Clock, true),
        hit_ratio(Eviction::S3Fifo, true),
    );
    println!("look-ups with scans: CLOCK {clock:.3}, S3-FIFO {s3_fifo:.3}");
    assert!(s3_fifo > clock + 0.02, "{s3_fifo} and {clock}");
}

#[test]
fn without_scans_it_costs_nothing() {
    let (clock, s3_fifo) = (
        hit_ratio(Eviction::Clock, false),
        hit_ratio(Eviction::S3Fifo, false),
    );
    println!("look-ups alone: CLOCK {clock:.3}, S3-FIFO {s3_fifo:.3}");
    assert!(s3_fifo > clock - 0.01, "{s3_fifo} and {clock}");
}

#[test]
fn what_cannot_go_stays_and_what_was_given_up_is_not_taken() {
    for eviction in [Eviction::Clock, Eviction::S3Fifo] {
        let mut cache = Cache::new(eviction, 8);
        cache.access(0);
        cache.pinned = Some(0);
        for number in 1..1000 {
            cache.access(number);
            if number % 3 == 0 {
                cache.give_up(number);
            }
        }
        assert!(cache.places.contains_key(&0), "{eviction:?}");
        cache.pages = vec![Some(7); 8];
        cache.pinned = Some(7);
        assert_eq!(cache.room(), None, "{eviction:?}: everything is pinned");
    }
}
