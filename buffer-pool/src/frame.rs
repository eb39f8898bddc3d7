//! Frames: one mapping of memory, and for each page of it a word (possession, latch, version) and what is known of
//! the page in it.
//!
//! Rules: bytes of a frame are touched only under its latch, or by the one who took it from the free list and has not
//! bound it yet; possession is lowered, and a page unbound, only under the exclusive latch; a latch is held in
//! synchronous code only, so whoever waits for one may spin.

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
const VERSION: u64 = 1 << 32;

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
    pub dirty_since: Instant,
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
    pub meta: Mutex<Meta>,
}

impl Frame {
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
    pub fn latch_shared(&self, page: PageId) -> bool {
        let mut spins = 0;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & (SHARED | EXCLUSIVE) == 0 {
                return false;
            }
            let free = word & WRITER == 0 && word & READERS < READERS;
            let next = word + READER;
            if free
                && self
                    .word
                    .compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                break;
            }
            pause(&mut spins);
        }
        if !self.holds_page(page) {
            self.unlatch_shared();
            return false;
        }
        true
    }

    pub fn unlatch_shared(&self) {
        self.word.fetch_sub(READER, Ordering::Release);
    }

    /// Latches for writing when `page` is possessed exclusively here and nobody asks for it.
    pub fn latch_to_write(&self, page: PageId) -> bool {
        let mut spins = 0;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & EXCLUSIVE == 0 || word & CLOSING != 0 {
                return false;
            }
            let free = word & (WRITER | READERS) == 0;
            let next = word | WRITER;
            if free
                && self
                    .word
                    .compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                break;
            }
            pause(&mut spins);
        }
        if !self.holds_page(page) {
            self.unlatch_exclusive();
            return false;
        }
        true
    }

    /// Latches exclusively whatever is possessed, if nobody has a latch.
    pub fn try_latch(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word & (WRITER | READERS) == 0
            && self
                .word
                .compare_exchange(word, word | WRITER, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    /// Latches exclusively whatever is possessed.
    pub fn latch(&self) {
        let mut spins = 0;
        while !self.try_latch() {
            pause(&mut spins);
        }
    }

    pub fn unlatch_exclusive(&self) {
        self.word.fetch_add(VERSION - WRITER, Ordering::Release);
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
                Some(word & !(SHARED | EXCLUSIVE | CLOSING) | bits)
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

    pub fn frame(&self, index: usize) -> &Frame {
        &self.frames[index]
    }

    /// The page of frame `index`.
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
