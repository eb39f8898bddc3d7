//! Memory of pages outside frames: images that leave the node or are retained, copies for readers, and pages that come when no frame
//! can take them. It is used again once nobody has it any more.

use aquifer_dss::seam::{IoBuffer, Tail};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Buffers looked at before another one is made: those that were given out first are free first.
const LOOKS: usize = 8;

/// A page as the ownership core knows it.
#[derive(Clone)]
pub(crate) enum Image {
    /// In memory that is shared.
    Buffer(Tail),
    /// In the frame that it arrived in: [`Inner::arrived`](crate::pool::Inner).
    Arrived,
}

impl Image {
    /// To be sent. What arrived is installed or dropped at once, so it is never this.
    pub fn into_tail(self) -> Tail {
        match self {
            Self::Buffer(tail) => tail,
            Self::Arrived => unreachable!("an image that arrives is installed before another input"),
        }
    }
}

/// Memory of one page that nobody shares yet.
pub(crate) struct PageBuffer(Tail);

impl Deref for PageBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        Arc::get_mut(&mut self.0).expect("nobody shares it yet")
    }
}

/// The buffers of a pool.
pub(crate) struct PageBuffers {
    /// Those that are shared, and those that were, in the order in which they were given out.
    shared: Mutex<VecDeque<Tail>>,
    page_bytes: usize,
    most: usize,
}

impl PageBuffers {
    /// Keeps `most` buffers of `page_bytes`. What is in use beyond that is freed afterwards.
    pub fn new(page_bytes: usize, most: usize) -> Self {
        Self {
            shared: Mutex::new(VecDeque::with_capacity(most)),
            page_bytes,
            most,
        }
    }

    /// A buffer with any content.
    pub fn take(&self) -> PageBuffer {
        let mut shared = self.shared.lock();
        for _ in 0..LOOKS.min(shared.len()) {
            let mut oldest = shared.pop_front().expect("there are some");
            if Arc::get_mut(&mut oldest).is_some() {
                return PageBuffer(oldest);
            }
            shared.push_back(oldest);
        }
        drop(shared);
        PageBuffer(Arc::new(IoBuffer::zeroed(self.page_bytes)))
    }

    /// From now on it is read only, until its last user drops it.
    pub fn share(&self, buffer: PageBuffer) -> Tail {
        let mut shared = self.shared.lock();
        if shared.len() < self.most {
            shared.push_back(buffer.0.clone());
        }
        buffer.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_its_last_user_is_gone() {
        let buffers = PageBuffers::new(512, 2);
        let filled = |byte| {
            let mut buffer = buffers.take();
            buffer.fill(byte);
            buffers.share(buffer)
        };
        let (first, second, third) = (filled(1), filled(2), filled(3));
        let address = |tail: &Tail| tail.as_ptr().addr();
        let (freed, kept) = (address(&second), first.clone());
        drop((first, second));
        let fourth = filled(4);
        assert_eq!(address(&fourth), freed);
        assert_eq!((kept[0], third[0], fourth[0]), (1, 3, 4));
        drop((kept, third, fourth));
        assert_eq!(buffers.shared.lock().len(), 2, "the third was one too many");
    }
}
