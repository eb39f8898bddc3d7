//! Memory for what every local hit looks at, in huge pages where the system gives them: with ordinary ones the table, the frames' words
//! and the pages of a large pool each miss the processor's cache of addresses (TLB).

use memmap2::{MmapOptions, MmapRaw};
use std::marker::PhantomData;
use std::ops::Deref;

/// Zeroed memory that asks for huge pages.
pub(crate) fn map(bytes: usize) -> MmapRaw {
    let map = MmapOptions::new()
        .len(bytes)
        .map_anon()
        .expect("memory for the configured frames");
    // Huge pages are a wish; without them the pool is only slower.
    map.advise(memmap2::Advice::HugePage).ok();
    MmapRaw::from(map)
}

/// A fixed number of values that stay where they are.
pub(crate) struct HugeArray<T> {
    memory: MmapRaw,
    count: usize,
    values: PhantomData<T>,
}

impl<T: Default> HugeArray<T> {
    pub fn new(count: usize) -> Self {
        const { assert!(align_of::<T>() <= 4096, "a mapping begins at a page of memory") };
        let memory = map(count * size_of::<T>());
        let first: *mut T = memory.as_mut_ptr().cast();
        for index in 0..count {
            // SAFETY: inside the mapping, which has place for `count` values and is aligned for them (see above).
            unsafe { first.add(index).write(T::default()) };
        }
        Self {
            memory,
            count,
            values: PhantomData,
        }
    }
}

impl<T> Deref for HugeArray<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote `count` values there, which live as long as `self`, and nobody gets them mutably.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.count) }
    }
}

impl<T> Drop for HugeArray<T> {
    fn drop(&mut self) {
        let values = std::ptr::slice_from_raw_parts_mut(self.memory.as_mut_ptr().cast::<T>(), self.count);
        // SAFETY: `new` wrote them, and nobody refers to them any more.
        unsafe { std::ptr::drop_in_place(values) }
    }
}
