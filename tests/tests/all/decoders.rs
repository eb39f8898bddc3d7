//! Every decoder of what is on a device, or comes from another node, on broken input: the blocks of the golden image, and records
//! of each kind, with bytes changed, cut and mixed. The CRC is set right half of the time, so that what is behind it is reached.
//!
//! None of them panics, and none goes on for ever. `scripts/fuzz` makes the rounds longer.

use aquifer_dss::membership::{SlotView, decode_ballot, decode_body};
use aquifer_dss::testing::fuzz_rounds;
use aquifer_dss_proto::ballot::BodyHash;
use aquifer_dss_proto::catalog::{Catalog, Record};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::journal::{decode_checkpoint_body, decode_loose_entry, decode_loose_head};
use aquifer_dss_proto::label::Label;
use aquifer_dss_proto::storage_message::StorageMessage;
use aquifer_dss_proto::{Epoch, HomeSlots, NodeId};
use aquifer_engine::decode::{page_fields, recognise};
use aquifer_tests::golden::{self, Golden};
use aquifer_tests::sim::Random;
use std::collections::BTreeMap;

/// Mutations of each block in one round.
const EACH: u64 = 40;

fn corpus() -> Vec<Vec<u8>> {
    let images = Golden::ALL.map(|image| golden::committed(image).unwrap());
    images.into_iter().flat_map(BTreeMap::into_values).collect()
}

/// Changes some bytes, cuts, or puts a part of another block in.
fn mutate(random: &mut Random, block: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = block.to_vec();
    for _ in 0..random.between(1, 6) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        // What is at the beginning decides how the rest is read.
        let at = if random.chance(600_000) {
            at.min(at % 128)
        } else {
            at
        };
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.draw() as u8,
            2 => bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            3 => bytes[at..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
            4 => {
                let length = (other.len() - at.min(other.len())).min(random.below(64) as usize);
                let length = length.min(bytes.len() - at);
                let from = at.min(other.len());
                bytes[at..at + length].copy_from_slice(&other[from..from + length]);
            }
            _ if random.chance(200_000) => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, crc: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Sets the checksum of a block of this kind right, as far as its lengths allow it.
fn seal(bytes: &mut [u8]) {
    let u32_at = |at: usize| {
        let bytes = bytes.get(at..at + 4);
        bytes.map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()) as usize)
    };
    let (kind, length, group) = (bytes.get(..8).unwrap_or_default().to_vec(), u32_at(12), u32_at(8));
    let crc = |parts: &[Option<&[u8]>]| {
        let parts: Option<Vec<&[u8]>> = parts.iter().copied().collect();
        parts.map(|parts| crc32c(&parts))
    };
    let end = |from: usize| from.saturating_add(length);
    let (at, crc) = match &kind[..] {
        b"AQLABEL\0" | b"AQCHECK\0" => (16, crc(&[bytes.get(..16), bytes.get(32..end(32))])),
        b"AQJOURN\0" => (60, crc(&[bytes.get(..60), bytes.get(64..end(64))])),
        b"AQSLOT\0\x01" | b"AQBALT\0\x01" => {
            let length = length & 0xffff;
            (8, crc(&[bytes.get(12..16 + length)]))
        }
        b"AQDBRWB1" => (
            12,
            crc(&[bytes.get(16..16usize.saturating_add(group.saturating_mul(24)))]),
        ),
        kind if kind.starts_with(b"AQRH") => (4, crc(&[bytes.get(8..4096)])),
        kind if kind.starts_with(b"AQRG") => (4, crc(&[bytes.get(8..group)])),
        _ => (0, crc(&[bytes.get(4..)])),
    };
    if let Some(crc) = crc {
        put(bytes, at, crc);
    }
}

fn decode_as_everything(bytes: &[u8]) {
    let _ = recognise(bytes).text();
    let _ = Label::decode(bytes);
    let _ = decode_loose_entry(bytes);
    if let Ok(head) = decode_loose_head(bytes) {
        let _ = decode_checkpoint_body(&head, bytes);
    }
    let _ = Catalog::decode(bytes);
    let _ = SlotView::decode(NodeId::new(1).unwrap(), bytes);
    let _ = decode_ballot(bytes);
    let _ = decode_body(bytes, HomeSlots::USUAL, Epoch(1), BodyHash::of(bytes));
    let _ = StorageMessage::decode(bytes);
    if bytes.len() == 4096 {
        let _ = page_fields(bytes);
    }
}

#[test]
fn broken_blocks_are_refused_by_every_decoder() {
    let corpus = corpus();
    let mut random = Random::new(0xF0CC);
    for _ in 0..fuzz_rounds() {
        for block in &corpus {
            for _ in 0..EACH {
                let other = random.pick(&corpus).clone();
                let mut bytes = mutate(&mut random, block, &other);
                if random.chance(500_000) {
                    seal(&mut bytes);
                }
                decode_as_everything(&bytes);
            }
        }
    }
}

/// A catalogue and requests of other nodes with their content changed. What is decoded may contradict itself: then it is refused, or
/// applied without a panic, and the catalogue agrees with itself afterwards.
#[test]
fn broken_catalogues_and_requests_are_refused_or_harmless() {
    let (mut random, corpus) = (Random::new(0xCA7A), corpus());
    let entries = corpus.iter().filter_map(|block| decode_loose_entry(block).ok());
    let records: Vec<Record> = entries.flat_map(|entry| entry.records).collect();
    assert!(records.len() > 10, "the image has a journal");
    let mut sound = Catalog::new(4096, &[512], 1 << 20);
    for (sequence, record) in (1..).zip(&records) {
        let _ = sound.apply(sequence, record);
    }
    let requests: Vec<Vec<u8>> = records.iter().filter_map(request_of).collect();
    let encoded = sound.encode();
    let mut decoded = 0;
    for _ in 0..fuzz_rounds() * 4000 {
        let other = random.pick(&requests).clone();
        let changed = Catalog::decode(&mutate(&mut random, &encoded, &other));
        let mut catalog = changed.unwrap_or_else(|_| sound.clone());
        let before = catalog.audit();
        assert!(before.is_ok(), "what is decoded agrees with itself: {before:?}");
        let request = random.pick(&requests).clone();
        let message = mutate(&mut random, &request, &other);
        if let Some(StorageMessage::Request { origin, operation }) = StorageMessage::decode(&message) {
            decoded += 1;
            let record = Record {
                origin: Some(origin),
                operation,
            };
            let _ = catalog.apply(1000, &record);
            let after = catalog.audit();
            assert!(after.is_ok(), "{record:?}: {after:?}");
        }
    }
    assert!(decoded > 100, "{decoded} requests were read");
}

fn request_of(record: &Record) -> Option<Vec<u8>> {
    let origin = record.origin?;
    let operation = record.operation.clone();
    Some(StorageMessage::Request { origin, operation }.encode())
}
