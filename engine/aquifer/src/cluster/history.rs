//! `cluster history`: the record of view changes that is kept on the device.

use crate::admin::{HistoryEntry, Locator};
use crate::failure::{Exit, Outcome};
use crate::output::{OutputOptions, print_line, table};
use serde_json::json;
use std::time::Duration;

/// Options of `cluster history`.
#[derive(Clone, Debug, clap::Args)]
pub struct HistoryOptions {
    #[command(flatten)]
    locator: Locator,
    /// At most so many lines, the newest.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Go on and print what is added.
    #[arg(short = 'f', long)]
    follow: bool,
    #[command(flatten)]
    output: OutputOptions,
}

/// Runs it.
pub async fn run(options: HistoryOptions) -> Outcome {
    let mut client = options.locator.connect(None).await?;
    let entries = client.history(options.limit).await?;
    if !options.follow {
        options
            .output
            .emit(json!({ "history": entries }), || text(&entries))?;
        return Ok(Exit::Done);
    }
    let mut shown = 0;
    let mut entries = entries;
    loop {
        for entry in entries.iter().filter(|e| e.epoch > shown) {
            let line = if options.output.json() {
                json!(entry).to_string()
            } else {
                row(entry).join("  ")
            };
            print_line(&line)?;
        }
        shown = entries.last().map_or(shown, |e| e.epoch.max(shown));
        tokio::time::sleep(Duration::from_millis(500)).await;
        entries = client.history(options.limit).await?;
    }
}

fn text(entries: &[HistoryEntry]) -> String {
    if entries.is_empty() {
        return "no view change is recorded yet".into();
    }
    table(
        &["time", "epoch", "by", "event", "nodes", "members", "ms", "reason"],
        entries.iter().map(row).collect(),
    )
}

fn row(entry: &HistoryEntry) -> Vec<String> {
    let list = |nodes: &[u8]| nodes.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    vec![
        entry.time.clone(),
        entry.epoch.to_string(),
        format!("node {}", entry.actor),
        entry.event.clone(),
        list(&entry.nodes),
        list(&entry.members),
        entry
            .duration_ms
            .map_or_else(|| "-".into(), |ms| format!("{ms:.1}")),
        entry.reason.clone(),
    ]
}
