//! Fresh pages: each node takes them from chunks of its own.

use super::{Tree, corrupt};
use crate::Blocked;
use crate::mtr::{HeldPage, Mtr, Pages, ReadPage};
use aquifer_buffer_pool_proto::PageId;
use aquifer_engine_proto::TreeId;
use aquifer_engine_proto::page::{
    CHUNK_PAGES, PageContent, PageError, PageOperation, SpaceMapView, kind_of, pages_per_map,
};

/// What is known of the size of files.
pub trait FileSpace {
    /// Pages allocated to the tree's file; grows after a `Blocked::Space`.
    fn pages(&self, tree: TreeId) -> u32;
}

/// Fresh pages, held, and the changes that make them used.
pub(super) struct Fresh {
    map: HeldPage,
    marks: Vec<PageOperation>,
    pub(super) pages: Vec<HeldPage>,
}

/// Places (chunk, page of the chunk) of `wanted` free pages of a map that has `pages` pages; `None` when it has not as many.
fn free_places(
    bytes: &[u8],
    node: u8,
    pages: u32,
    wanted: usize,
) -> Result<Option<Vec<(u32, u32)>>, PageError> {
    let map = SpaceMapView::new(bytes)?;
    let places = map.free_pages(node, pages, wanted)?;
    Ok((places.len() == wanted).then_some(places))
}

impl<'a, P: Pages> Tree<'a, P> {
    /// Pages of the file that map `index` describes.
    fn pages_of_map(&self, index: u32) -> u32 {
        let per_map = self.pages_per_map();
        self.space
            .pages(self.id)
            .saturating_sub(index * per_map)
            .min(per_map)
    }

    fn pages_per_map(&self) -> u32 {
        pages_per_map(self.pages.page_size())
    }

    /// Holds `wanted` free pages and the map that names them (BT-13).
    pub(super) fn hold_fresh(&self, mtr: &mut Mtr<'a, P>, wanted: usize) -> Result<Fresh, Blocked> {
        let per_map = self.pages_per_map();
        let maps = self.space.pages(self.id).div_ceil(per_map);
        for index in 0..maps {
            let id = self.id.page(index * per_map);
            let pages = self.pages_of_map(index);
            let bad = |error| corrupt(id, error);
            // Only the last map usually has room: the others are looked at without taking them from other nodes.
            if index + 1 < maps {
                let guard = self.pages.read(id)?;
                let full = kind_of(guard.bytes()).map_err(bad)?.is_some()
                    && free_places(guard.bytes(), self.me.get(), pages, wanted)
                        .map_err(bad)?
                        .is_none();
                if full {
                    continue;
                }
            }
            let map = mtr.hold(id)?;
            let mut marks = Vec::new();
            let places = if kind_of(mtr.bytes(map)).map_err(bad)?.is_none() {
                // The file has grown past the maps there are: this one's first use.
                marks.push(PageOperation::Format(PageContent::SpaceMap));
                let fit = pages as usize > wanted;
                fit.then(|| {
                    (1..=wanted as u32)
                        .map(|n| (n / CHUNK_PAGES, n % CHUNK_PAGES))
                        .collect::<Vec<_>>()
                })
            } else {
                free_places(mtr.bytes(map), self.me.get(), pages, wanted).map_err(bad)?
            };
            if let Some(places) = places {
                return self.hold_places(mtr, map, marks, id, &places);
            }
        }
        Err(Blocked::Space(self.id))
    }

    fn hold_places(
        &self,
        mtr: &mut Mtr<'a, P>,
        map: HeldPage,
        mut marks: Vec<PageOperation>,
        map_id: PageId,
        places: &[(u32, u32)],
    ) -> Result<Fresh, Blocked> {
        let mut pages = Vec::new();
        for (chunk, bit) in places {
            let id = PageId {
                number: map_id.number + chunk * CHUNK_PAGES + bit,
                ..map_id
            };
            let page = mtr.hold(id)?;
            if kind_of(mtr.bytes(page))
                .map_err(|error| corrupt(id, error))?
                .is_some()
            {
                return Err(corrupt(id, PageError::Corrupt("a free page is in use")));
            }
            marks.push(PageOperation::SetSpace {
                chunk: *chunk as u16,
                owner: self.me.get(),
                page: *bit as u8,
            });
            pages.push(page);
        }
        Ok(Fresh { map, marks, pages })
    }
}

impl Fresh {
    /// Marks the pages used.
    pub(super) fn mark<P: Pages>(&self, mtr: &mut Mtr<'_, P>) -> Result<(), Blocked> {
        self.marks.iter().try_for_each(|mark| mtr.change(self.map, mark))
    }
}
