//! Frames: one mapping of memory, and for each page of it a word (possession, latch) and what is known of
//! the page in it.
//!
//! Rules: bytes of a frame are touched only under its latch, or by the one who took it from the free list and has not
//! bound it yet; possession is lowered, and a page unbound, only under the exclusive latch; a latch is held in
//! synchronous code only, so whoever waits for one may spin. A frame that was only read for a while becomes biased: a reader then
//! announces itself in its own memory (`announce`) and writes nothing here; who latches it exclusively ends that first. Such a reading looks
//! at nothing of a frame but its [`Hot`] part and the page: each further line of memory would cost as much as the page.

use crate::announce::{self, Announced, Reader};
use crate::evict::Uses;
use crate::huge_array::{self, HugeArray};
use aquifer_buffer_pool_proto::{Conversion, ImageInfo, Lsn, Mode, PageId, PageSize, Psn};
use aquifer_dss_proto::{FileId, Instant, NodeSet};
use memmap2::MmapRaw;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const READER: u64 = 1;
const READERS: u64 = 0xFFFF;
const WRITER: u64 = 1 << 16;
const SHARED: u64 = 1 << 17;
const EXCLUSIVE: u64 = 1 << 18;
/// A surrender waits: no new writer.
const CLOSING: u64 = 1 << 19;
/// How often the frame was biased and is not any more, since the page came: each time it takes twice the reads until it is again, because
/// ending it is dear.
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
    if enough_read(word) { next } else { next + READ }
}

/// Whether the frame becomes biased.
fn enough_read(word: u64) -> bool {
    word / READ + 1 >= READS_TO_BIAS << revoked(word)
}

/// The word with an exclusive latch.
fn with_writer(word: u64) -> u64 {
    word & (READ - 1) | WRITER
}

/// Keeps a page from being changed while it is read, until it is dropped.
pub(crate) enum Reading<'a> {
    /// Counted in the word.
    Counted(Frame<'a>),
    /// Announced by its thread.
    Announced(#[expect(dead_code, reason = "dropped at the end of the reading")] Announced),
}

impl Drop for Reading<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Self::Counted(frame) = self {
            frame.state.word.fetch_sub(READER, Ordering::Release);
        }
    }
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

/// What a reading that is announced looks at: the page's name, and two bytes that seldom change.
#[derive(Default)]
#[repr(C, align(16))]
pub(crate) struct Hot {
    file: AtomicU64,
    number: AtomicU32,
    pub uses: Uses,
    /// Readers announce themselves instead of being counted. Set by a counted reader, ended by whoever has the exclusive latch.
    biased: AtomicBool,
}

const _: () = assert!(size_of::<Hot>() == 16, "four of them in a line");

impl Hot {
    #[inline]
    fn holds_page(&self, page: PageId) -> bool {
        self.file.load(Ordering::Relaxed) == page.file.0 && self.number.load(Ordering::Relaxed) == page.number
    }

    #[inline]
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Announces a reading of `page`, if it is here and the frame is biased.
    #[inline]
    pub fn announce(&self, page: PageId, reader: &'static Reader) -> Option<Announced> {
        let announced = reader.announce(self.address())?;
        // While a frame is biased the page in it stays; and it stays biased until the announcement ends.
        let biased = self.biased.load(Ordering::Acquire);
        (biased && self.holds_page(page)).then_some(announced)
    }
}

/// Possession, latch, and what else is known of a frame.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct State {
    word: AtomicU64,
    psn: AtomicU64,
    meta: Mutex<Meta>,
}

/// One frame, without its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    hot: &'a Hot,
    state: &'a State,
    pub meta: &'a Mutex<Meta>,
}

impl<'a> Frame<'a> {
    pub fn holds_page(&self, page: PageId) -> bool {
        self.hot.holds_page(page)
    }

    /// Whose name it has.
    pub fn page(&self) -> PageId {
        PageId {
            file: FileId(self.hot.file.load(Ordering::Relaxed)),
            number: self.hot.number.load(Ordering::Relaxed),
        }
    }

    pub fn uses(&self) -> &'a Uses {
        &self.hot.uses
    }

    pub fn psn(&self) -> Psn {
        Psn(self.state.psn.load(Ordering::Relaxed))
    }

    pub fn set_psn(&self, psn: Psn) {
        self.state.psn.store(psn.0, Ordering::Relaxed);
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
    pub fn latch_shared(self, page: PageId) -> Option<Reading<'a>> {
        let possessed = |word| word & (SHARED | EXCLUSIVE) != 0;
        let free = |word| word & WRITER == 0 && word & READERS < READERS;
        let before = self.take(possessed, free, with_reader)?;
        let reading = Reading::Counted(self);
        if !self.holds_page(page) {
            return None;
        }
        if enough_read(before) && announce::available() {
            self.hot.biased.store(true, Ordering::Release);
        }
        Some(reading)
    }

    /// Latches for writing when `page` is possessed exclusively here and nobody asks for it.
    pub fn latch_to_write(&self, page: PageId) -> bool {
        let taken = self.take_alone(|word| word & EXCLUSIVE != 0 && word & CLOSING == 0);
        if taken && !self.holds_page(page) {
            self.unlatch_exclusive();
            return false;
        }
        taken
    }

    /// Latches exclusively whatever is possessed.
    pub fn latch(&self) {
        self.take_alone(|_| true);
    }

    /// Latches exclusively as soon as nobody has a latch. False once it is not `possessed`.
    fn take_alone(&self, possessed: impl Fn(u64) -> bool) -> bool {
        let free = |word| word & (WRITER | READERS) == 0;
        if self.take(possessed, free, with_writer).is_none() {
            return false;
        }
        if self.end_bias() {
            let mut spins = 0;
            while self.is_announced() {
                pause(&mut spins);
            }
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
            let word = self.state.word.load(Ordering::Relaxed);
            if !possessed(word) {
                return None;
            }
            if free(word)
                && self
                    .state
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
        let word = self.state.word.load(Ordering::Relaxed);
        let taken = word & (WRITER | READERS) == 0
            && self
                .state
                .word
                .compare_exchange(word, with_writer(word), Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if taken && self.end_bias() && self.is_announced() {
            // Who latches next must wait for that reader as well.
            self.hot.biased.store(true, Ordering::Release);
            self.unlatch_exclusive();
            return false;
        }
        taken
    }

    /// Whoever latches exclusively ends the bias. True if there was one: then readers that announced themselves may be left.
    fn end_bias(&self) -> bool {
        if !self.hot.biased.load(Ordering::Relaxed) {
            return false;
        }
        self.hot.biased.store(false, Ordering::Relaxed);
        if revoked(self.state.word.load(Ordering::Relaxed)) < REVOKED_MOST {
            self.state.word.fetch_add(REVOKED, Ordering::Relaxed);
        }
        announce::fence();
        true
    }

    fn is_announced(&self) -> bool {
        announce::is_announced(self.hot.address())
    }

    pub fn unlatch_exclusive(&self) {
        self.state.word.fetch_and(!WRITER, Ordering::Release);
    }

    /// Raises possession; or lowers it, then only by whoever has the exclusive latch.
    pub fn set_possession(&self, mode: Option<Mode>) {
        let bits = match mode {
            None => 0,
            Some(Mode::Shared) => SHARED,
            Some(Mode::Exclusive) => EXCLUSIVE,
        };
        self.state
            .word
            .fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
                let forget = if mode.is_none() { REVOKED * 0xF } else { 0 };
                Some(word & !(SHARED | EXCLUSIVE | CLOSING | forget) | bits)
            })
            .expect("the closure always gives a value");
    }

    pub fn close(&self) {
        self.state.word.fetch_or(CLOSING, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.state.word.fetch_and(!CLOSING, Ordering::Relaxed);
    }

    pub fn name(&self, page: PageId) {
        self.hot.file.store(page.file.0, Ordering::Relaxed);
        self.hot.number.store(page.number, Ordering::Relaxed);
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
    page_size: PageSize,
    hot: HugeArray<Hot>,
    states: HugeArray<State>,
}

impl Frames {
    pub fn new(count: usize, page_size: PageSize) -> Self {
        assert!(count > 0, "a pool has frames");
        Self {
            memory: huge_array::map(count * page_size.bytes()),
            page_size,
            hot: HugeArray::new(count),
            states: HugeArray::new(count),
        }
    }

    pub fn len(&self) -> usize {
        self.hot.len()
    }

    /// Where the pages are in memory.
    pub fn address_range(&self) -> std::ops::Range<usize> {
        let start = self.memory.as_ptr().addr();
        start..start + self.memory.len()
    }

    #[inline]
    pub fn hot(&self, index: usize) -> &Hot {
        &self.hot[index]
    }

    pub fn frame(&self, index: usize) -> Frame<'_> {
        let state = &self.states[index];
        Frame {
            hot: &self.hot[index],
            state,
            meta: &state.meta,
        }
    }

    /// The page of frame `index`.
    #[inline]
    pub fn bytes(&self, index: usize) -> *mut [u8] {
        assert!(index < self.hot.len(), "frame {index} exists");
        // SAFETY: inside the mapping, which has `hot.len()` pages.
        let first = unsafe { self.memory.as_mut_ptr().add(index << self.page_size.shift()) };
        std::ptr::slice_from_raw_parts_mut(first, self.page_size.bytes())
    }

    /// Fills a frame that the caller latched exclusively or took from the free list.
    pub fn fill(&self, index: usize, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_size.bytes(), "a frame is filled whole");
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

    fn page(number: u32) -> PageId {
        PageId {
            file: FileId(1),
            number,
        }
    }

    /// A frame with page 0, possessed exclusively.
    fn one() -> Frames {
        let frames = Frames::new(1, PageSize::LEAST);
        frames.frame(0).name(page(0));
        frames.frame(0).set_possession(Some(Mode::Exclusive));
        frames
    }

    /// As [`Pool::read`](crate::Pool::read) does.
    fn read(frame: Frame<'_>, page: PageId) -> Option<Reading<'_>> {
        let reader = announce::reader().expect("few threads");
        let announced = frame.hot.announce(page, reader).map(Reading::Announced);
        announced.or_else(|| frame.latch_shared(page))
    }

    fn announced(reading: Option<Reading>) -> bool {
        matches!(reading, Some(Reading::Announced(_)))
    }

    #[test]
    fn a_frame_that_is_only_read_becomes_biased_until_it_is_latched() {
        let frames = one();
        let frame = frames.frame(0);
        let reads_until_biased = || (1..100_000).find(|_| announced(read(frame, page(0))));
        assert!(announce::available(), "Linux has had membarrier since 4.14");
        assert_eq!(reads_until_biased(), Some(READS_TO_BIAS as usize + 1));
        assert!(read(frame, page(1)).is_none(), "another page");
        assert!(frame.latch_to_write(page(0)));
        frame.unlatch_exclusive();
        assert_eq!(
            reads_until_biased(),
            Some(2 * READS_TO_BIAS as usize + 1),
            "it takes longer each time"
        );
        let mut nested: Vec<_> = (0..9).map(|_| read(frame, page(0)).unwrap()).collect();
        let counted = |reading: &Reading| matches!(reading, Reading::Counted(_));
        let latched: Vec<_> = nested.extract_if(.., |reading| counted(reading)).collect();
        assert_eq!(latched.len(), 2);
        assert!(!frame.try_latch(), "it is read");
        drop(latched);
        assert!(!frame.try_latch(), "it is announced");
        assert!(!frame.try_latch(), "and still is");
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

    /// Reads both pages until `stop`, and never sees half a change or another page. Counts announced readings.
    fn read_until(frames: &Frames, stop: &AtomicBool, announced: &AtomicU64) {
        let frame = frames.frame(0);
        while !stop.load(Ordering::Relaxed) {
            for number in 0..2 {
                let Some(reading) = read(frame, page(number)) else {
                    continue;
                };
                // SAFETY: latched.
                let bytes = unsafe { &*frames.bytes(0) };
                let first = bytes[0];
                assert_eq!(first % 2, number as u8, "the page that was asked for");
                assert!(bytes.iter().all(|byte| *byte == first), "a change seen half done");
                if matches!(reading, Reading::Announced(_)) {
                    announced.fetch_add(1, Ordering::Relaxed);
                }
                drop(reading);
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
        frames.fill(0, &[(2 * round) as u8 + *number as u8; PageSize::LEAST.bytes()]);
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
