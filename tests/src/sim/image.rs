//! What is on a simulated disk, and what is written to it.
//!
//! A seed writes the same bytes to two images, what is read and what is durable, and discards far more than it writes. So bytes are
//! copied once and shared by both images, and zeros have no bytes.

use super::trace::{fingerprint, fingerprint_of_zeros};
use aquifer_dss::seam::IoBuffer;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Unit of the sparse images.
const CHUNK: usize = 4096;

/// What is submitted to be written.
pub(super) enum Submitted {
    Bytes(IoBuffer),
    /// So many, of a discard.
    Zeros(usize),
}

impl Submitted {
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(buffer) => buffer.len(),
            Self::Zeros(length) => *length,
        }
    }

    /// A copy, for as long as the images need it.
    pub fn content(&self) -> Content {
        match self {
            Self::Bytes(buffer) => Content::Bytes(Shared {
                bytes: Arc::new(buffer.to_vec()),
                start: 0,
                length: buffer.len(),
            }),
            Self::Zeros(length) => Content::Zeros(*length),
        }
    }

    /// A number that stands for it.
    pub fn fingerprint(&self) -> u64 {
        match self {
            Self::Bytes(buffer) => fingerprint(buffer),
            Self::Zeros(length) => fingerprint_of_zeros(*length),
        }
    }
}

/// A part of bytes that others have as well.
#[derive(Clone)]
pub(super) struct Shared {
    bytes: Arc<Vec<u8>>,
    start: usize,
    length: usize,
}

impl Shared {
    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    fn part(&self, start: usize, length: usize) -> Self {
        assert!(start + length <= self.length, "a part is inside");
        Self {
            bytes: self.bytes.clone(),
            start: self.start + start,
            length,
        }
    }

    /// For itself alone.
    fn get_mut(&mut self) -> &mut [u8] {
        if Arc::get_mut(&mut self.bytes).is_none() {
            self.bytes = Arc::new(self.get().to_vec());
            self.start = 0;
        }
        let bytes = Arc::get_mut(&mut self.bytes).expect("it was copied if others had it");
        &mut bytes[self.start..self.start + self.length]
    }
}

/// What is written.
pub(super) enum Content {
    Bytes(Shared),
    /// So many.
    Zeros(usize),
}

impl Content {
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(shared) => shared.length,
            Self::Zeros(length) => *length,
        }
    }

    /// `length` bytes from `start` on, or as many as there are.
    pub fn part(&self, start: usize, length: usize) -> Self {
        let length = length.min(self.len() - start);
        match self {
            Self::Bytes(shared) => Self::Bytes(shared.part(start, length)),
            Self::Zeros(_) => Self::Zeros(length),
        }
    }
}

/// A sparse image: what is in no chunk is zero.
#[derive(Clone, Default)]
pub(super) struct Image {
    chunks: BTreeMap<u64, Shared>,
}

impl Image {
    pub fn write(&mut self, offset: u64, content: &Content) {
        for (at, part) in chunks_of(offset, content.len()) {
            let whole = part.len() == CHUNK;
            match content {
                Content::Bytes(shared) if whole => {
                    self.chunks
                        .insert(at / CHUNK as u64, shared.part(part.start, CHUNK));
                }
                Content::Bytes(shared) => {
                    let bytes = &shared.get()[part];
                    self.change(at, bytes.len(), |place| place.copy_from_slice(bytes));
                }
                Content::Zeros(_) if whole => {
                    self.chunks.remove(&(at / CHUNK as u64));
                }
                Content::Zeros(_) => {
                    if self.chunks.contains_key(&(at / CHUNK as u64)) {
                        self.change(at, part.len(), |place| place.fill(0));
                    }
                }
            }
        }
    }

    /// Changes bytes of one chunk.
    pub fn change(&mut self, offset: u64, length: usize, change: impl FnOnce(&mut [u8])) {
        let start = (offset % CHUNK as u64) as usize;
        let zeros = || Shared {
            bytes: Arc::new(vec![0; CHUNK]),
            start: 0,
            length: CHUNK,
        };
        let chunk = self.chunks.entry(offset / CHUNK as u64).or_insert_with(zeros);
        change(&mut chunk.get_mut()[start..start + length]);
    }

    pub fn copy_out(&self, offset: u64, buffer: &mut [u8]) {
        for (at, part) in chunks_of(offset, buffer.len()) {
            let start = (at % CHUNK as u64) as usize;
            match self.chunks.get(&(at / CHUNK as u64)) {
                Some(chunk) => buffer[part.clone()].copy_from_slice(&chunk.get()[start..start + part.len()]),
                None => buffer[part].fill(0),
            }
        }
    }
}

/// The parts of `length` bytes at `offset` that lie in one chunk each, with the offset of each.
fn chunks_of(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = done;
        done = length.min(start + CHUNK - (at % CHUNK as u64) as usize);
        (start < length).then_some((at, start..done))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::random::Random;

    /// Two images that share what is written, against arrays of bytes.
    #[test]
    fn images_are_as_arrays_of_bytes() {
        const SIZE: usize = 10 * CHUNK;
        let mut random = Random::fork(1, "image");
        let mut images = [Image::default(), Image::default()];
        let mut arrays = [vec![0u8; SIZE], vec![0u8; SIZE]];
        for round in 0..5000u64 {
            let offset = random.below(SIZE as u64 / 512) * 512;
            let length = (random.between(1, 24) * 512).min(SIZE as u64 - offset) as usize;
            let submitted = if random.below(3) == 0 {
                Submitted::Zeros(length)
            } else {
                let mut buffer = IoBuffer::zeroed(length);
                buffer.fill(round as u8);
                Submitted::Bytes(buffer)
            };
            let content = submitted.content();
            for _ in 0..random.between(1, 2) {
                let which = random.below(2) as usize;
                let (start, end) = (offset as usize, offset as usize + length);
                images[which].write(offset, &content);
                let value = if matches!(content, Content::Zeros(_)) {
                    0
                } else {
                    round as u8
                };
                arrays[which][start..end].fill(value);
            }
            if round % 50 == 0 {
                images[0] = images[1].clone();
                arrays[0] = arrays[1].clone();
            }
            let which = random.below(2) as usize;
            images[which].change(offset, 1, |byte| byte[0] ^= 0x10);
            arrays[which][offset as usize] ^= 0x10;
            for (image, array) in images.iter().zip(&arrays) {
                let mut read = vec![1; SIZE];
                image.copy_out(0, &mut read);
                assert!(read == *array, "round {round}");
            }
        }
    }

    #[test]
    fn zeros_have_the_fingerprint_of_zeros() {
        for length in [0, 512, 4096, 12345, 4096] {
            assert_eq!(fingerprint_of_zeros(length), fingerprint(&vec![0; length]));
        }
    }
}
