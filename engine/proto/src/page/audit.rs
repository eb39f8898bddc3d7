//! Whether the content of a page that has the right CRC can be read, and agrees with itself.

use super::header::{HEADER_BYTES, PageKind, kind_of, whole};
use super::{InnerView, LeafView, NodeView, PageError, SpaceMapView, sequence_of};

/// Reads everything in a page. Any bytes are safe.
pub fn audit(page: &[u8]) -> Result<(), PageError> {
    match kind_of(page)? {
        None if page[HEADER_BYTES..].iter().all(|byte| *byte == 0) => Ok(()),
        None => Err(PageError::Corrupt("content in a page without a kind")),
        Some(PageKind::Leaf) => {
            let (node, leaf) = (NodeView::new(page)?, LeafView::new(page)?);
            for index in 0..node.count() {
                let _all = leaf.row(index)?.versions().count();
            }
            audit_keys(&node)
        }
        Some(PageKind::Inner) => {
            let (node, inner) = (NodeView::new(page)?, InnerView::new(page)?);
            for index in 0..node.count() {
                inner.entry(index)?;
            }
            audit_keys(&node)
        }
        Some(PageKind::SpaceMap) => {
            let map = SpaceMapView::new(page)?;
            for chunk in 0..map.chunks() {
                map.chunk(chunk)?;
            }
            Ok(())
        }
        Some(PageKind::Status) => whole(page),
        Some(PageKind::Sequence) => sequence_of(page).map(drop),
    }
}

/// Keys rise, and lie between the fences.
fn audit_keys(node: &NodeView<'_>) -> Result<(), PageError> {
    let (low, high) = (node.low()?, node.high()?);
    let mut before: Option<&[u8]> = None;
    for index in 0..node.count() {
        let key = node.key(index)?;
        if before.is_some_and(|before| before >= key) {
            return Err(PageError::Corrupt("keys do not rise"));
        }
        if key < low || high.is_some_and(|high| key >= high) {
            return Err(PageError::Corrupt("a key is outside the fences"));
        }
        before = Some(key);
    }
    Ok(())
}
