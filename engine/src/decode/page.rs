//! A page and what the engine keeps in it.

use super::{Decoded, hex};
use aquifer_buffer_pool_proto::PageSize;
use aquifer_buffer_pool_proto::header;
use aquifer_engine_proto::page::{
    InnerView, LeafView, NodeView, PageError, PageKind, SpaceMapView, audit, kind_of, sequence_of, status_of,
    status_per_page,
};

/// The header of a whole page and its content.
pub fn page_fields(page: &[u8]) -> Decoded {
    let id = header::page_id(page);
    let mut decoded = Decoded::new("page")
        .with("bytes", page.len())
        .with("version", header::version(page))
        .with("kind", header::kind(page))
        .with("file", id.file.0)
        .with("number", id.number)
        .with("tree", header::tree(page))
        .with("psn", header::psn(page).0)
        .with("epoch", header::epoch(page).0)
        .with("stamp", header::stamp(page).0);
    let content = audit(page).and_then(|()| content(page, &mut decoded.fields));
    decoded.trouble = content.err().map(|error| error.to_string());
    decoded
}

type Fields = Vec<(String, String)>;

fn content(page: &[u8], fields: &mut Fields) -> Result<(), PageError> {
    let mut say = |name: String, value: String| fields.push((name, value));
    match kind_of(page)? {
        None => {}
        Some(PageKind::Leaf) => {
            frame(&NodeView::new(page)?, &mut say)?;
            let leaf = LeafView::new(page)?;
            for index in 0..NodeView::new(page)?.count() {
                let row = leaf.row(index)?;
                let versions: Vec<String> = row
                    .versions()
                    .map(|version| {
                        let (deleted, lock_only) = (version.is_deleted(), version.is_lock_only());
                        let flags = [(deleted, " deleted"), (lock_only, " lock-only")];
                        let flags: String = flags
                            .iter()
                            .filter(|(set, _)| *set)
                            .map(|(_, name)| *name)
                            .collect();
                        format!(
                            "{:?} scn {}{flags} {}",
                            version.txn,
                            version.scn.0,
                            hex(version.value)
                        )
                    })
                    .collect();
                say(format!("row {}", hex(row.key())), versions.join("; "));
            }
        }
        Some(PageKind::Inner) => {
            frame(&NodeView::new(page)?, &mut say)?;
            let inner = InnerView::new(page)?;
            for index in 0..inner.node().count() {
                let entry = inner.entry(index)?;
                say(format!("child {}", hex(&entry.key)), entry.child.to_string());
            }
        }
        Some(PageKind::SpaceMap) => {
            let map = SpaceMapView::new(page)?;
            for number in 0..map.chunks() {
                let chunk = map.chunk(number)?;
                if chunk.owner != 0 || chunk.used != 0 {
                    say(
                        format!("chunk {number}"),
                        format!("node {}, used {:016x}", chunk.owner, chunk.used),
                    );
                }
            }
        }
        Some(PageKind::Status) => {
            let size = PageSize::new(page.len()).ok_or(PageError::Corrupt("not a whole page"))?;
            for index in 0..status_per_page(size) {
                match status_of(page, index)?.0 {
                    0 => {}
                    u64::MAX => say(format!("transaction {index}"), "aborted".into()),
                    scn => say(format!("transaction {index}"), format!("scn {scn}")),
                }
            }
        }
        Some(PageKind::Sequence) => say("next".into(), sequence_of(page)?.to_string()),
    }
    Ok(())
}

/// What leaves and inner pages share.
fn frame(node: &NodeView<'_>, say: &mut impl FnMut(String, String)) -> Result<(), PageError> {
    say("level".into(), node.level().to_string());
    say("right".into(), node.right()?.to_string());
    say("low".into(), hex(node.low()?));
    say("high".into(), node.high()?.map_or("none".into(), hex));
    say("free".into(), node.free()?.to_string());
    Ok(())
}
