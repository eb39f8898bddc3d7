//! Which frame to take when none is free.

use crate::frame::Frames;
use std::sync::atomic::Ordering;

/// Chooses victims. `possible` tells whether a frame can be taken at all, and takes it when it answers true.
pub(crate) trait EvictionPolicy: Send {
    /// Takes one frame, if any can be taken.
    fn take(&mut self, frames: &Frames, possible: &mut dyn FnMut(usize) -> bool) -> Option<usize>;
}

/// Second chance: a hand goes round; a frame used since the hand was there is passed over once.
#[derive(Default)]
pub(crate) struct Clock {
    hand: usize,
}

impl EvictionPolicy for Clock {
    fn take(&mut self, frames: &Frames, possible: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        for _ in 0..2 * frames.len() {
            let index = self.hand;
            self.hand = (self.hand + 1) % frames.len();
            if !frames.frame(index).referenced.swap(false, Ordering::Relaxed) && possible(index) {
                return Some(index);
            }
        }
        None
    }
}
