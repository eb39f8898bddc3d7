//! Labels, slots and journal.

use crate::device::{self, OfflineGroup, PlainDevice, storage_failure};
use crate::failure::{Exit, Outcome};
use crate::output::{OutputOptions, table};
use aquifer_dss::group::read_label_copies;
use aquifer_dss_proto::label::Label;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Which device.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceOptions {
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    pub(super) device: PathBuf,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// `inspect label`.
pub async fn label(options: DeviceOptions) -> Outcome {
    let device = PlainDevice::open(&options.device, false)?;
    let labels = read_label_copies(&device)
        .await
        .map_err(|e| storage_failure(&options.device, &e))?;
    let copies: Vec<Value> = labels
        .iter()
        .map(|copy| match copy {
            Ok(label) => label_object(label),
            Err(error) => json!({ "error": error.to_string() }),
        })
        .collect();
    let sound = labels.iter().all(Result::is_ok);
    options.output.emit(json!({ "copies": copies }), || {
        let mut lines = Vec::new();
        for (number, copy) in copies.iter().enumerate() {
            for (key, value) in copy.as_object().expect("made above as an object") {
                lines.push(vec![format!("copy {number}"), key.clone(), value.to_string()]);
            }
        }
        table(&["", "field", "value"], lines)
    })?;
    Ok(if sound { Exit::Done } else { Exit::Degraded })
}

fn label_object(label: &Label) -> Value {
    json!({
        "group": label.group.to_string(), "name": label.name, "volume": label.volume,
        "volume_uuid": label.volume_uuid.to_string(), "generation": label.generation, "size_bytes": label.size,
        "au_bytes": label.au_bytes, "au_offset": label.au_offset, "au_count": label.au_count,
        "journal_bytes": label.journal_bytes, "segment_bytes": label.segment_bytes,
        "checkpoint_bytes": label.checkpoint_bytes, "page_bytes": label.page_bytes, "home_slots": label.home_slots,
    })
}

/// `inspect slots`.
pub async fn slots(options: DeviceOptions) -> Outcome {
    let slots = device::read_slots(&options.device).await?;
    options.output.emit(json!({ "slots": slots }), || {
        let rows = slots.iter().map(|s| {
            vec![
                s.id.to_string(),
                s.state.clone(),
                s.incarnation.to_string(),
                s.installed_epoch.to_string(),
                s.sql.clone(),
                s.peer.clone(),
                s.admin.clone(),
            ]
        });
        table(
            &["node", "state", "life", "installed epoch", "sql", "peer", "admin"],
            rows.collect(),
        )
    })?;
    Ok(Exit::Done)
}

/// `inspect journal`.
pub async fn journal(options: DeviceOptions) -> Outcome {
    let group = OfflineGroup::open(&options.device).await?;
    let entries: Vec<Value> = group
        .entries
        .iter()
        .map(|entry| {
            let records: Vec<String> = entry
                .records
                .iter()
                .map(|r| format!("{:?}", r.operation))
                .collect();
            json!({ "sequence": entry.sequence, "epoch": entry.epoch.0, "records": records })
        })
        .collect();
    options.output.emit(json!({ "entries": entries }), || {
        let rows = group.entries.iter().flat_map(|entry| {
            entry.records.iter().map(move |record| {
                vec![
                    entry.sequence.to_string(),
                    entry.epoch.0.to_string(),
                    format!("{:?}", record.operation),
                ]
            })
        });
        table(&["entry", "epoch", "operation"], rows.collect())
    })?;
    Ok(Exit::Done)
}
