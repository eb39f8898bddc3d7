//! Memory for device I/O: aligned to 4 KiB, owned by whoever may touch it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of I/O memory and the unit of metadata blocks, in bytes.
pub const BLOCK: usize = 4096;

/// Zeroed memory aligned to [`BLOCK`]. A device operation takes it by value and gives it back, so that nobody can
/// touch it while the kernel does.
pub struct IoBuffer {
    memory: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is owned by this value alone, like that of a `Box<[u8]>`.
unsafe impl Send for IoBuffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for IoBuffer {}

impl IoBuffer {
    /// `length` zero bytes. Panics when `length` is 0 or not a multiple of 512.
    pub fn zeroed(length: usize) -> Self {
        assert!(
            length > 0 && length.is_multiple_of(512),
            "I/O length {length} is not a positive multiple of 512"
        );
        let layout = Layout::from_size_align(length, BLOCK).expect("length fits the address space");
        // SAFETY: the layout has a size above zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else {
            handle_alloc_error(layout)
        };
        Self { memory, length }
    }

    /// A copy of `bytes`, padded with zeros to a multiple of [`BLOCK`].
    pub fn copy_padded(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len().max(1).next_multiple_of(BLOCK));
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.length, BLOCK).expect("checked when it was made");
        // SAFETY: allocated in `zeroed` with this layout, and not freed since.
        unsafe { dealloc(self.memory.as_ptr(), layout) }
    }
}

impl Deref for IoBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `length` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.length) }
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.length) }
    }
}

impl std::fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuffer({} bytes)", self.length)
    }
}
