//! Everything that a group has on its devices, as one text.

use super::{Decoded, page_fields, recognise};
use crate::check::ImageFile;
use crate::store::DOUBLE_WRITE_BYTES;
use crate::wal::{RING_OFFSET, StreamReader};
use aquifer_buffer_pool_proto::PageId;
use aquifer_buffer_pool_proto::header::{Verdict, verify};
use aquifer_dss::group::{ControlBlocks, GroupImage};
use aquifer_dss::membership::{decode_ballot, decode_body};
use aquifer_dss::seam::{BLOCK, BlockDevice, IoBuffer};
use aquifer_dss_proto::catalog::{Catalog, FileKind, Node};
use aquifer_dss_proto::label::LABEL_OFFSETS;
use aquifer_dss_proto::{Epoch, FileId, NodeId};
use std::fmt::Write as _;
use std::sync::Arc;

/// Everything, in the order of the device: labels, control blocks, checkpoints, journal, then the files by their ids. What cannot be
/// read is named in its place.
pub async fn dump(image: &Arc<GroupImage>) -> Result<String, String> {
    let mut text = String::new();
    labels(image, &mut text).await?;
    control_blocks(image, &mut text).await?;
    metadata(image, &mut text);
    for (id, inode) in image.catalog.inodes() {
        if let Node::File { kind, size, .. } = &inode.node {
            file(image, id, *kind, *size, &mut text).await?;
        }
    }
    Ok(text)
}

fn put(text: &mut String, place: impl std::fmt::Display, decoded: &Decoded) {
    let _ = write!(text, "{place}: {}", decoded.text());
}

async fn labels(image: &GroupImage, text: &mut String) -> Result<(), String> {
    for (volume, device) in image.devices() {
        labels_of(&**device, &format!("volume {volume}"), text).await?;
    }
    for (volume, twin) in &image.twins {
        let name = format!("volume {volume}, the other side");
        match twin {
            Ok(device) => labels_of(&**device, &name, text).await?,
            Err(error) => {
                let _ = writeln!(text, "{name}: {error}");
            }
        }
    }
    Ok(())
}

async fn labels_of(device: &dyn BlockDevice, name: &str, text: &mut String) -> Result<(), String> {
    for offset in LABEL_OFFSETS {
        let block = device.read(offset, IoBuffer::zeroed(BLOCK)).await;
        let block = block.map_err(|error| error.to_string())?;
        put(text, format!("{name} at {offset}"), &recognise(&block));
    }
    Ok(())
}

async fn control_blocks(image: &GroupImage, text: &mut String) -> Result<(), String> {
    let control = ControlBlocks::new(image.first.clone(), image.label.slots());
    let failed = |error: aquifer_dss::seam::DeviceError| error.to_string();
    let is_used = |block: &[u8]| block.iter().any(|byte| *byte != 0);
    let slots = control.read_all_slot_blocks().await.map_err(failed)?;
    for (node, block) in slots.iter().filter(|(_, block)| is_used(block)) {
        put(text, format!("slot {node}"), &recognise(block));
    }
    let ballots = control.read_all_ballot_blocks().await.map_err(failed)?;
    for (node, block) in ballots.iter().filter(|(_, block)| is_used(block)) {
        put(text, format!("ballot {node}"), &recognise(block));
        if let Ok(ballot) = decode_ballot(block) {
            let body = (ballot.decided, ballot.decided_value);
            body_of(&control, node, body, text).await?;
        }
    }
    Ok(())
}

/// The view that a ballot block names as decided.
async fn body_of(
    control: &ControlBlocks,
    node: NodeId,
    (epoch, hash): (Epoch, aquifer_dss_proto::ballot::BodyHash),
    text: &mut String,
) -> Result<(), String> {
    if epoch == Epoch(0) {
        return Ok(());
    }
    let place = control.read_body(node, (epoch.0 % 2) as usize).await;
    let place = place.map_err(|error| error.to_string())?;
    let decoded = match decode_body(&place, control.home_slots(), epoch, hash) {
        None => Decoded::damaged("ballot body", "not the one that the block names"),
        Some((body, decree)) => Decoded::new("ballot body")
            .with("length", body.len())
            .with("epoch", decree.view.epoch.0)
            .with("members", format!("{:?}", decree.view.members))
            .with("leader", decree.view.leader)
            .with("dead", format!("{:?}", decree.dead))
            .with("left", format!("{:?}", decree.left))
            .with("founding", decree.founding),
    };
    put(text, format!("body {node}"), &decoded);
    Ok(())
}

fn metadata(image: &GroupImage, text: &mut String) {
    for (which, found) in image.checkpoints.iter().enumerate() {
        let _ = match found {
            Ok(checkpoint) => writeln!(text, "checkpoint {which}: {:?}", checkpoint.head),
            Err(error) => writeln!(text, "checkpoint {which}: {error}"),
        };
    }
    for entry in &image.entries {
        let _ = writeln!(text, "entry {} of epoch {}", entry.sequence, entry.epoch.0);
        for record in &entry.records {
            let _ = writeln!(text, "  {record:?}");
        }
    }
    catalog(&image.catalog, text);
}

fn catalog(catalog: &Catalog, text: &mut String) {
    for (id, volume) in catalog.volumes() {
        let (units, free) = catalog.units_of(id);
        let _ = writeln!(text, "volume {id}: {units} units, {free} free, {volume:?}");
    }
    for (id, inode) in catalog.inodes() {
        let _ = writeln!(text, "inode {}: {inode:?}", id.0);
    }
    for (key, value) in catalog.configs() {
        let _ = writeln!(text, "configuration {key}: {value}");
    }
    for limbo in catalog.limbo() {
        let _ = writeln!(text, "limbo: {limbo:?}");
    }
    for moved in catalog.moves() {
        let _ = writeln!(text, "move: {moved:?}");
    }
    for life in catalog.claimants() {
        let _ = writeln!(text, "claims of {life:?}");
    }
    for (id, mirror) in catalog.mirrors() {
        let _ = writeln!(text, "mirror {id}: {mirror:?}");
    }
    for unit in catalog.torn() {
        let _ = writeln!(text, "torn: {unit:?}");
    }
    for entry in catalog.history() {
        let _ = writeln!(text, "history: {entry:?}");
    }
}

async fn file(
    image: &Arc<GroupImage>,
    id: FileId,
    kind: FileKind,
    size: u64,
    text: &mut String,
) -> Result<(), String> {
    match kind {
        FileKind::Plain => Ok(()),
        FileKind::Tree | FileKind::Status => pages(image, id, size, text).await,
        FileKind::Redo => redo(image, id, size, text).await,
        FileKind::DoubleWrite => {
            let length = size.min(DOUBLE_WRITE_BYTES) as usize;
            let area = image.read_file(id, 0, length).await?;
            put(text, format!("file {}", id.0), &recognise(&area));
            Ok(())
        }
    }
}

/// The pages of a file that were ever formatted.
async fn pages(image: &GroupImage, id: FileId, size: u64, text: &mut String) -> Result<(), String> {
    let page_size = image.label.page_size();
    for number in 0..u32::try_from(page_size.pages(size)).unwrap_or(u32::MAX) {
        let page = PageId { file: id, number };
        let bytes = image
            .read_file(id, page_size.offset(number), page_size.bytes())
            .await?;
        match verify(&bytes, page) {
            Verdict::NeverFormatted => {}
            Verdict::Valid(_) => put(text, format!("page {}:{number}", id.0), &page_fields(&bytes)),
            Verdict::Corrupt => {
                let damaged = Decoded::damaged("page", "its CRC is wrong, or it names another");
                put(text, format!("page {}:{number}", id.0), &damaged);
            }
        }
    }
    Ok(())
}

/// Both headers of a redo stream, and its groups from the horizon on.
async fn redo(image: &Arc<GroupImage>, id: FileId, size: u64, text: &mut String) -> Result<(), String> {
    let headers = image.read_file(id, 0, RING_OFFSET as usize).await?;
    for (copy, block) in headers.chunks_exact(BLOCK).enumerate() {
        put(text, format!("file {} copy {copy}", id.0), &recognise(block));
    }
    let path = image.catalog.path(id).unwrap_or_default();
    let node = path.rsplit('/').next().and_then(|name| name.parse().ok());
    let Some(node) = node.and_then(NodeId::new) else {
        return Ok(());
    };
    let content = ImageFile::new(image.clone(), id, size);
    let mut reader = match StreamReader::open(&content, node).await {
        Ok(reader) => reader,
        Err(error) => {
            let _ = writeln!(text, "file {}: {error}", id.0);
            return Ok(());
        }
    };
    loop {
        match reader.next().await {
            Ok(Some(group)) => put(
                text,
                format!("file {}", id.0),
                &super::block::group_fields(&group),
            ),
            Ok(None) => return Ok(()),
            Err(error) => {
                let _ = writeln!(text, "file {}: {error}", id.0);
                return Ok(());
            }
        }
    }
}
