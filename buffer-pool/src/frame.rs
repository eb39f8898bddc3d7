//! Frames: one mapping of memory, and for each page of it a word (possession, latch) and what is known of
//! the page in it.
//!
//! Rules: bytes of a frame are touched only under its latch, or by the one who took it from the free list and has not
//! bound it yet; possession is lowered, and a page unbound, only under the exclusive latch; a latch is held in
//! synchronous code only, so whoever waits for one may spin. A frame that was only read for a while becomes biased: a reader then
//! announces itself in its own memory (`announce`) and writes nothing here; who latches it exclusively ends that first. Such a reading looks
//! at nothing of a frame but its [`Hot`] part and the page: each further line of memory would cost as much as the page.

use crate::announce::{self, Announced, Reader};
use crate::evict::USES_MOST;
use crate::huge_array::{self, HugeArray};
use crate::touch;
use aquifer_buffer_pool_proto::{Conversion, ImageInfo, Lsn, Mode, PageId, PageSize, Psn};
use aquifer_dss_proto::{FileId, Instant, NodeSet};
use memmap2::MmapRaw;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Of a page that is touched: its header, and what follows it.
const TOUCHED_LINES: usize = 2;

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
    Counted(&'a State),
    /// Announced by its thread.
    Announced(#[expect(dead_code, reason = "dropped at the end of the reading")] Announced),
}

impl Drop for Reading<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Self::Counted(state) = self {
            state.word.fetch_sub(READER, Ordering::Release);
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

/// What a reading that is announced looks at, in one word: the page's number, its file, how often it was used, and whether the frame is biased. So one
/// comparison says all, and the words of all frames are small enough to stay in the processor's caches, where they compete with the pages.
#[derive(Default)]
pub(crate) struct Hot {
    word: AtomicU64,
}

/// Readers announce themselves instead of being counted. Set by a counted reader, ended by whoever has the exclusive latch.
const BIASED: u64 = 1;
/// Where uses are counted, up to [`USES_MOST`].
const USES_SHIFT: u32 = 1;
const USES: u64 = (USES_MOST as u64) << USES_SHIFT;
const FILE_SHIFT: u32 = 3;
const NUMBER_SHIFT: u32 = 32;
/// Stands for all files from here on: their frames are never biased, and which of them it is says the frame's state.
const FILE_BEYOND: u64 = (1 << (NUMBER_SHIFT - FILE_SHIFT)) - 1;

const _: () = assert!(USES < 1 << FILE_SHIFT, "uses lie below the file");

impl Hot {
    #[inline]
    fn word_of(file: u64, number: u32) -> u64 {
        u64::from(number) << NUMBER_SHIFT | file << FILE_SHIFT
    }

    /// The name of a page, without uses and bias.
    #[inline]
    fn name_of(page: PageId) -> u64 {
        Self::word_of(page.file.0.min(FILE_BEYOND), page.number)
    }

    fn name(&self) -> u64 {
        self.word.load(Ordering::Relaxed) & !(USES | BIASED)
    }

    #[inline]
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Announces a reading of `page`, if it is here, is used enough already, and the frame is biased, and this thread reads nothing else.
    #[inline]
    pub fn announce_used(&self, page: PageId, reader: &'static Reader) -> Option<Announced> {
        if page.file.0 >= FILE_BEYOND {
            return None;
        }
        let announced = reader.announce_first(self.address())?;
        // While a frame is biased the page in it stays; and it stays biased until the announcement ends.
        let here =
            self.word.load(Ordering::Acquire) == Self::word_of(page.file.0, page.number) | USES | BIASED;
        here.then_some(announced)
    }

    /// The same with any number of uses, and of other readings.
    pub fn announce(&self, page: PageId, reader: &'static Reader) -> Option<Announced> {
        let announced = reader.announce(self.address())?;
        let here = self.word.load(Ordering::Acquire) & !USES == Self::name_of(page) | BIASED;
        here.then_some(announced)
    }

    /// The page is used.
    pub fn add_use(&self) {
        let uses = self.uses();
        if uses < USES_MOST {
            self.set_uses(uses + 1);
        }
    }

    /// How often the page was used, as far as policies care. Uses at the same moment may count once.
    pub fn uses(&self) -> u8 {
        ((self.word.load(Ordering::Relaxed) & USES) >> USES_SHIFT) as u8
    }

    /// Another page comes, or a policy forgets.
    pub fn set_uses(&self, uses: u8) {
        assert!(uses <= USES_MOST, "uses are counted up to {USES_MOST}");
        let with = |word| Some(word & !USES | u64::from(uses) << USES_SHIFT);
        self.word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, with)
            .expect("the closure always gives a value");
    }
}

/// Possession, latch, and what else is known of a frame.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct State {
    word: AtomicU64,
    psn: AtomicU64,
    file: AtomicU64,
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
        self.hot.name() == Hot::name_of(page) && self.state.file.load(Ordering::Relaxed) == page.file.0
    }

    /// Whose name it has.
    pub fn page(&self) -> PageId {
        PageId {
            file: FileId(self.state.file.load(Ordering::Relaxed)),
            number: (self.hot.name() >> NUMBER_SHIFT) as u32,
        }
    }

    pub fn add_use(&self) {
        self.hot.add_use();
    }

    fn is_biased(&self) -> bool {
        self.hot.word.load(Ordering::Relaxed) & BIASED != 0
    }

    fn bias(&self) {
        self.hot.word.fetch_or(BIASED, Ordering::Release);
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

    /// Announces a reading of `page`, if it is here and the frame is biased.
    pub fn announce(self, page: PageId, reader: &'static Reader) -> Option<Reading<'a>> {
        self.hot.announce(page, reader).map(Reading::Announced)
    }

    /// Latches for reading when `page` is possessed here.
    pub fn latch_shared(self, page: PageId) -> Option<Reading<'a>> {
        let possessed = |word| word & (SHARED | EXCLUSIVE) != 0;
        let free = |word| word & WRITER == 0 && word & READERS < READERS;
        let before = self.take(possessed, free, with_reader)?;
        let reading = Reading::Counted(self.state);
        if !self.holds_page(page) {
            return None;
        }
        if enough_read(before) && page.file.0 < FILE_BEYOND && announce::available() {
            self.bias();
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
            self.bias();
            self.unlatch_exclusive();
            return false;
        }
        taken
    }

    /// Whoever latches exclusively ends the bias. True if there was one: then readers that announced themselves may be left.
    fn end_bias(&self) -> bool {
        if !self.is_biased() {
            return false;
        }
        self.hot.word.fetch_and(!BIASED, Ordering::Relaxed);
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

    /// Names the page that comes into a frame that is latched exclusively, or free: so it is not biased. It was not used.
    pub fn name(&self, page: PageId) {
        self.state.file.store(page.file.0, Ordering::Relaxed);
        self.hot.word.store(Hot::name_of(page), Ordering::Relaxed);
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
    page_bytes: usize,
    hot: HugeArray<Hot>,
    states: HugeArray<State>,
}

impl Frames {
    pub fn new(count: usize, page_size: PageSize) -> Self {
        assert!(count > 0, "a pool has frames");
        Self {
            memory: huge_array::map(count * page_size.bytes()),
            page_bytes: page_size.bytes(),
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

    pub fn hot(&self, index: usize) -> &Hot {
        &self.hot[index]
    }

    /// Announces a reading of `page`, when it is likely to be in frame `index`, of which there may be none.
    #[inline]
    pub fn announce_used(&self, index: usize, page: PageId, reader: &'static Reader) -> Option<Announced> {
        self.hot.get(index)?.announce_used(page, reader)
    }

    /// Fetches what a hit of frame `index` looks at, and the beginning of its page, into the processor's cache. There may be no such frame.
    #[inline]
    pub fn touch(&self, index: usize) {
        if let Some(hot) = self.hot.get(index) {
            touch::line(std::ptr::from_ref(hot).cast());
            let page = self.bytes(index).cast::<u8>();
            (0..TOUCHED_LINES).for_each(|line| touch::line(page.wrapping_add(line * touch::LINE)));
        }
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
        let first = unsafe { self.memory.as_mut_ptr().add(index * self.page_bytes) };
        std::ptr::slice_from_raw_parts_mut(first, self.page_bytes)
    }

    /// Fills a frame that the caller latched exclusively or took from the free list.
    pub fn fill(&self, index: usize, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_bytes, "a frame is filled whole");
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
    use std::sync::atomic::AtomicBool;

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
        let used = frame.hot.announce_used(page, reader).map(Reading::Announced);
        let announced = used.or_else(|| frame.announce(page, reader));
        frame.add_use();
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

    #[test]
    fn a_file_whose_number_has_no_place_beside_the_rest_is_read_by_counting() {
        let frames = one();
        let frame = frames.frame(0);
        let of = |file| PageId {
            file: FileId(file),
            number: u32::MAX,
        };
        for (file, other) in [(FILE_BEYOND, FILE_BEYOND + 1), (u64::MAX, FILE_BEYOND)] {
            frame.name(of(file));
            assert!((0..1000).all(|_| !announced(read(frame, of(file)))));
            assert!(read(frame, of(file)).is_some() && frame.page() == of(file));
            assert!(read(frame, of(other)).is_none(), "both have the same short name");
        }
        frame.name(of(FILE_BEYOND - 1));
        assert!((0..1000).any(|_| announced(read(frame, of(FILE_BEYOND - 1)))));
        assert!(read(frame, of(FILE_BEYOND)).is_none());
    }

    #[test]
    fn uses_are_counted_beside_the_name() {
        let frames = one();
        let (frame, hot) = (frames.frame(0), frames.hot(0));
        (0..9).for_each(|_| frame.add_use());
        assert_eq!((hot.uses(), frame.page()), (USES_MOST, page(0)));
        hot.set_uses(1);
        assert_eq!((hot.uses(), frame.page()), (1, page(0)));
        frame.name(page(7));
        assert_eq!((hot.uses(), frame.page()), (0, page(7)));
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
