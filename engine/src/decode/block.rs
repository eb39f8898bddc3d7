//! One block by itself: its kind is recognised by what it begins with.

use super::{Decoded, hex, page_fields};
use crate::store::decode_batch;
use crate::wal::StreamHeader;
use aquifer_buffer_pool_proto::PageSize;
use aquifer_buffer_pool_proto::header::{self, Verdict};
use aquifer_dss::membership::{SlotView, decode_ballot};
use aquifer_dss::seam::BLOCK;
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::journal::{decode_loose_entry, decode_loose_head};
use aquifer_dss_proto::label::Label;
use aquifer_engine_proto::group::{Group, parse_group};
use aquifer_engine_proto::page::decode_operation;

/// Sizes that a page may have.
const PAGE_SIZES: [usize; 4] = [4 << 10, 8 << 10, 16 << 10, 32 << 10];
/// Bytes of what is not known that are shown.
const SHOWN: usize = 64;

/// What `bytes` begin with. They are as many as there are up to [`LOOK_BYTES`](super::LOOK_BYTES).
pub fn recognise(bytes: &[u8]) -> Decoded {
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    if begins(b"AQLABEL\0") {
        label(bytes)
    } else if begins(b"AQCHECK\0") {
        checkpoint_head(bytes)
    } else if begins(b"AQJOURN\0") {
        journal_entry(bytes)
    } else if begins(b"AQSLOT\0") {
        slot(bytes)
    } else if begins(b"AQBALT\0") {
        ballot(bytes)
    } else if begins(b"AQDBRWB1") {
        double_write(bytes)
    } else if begins(b"AQRH") {
        redo_header(bytes)
    } else if begins(b"AQRG") {
        redo_group(bytes)
    } else {
        page_or_else(bytes)
    }
}

fn label(bytes: &[u8]) -> Decoded {
    let kind = "label";
    let label = match Label::decode(bytes.get(..BLOCK).unwrap_or(bytes)) {
        Ok(label) => label,
        Err(error) => return Decoded::damaged(kind, error),
    };
    Decoded::new(kind)
        .with("group", label.group)
        .with("name", &label.name)
        .with("volume_uuid", label.volume_uuid)
        .with("volume", label.volume)
        .with("generation", label.generation)
        .with("size", label.size)
        .with("au_bytes", label.au_bytes)
        .with("au_offset", label.au_offset)
        .with("au_count", label.au_count)
        .with("journal_bytes", label.journal_bytes)
        .with("segment_bytes", label.segment_bytes)
        .with("checkpoint_bytes", label.checkpoint_bytes)
        .with("page_bytes", label.page_bytes)
        .with("home_slots", label.home_slots)
        .with("leg", label.leg)
        .with("leg_generation", label.leg_generation)
}

fn checkpoint_head(bytes: &[u8]) -> Decoded {
    let kind = "head of a checkpoint";
    match decode_loose_head(bytes.get(..BLOCK).unwrap_or(bytes)) {
        Ok(head) => Decoded::new(kind)
            .with("group", head.group)
            .with("tail", format!("{:?}", head.tail))
            .with("length", head.length)
            .with("crc", format!("{:08x}", head.crc)),
        Err(error) => Decoded::damaged(kind, error),
    }
}

fn journal_entry(bytes: &[u8]) -> Decoded {
    let kind = "journal entry";
    let entry = match decode_loose_entry(bytes) {
        Ok(entry) => entry,
        Err(error) => return Decoded::damaged(kind, error),
    };
    let mut decoded = Decoded::new(kind)
        .with("group", hex(&entry.group))
        .with("sequence", entry.sequence)
        .with("epoch", entry.epoch.0)
        .with("position", entry.position)
        .with("previous", format!("{:016x}", entry.previous));
    for record in &entry.records {
        if let Some(origin) = &record.origin {
            decoded = decoded.with("origin", format!("{origin:?}"));
        }
        decoded = decoded.with("operation", format!("{:?}", record.operation));
    }
    decoded
}

fn slot(bytes: &[u8]) -> Decoded {
    let kind = "slot of a node";
    let nodes = (1..=NodeId::MAX).filter_map(NodeId::new);
    let mut slots = nodes.filter_map(|node| SlotView::decode(node, bytes).ok().flatten());
    match slots.next() {
        Some(slot) => Decoded::new(kind)
            .with("node", slot.node)
            .with("incarnation", slot.incarnation.0)
            .with("sequence", slot.sequence)
            .with("state", format!("{:?}", slot.state))
            .with("heard", format!("{:?}", slot.heard))
            .with("decided", slot.decided.0)
            .with("fenced", slot.fenced.0)
            .with("installed_epoch", slot.installed_epoch.0)
            .with("scn_ceiling", slot.scn_ceiling)
            .with("peer", slot.addresses.peer)
            .with("sql", slot.addresses.sql)
            .with("admin", slot.addresses.admin),
        None => Decoded::damaged(kind, "damaged"),
    }
}

fn ballot(bytes: &[u8]) -> Decoded {
    let kind = "ballot block";
    let Ok(block) = decode_ballot(bytes) else {
        return Decoded::damaged(kind, "damaged");
    };
    let number =
        |ballot: aquifer_dss_proto::ballot::BallotNumber| format!("{}.{}", ballot.round, ballot.node);
    Decoded::new(kind)
        .with("instance", block.instance.0)
        .with("promised", number(block.promised))
        .with("accepted", number(block.accepted))
        .with("value", format!("{:032x}", block.value.0))
        .with("decided", block.decided.0)
        .with("decided_value", format!("{:032x}", block.decided_value.0))
}

fn double_write(bytes: &[u8]) -> Decoded {
    let count = bytes.get(8..12).map_or(0, |count| {
        u32::from_le_bytes(count.try_into().expect("four bytes"))
    });
    let sizes = PAGE_SIZES.into_iter().filter_map(PageSize::new);
    let images = sizes.map(|size| (size, decode_batch(bytes, size)));
    let Some((size, images)) = images.max_by_key(|(_, images)| images.len()) else {
        return Decoded::damaged("double-write area", "no size of a page fits");
    };
    let mut decoded = Decoded::new("double-write area").with("images", count);
    if images.len() < count as usize {
        decoded.trouble = Some(format!("{} of {count} images are whole", images.len()));
    } else {
        decoded = decoded.with("page_bytes", size.bytes());
    }
    for (page, (psn, _)) in images {
        decoded = decoded.with(
            format!("{}:{}", page.file.0, page.number),
            format!("psn {}", psn.0),
        );
    }
    decoded
}

fn redo_header(bytes: &[u8]) -> Decoded {
    let Some(header) = StreamHeader::decode(bytes) else {
        return Decoded::damaged("header of a redo stream", "damaged");
    };
    let mut decoded = Decoded::new("header of a redo stream")
        .with("stream", header.stream)
        .with("generation", header.generation)
        .with("ring_bytes", header.ring_bytes)
        .with("horizon", header.horizon.0)
        .with("stamp", header.stamp.0)
        .with("clean", header.clean);
    for life in &header.segments {
        let end = life.end.map_or("open".to_owned(), |end| end.0.to_string());
        let (first, before) = (life.first.0, life.previous_end.0);
        let name = format!("life {}", life.incarnation.0);
        decoded = decoded.with(name, format!("{first} to {end}, behind {before}"));
    }
    decoded
}

fn redo_group(bytes: &[u8]) -> Decoded {
    match parse_group(bytes) {
        Ok(group) => group_fields(&group),
        Err(error) => Decoded::damaged("redo group", format!("{error:?}")),
    }
}

/// A group of redo that was read.
pub(super) fn group_fields(group: &Group) -> Decoded {
    let stamp = &group.stamp;
    let mut decoded = Decoded::new("redo group")
        .with("stream", stamp.stream)
        .with("lsn", stamp.lsn.0)
        .with("end", group.end.0)
        .with("previous_end", stamp.previous_end.0)
        .with("incarnation", stamp.incarnation.0)
        .with("epoch", stamp.epoch.0)
        .with("stamp", stamp.stamp.0);
    for record in &group.records {
        let operation = match decode_operation(&record.operation) {
            Ok(operation) => format!("{operation:?}"),
            Err(error) => format!("cannot be read ({error}): {}", hex(&record.operation)),
        };
        let (page, psn) = (record.page, record.prev_psn.0);
        decoded = decoded.with(
            format!("{}:{} from psn {psn}", page.file.0, page.number),
            operation,
        );
    }
    decoded
}

/// A page of a size at which its CRC is right; zeros; or nothing that is known.
fn page_or_else(bytes: &[u8]) -> Decoded {
    for size in PAGE_SIZES {
        if let Some(page) = bytes.get(..size)
            && page[4] == header::PAGE_VERSION
            && matches!(header::verify(page, header::page_id(page)), Verdict::Valid(_))
        {
            return page_fields(page);
        }
    }
    let block = bytes.get(..BLOCK).unwrap_or(bytes);
    if block.iter().all(|byte| *byte == 0) {
        return Decoded::new("zeros");
    }
    Decoded::damaged("unknown", "no magic, and no page whose CRC is right")
        .with("bytes", hex(&block[..SHOWN.min(block.len())]))
}
