//! Space maps: which node allocates from which chunk of 64 pages, and which pages are used.
//!
//! Map `m` of a tree is its page `m * pages_per_map` and describes the pages from there on; its own bit is set when it is
//! formatted, and in map 0 also that of the root (page 1). After the common header: 16 bytes reserved, then per
//! chunk: owner u8 (0 nobody), reserved u8, used u64 (bit i: page i of the chunk).

use super::PageError;
use super::header::{HEADER_BYTES, PageKind, expect_kind, format_header, read_u64, whole, write_u64};
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::{PageId, PageSize};

/// Pages of a chunk.
pub const CHUNK_PAGES: u32 = 64;
/// Chunks of a space map of 4 KiB; a larger page has as many for each 4 KiB.
const CHUNKS_PER_4K: usize = 400;

/// Pages from one map to the next: 100 MiB with pages of 4 KiB, 400 with 8, 1.6 GiB with 16, 6.25 with 32.
pub const fn pages_per_map(page_size: PageSize) -> u32 {
    CHUNK_PAGES * chunks_in(page_size.bytes())
}

const fn chunks_in(page_bytes: usize) -> u32 {
    (page_bytes / 4096 * CHUNKS_PER_4K) as u32
}

const FIRST: usize = HEADER_BYTES + 16;
const ENTRY: usize = 10;

/// One chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkView {
    /// The node that allocates from it; 0 is nobody.
    pub owner: u8,
    /// Bit i: page i is used.
    pub used: u64,
}

/// A space map, in place.
#[derive(Clone, Copy)]
pub struct SpaceMapView<'a>(&'a [u8]);

impl<'a> SpaceMapView<'a> {
    /// Reads a space map.
    pub fn new(page: &'a [u8]) -> Result<Self, PageError> {
        expect_kind(page, PageKind::SpaceMap)?;
        Ok(Self(page))
    }

    /// Chunks of the map.
    pub const fn chunks(&self) -> u32 {
        chunks_in(self.0.len())
    }

    /// Chunk `chunk`, below [`chunks`](Self::chunks).
    pub fn chunk(&self, chunk: u32) -> Result<ChunkView, PageError> {
        if chunk >= self.chunks() {
            return Err(PageError::Mismatch("no such chunk"));
        }
        let at = FIRST + ENTRY * chunk as usize;
        Ok(ChunkView {
            owner: self.0[at],
            used: read_u64(self.0, at + 2)?,
        })
    }

    /// Up to `wanted` free pages for `node` (1 to 64) among the first `pages` pages of this map, as (chunk, page of the chunk).
    /// Its own chunks come first, then those that nobody owns.
    pub fn free_pages(&self, node: u8, pages: u32, wanted: usize) -> Result<Vec<(u32, u32)>, PageError> {
        let mut places = Vec::new();
        for owner in [node, 0] {
            for chunk in 0..self.chunks().min(pages.div_ceil(CHUNK_PAGES)) {
                let view = self.chunk(chunk)?;
                if view.owner != owner || view.used == u64::MAX {
                    continue;
                }
                for page in (0..CHUNK_PAGES).filter(|page| view.used & (1 << page) == 0) {
                    if places.len() == wanted || chunk * CHUNK_PAGES + page >= pages {
                        break;
                    }
                    places.push((chunk, page));
                }
                if places.len() == wanted {
                    return Ok(places);
                }
            }
        }
        Ok(places)
    }
}

pub(super) fn format(page: &mut [u8], id: PageId) -> Result<(), PageError> {
    whole(page)?;
    format_header(page, id, PageKind::SpaceMap);
    // Chunk 0 begins with the map itself; in the first map the root follows.
    write_u64(page, FIRST + 2, if id.number == 0 { 0b11 } else { 0b1 });
    Ok(())
}

pub(super) fn set(page: &mut [u8], chunk: u16, owner: u8, bit: u8) -> Result<(), PageError> {
    let view = SpaceMapView::new(page)?.chunk(u32::from(chunk))?;
    if u32::from(bit) >= CHUNK_PAGES || owner == 0 {
        return Err(PageError::Mismatch("no such page or node"));
    }
    if (view.owner != 0 && view.owner != owner) || view.used & (1 << bit) != 0 {
        return Err(PageError::Mismatch("the page or its chunk is taken"));
    }
    let at = FIRST + ENTRY * usize::from(chunk);
    page[at] = owner;
    write_u64(page, at + 2, view.used | 1 << bit);
    Ok(())
}
