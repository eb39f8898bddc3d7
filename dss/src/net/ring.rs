//! One direction of bytes between two processes of one machine: a ring in memory that both have mapped.
//!
//! Rules:
//! - an end believes nothing that the other can write: it keeps its own position, checks the other's against it, and copies what it
//!   takes out once, so that what was checked is what is used;
//! - no reference to the bytes exists, only pointers: the other process may write at any time;
//! - who finds nothing to do says so in a flag, looks once more, and waits for a byte on the socket. Who moves on looks at the other's
//!   flag, and sends that byte if it finds it raised.
//!
//! | offset | what | written by |
//! |---|---|---|
//! | 0 | nonce, 16 bytes | who makes it |
//! | 128 | bytes written since the beginning, u64 | writer |
//! | 136 | the reader waits, u32 | both |
//! | 256 | bytes read since the beginning, u64 | reader |
//! | 264 | the writer waits, u32 | both |
//! | 4096 | the ring | writer |

#[cfg(test)]
mod tests;

use super::frame::Refusal;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Bytes of the ring. A longer frame passes through it in parts.
pub(super) const RING: usize = 1 << 20;
/// Where it begins.
const DATA: usize = 4096;
/// Bytes of the whole memory.
pub(super) const BYTES: usize = DATA + RING;
const WRITTEN: usize = 128;
const READER_WAITS: usize = 136;
const READ: usize = 256;
const WRITER_WAITS: usize = 264;

/// Memory of two processes.
pub(super) struct Region(MmapRaw);

impl Region {
    /// Maps a file of [`BYTES`] bytes, which nobody shortens: see [`offer`](super::offer).
    pub fn map(file: &File) -> io::Result<Self> {
        MmapOptions::new().len(BYTES).map_raw(file).map(Self)
    }

    fn position(&self, at: usize) -> &AtomicU64 {
        assert!(
            at.is_multiple_of(8) && at + 8 <= DATA,
            "{at} is no word of the head"
        );
        // SAFETY: aligned, inside the mapping, which lives as long as `self`; this process touches it by atomic operations only, and
        // whatever another writes there is a number.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().add(at).cast()) }
    }

    fn flag(&self, at: usize) -> &AtomicU32 {
        assert!(
            at.is_multiple_of(4) && at + 4 <= DATA,
            "{at} is no word of the head"
        );
        // SAFETY: as in `position`.
        unsafe { AtomicU32::from_ptr(self.0.as_mut_ptr().add(at).cast()) }
    }

    /// What its maker wrote there, by which the other knows that it has mapped the same.
    pub fn nonce(&self) -> [u64; 2] {
        [0, 8].map(|at| self.position(at).load(Ordering::Relaxed))
    }

    /// Writes the nonce.
    pub fn set_nonce(&self, nonce: [u64; 2]) {
        self.position(0).store(nonce[0], Ordering::Relaxed);
        self.position(8).store(nonce[1], Ordering::Relaxed);
    }

    /// Says that this end waits. The look at the other's position that follows comes after it.
    fn raise(&self, flag: usize) {
        self.flag(flag).store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// After this end's position was written: whether the other waits, and has not been told yet. The fences here and in
    /// [`raise`](Self::raise) see to it that the one sees the flag or the other the position.
    fn lower(&self, flag: usize) -> bool {
        fence(Ordering::SeqCst);
        let flag = self.flag(flag);
        flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::Relaxed) != 0
    }

    /// Where `position` lies, and how many bytes of the ring follow it without a break.
    fn place(&self, position: u64) -> (*mut u8, usize) {
        let at = (position % RING as u64) as usize;
        // SAFETY: less than the length of the mapping.
        (unsafe { self.0.as_mut_ptr().add(DATA + at) }, RING - at)
    }
}

/// The end that writes.
pub(super) struct Writer {
    region: Region,
    written: u64,
}

impl Writer {
    /// Of a ring in which nothing was written yet.
    pub const fn new(region: Region) -> Self {
        Self { region, written: 0 }
    }

    fn room(&self) -> Result<usize, Refusal> {
        let read = self.region.position(READ).load(Ordering::Acquire);
        let waiting = self.written.wrapping_sub(read);
        let room = (RING as u64).checked_sub(waiting);
        room.map(|room| room as usize).ok_or(Refusal::Memory)
    }

    /// Writes of `parts` what there is room for. How many bytes that were, and whether the reader is to be told.
    pub fn write(&mut self, parts: &[impl Deref<Target = [u8]>]) -> Result<(usize, bool), Refusal> {
        let mut room = self.room()?;
        let before = self.written;
        for part in parts {
            let part = &part[..part.len().min(room)];
            room -= part.len();
            self.copy_in(part);
        }
        if self.written == before {
            return Ok((0, false));
        }
        let position = self.region.position(WRITTEN);
        position.store(self.written, Ordering::Release);
        Ok(((self.written - before) as usize, self.region.lower(READER_WAITS)))
    }

    /// There is room for it.
    fn copy_in(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (place, unbroken) = self.region.place(self.written);
            let count = bytes.len().min(unbroken);
            // SAFETY: `count` bytes are behind both pointers; the mapping is no object of ours, so they do not overlap.
            unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), count) };
            self.written += count as u64;
            bytes = &bytes[count..];
        }
    }

    /// Says that this end waits for room. False when there is some already.
    pub fn waits(&self) -> Result<bool, Refusal> {
        self.region.raise(WRITER_WAITS);
        Ok(self.room()? == 0)
    }
}

/// The end that reads.
pub(super) struct Reader {
    region: Region,
    read: u64,
}

impl Reader {
    /// Of a ring from which nothing was read yet.
    pub const fn new(region: Region) -> Self {
        Self { region, read: 0 }
    }

    fn waiting(&self) -> Result<usize, Refusal> {
        let written = self.region.position(WRITTEN).load(Ordering::Acquire);
        let waiting = written.wrapping_sub(self.read);
        if waiting > RING as u64 {
            return Err(Refusal::Memory);
        }
        Ok(waiting as usize)
    }

    /// Copies out what is there and fits. How many bytes that were, and whether the writer is to be told that there is room.
    pub fn read(&mut self, into: &mut [u8]) -> Result<(usize, bool), Refusal> {
        let waiting = self.waiting()?;
        let whole = waiting.min(into.len());
        let mut done = 0;
        while done < whole {
            let (place, unbroken) = self.region.place(self.read);
            let count = unbroken.min(whole - done);
            // SAFETY: `count` bytes are behind both pointers, which do not overlap. A peer that breaks the rules writes there at the same
            // time: then other bytes are copied, and the checksum tells.
            unsafe { place.copy_to_nonoverlapping(into[done..].as_mut_ptr(), count) };
            self.read += count as u64;
            done += count;
        }
        if whole == 0 {
            return Ok((0, false));
        }
        self.region.position(READ).store(self.read, Ordering::Release);
        // A writer that waits found the ring full: told when half of it is free, it does not wait for every frame.
        let tell = waiting - whole <= RING / 2 && self.region.lower(WRITER_WAITS);
        Ok((whole, tell))
    }

    /// Says that this end waits for bytes. False when there are some already.
    pub fn waits(&self) -> Result<bool, Refusal> {
        self.region.raise(READER_WAITS);
        Ok(self.waiting()? == 0)
    }
}
