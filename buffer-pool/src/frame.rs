//! Frames: one mapping of memory, and for each page of it a word (possession, latch) and what is known of
//! the page in it.
//!
//! Rules: bytes of a frame are touched only under its latch, or by the one who took it from the free list and has not
//! bound it yet; possession is lowered, and a page unbound, only under the exclusive latch; a latch is held in
//! synchronous code only, so whoever waits for one may spin. A frame that was only read for a while becomes biased: a reader then
//! announces itself in its own memory (`announce`) and writes nothing here; who latches it exclusively ends that first.

use crate::announce::{self, Announced};
use crate::evict::Uses;
use aquifer_buffer_pool_proto::{Conversion, ImageInfo, Lsn, Mode, PAGE_SIZE, PageId, Psn};
use aquifer_dss_proto::{Instant, NodeSet};
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const READER: u64 = 1;
const READERS: u64 = 0xFFFF;
const WRITER: u64 = 1 << 16;
const SHARED: u64 = 1 << 17;
const EXCLUSIVE: u64 = 1 << 18;
/// A surrender waits: no new writer.
const CLOSING: u64 = 1 << 19;
/// Readers announce themselves instead of being counted here. Only while the page is possessed and nobody has the exclusive latch.
const BIASED: u64 = 1 << 20;
/// How often that ended since the page came: each time it takes twice the reads until it begins again, because ending it is dear.
const REVOKED: u64 = 1 << 24;
const REVOKED_MOST: u64 = 10;
/// Counted reads since the page was last latched exclusively, or the frame biased.
const READ: u64 = 1 << 32;
/// So many in the beginning make the frame biased.
const READS_TO_BIAS: u64 = 16;

fn revoked(word: u64) -> u64 {
    (word / REVOKED) & 0xF
}

/// The word with one more reader that is counted.
fn with_reader(word: u64) -> u64 {
    let next = word + READER;
    if word & BIASED != 0 {
        return next; // its thread announces as much as it can already
    }
    if word / READ + 1 < READS_TO_BIAS << revoked(word) {
        next + READ
    } else {
        next & (READ - 1) | if announce::available() { BIASED } else { 0 }
    }
}

/// The word with an exclusive latch.
fn with_writer(word: u64) -> u64 {
    let next = word & (READ - 1) & !BIASED | WRITER;
    if word & BIASED != 0 && revoked(word) < REVOKED_MOST {
        next + REVOKED
    } else {
        next
    }
}

/// How a page is kept from being changed while it is read.
pub(crate) enum Reading {
    /// Counted in the word.
    Counted,
    /// Announced by its thread.
    Announced(#[expect(dead_code, reason = "dropped at the end of the reading")] Announced),
}

/// What is known of the page in a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meta {
    pub page: Option<PageId>,
    /// Grows each time the frame gets a page: names one stay of a page in it.
    pub stay: u64,
    pub dirty: bool,
    /// This node must write it back.
    pub duty: bool,
    pub contributors: NodeSet,
    pub flush_wanted: bool,
    /// End of the redo of this node's last change.
    pub redo_end: Lsn,
    /// PSN that is being written back (HZ-2).
    pub writing: Option<Psn>,
    pub holds: u32,
    pub hold_until: Instant,
    /// A surrender waits for the holds: whoever gives the last one back does it at once.
    pub leaving: Option<Conversion>,
}

impl Meta {
    pub fn held(&self, now: Instant) -> bool {
        self.holds > 0 && now < self.hold_until
    }
}

/// One frame, without its bytes. What a local hit looks at lies in one cache line.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Frame {
    word: AtomicU64,
    file: AtomicU64,
    number: AtomicU32,
    psn: AtomicU64,
    pub uses: Uses,
    /// Apart, so that what hits look at lies close together.
    pub meta: Box<Mutex<Meta>>,
}

const _: () = assert!(size_of::<Frame>() == 64, "a hit looks at one line");

impl Frame {
    #[inline]
    pub fn holds_page(&self, page: PageId) -> bool {
        self.file.load(Ordering::Relaxed) == page.file.0 && self.number.load(Ordering::Relaxed) == page.number
    }

    pub fn psn(&self) -> Psn {
        Psn(self.psn.load(Ordering::Relaxed))
    }

    pub fn set_psn(&self, psn: Psn) {
        self.psn.store(psn.0, Ordering::Relaxed);
    }

    pub fn info(&self, meta: &Meta) -> ImageInfo {
        ImageInfo {
            psn: self.psn(),
            dirty: meta.dirty,
            contributors: meta.contributors,
            flush_wanted: meta.flush_wanted,
        }
    }

    /// Latches for reading when `page` is possessed here.
    #[inline]
    pub fn latch_shared(&self, page: PageId) -> Option<Reading> {
        if self.word.load(Ordering::Relaxed) & BIASED != 0
            && let Some(announced) = announce::announce(self.address())
        {
            // While a frame is biased the page in it stays; and it stays biased until the announcement ends.
            let biased = self.word.load(Ordering::Acquire) & BIASED != 0;
            if biased && self.holds_page(page) {
                return Some(Reading::Announced(announced));
            }
        }
        self.latch_counted(page)
    }

    /// The same, always counted: ended by [`unlatch_shared`](Self::unlatch_shared).
    pub fn latch_counted(&self, page: PageId) -> Option<Reading> {
        let possessed = |word| word & (SHARED | EXCLUSIVE) != 0;
        let free = |word| word & WRITER == 0 && word & READERS < READERS;
        self.take(possessed, free, with_reader)?;
        if !self.holds_page(page) {
            self.unlatch_shared();
            return None;
        }
        Some(Reading::Counted)
    }

    /// Ends a reading that was counted.
    pub fn unlatch_shared(&self) {
        self.word.fetch_sub(READER, Ordering::Release);
    }

    /// Latches for writing when `page` is possessed exclusively here and nobody asks for it.
    pub fn latch_to_write(&self, page: PageId) -> bool {
        let possessed = |word| word & EXCLUSIVE != 0 && word & CLOSING == 0;
        let free = |word| word & (WRITER | READERS) == 0;
        let Some(before) = self.take(possessed, free, with_writer) else {
            return false;
        };
        if before & BIASED != 0 {
            announce::fence();
            let mut spins = 0;
            while announce::is_announced(self.address()) {
                pause(&mut spins);
            }
        }
        if !self.holds_page(page) {
            self.unlatch_exclusive();
            return false;
        }
        true
    }

    /// Changes the word by `next` as soon as it is `free`; gives the word before. `None` once it is not `possessed`.
    fn take(
        &self,
        possessed: impl Fn(u64) -> bool,
        free: impl Fn(u64) -> bool,
        next: impl Fn(u64) -> u64,
    ) -> Option<u64> {
        let mut spins = 0;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if !possessed(word) {
                return None;
            }
            if free(word)
                && self
                    .word
                    .compare_exchange_weak(word, next(word), Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Some(word);
            }
            pause(&mut spins);
        }
    }

    /// Latches exclusively whatever is possessed, if nobody has a latch.
    pub fn try_latch(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        let taken = word & (WRITER | READERS) == 0
            && self
                .word
                .compare_exchange(word, with_writer(word), Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if taken && word & BIASED != 0 {
            announce::fence();
            if announce::is_announced(self.address()) {
                self.unlatch_exclusive();
                return false;
            }
        }
        taken
    }

    /// Latches exclusively whatever is possessed.
    pub fn latch(&self) {
        let mut spins = 0;
        while !self.try_latch() {
            pause(&mut spins);
        }
    }

    pub fn unlatch_exclusive(&self) {
        self.word.fetch_and(!WRITER, Ordering::Release);
    }

    #[inline]
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Raises possession; or lowers it, then only by whoever has the exclusive latch.
    pub fn set_possession(&self, mode: Option<Mode>) {
        let bits = match mode {
            None => 0,
            Some(Mode::Shared) => SHARED,
            Some(Mode::Exclusive) => EXCLUSIVE,
        };
        self.word
            .fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
                let forget = if mode.is_none() { REVOKED * 0xF } else { 0 };
                Some(word & !(SHARED | EXCLUSIVE | CLOSING | forget) | bits)
            })
            .expect("the closure always gives a value");
    }

    pub fn close(&self) {
        self.word.fetch_or(CLOSING, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.word.fetch_and(!CLOSING, Ordering::Relaxed);
    }

    pub fn name(&self, page: PageId) {
        self.file.store(page.file.0, Ordering::Relaxed);
        self.number.store(page.number, Ordering::Relaxed);
    }
}

fn pause(spins: &mut u64) {
    *spins += 1;
    assert!(
        *spins < 1 << 32,
        "a latch was not released: latches are held in synchronous code only"
    );
    if spins.is_multiple_of(64) {
        std::thread::yield_now()
    } else {
        std::hint::spin_loop()
    }
}

/// The memory of all frames and what is known of each.
pub(crate) struct Frames {
    memory: MmapRaw,
    frames: Vec<Frame>,
}

impl Frames {
    pub fn new(count: usize) -> Self {
        assert!(count > 0, "a pool has frames");
        let map = MmapOptions::new()
            .len(count * PAGE_SIZE)
            .map_anon()
            .expect("memory for the configured frames");
        // Huge pages are a wish; without them the pool is only slower.
        map.advise(memmap2::Advice::HugePage).ok();
        let frames = std::iter::repeat_with(Frame::default).take(count).collect();
        Self {
            memory: MmapRaw::from(map),
            frames,
        }
    }

    pub fn len(&self) -> usize {
        self.frames.len()
    }

    #[inline]
    pub fn frame(&self, index: usize) -> &Frame {
        &self.frames[index]
    }

    /// The page of frame `index`.
    #[inline]
    pub fn bytes(&self, index: usize) -> *mut [u8; PAGE_SIZE] {
        assert!(index < self.frames.len(), "frame {index} exists");
        // SAFETY: inside the mapping, which has `frames.len() * PAGE_SIZE` bytes.
        unsafe { self.memory.as_mut_ptr().add(index * PAGE_SIZE).cast() }
    }

    /// Fills a frame that the caller latched exclusively or took from the free list.
    pub fn fill(&self, index: usize, bytes: &[u8]) {
        assert_eq!(bytes.len(), PAGE_SIZE, "a frame is filled whole");
        // SAFETY: the caller alone may touch the frame (see above), and `bytes` is not inside the mapping because
        // nothing gives out references to it without a latch.
        unsafe { (*self.bytes(index)).copy_from_slice(bytes) }
    }

    /// Copies a frame that the caller has latched in any mode.
    pub fn copy(&self, index: usize, into: &mut [u8]) {
        // SAFETY: nobody writes while the caller has a latch.
        into.copy_from_slice(unsafe { &*self.bytes(index) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::FileId;
    use std::sync::atomic::AtomicBool;

    fn page(number: u32) -> PageId {
        PageId {
            file: FileId(1),
            number,
        }
    }

    /// A frame with page 0, possessed exclusively.
    fn one() -> Frames {
        let frames = Frames::new(1);
        frames.frame(0).name(page(0));
        frames.frame(0).set_possession(Some(Mode::Exclusive));
        frames
    }

    fn announced(reading: &Option<Reading>) -> bool {
        matches!(reading, Some(Reading::Announced(_)))
    }

    #[test]
    fn a_frame_that_is_only_read_becomes_biased_until_it_is_latched() {
        let frames = one();
        let frame = frames.frame(0);
        let reads_until_biased = || (1..100_000).find(|_| announced(&frame.latch_shared_once(page(0))));
        assert!(announce::available(), "Linux has had membarrier since 4.14");
        assert_eq!(reads_until_biased(), Some(READS_TO_BIAS as usize + 1));
        assert!(frame.latch_shared(page(1)).is_none(), "another page");
        assert!(frame.latch_to_write(page(0)));
        frame.unlatch_exclusive();
        assert_eq!(
            reads_until_biased(),
            Some(2 * READS_TO_BIAS as usize + 1),
            "it takes longer each time"
        );
        let nested: Vec<_> = (0..9).map(|_| frame.latch_shared(page(0)).unwrap()).collect();
        let counted = |reading: &&Reading| matches!(reading, Reading::Counted);
        assert_eq!(nested.iter().filter(counted).count(), 2);
        assert!(!frame.try_latch(), "it is read");
        frame.unlatch_shared();
        frame.unlatch_shared();
        assert!(!frame.try_latch(), "it is announced");
        drop(nested);
        assert!(frame.try_latch());
        frame.set_possession(None);
        frame.unlatch_exclusive();
        assert!(frame.latch_shared(page(0)).is_none());
        frame.set_possession(Some(Mode::Shared));
        assert_eq!(
            reads_until_biased(),
            Some(READS_TO_BIAS as usize + 1),
            "a new stay"
        );
    }

    impl Frame {
        fn latch_shared_once(&self, page: PageId) -> Option<Reading> {
            let reading = self.latch_shared(page)?;
            if matches!(reading, Reading::Counted) {
                self.unlatch_shared();
            }
            Some(reading)
        }
    }

    /// Reads both pages until `stop`, and never sees half a change or another page. Counts announced readings.
    fn read_until(frames: &Frames, stop: &AtomicBool, announced: &AtomicU64) {
        let frame = frames.frame(0);
        while !stop.load(Ordering::Relaxed) {
            for number in 0..2 {
                let Some(reading) = frame.latch_shared(page(number)) else {
                    continue;
                };
                // SAFETY: latched.
                let bytes = unsafe { &*frames.bytes(0) };
                let first = bytes[0];
                assert_eq!(first % 2, number as u8, "the page that was asked for");
                assert!(*bytes == [first; PAGE_SIZE], "a change seen half done");
                match reading {
                    Reading::Counted => frame.unlatch_shared(),
                    Reading::Announced(_) => drop(announced.fetch_add(1, Ordering::Relaxed)),
                }
                std::thread::yield_now(); // or all of them read all the time
            }
        }
    }

    /// Another page comes into the frame, or the one in it is changed. Bytes of page 0 are even, of page 1 odd.
    fn change(frames: &Frames, round: u32, number: &mut u32) {
        let frame = frames.frame(0);
        if round.is_multiple_of(3) {
            frame.latch();
            frame.set_possession(None);
            *number = 1 - *number;
            frame.name(page(*number));
        } else {
            assert!(frame.latch_to_write(page(*number)));
        }
        frames.fill(0, &[(2 * round) as u8 + *number as u8; PAGE_SIZE]);
        frame.set_possession(Some(Mode::Exclusive));
        frame.unlatch_exclusive();
    }

    #[test]
    fn readers_never_see_half_a_change_or_another_page() {
        let (frames, stop, announced) = (one(), AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| read_until(&frames, &stop, &announced));
            }
            let mut number = 0;
            for round in 0..4_000 {
                let before = announced.load(Ordering::Relaxed);
                change(&frames, round, &mut number);
                while round % 4 == 0 && announced.load(Ordering::Relaxed) < before + 10 {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
