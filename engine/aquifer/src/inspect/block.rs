//! `inspect block OFFSET` and `inspect all`: what is at an address, and everything that a group has.

use super::structures::DeviceOptions;
use crate::device::{OfflineGroup, PlainDevice};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, print_line, table, with_schema};
use crate::units::parse_size;
use aquifer_dss::seam::{BLOCK, BlockDevice, IoBuffer};
use aquifer_engine::decode::{LOOK_BYTES, dump, recognise};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Options of `inspect block`.
#[derive(Clone, Debug, clap::Args)]
pub struct BlockOptions {
    /// Byte offset on the device, a multiple of 512; with a suffix such as 64K too.
    #[arg(value_name = "OFFSET", value_parser = parse_size)]
    offset: u64,
    /// Device. It needs no label, so that a damaged one can be looked at; further volumes by their own path
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
    #[command(flatten)]
    output: OutputOptions,
}

/// `inspect block`.
pub async fn block(options: BlockOptions) -> Outcome {
    let device = PlainDevice::open(&options.device, false)?;
    let (size, offset) = (device.geometry().size, options.offset);
    if !offset.is_multiple_of(512) || offset >= size {
        return Err(Failure::usage(format!(
            "{offset} is not a multiple of 512 below the {size} bytes of {}",
            options.device.display()
        )));
    }
    let length = (LOOK_BYTES as u64).min(size - offset) / 512 * 512;
    let bytes = device.read(offset, IoBuffer::zeroed(length as usize)).await;
    let bytes = bytes.map_err(|e| Failure::unavailable(format!("{}: {e}", options.device.display())))?;
    let decoded = recognise(&bytes);
    let fields: Vec<Value> = decoded
        .fields
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let object = json!({
        "offset": offset, "block": offset / BLOCK as u64, "kind": decoded.kind, "trouble": decoded.trouble, "fields": fields,
    });
    options.output.emit(object, || {
        let heading = decoded.trouble.as_ref().map_or_else(
            || decoded.kind.to_owned(),
            |trouble| format!("{}: {trouble} <<<<", decoded.kind),
        );
        let rows = decoded
            .fields
            .iter()
            .map(|(name, value)| vec![name.clone(), value.clone()]);
        format!("{heading}\n{}", table(&["field", "value"], rows.collect()))
    })?;
    Ok(if decoded.trouble.is_none() {
        Exit::Done
    } else {
        Exit::Degraded
    })
}

/// `inspect all`.
pub async fn all(options: DeviceOptions) -> Outcome {
    let group = OfflineGroup::open(&options.device).await?;
    let text = dump(&group.image).await.map_err(Failure::unavailable)?;
    if options.output.json() {
        print_line(&with_schema(json!({ "lines": text.lines().collect::<Vec<_>>() })).to_string())?;
    } else {
        print_line(text.trim_end())?;
    }
    Ok(Exit::Done)
}
