//! Splits, and the parent entries that follow them.

use super::descent::{Missing, Target};
use super::{ROOT, Tree, corrupt};
use crate::mtr::{HeldPage, Mtr, Pages, ReadPage};
use crate::{Blocked, Error};
use aquifer_engine_proto::page::{
    ChildEntry, InnerView, LeafView, NodeView, PageContent, PageError, PageOperation, RowContent,
    inner_entry_bytes,
};

/// Where a page is cut: entries from `from` on go right.
#[derive(Debug)]
struct Cut {
    from: usize,
    separator: Vec<u8>,
}

/// The shortest key above `left` and at or below `right`; `left < right`.
fn separator_between(left: &[u8], right: &[u8]) -> Vec<u8> {
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    right[..(common + 1).min(right.len())].to_vec()
}

/// One entry of the page as it will be: bytes now (0: not there yet) and bytes it needs.
struct Entry<'a> {
    key: &'a [u8],
    now: usize,
    then: usize,
}

/// Chooses where to cut so that `key` can become an entry of `bytes` bytes. Ascending inserts at the right edge leave the old page full.
fn choose(node: &NodeView<'_>, key: &[u8], bytes: usize) -> Result<Option<Cut>, PageError> {
    let mut entries = Vec::with_capacity(node.count() + 1);
    for slot in 0..node.count() {
        let size = node.cell(slot)?.len() + 2;
        entries.push(Entry {
            key: node.key(slot)?,
            now: size,
            then: size,
        });
    }
    let place = match node.search(key)? {
        Ok(slot) => {
            entries[slot].then = bytes + 2;
            slot
        }
        Err(slot) => {
            entries.insert(
                slot,
                Entry {
                    key,
                    now: 0,
                    then: bytes + 2,
                },
            );
            slot
        }
    };
    let (low, high) = (node.low()?.len(), node.high()?);
    let at_edge = high.is_none() && place + 1 == entries.len() && entries[place].now == 0;
    let high = high.map_or(0, <[u8]>::len);
    let now: usize = entries.iter().map(|entry| entry.now).sum();
    let then: usize = entries.iter().map(|entry| entry.then).sum();
    let (mut left_now, mut left_then) = (0, 0);
    let mut best: Option<(usize, Cut)> = None;
    for cut in 1..entries.len() {
        left_now += entries[cut - 1].now;
        left_then += entries[cut - 1].then;
        // Entries of an inner page keep their keys: the right page's first child begins at its own key.
        let separator = if node.is_leaf() {
            separator_between(entries[cut - 1].key, entries[cut].key)
        } else {
            entries[cut].key.to_vec()
        };
        let fits = low + separator.len() + left_now <= node.capacity()
            && separator.len() + high + (now - left_now) <= node.capacity();
        // An inner page is never empty.
        let whole = node.is_leaf() || (left_now > 0 && entries[cut].now > 0);
        if !fits || !whole {
            continue;
        }
        let wide = left_then.max(then - left_then);
        if best.as_ref().is_none_or(|(least, _)| wide < *least || at_edge) {
            // Slots count what is in the page now.
            let from = entries[..cut].iter().filter(|entry| entry.now > 0).count();
            best = Some((wide, Cut { from, separator }));
        }
    }
    Ok(best.map(|(_, cut)| cut))
}

/// The halves of a page.
fn halves(
    node: &NodeView<'_>,
    bytes: &[u8],
    cut: &Cut,
    right: u32,
) -> Result<(PageContent, PageContent), PageError> {
    let (low, high) = (node.low()?.to_vec(), node.high()?.map(<[u8]>::to_vec));
    let (middle, after) = (cut.separator.clone(), node.right()?);
    if node.is_leaf() {
        let leaf = LeafView::new(bytes)?;
        let take = |from: usize, to: usize| -> Result<Vec<RowContent>, PageError> {
            (from..to)
                .map(|slot| leaf.row(slot).map(|row| row.to_content()))
                .collect()
        };
        let (rows, more) = (take(0, cut.from)?, take(cut.from, node.count())?);
        return Ok((
            PageContent::Leaf {
                low,
                high: Some(middle.clone()),
                right,
                rows,
            },
            PageContent::Leaf {
                low: middle,
                high,
                right: after,
                rows: more,
            },
        ));
    }
    let inner = InnerView::new(bytes)?;
    let level = node.level();
    let take = |from: usize, to: usize| -> Result<Vec<ChildEntry>, PageError> {
        (from..to).map(|slot| inner.entry(slot)).collect()
    };
    let (children, more) = (take(0, cut.from)?, take(cut.from, node.count())?);
    Ok((
        PageContent::Inner {
            level,
            low,
            high: Some(middle.clone()),
            right,
            children,
        },
        PageContent::Inner {
            level,
            low: middle,
            high,
            right: after,
            children: more,
        },
    ))
}

impl<'a, P: Pages> Tree<'a, P> {
    /// Splits page `number` (or the one right of it that covers `key` by now) so that an entry of `bytes` bytes for `key` comes closer
    /// to fitting, and posts the new page at the parent.
    pub(super) fn split(&self, number: u32, level: u8, key: &[u8], bytes: usize) -> Result<(), Blocked> {
        let held = self.covering_write(number, level, Target::Key(key), &mut Vec::new())?;
        // The root has grown meanwhile: the caller looks again.
        let Some((mut mtr, page)) = held else {
            return Ok(());
        };
        let id = mtr.id(page);
        let bad = |error| corrupt(id, error);
        let node = NodeView::new(mtr.bytes(page)).map_err(bad)?;
        if bytes + 2 <= node.free().map_err(bad)? {
            return Ok(());
        }
        let Some(cut) = choose(&node, key, bytes).map_err(bad)? else {
            return Err(Error::State("this row leaves no way to split its page").into());
        };
        if id.number == ROOT {
            return self.split_root(mtr, page, &cut);
        }
        let fresh = self.hold_fresh(&mut mtr, 1)?;
        let sibling = fresh.pages[0];
        let right = mtr.id(sibling).number;
        let bytes = mtr.bytes(page);
        let (_, content) = NodeView::new(bytes)
            .and_then(|node| halves(&node, bytes, &cut, right))
            .map_err(bad)?;
        fresh.mark(&mut mtr)?;
        mtr.change(sibling, &PageOperation::Format(content))?;
        mtr.change(
            page,
            &PageOperation::TruncateRight {
                separator: cut.separator.clone(),
                right,
            },
        )?;
        mtr.commit(self.redo);
        self.post(&Missing {
            level: level + 1,
            separator: cut.separator,
            child: right,
        })
    }

    /// The root's content goes to two fresh pages and the root becomes their parent (BT-9).
    fn split_root(&self, mut mtr: Mtr<'a, P>, root: HeldPage, cut: &Cut) -> Result<(), Blocked> {
        let fresh = self.hold_fresh(&mut mtr, 2)?;
        let (left, right) = (fresh.pages[0], fresh.pages[1]);
        let (left_number, right_number) = (mtr.id(left).number, mtr.id(right).number);
        let bytes = mtr.bytes(root);
        let (level, halves) = NodeView::new(bytes)
            .and_then(|node| Ok((node.level() + 1, halves(&node, bytes, cut, right_number)?)))
            .map_err(|error| corrupt(mtr.id(root), error))?;
        let children = vec![
            ChildEntry {
                key: Vec::new(),
                child: left_number,
            },
            ChildEntry {
                key: cut.separator.clone(),
                child: right_number,
            },
        ];
        fresh.mark(&mut mtr)?;
        mtr.change(left, &PageOperation::Format(halves.0))?;
        mtr.change(right, &PageOperation::Format(halves.1))?;
        let content = PageContent::Inner {
            level,
            low: Vec::new(),
            high: None,
            right: 0,
            children,
        };
        mtr.change(root, &PageOperation::Format(content))?;
        mtr.commit(self.redo);
        Ok(())
    }

    /// Posts what a descent found missing. Only a page that has to be fetched stops it: without room the tree still works.
    pub(super) fn repair(&self, missing: Vec<Missing>) -> Result<(), Blocked> {
        for entry in missing {
            match self.post(&entry) {
                Err(Blocked::Space(_)) | Ok(()) => {}
                Err(blocked) => return Err(blocked),
            }
        }
        Ok(())
    }

    /// Makes sure that the parent of `entry.child` knows it.
    fn post(&self, entry: &Missing) -> Result<(), Blocked> {
        let target = Target::Key(&entry.separator);
        loop {
            let Some(number) = self.locate(target, entry.level, &mut Vec::new())? else {
                // The tree is not that high: the root was split meanwhile and knows its children.
                return Ok(());
            };
            {
                let read = self.covering_read(number, entry.level, target, &mut Vec::new())?;
                let Some((guard, number)) = read else { continue };
                let known = NodeView::new(guard.bytes()).and_then(|node| node.search(&entry.separator));
                if known
                    .map_err(|error| corrupt(self.id.page(number), error))?
                    .is_ok()
                {
                    return Ok(());
                }
            }
            let held = self.covering_write(number, entry.level, target, &mut Vec::new())?;
            let Some((mut mtr, page)) = held else { continue };
            let id = mtr.id(page);
            let known = NodeView::new(mtr.bytes(page)).and_then(|node| node.search(&entry.separator));
            if known.map_err(|error| corrupt(id, error))?.is_ok() {
                return Ok(());
            }
            let child = ChildEntry {
                key: entry.separator.clone(),
                child: entry.child,
            };
            let insert = PageOperation::InsertChild(child);
            if mtr.fits(page, &insert)? {
                mtr.change(page, &insert)?;
                mtr.commit(self.redo);
                return Ok(());
            }
            drop(mtr);
            self.split(
                id.number,
                entry.level,
                &entry.separator,
                inner_entry_bytes(entry.separator.len()) - 2,
            )?;
        }
    }
}
