//! How long keys, values and rows may be in pages of a size.

use aquifer_buffer_pool_proto::PageSize;

/// The longest entries of a tree. They are the same for pages of 8 KiB and larger ones, so that data moves between groups of those.
///
/// Between two of the longest fences a page has room for a row of the longest bytes and an eighth of it more, and for six children of
/// the longest keys, so that every page can be split (BT-15). The longest row has two versions of the longest key and value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Bytes of a row with all its versions.
    pub row: usize,
}

impl Limits {
    /// Those of pages of 4 KiB.
    const SMALL: Self = Self {
        key: 480,
        value: 980,
        row: 2500,
    };
    /// Those of larger pages.
    const USUAL: Self = Self {
        key: 1000,
        value: 2024,
        row: 5120,
    };

    /// The limits in pages of this size.
    pub const fn of(page_size: PageSize) -> Self {
        if page_size.bytes() < 8192 {
            Self::SMALL
        } else {
            Self::USUAL
        }
    }

    /// The limits in a page of so many bytes; those of the smallest when there is no such page.
    pub(super) fn in_page(page: &[u8]) -> Self {
        PageSize::new(page.len()).map_or(Self::SMALL, Self::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::slotted::{INNER_KEY, LEAF_KEY};
    use crate::page::{VERSION_OVERHEAD, capacity};

    #[test]
    fn every_page_can_be_split() {
        for page_size in PageSize::ALL {
            let Limits { key, value, row } = Limits::of(page_size);
            let free = capacity(page_size.bytes()) - 2 * key;
            assert!(row + 2 + row / 9 <= free, "{page_size}: a row and its slot");
            assert!(6 * (INNER_KEY + key + 2) <= free, "{page_size}: children");
            let two_versions = LEAF_KEY + key + 8 + 2 * (VERSION_OVERHEAD + value);
            assert!(two_versions <= row, "{page_size}: {two_versions}");
        }
    }
}
