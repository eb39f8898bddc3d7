//! The incoming side of a connection: heads by way of a small buffer, tails straight to where the receiver wants them.

use super::frame::{HEADER, Header, Refusal, decode_header, head_matches};
use crate::seam::Receiver;
use std::ops::Range;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes taken from the socket before it is known what they are: several small messages, and of a page the lesser part, which is
/// copied to its place. The rest of a page is read there.
const AHEAD: usize = 2 << 10;
/// Memory that is kept when a long message has gone.
const KEPT: usize = 64 << 10;

/// A connection, and what came of it and was not used yet.
pub(super) struct Incoming<S> {
    stream: S,
    bytes: Vec<u8>,
    unused: Range<usize>,
}

/// A whole frame, checked. Its head is the first that was not used yet.
pub(super) struct Frame {
    header: Header,
    /// Bytes of it that came by way of the buffer.
    buffered: usize,
    /// The receiver took its tail, if it has one.
    wanted: bool,
}

impl Frame {
    /// Its length with the header.
    pub const fn bytes(&self) -> usize {
        HEADER + self.header.head + self.header.tail
    }
}

impl<S: AsyncRead + Unpin> Incoming<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            bytes: vec![0; AHEAD],
            unused: 0..0,
        }
    }

    /// Until a frame begins; false when the connection is closed instead.
    pub async fn begins(&mut self) -> bool {
        self.holds(1).await
    }

    /// The frame that has begun, with its tail where the receiver wants it. `None` when the connection is closed in the middle.
    pub async fn read_frame(&mut self, receiver: &mut dyn Receiver) -> Result<Option<Frame>, Refusal> {
        if !self.holds(HEADER).await {
            return Ok(None);
        }
        let header = decode_header(self.bytes[self.unused.clone()].first_chunk().expect("it is here"))?;
        if !self.holds(HEADER + header.head).await {
            return Ok(None);
        }
        let (first, rest) = self.bytes[self.unused.clone()].split_at(HEADER);
        if !head_matches(first, &rest[..header.head]) {
            return Err(Refusal::Garbage);
        }
        if header.tail > 0 {
            return self.read_tail(header, receiver).await;
        }
        Ok(Some(Frame {
            header,
            buffered: HEADER + header.head,
            wanted: true,
        }))
    }

    async fn read_tail(
        &mut self,
        header: Header,
        receiver: &mut dyn Receiver,
    ) -> Result<Option<Frame>, Refusal> {
        let (head, behind) = self.bytes[self.unused.clone()][HEADER..].split_at(header.head);
        let Some(memory) = receiver.tail(header.service, head, header.tail) else {
            return self.skip_tail(header).await;
        };
        assert_eq!(memory.len(), header.tail, "a tail goes where it fits");
        let ahead = behind.len().min(memory.len());
        let (here, to_come) = memory.split_at_mut(ahead);
        here.copy_from_slice(&behind[..ahead]);
        if self.stream.read_exact(to_come).await.is_err() {
            return Ok(None);
        }
        if !header.tail_matches(memory) {
            return Err(Refusal::Garbage);
        }
        Ok(Some(Frame {
            header,
            buffered: HEADER + header.head + ahead,
            wanted: true,
        }))
    }

    async fn skip_tail(&mut self, header: Header) -> Result<Option<Frame>, Refusal> {
        let buffered = HEADER + header.head + header.tail;
        let whole = self.holds(buffered).await;
        Ok(whole.then_some(Frame {
            header,
            buffered,
            wanted: false,
        }))
    }

    /// Tells the receiver of a frame that was read just now, and goes on to the next.
    pub fn deliver(&mut self, frame: &Frame, receiver: &mut dyn Receiver) {
        if frame.wanted {
            let head = &self.bytes[self.unused.start + HEADER..][..frame.header.head];
            receiver.receive(frame.header.service, head);
        }
        self.unused.start += frame.buffered;
    }

    /// Until so many bytes are here in one piece; false when the connection is closed before.
    async fn holds(&mut self, length: usize) -> bool {
        while self.unused.len() < length {
            self.make_room(length);
            match self.stream.read(&mut self.bytes[self.unused.end..]).await {
                Ok(more) if more > 0 => self.unused.end += more,
                _ => return false,
            }
        }
        true
    }

    /// The buffer is as long as usual, or as `length` needs it, and begins with what is not used yet.
    fn make_room(&mut self, length: usize) {
        if self.unused.start > 0 {
            self.bytes.copy_within(self.unused.clone(), 0);
            self.unused = 0..self.unused.len();
        }
        let least = length.max(AHEAD);
        if self.bytes.len() != least {
            self.bytes.resize(least, 0);
            self.bytes.shrink_to(KEPT);
        }
    }
}
