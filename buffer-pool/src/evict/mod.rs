//! Which frame to take when none is free.
//!
//! A policy knows frames by their number only. It is told when a page comes into a frame and when it goes for another reason than
//! eviction; the uses in between are counted in the frame itself, so that a local hit touches nothing shared.

mod clock;
mod s3_fifo;
#[cfg(test)]
mod tests;

use crate::config::Eviction;
use crate::frame::Frames;
use aquifer_buffer_pool_proto::PageId;
use clock::Clock;
use s3_fifo::S3Fifo;
use std::sync::atomic::{AtomicU8, Ordering};

/// Uses are counted up to this.
const USES_MOST: u8 = 3;

/// How often the page in a frame was used, as far as policies care. Uses at the same moment may count once.
#[derive(Default)]
pub(crate) struct Uses(AtomicU8);

impl Uses {
    /// The page is used.
    #[inline]
    pub fn add(&self) {
        let uses = self.0.load(Ordering::Relaxed);
        if uses < USES_MOST {
            self.0.store(uses + 1, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// Another page comes, or a policy forgets.
    pub fn set(&self, uses: u8) {
        self.0.store(uses, Ordering::Relaxed);
    }
}

/// The counters of all frames.
pub(crate) trait Counted {
    /// Number of frames.
    fn len(&self) -> usize;
    /// Of one frame.
    fn uses(&self, index: usize) -> &Uses;
}

impl Counted for Frames {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn uses(&self, index: usize) -> &Uses {
        &self.hot(index).uses
    }
}

/// Chooses victims.
pub(crate) trait EvictionPolicy: Send {
    /// `page` is in frame `index` now.
    fn admitted(&mut self, index: usize, page: PageId);
    /// The page in frame `index` was given up because another node wanted it.
    fn removed(&mut self, index: usize);
    /// Takes one frame, if any can be taken. `possible` tells whether a frame can be taken, and takes it when it answers true.
    fn take(&mut self, frames: &dyn Counted, possible: &mut dyn FnMut(usize) -> bool) -> Option<usize>;
}

/// The policy of this name for `frames` frames.
pub(crate) fn policy(eviction: Eviction, frames: usize) -> Box<dyn EvictionPolicy> {
    match eviction {
        Eviction::Clock => Box::new(Clock::default()),
        Eviction::S3Fifo => Box::new(S3Fifo::new(frames)),
    }
}
