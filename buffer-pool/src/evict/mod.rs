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

/// Uses are counted up to this.
pub(crate) const USES_MOST: u8 = 3;

/// The counters of all frames.
pub(crate) trait Counted {
    /// Number of frames.
    fn len(&self) -> usize;
    /// How often the page in a frame was used, as far as policies care.
    fn uses(&self, index: usize) -> u8;
    /// Another page comes, or the policy forgets.
    fn set_uses(&self, index: usize, uses: u8);
}

impl Counted for Frames {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn uses(&self, index: usize) -> u8 {
        self.hot(index).uses()
    }

    fn set_uses(&self, index: usize, uses: u8) {
        self.hot(index).set_uses(uses);
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
