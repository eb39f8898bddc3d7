//! Every decoder of what is on a device, or comes from another node, on broken input: the blocks of the golden image, and records
//! of each kind, with bytes changed, cut and mixed. The CRC is set right half of the time, so that what is behind it is reached.
//!
//! None of them panics, goes on for ever, or takes memory that its bytes do not account for. `scripts/fuzz` makes the rounds longer.

#![allow(clippy::unwrap_used)]

use aquifer_dss::membership::{SlotView, decode_ballot, decode_body};
use aquifer_dss::testing::{TestRuntime, fuzz_rounds};
use aquifer_dss_proto::ballot::BodyHash;
use aquifer_dss_proto::catalog::{Catalog, Node, Operation, OperationError, Origin, Record, Reply};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::journal::{decode_checkpoint_body, decode_loose_entry, decode_loose_head};
use aquifer_dss_proto::label::Label;
use aquifer_dss_proto::storage_message::StorageMessage;
use aquifer_dss_proto::{Epoch, FileId, HomeSlots, Incarnation, Member, NodeId};
use aquifer_engine::decode::{page_fields, recognise};
use aquifer_tests::golden::{self, Golden};
use aquifer_tests::sim::Random;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

std::thread_local! {
    /// Bytes that this thread has now, and the most since it was looked.
    static TAKEN: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// Counts the memory of each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    // A thread that ends takes and gives memory too.
    let _ = TAKEN.try_with(|taken| {
        let (now, most) = taken.get();
        taken.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: it does what the system's allocator does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Bytes that decoding takes at most for each byte that it reads, and whatever it reads: what a sequence says of its own length is
/// believed up to a mebibyte, and sequences may be in sequences.
const MEMORY: (isize, isize) = (256, 6 << 20);

/// What `decode` gives, when it takes no more memory than `bytes` account for.
fn bounded<T>(bytes: &[u8], what: &str, decode: impl FnOnce(&[u8]) -> T) -> T {
    let before = TAKEN.get().0;
    TAKEN.set((before, before));
    let decoded = decode(bytes);
    let taken = TAKEN.get().1 - before;
    let limit = MEMORY.0 * bytes.len() as isize + MEMORY.1;
    assert!(
        taken <= limit,
        "{what}: {taken} bytes of memory for {} bytes",
        bytes.len()
    );
    decoded
}

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
    bounded(bytes, "a block", |bytes| drop(recognise(bytes).text()));
    bounded(bytes, "a label", |bytes| drop(Label::decode(bytes)));
    bounded(bytes, "an entry", |bytes| drop(decode_loose_entry(bytes)));
    if let Ok(head) = bounded(bytes, "a head", decode_loose_head) {
        bounded(bytes, "a checkpoint", |bytes| {
            drop(decode_checkpoint_body(&head, bytes));
        });
    }
    bounded(bytes, "a catalogue", |bytes| drop(Catalog::decode(bytes)));
    bounded(bytes, "a slot", |bytes| {
        drop(SlotView::decode(NodeId::new(1).unwrap(), bytes));
    });
    let _ballot = bounded(bytes, "a ballot", decode_ballot);
    bounded(bytes, "a body", |bytes| {
        // The length of a body is before it.
        let hash = BodyHash::of(bytes.get(4..).unwrap_or_default());
        drop(decode_body(bytes, HomeSlots::USUAL, Epoch(1), hash));
    });
    bounded(bytes, "a message", |bytes| drop(StorageMessage::decode(bytes)));
    if bytes.len() == 4096 {
        bounded(bytes, "a page", |bytes| drop(page_fields(bytes)));
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

/// Catalogues with something of everything: inodes, extents, limbo, claims; moves; legs, dirty and torn units, intents.
fn catalogues() -> Vec<Catalog> {
    let mut catalogues = Vec::new();
    for image in Golden::ALL {
        let blocks = golden::committed(image).unwrap();
        let runtime = TestRuntime::new(1);
        let group = runtime.block_on(async {
            let disk = golden::device(runtime.clone(), &blocks).await.unwrap();
            golden::describe(disk).await.unwrap().0
        });
        let mut catalog = group.catalog.clone();
        catalogues.push(catalog.clone());
        for (sequence, operation) in (10_000..).zip(changes(&catalog)) {
            let origin = Some(origin()).filter(|_| !operation.is_leaders());
            let done = catalog.apply(sequence, &Record { origin, operation });
            assert!(done.is_ok(), "{image:?}: {done:?}");
            catalogues.push(catalog.clone());
        }
    }
    catalogues
}

fn origin() -> Origin {
    Origin {
        node: NodeId::new(1).unwrap(),
        session: 7,
        request: 1,
        settled: 1,
        time: 1,
    }
}

/// Operations that leave something in a catalogue that has only files.
fn changes(catalog: &Catalog) -> Vec<Operation> {
    let life = |node| Member {
        node: NodeId::new(node).unwrap(),
        incarnation: Incarnation(9),
    };
    let lead = |epoch, members: &[u8]| Operation::Lead {
        epoch: Epoch(epoch),
        leader: NodeId::new(1).unwrap(),
        members: members.iter().copied().map(life).collect(),
    };
    if catalog.is_mirrored() {
        let units = vec![(0, 3), (0, 9)];
        let (add, clear) = (units, Vec::new());
        let intend = Operation::Intend {
            life: life(1),
            add,
            clear,
        };
        let detach = Operation::Detach {
            volume: 0,
            leg: 1,
            generation: 1,
            units: vec![(5, 2), (40, 1)],
        };
        return vec![lead(90, &[1, 2]), intend, lead(91, &[2]), detach];
    }
    let drain = Operation::DrainVolume {
        volume: 1,
        drain: true,
    };
    let mut extents = catalog.inodes().filter_map(|(file, inode)| match &inode.node {
        Node::File { extents, .. } => extents.iter().find(|run| run.volume == 1).map(|run| (file, *run)),
        _ => None,
    });
    let (file, from) = extents.next().expect("files are on both volumes");
    vec![lead(90, &[1, 2]), drain, Operation::BeginMove { file, from }]
}

/// One of each message between nodes about storage.
fn messages(records: &[Record]) -> Vec<Vec<u8>> {
    let (session, request, through) = (7, 8, 1 << 40);
    let outcomes = [
        Ok(Reply::Done),
        Ok(Reply::Reservation(1 << 50)),
        Err(OperationError::NoSpace),
    ];
    let answers = outcomes.map(|outcome| StorageMessage::Answer {
        session,
        request,
        sequence: 9,
        outcome,
    });
    let held = (1..200).map(FileId).collect();
    let units = (1..200).map(|unit| (1, unit)).collect();
    let others = [
        StorageMessage::NotLeader { session, request },
        StorageMessage::Drain { through },
        StorageMessage::Drained { through, held },
        StorageMessage::Barrier { through },
        StorageMessage::Passed { through },
        StorageMessage::Wanted { units },
    ];
    let all = answers.into_iter().chain(others);
    let all = all.map(|message| message.encode());
    all.chain(records.iter().filter_map(request_of)).collect()
}

/// A catalogue and requests of other nodes with their content changed. What is decoded may contradict itself: then it is refused, or
/// applied without a panic, and the catalogue agrees with itself afterwards.
#[test]
fn broken_catalogues_and_requests_are_refused_or_harmless() {
    let (mut random, corpus) = (Random::new(0xCA7A), corpus());
    let entries = corpus.iter().filter_map(|block| decode_loose_entry(block).ok());
    let records: Vec<Record> = entries.flat_map(|entry| entry.records).collect();
    assert!(records.len() > 10, "the image has a journal");
    let mut records = records;
    let sound = catalogues();
    let wanted = sound.iter().flat_map(changes);
    records.extend(wanted.map(|operation| Record {
        origin: Some(origin()),
        operation,
    }));
    let requests = messages(&records);
    let encoded: Vec<Vec<u8>> = sound.iter().map(Catalog::encode).collect();
    let mut decoded = 0;
    for _ in 0..fuzz_rounds() * 4000 {
        let other = random.pick(&requests).clone();
        let which = random.below(sound.len() as u64) as usize;
        let changed = mutate(&mut random, &encoded[which], &other);
        let changed = bounded(&changed, "a catalogue", Catalog::decode);
        let mut catalog = changed.unwrap_or_else(|_| sound[which].clone());
        let before = catalog.audit();
        assert!(before.is_ok(), "what is decoded agrees with itself: {before:?}");
        let request = random.pick(&requests).clone();
        let message = mutate(&mut random, &request, &other);
        if let Some(StorageMessage::Request { origin, operation }) =
            bounded(&message, "a message", StorageMessage::decode)
        {
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
