//! Readers that latch nothing: each thread announces which frames it reads, in memory of its own, and whoever wants such a frame for
//! itself looks there.
//!
//! A locked instruction on each read would keep the processor from starting the next one early; an announcement is a plain
//! store. What makes that sound is an asymmetric fence: a reader announces and then looks whether the frame is biased, with only the compiler
//! kept from swapping the two; who takes the frame ends that, has every running thread of the process execute a fence
//! (`membarrier`), and then looks at the announcements. So either the reader sees that it has ended, or it is seen.

use rustix::thread::{MembarrierCommand, membarrier};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

/// Threads that can announce; others latch.
pub(crate) const THREADS: usize = 256;
const _: () = assert!(THREADS == 1 << u8::BITS, "the number of a thread is one byte");
/// Frames that one thread can announce at a time.
const NESTED: usize = 7;
const NOTHING: usize = 0;

/// What one thread announces.
#[repr(align(64))]
pub(crate) struct Reader {
    frames: [AtomicUsize; NESTED],
    taken: AtomicBool,
    /// Different for each thread that lives.
    pub number: u8,
}

static ALL: [Reader; THREADS] = {
    let mut all = [const {
        Reader {
            frames: [const { AtomicUsize::new(NOTHING) }; NESTED],
            taken: AtomicBool::new(false),
            number: 0,
        }
    }; THREADS];
    let mut number = 0;
    while number < THREADS {
        all[number].number = number as u8;
        number += 1;
    }
    all
};

/// How many of them were ever taken.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Gives this thread's place back when it ends.
struct Place(Option<&'static Reader>);

impl Place {
    fn take() -> Self {
        let free = |all: &&Reader| !all.taken.swap(true, Ordering::AcqRel);
        let found = ALL.iter().find(free);
        if let Some(reader) = found {
            USED.fetch_max(usize::from(reader.number) + 1, Ordering::SeqCst);
        }
        Self(found)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        READER.set(None);
        if let Some(all) = self.0 {
            all.taken.store(false, Ordering::Release);
        }
    }
}

thread_local! {
    /// Apart from `PLACE`, because what has nothing to drop is reached without asking whether it is there.
    static READER: Cell<Option<&'static Reader>> = const { Cell::new(None) };
    static PLACE: Place = Place::take();
}

/// This thread's place to announce in, if there is one left.
#[inline]
pub(crate) fn reader() -> Option<&'static Reader> {
    READER.get().or_else(first_reader)
}

#[cold]
fn first_reader() -> Option<&'static Reader> {
    let reader = PLACE.try_with(|place| place.0).ok()?;
    READER.set(reader);
    reader
}

impl Reader {
    /// Announces what lies at `address`, if this thread announces nothing else. The caller then looks whether it may read it.
    #[inline]
    pub fn announce_first(&'static self, address: usize) -> Option<Announced> {
        Self::announce_in(&self.frames[0], address)
    }

    /// The same beside others. `None` when this thread announces too many already.
    pub fn announce(&'static self, address: usize) -> Option<Announced> {
        self.frames
            .iter()
            .find_map(|place| Self::announce_in(place, address))
    }

    #[inline]
    fn announce_in(place: &'static AtomicUsize, address: usize) -> Option<Announced> {
        if place.load(Ordering::Relaxed) != NOTHING {
            return None;
        }
        place.store(address, Ordering::Release);
        compiler_fence(Ordering::SeqCst); // the other half is in `fence`
        Some(Announced(place))
    }
}

/// A frame that is announced as being read, until this is dropped.
pub(crate) struct Announced(&'static AtomicUsize);

impl Drop for Announced {
    #[inline]
    fn drop(&mut self) {
        self.0.store(NOTHING, Ordering::Release);
    }
}

/// Whether the kernel has the fence.
pub(crate) fn available() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok())
}

/// After this, whoever announced before has been seen by [`is_announced`], or sees what the caller wrote before.
pub(crate) fn fence() {
    membarrier(MembarrierCommand::PrivateExpedited)
        .expect("it was registered when the first frame was biased");
}

/// Whether a thread has announced what lies at `address`.
pub(crate) fn is_announced(address: usize) -> bool {
    let used = &ALL[..USED.load(Ordering::SeqCst)];
    used.iter()
        .flat_map(|all| &all.frames)
        .any(|frame| frame.load(Ordering::Acquire) == address)
}
