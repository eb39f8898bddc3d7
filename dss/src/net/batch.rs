//! What waits to be written to one peer: headers and heads one after another in one piece of memory, and tails where they are.
//! Memory is kept from batch to batch.

use super::frame::{HEAD_BYTES_MAX, HEADER, TAIL_BYTES_MAX, encode_header};
use crate::seam::{Service, Tail};
use std::io::IoSlice;

/// Parts of one vectored write.
const PARTS_MAX: usize = 64;
/// Memory for heads that is kept when a batch has gone.
const KEPT: usize = 256 << 10;
/// Places for tails that are kept when a batch has gone.
const TAILS_KEPT: usize = 1024;

/// Frames, in their order.
#[derive(Default)]
pub(super) struct Batch {
    heads: Vec<u8>,
    /// Tails, and behind how many bytes of `heads` each comes.
    tails: Vec<(usize, Tail)>,
    tail_bytes: usize,
    frames: u64,
}

/// How far a batch has been written.
#[derive(Default)]
pub(super) struct Written {
    /// The part that is next: an even one is a piece of `heads`, an odd one a tail.
    part: usize,
    /// Bytes of it that are written.
    bytes: usize,
}

impl Batch {
    pub fn push(&mut self, header: &[u8; HEADER], head: &[u8], tail: Option<Tail>) {
        self.heads.extend_from_slice(header);
        self.heads.extend_from_slice(head);
        if let Some(tail) = tail {
            self.tail_bytes += tail.len();
            self.tails.push((self.heads.len(), tail));
        }
        self.frames += 1;
    }

    pub const fn frames(&self) -> u64 {
        self.frames
    }

    pub fn bytes(&self) -> usize {
        self.heads.len() + self.tail_bytes
    }

    /// Empty again. What one large batch took is given back.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.heads.shrink_to(KEPT);
        self.tails.clear();
        self.tails.shrink_to(TAILS_KEPT);
        (self.tail_bytes, self.frames) = (0, 0);
    }

    fn part(&self, number: usize) -> Option<&[u8]> {
        let tail = self.tails.get(number / 2);
        if number % 2 == 1 {
            return tail.map(|(_, tail)| &tail[..]);
        }
        let begin = match (number / 2).checked_sub(1) {
            Some(before) => self.tails.get(before)?.0,
            None => 0,
        };
        Some(&self.heads[begin..tail.map_or(self.heads.len(), |(at, _)| *at)])
    }

    /// What is to be written next; none when everything is written.
    pub fn next_parts<'a>(&'a self, written: &Written, parts: &mut Parts<'a>) {
        parts.count = 0;
        let mut skip = written.bytes;
        for part in (written.part..).map_while(|number| self.part(number)) {
            if parts.count == PARTS_MAX {
                break;
            }
            if part.len() > skip {
                parts.all[parts.count] = IoSlice::new(&part[skip..]);
                parts.count += 1;
            }
            skip = 0;
        }
    }

    /// `bytes` more are written.
    pub fn advance(&self, written: &mut Written, bytes: usize) {
        written.bytes += bytes;
        while let Some(part) = self.part(written.part)
            && written.bytes >= part.len()
        {
            written.bytes -= part.len();
            written.part += 1;
        }
    }
}

/// Parts of one vectored write.
pub(super) struct Parts<'a> {
    all: [IoSlice<'a>; PARTS_MAX],
    count: usize,
}

impl<'a> Parts<'a> {
    pub fn new() -> Self {
        Self {
            all: [IoSlice::new(&[]); PARTS_MAX],
            count: 0,
        }
    }

    pub fn slices(&self) -> &[IoSlice<'a>] {
        &self.all[..self.count]
    }
}

/// The header of a message, of which sender and receiver have agreed how long it may be.
pub(super) fn header_of(service: Service, head: &[u8], tail: Option<&Tail>) -> [u8; HEADER] {
    let bytes = tail.map_or(0, |tail| tail.len());
    assert!(
        head.len() <= HEAD_BYTES_MAX && bytes <= TAIL_BYTES_MAX,
        "a message of {} and {bytes} bytes is too long",
        head.len()
    );
    encode_header(service, head, tail.map(|tail| &tail[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::IoBuffer;
    use std::sync::Arc;

    fn tail(byte: u8) -> Tail {
        let mut buffer = IoBuffer::zeroed(512);
        buffer.fill(byte);
        Arc::new(buffer)
    }

    #[test]
    fn parts_come_in_order_however_much_each_write_takes() {
        let mut batch = Batch::default();
        let mut expected = Vec::new();
        for round in 0..50u8 {
            let head = vec![round; usize::from(round) % 3];
            let tail = (round % 4 > 1).then(|| tail(round));
            let header = header_of(Service::Pages, &head, tail.as_ref());
            expected.extend_from_slice(&header);
            expected.extend_from_slice(&head);
            expected.extend_from_slice(tail.as_deref().map_or(&[][..], |tail| &tail[..]));
            batch.push(&header, &head, tail);
        }
        assert_eq!(batch.bytes(), expected.len());
        for step in [1, 7, 531, 532, 4096, usize::MAX] {
            let (mut written, mut all) = (Written::default(), Vec::new());
            let mut parts = Parts::new();
            loop {
                batch.next_parts(&written, &mut parts);
                let offered: Vec<u8> = parts
                    .slices()
                    .iter()
                    .flat_map(|part| part.iter().copied())
                    .collect();
                if offered.is_empty() {
                    break;
                }
                let taken = step.min(offered.len());
                all.extend_from_slice(&offered[..taken]);
                batch.advance(&mut written, taken);
            }
            assert!(all == expected, "{step} bytes at a time");
        }
        batch.clear();
        assert_eq!((batch.bytes(), batch.frames()), (0, 0));
    }
}
