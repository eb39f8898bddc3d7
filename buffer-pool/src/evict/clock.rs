//! Second chance: a hand goes round; a frame used since the hand was there is passed over once.

use super::{Counted, EvictionPolicy};
use aquifer_buffer_pool_proto::PageId;

#[derive(Default)]
pub(crate) struct Clock {
    hand: usize,
}

impl EvictionPolicy for Clock {
    fn admitted(&mut self, _index: usize, _page: PageId) {}

    fn removed(&mut self, _index: usize) {}

    fn take(&mut self, frames: &dyn Counted, possible: &mut dyn FnMut(usize) -> bool) -> Option<usize> {
        for _ in 0..2 * frames.len() {
            let index = self.hand;
            self.hand = (self.hand + 1) % frames.len();
            let used = frames.uses(index) > 0;
            frames.set_uses(index, 0);
            if !used && possible(index) {
                return Some(index);
            }
        }
        None
    }
}
