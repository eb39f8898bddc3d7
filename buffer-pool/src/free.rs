//! Frames without a page, and those of them that a page is arriving in.
//!
//! Rule BUF-14: whoever took a frame from here alone touches it until it is bound or given back. At most one frame in eight waits for a
//! page on its way from a peer, however slowly that comes, and it comes back with the connection.

use crate::frame::Frames;
use aquifer_dss_proto::defect::{Defect, planted};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// Of so many frames a page may be arriving in one.
const ARRIVING_PART: usize = 8;

struct List {
    free: Vec<usize>,
    arriving: usize,
}

/// The free frames of a pool.
pub(crate) struct FreeFrames {
    frames: Arc<Frames>,
    list: Mutex<List>,
    /// Told when there is one more.
    changed: Arc<Notify>,
}

impl FreeFrames {
    /// All of `frames`.
    pub fn new(frames: Arc<Frames>, changed: Arc<Notify>) -> Arc<Self> {
        let free = (0..frames.len()).rev().collect();
        Arc::new(Self {
            frames,
            list: Mutex::new(List { free, arriving: 0 }),
            changed,
        })
    }

    pub fn take(&self) -> Option<usize> {
        self.list.lock().free.pop()
    }

    pub fn give_back(&self, index: usize) {
        self.list.lock().free.push(index);
        self.changed.notify_waiters();
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.list.lock().free.len()
    }

    /// A frame for a page that begins to arrive; one that `make_room` frees when there is none. `None`: it must arrive elsewhere.
    pub fn take_for_arrival(
        self: &Arc<Self>,
        make_room: impl FnOnce() -> Option<usize>,
    ) -> Option<ArrivingFrame> {
        let mut list = self.list.lock();
        if list.arriving >= self.frames.len().div_ceil(ARRIVING_PART) {
            return None;
        }
        list.arriving += 1;
        let mut arriving = ArrivingFrame {
            free: self.clone(),
            index: list.free.pop(),
        };
        drop(list);
        arriving.index = arriving.index.or_else(make_room);
        arriving.index.is_some().then_some(arriving)
    }
}

/// A frame that nobody else has, for a page on its way. Free again when it is dropped.
pub(crate) struct ArrivingFrame {
    free: Arc<FreeFrames>,
    index: Option<usize>,
}

impl ArrivingFrame {
    /// Its memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        let index = self.index.expect("it is here until it is bound");
        // SAFETY: the frame was taken from the free list, or from a page that was unbound under its exclusive latch, and `self` is the
        // only value with its index until that is given back or bound: nobody reads or writes a frame of which he has no index by the
        // page table (it is unbound) or by such a value. `&mut self` makes this the only access, and `free` keeps the mapping.
        unsafe { &mut *self.free.frames.bytes(index) }
    }

    /// Its number: from now on the caller alone has the frame, to bind it or to give it back.
    pub fn into_index(mut self) -> usize {
        self.index.take().expect("it is here until it is bound")
    }
}

impl Drop for ArrivingFrame {
    fn drop(&mut self) {
        let mut list = self.free.list.lock();
        list.arriving -= 1;
        if let Some(index) = self.index.take()
            && !planted(Defect::KeepArrivingFrame)
        {
            list.free.push(index);
            drop(list);
            self.free.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_buffer_pool_proto::PageSize;

    #[test]
    fn few_frames_wait_for_pages_and_come_back() {
        let free = FreeFrames::new(Arc::new(Frames::new(9, PageSize::default())), Arc::default());
        let nothing = || None;
        let mut first = free.take_for_arrival(nothing).unwrap();
        first.bytes().fill(7);
        let second = free.take_for_arrival(nothing).unwrap();
        assert!(
            free.take_for_arrival(nothing).is_none(),
            "one in eight, rounded up"
        );
        drop(first);
        let bound = free.take_for_arrival(nothing).unwrap().into_index();
        let taken: Vec<usize> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!(taken.len(), 7, "of nine, one is bound and one is waited for");
        assert!(!taken.contains(&bound));
        assert!(free.take_for_arrival(nothing).is_none());
        let evicted = free.take_for_arrival(|| Some(taken[0])).unwrap();
        drop((evicted, second));
        assert_eq!(std::iter::from_fn(|| free.take()).count(), 2);
    }
}
