//! Memory of pages outside frames: images that leave the node or are retained, copies for readers, and pages that come when no frame
//! can take them. It is used again once nobody has it any more.

use crate::recycle::Recycled;
use aquifer_dss::seam::{IoBuffer, Tail};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

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
    buffers: Recycled<IoBuffer>,
    page_bytes: usize,
}

impl PageBuffers {
    /// Keeps `most` buffers of `page_bytes`. What is in use beyond that is freed afterwards.
    pub fn new(page_bytes: usize, most: usize) -> Self {
        Self {
            buffers: Recycled::new(most),
            page_bytes,
        }
    }

    /// A buffer with any content.
    pub fn take(&self) -> PageBuffer {
        let buffer = self.buffers.take();
        PageBuffer(buffer.unwrap_or_else(|| Arc::new(IoBuffer::zeroed(self.page_bytes))))
    }

    /// From now on it is read only, until its last user drops it.
    pub fn share(&self, buffer: PageBuffer) -> Tail {
        self.buffers.share(buffer.0)
    }
}
