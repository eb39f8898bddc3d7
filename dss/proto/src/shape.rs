//! The shape of a volume group: what its label says once and every node goes by.

use core::fmt;

/// Bytes of a page: a power of two from 4 to 32 KiB. Offsets within a page fit 16 bits, its end included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageSize {
    shift: u8,
}

impl PageSize {
    /// All there are, rising.
    pub const ALL: [Self; 4] = [
        Self { shift: 12 },
        Self { shift: 13 },
        Self { shift: 14 },
        Self { shift: 15 },
    ];
    /// The usual one: 8 KiB.
    pub const USUAL: Self = Self::ALL[1];
    /// The smallest.
    pub const LEAST: Self = Self::ALL[0];
    /// The largest.
    pub const MOST: Self = Self::ALL[3];

    /// The page size of so many bytes, if there is one.
    pub const fn new(bytes: usize) -> Option<Self> {
        let allowed = bytes.is_power_of_two() && bytes >= Self::LEAST.bytes() && bytes <= Self::MOST.bytes();
        if allowed {
            Some(Self {
                shift: bytes.trailing_zeros() as u8,
            })
        } else {
            None
        }
    }

    /// Bytes of a page.
    #[inline]
    pub const fn bytes(self) -> usize {
        1 << self.shift
    }

    /// How far the number of a page is shifted to be its offset.
    #[inline]
    pub const fn shift(self) -> u32 {
        self.shift as u32
    }

    /// Byte offset of page `number` of a file.
    pub const fn offset(self, number: u32) -> u64 {
        (number as u64) << self.shift
    }

    /// Whole pages in so many bytes.
    pub const fn pages(self, bytes: u64) -> u64 {
        bytes >> self.shift
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self::USUAL
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}K", self.bytes() >> 10)
    }
}

/// Slots of the directory: a power of two up to 65,536. Pages hash to slots, a view maps slots to homes. Few are for tests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HomeSlots {
    shift: u8,
}

impl HomeSlots {
    /// The usual number: 4,096.
    pub const USUAL: Self = Self { shift: 12 };
    /// The largest: slots are numbered by 16 bits.
    pub const MOST: Self = Self { shift: 16 };

    /// So many slots, if there may be so many.
    pub const fn new(count: usize) -> Option<Self> {
        if count.is_power_of_two() && count <= Self::MOST.count() {
            Some(Self {
                shift: count.trailing_zeros() as u8,
            })
        } else {
            None
        }
    }

    /// How many.
    pub const fn count(self) -> usize {
        1 << self.shift
    }
}

impl Default for HomeSlots {
    fn default() -> Self {
        Self::USUAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_powers_of_two_from_4_to_32_kib() {
        let all: alloc::vec::Vec<_> = (0..=1 << 17).filter_map(PageSize::new).collect();
        assert_eq!(all, PageSize::ALL);
        for size in all {
            assert_eq!(PageSize::new(size.bytes()), Some(size));
            assert!(
                u16::try_from(size.bytes()).is_ok(),
                "the end of a page is an offset"
            );
            assert_eq!(size.offset(u32::MAX), u64::from(u32::MAX) * size.bytes() as u64);
            assert_eq!(size.pages(size.offset(7) + 1), 7);
        }
        assert_eq!(PageSize::default().bytes(), 8192);
    }

    #[test]
    fn slots_are_a_power_of_two_that_16_bits_number() {
        let all: alloc::vec::Vec<_> = (0..=1 << 18).filter_map(HomeSlots::new).collect();
        assert_eq!(all.len(), 17);
        for (power, slots) in all.into_iter().enumerate() {
            assert_eq!(slots.count(), 1 << power);
            assert!(u16::try_from(slots.count() - 1).is_ok());
        }
    }
}
