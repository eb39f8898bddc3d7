//! A page as it is on storage: the header of the pool and what the engine keeps in it.

use crate::device::OfflineGroup;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, table};
use aquifer_buffer_pool_proto::{PageId, header};
use aquifer_dss_proto::FileId;
use aquifer_engine_proto::page::{InnerView, LeafView, NodeView, PageError, PageKind, kind_of};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Options of `inspect page`.
#[derive(Clone, Debug, clap::Args)]
pub struct PageOptions {
    /// Which page, as FILE:NUMBER.
    #[arg(value_name = "FILE:NUMBER", value_parser = parse_page)]
    page: (u64, u32),
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
    #[command(flatten)]
    output: OutputOptions,
}

/// Reads FILE:NUMBER.
pub fn parse_page(text: &str) -> Result<(u64, u32), String> {
    let wrong = || format!("`{text}` is not a page; write FILE:NUMBER such as 7:1");
    let (file, number) = text.split_once(':').ok_or_else(wrong)?;
    Ok((
        file.parse().map_err(|_| wrong())?,
        number.parse().map_err(|_| wrong())?,
    ))
}

/// Runs it.
pub async fn run(options: PageOptions) -> Outcome {
    let group = OfflineGroup::open(&options.device).await?;
    let (file, number) = options.page;
    let entry = group.file(file)?;
    let page_size = group.label.page_size();
    let (offset, bytes) = (page_size.offset(number), page_size.bytes() as u64);
    if offset + bytes > entry.size {
        return Err(Failure::usage(format!(
            "{} has pages 0 to {}",
            entry.name,
            page_size.pages(entry.size).saturating_sub(1)
        )));
    }
    let page = group.read(&entry, offset, bytes).await?;
    let id = PageId {
        file: FileId(file),
        number,
    };
    let verdict = format!("{:?}", header::verify(&page, id));
    let content = content(&page).unwrap_or_else(|e| json!({ "error": e.to_string() }));
    let named = header::page_id(&page);
    let object = json!({
        "file": file, "page": number, "path": entry.name, "page_bytes": bytes, "verdict": verdict,
        "header": {
            "version": header::version(&page), "kind": header::kind(&page), "file": named.file.0, "page": named.number,
            "tree": header::tree(&page), "psn": header::psn(&page).0, "epoch": header::epoch(&page).0,
        },
        "content": content,
    });
    options.output.emit(object.clone(), || text(&object))?;
    Ok(Exit::Done)
}

fn content(page: &[u8]) -> Result<Value, PageError> {
    let Some(kind) = kind_of(page)? else {
        return Ok(json!({ "kind": "never formatted" }));
    };
    let name = format!("{kind:?}").to_lowercase();
    match kind {
        PageKind::Leaf => {
            let (node, leaf) = (NodeView::new(page)?, LeafView::new(page)?);
            let rows = (0..node.count())
                .map(|i| leaf.row(i).map(|row| row_object(&row)))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(
                json!({ "kind": name, "low": hex(node.low()?), "high": node.high()?.map(hex), "right": node.right()?, "free": node.free()?, "rows": rows }),
            )
        }
        PageKind::Inner => {
            let (node, inner) = (NodeView::new(page)?, InnerView::new(page)?);
            let children = (0..node.count())
                .map(|i| inner.entry(i).map(|c| format!("{c:?}")))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(
                json!({ "kind": name, "level": node.level(), "low": hex(node.low()?), "high": node.high()?.map(hex), "right": node.right()?, "children": children }),
            )
        }
        _ => Ok(json!({ "kind": name })),
    }
}

fn row_object(row: &aquifer_engine_proto::page::RowView<'_>) -> Value {
    let versions: Vec<Value> = row
        .versions()
        .map(|v| json!({ "txn": format!("{:?}", v.txn), "scn": v.scn.0, "deleted": v.is_deleted(), "lock_only": v.is_lock_only(), "value": hex(v.value) }))
        .collect();
    json!({ "key": hex(row.key()), "versions": versions })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn text(object: &Value) -> String {
    let mut lines = Vec::new();
    for (key, value) in object.as_object().expect("made as an object") {
        match value {
            Value::Object(inner) => {
                for (name, value) in inner {
                    match value {
                        Value::Array(items) => {
                            lines.extend(items.iter().map(|i| vec![format!("{key}.{name}"), i.to_string()]))
                        }
                        value => lines.push(vec![format!("{key}.{name}"), value.to_string()]),
                    }
                }
            }
            value => lines.push(vec![key.clone(), value.to_string()]),
        }
    }
    table(&["field", "value"], lines)
}

#[cfg(test)]
mod tests {
    #[test]
    fn pages_are_file_and_number() {
        assert_eq!(super::parse_page("7:1"), Ok((7, 1)));
        assert!(super::parse_page("7").is_err());
    }
}
