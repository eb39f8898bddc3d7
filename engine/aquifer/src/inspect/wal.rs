//! The redo stream of a node: its header and its groups from the horizon on.

use crate::device::OfflineGroup;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, print_line, table, with_schema};
use crate::units::node_id;
use aquifer_dss_proto::FileId;
use aquifer_engine::check::ImageFile;
use aquifer_engine::wal::{StreamHeader, StreamReader};
use aquifer_engine_proto::group::Group;
use aquifer_engine_proto::page::decode_operation;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Options of `inspect wal`.
#[derive(Clone, Debug, clap::Args)]
pub struct WalOptions {
    /// Whose stream.
    #[arg(long, value_name = "N")]
    node: u8,
    /// Show only what concerns this page, as FILE:NUMBER.
    #[arg(long, value_name = "FILE:NUMBER", value_parser = super::page::parse_page)]
    page: Option<(u64, u32)>,
    /// At most so many groups, the newest.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
    #[command(flatten)]
    output: OutputOptions,
}

/// Runs it.
pub async fn run(options: WalOptions) -> Outcome {
    let node = node_id(options.node)?;
    let group = OfflineGroup::open(&options.device).await?;
    let entry = group.stat(&format!("/redo/{node}"))?;
    let file = ImageFile::new(group.image.clone(), FileId(entry.id), entry.size);
    let mut reader = StreamReader::open(&file, node).await.map_err(Failure::failed)?;
    let mut groups = std::collections::VecDeque::new();
    let mut total = 0u64;
    let trouble = loop {
        match reader.next().await {
            Ok(Some(group)) => {
                total += 1;
                let named = |page: (u64, u32)| {
                    group
                        .records
                        .iter()
                        .any(|r| (r.page.file.0, r.page.number) == page)
                };
                if options.page.is_none_or(named) {
                    groups.push_back(group);
                }
                if groups.len() > options.limit {
                    groups.pop_front();
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    let header = header_object(reader.header());
    if options.output.json() {
        let shown: Vec<Value> = groups.iter().map(group_object).collect();
        let object = json!({ "header": header, "end": reader.end().0, "groups_read": total, "groups": shown, "trouble": trouble });
        print_line(&with_schema(object).to_string())?;
    } else {
        print_line(&format!(
            "header {header}\nend {}, {total} groups from the horizon on",
            reader.end().0
        ))?;
        let rows = groups.iter().flat_map(rows);
        print_line(&table(
            &["lsn", "life", "epoch", "page", "psn before", "operation"],
            rows.collect(),
        ))?;
    }
    match trouble {
        None => Ok(Exit::Done),
        Some(trouble) => Err(Failure::failed(trouble)),
    }
}

fn header_object(header: &StreamHeader) -> Value {
    let lives: Vec<Value> = header
        .segments
        .iter()
        .map(|s| json!({ "incarnation": s.incarnation.0, "first": s.first.0, "end": s.end.map(|e| e.0) }))
        .collect();
    json!({
        "stream": header.stream.get(), "generation": header.generation, "ring_bytes": header.ring_bytes,
        "horizon": header.horizon.0, "clean": header.clean, "lives": lives,
    })
}

fn group_object(group: &Group) -> Value {
    let records: Vec<Value> = group
        .records
        .iter()
        .map(|r| json!({ "file": r.page.file.0, "page": r.page.number, "psn_before": r.prev_psn.0, "operation": operation(&r.operation) }))
        .collect();
    json!({
        "lsn": group.stamp.lsn.0, "end": group.end.0, "incarnation": group.stamp.incarnation.0,
        "epoch": group.stamp.epoch.0, "records": records,
    })
}

fn rows(group: &Group) -> Vec<Vec<String>> {
    let row = |r: &aquifer_engine_proto::RedoRecord| {
        vec![
            group.stamp.lsn.0.to_string(),
            group.stamp.incarnation.0.to_string(),
            group.stamp.epoch.0.to_string(),
            format!("{}:{}", r.page.file.0, r.page.number),
            r.prev_psn.0.to_string(),
            operation(&r.operation),
        ]
    };
    group.records.iter().map(row).collect()
}

/// An operation as text, cut to a line.
fn operation(bytes: &[u8]) -> String {
    match decode_operation(bytes) {
        Ok(operation) => {
            let text = format!("{operation:?}");
            if text.chars().count() > 160 {
                text.chars().take(160).chain("...".chars()).collect()
            } else {
                text
            }
        }
        Err(error) => format!("not decodable: {error}"),
    }
}
