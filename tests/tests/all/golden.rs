//! The committed images of the present format version decode into the committed texts, and are encoded again byte for byte; and the
//! tables of docs/on-disk-format.md are those of the code.

use aquifer_dss::check::check;
use aquifer_dss::testing::TestRuntime;
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::envelope::ENVELOPE_BYTES;
use aquifer_dss_proto::journal::{
    ENTRY_HEADER, Tail, decode_loose_entry, decode_loose_head, encode_checkpoint, encode_entry,
};
use aquifer_dss_proto::label::{
    BALLOTS_OFFSET, BODIES_OFFSET, FORMAT_VERSION, JOURNAL_OFFSET_LEAST, LABEL_OFFSETS, Label, SLOTS_OFFSET,
};
use aquifer_engine::check::all_passes;
use aquifer_engine::decode::{Decoded, recognise};
use aquifer_engine_proto::group::GROUP_HEADER;
use aquifer_tests::golden::{self, Blocks, Golden};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of each device of an image.
const DEVICE: u64 = golden::DISK_BYTES / 4;

fn blocks(golden: Golden) -> Blocks {
    golden::committed(golden).unwrap()
}

/// `length` bytes of an image from `offset`.
fn bytes(blocks: &Blocks, offset: u64, length: usize) -> Vec<u8> {
    let places = (offset..offset + length as u64).step_by(4096);
    let pieces = places.flat_map(|place| blocks.get(&place).cloned().unwrap_or_else(|| vec![0; 4096]));
    pieces.take(length).collect()
}

#[test]
fn the_golden_images_decode_into_their_texts() {
    for image in Golden::ALL {
        let (blocks, expected) = (blocks(image), golden::committed_text(image).unwrap());
        let runtime = TestRuntime::new(1);
        let (group, text) = runtime.block_on(async {
            let disk = golden::device(runtime.clone(), &blocks).await.unwrap();
            golden::describe(disk).await.unwrap()
        });
        for (number, (found, wanted)) in text.lines().zip(expected.lines()).enumerate() {
            assert_eq!(found, wanted, "{image:?}: line {}", number + 1);
        }
        assert_eq!(text.lines().count(), expected.lines().count());
        let report = runtime.block_on(check(&group, &all_passes()));
        assert_eq!(report.wrongs().count(), 0, "{image:?}: {report:#?}");
    }
}

#[test]
fn what_the_golden_images_say_is_encoded_into_the_same_bytes() {
    let mut encoded = BTreeMap::new();
    for blocks in Golden::ALL.map(blocks) {
        for (offset, block) in &blocks {
            let whole = bytes(&blocks, *offset, 64 << 10);
            let again = if let Ok(label) = Label::decode(block) {
                label.encode()
            } else if let Ok(entry) = decode_loose_entry(&whole) {
                let label = Label::decode(&blocks[&0]).unwrap();
                let tail = Tail {
                    sequence: entry.sequence,
                    position: entry.position,
                    previous: entry.previous,
                    epoch: entry.epoch,
                };
                encode_entry(label.group, &tail, entry.position, entry.epoch, &entry.records).0
            } else if let Ok(head) = decode_loose_head(block) {
                let catalog =
                    aquifer_dss_proto::journal::decode_checkpoint_body(&head, &whole[4096..]).unwrap();
                encode_checkpoint(head.group, head.tail, &catalog)
            } else {
                continue;
            };
            let kind = recognise(&whole).kind;
            assert!(again == whole[..again.len()], "{kind} at {offset}");
            *encoded.entry(kind).or_insert(0) += 1;
        }
    }
    assert_eq!(encoded["label"], 2 * 2 * 2, "two images of two devices");
    assert_eq!(
        encoded["head of a checkpoint"], 4,
        "one of a mirrored group is on both sides"
    );
    assert!(encoded["journal entry"] > 100, "{encoded:?}");
}

#[test]
fn the_golden_image_has_every_kind_of_block() {
    let blocks = blocks(Golden::Plain);
    let mut kinds = BTreeSet::new();
    let mut operations = 0;
    for block in blocks.values() {
        let decoded = recognise(block);
        let kind = decoded.fields.iter().find(|(name, _)| name == "kind");
        kinds.extend(kind.map(|(_, kind)| format!("page of kind {kind}")));
        let several = |decoded: &Decoded| {
            decoded
                .fields
                .iter()
                .filter(|(name, _)| name == "operation")
                .count()
        };
        operations = operations.max(several(&decoded));
        kinds.insert(decoded.kind.to_owned());
    }
    assert!(operations > 1, "an entry of several operations");
    let wanted = [
        "label",
        "slot of a node",
        "ballot block",
        "journal entry",
        "head of a checkpoint",
        "header of a redo stream",
        "redo group",
        "double-write area",
        "page of kind 1",
        "page of kind 2",
        "page of kind 3",
        "page of kind 4",
        "page of kind 5",
    ];
    for kind in wanted {
        assert!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
}

/// What is recognised in each area of volume 0 is what the layout has there, and nothing is anywhere else.
#[test]
fn every_block_of_a_golden_image_is_where_the_layout_has_it() {
    for blocks in Golden::ALL.map(blocks) {
        let label = Label::decode(&blocks[&0]).unwrap();
        for (offset, block) in &blocks {
            let kind = recognise(block).kind;
            let (device, offset) = (offset / DEVICE, offset % DEVICE);
            let expected: &[&str] = match offset {
                offset if LABEL_OFFSETS.contains(&offset) => &["label"],
                offset if offset >= label.au_offset || device > 0 => continue,
                SLOTS_OFFSET..BALLOTS_OFFSET => &["slot of a node"],
                BALLOTS_OFFSET..BODIES_OFFSET => &["ballot block"],
                BODIES_OFFSET..JOURNAL_OFFSET_LEAST => &["unknown"],
                offset if offset < label.checkpoint_offset(0) => &["journal entry", "unknown"],
                _ => &["head of a checkpoint", "unknown"],
            };
            assert!(expected.contains(&kind), "{kind} at {offset} of device {device}");
        }
    }
}

type Rows = Vec<Vec<String>>;

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/on-disk-format.md");
    std::fs::read_to_string(path).unwrap()
}

/// The tables of the document as rows of cells, by the text before them.
fn tables() -> Vec<(String, Rows)> {
    let mut tables: Vec<(String, Rows)> = Vec::new();
    let (mut before, mut inside) = (String::new(), false);
    for line in document().lines() {
        if let Some(cells) = line.strip_prefix('|') {
            let cells = cells.trim_end_matches('|').split('|');
            let cells: Vec<String> = cells.map(|cell| cell.trim().to_owned()).collect();
            if !inside {
                tables.push((std::mem::take(&mut before), Vec::new()));
                inside = true;
            }
            tables.last_mut().unwrap().1.push(cells);
        } else {
            inside = false;
            before.push_str(line);
            before.push('\n');
        }
    }
    tables
}

#[test]
fn the_tables_of_the_format_have_no_gaps_and_end_where_the_code_does() {
    let mut ends = Vec::new();
    for (before, rows) in tables() {
        if rows[0].len() != 3 || rows[0][..2] != ["offset", "size"] {
            continue;
        }
        let mut end = None;
        for row in &rows[2..] {
            let Ok(offset) = row[0].parse::<u64>() else { break };
            let fits = end.is_none_or(|end| end == offset);
            assert!(fits, "{before}: {row:?}, behind {end:?}");
            // What has a length of its own is the last.
            end = row[1].parse::<u64>().ok().map(|size| offset + size);
            if end.is_none() {
                ends.push(offset);
                break;
            }
        }
        ends.extend(end);
    }
    for fixed in [ENVELOPE_BYTES, ENTRY_HEADER, GROUP_HEADER] {
        assert!(
            ends.contains(&(fixed as u64)),
            "no table ends at {fixed}: {ends:?}"
        );
    }
}

/// The number that a block has in the field of this name, by the table that comes after these words in the document.
fn by_table(tables: &[(String, Rows)], block: &[u8], words: &str, field: &str) -> u128 {
    let mut found = tables.iter().filter(|(before, _)| before.contains(words));
    let (_, rows) = found.next().unwrap_or_else(|| panic!("no table behind {words}"));
    let mut fields = rows.iter().filter(|row| row[2].starts_with(field));
    let row = fields
        .next()
        .unwrap_or_else(|| panic!("{words}: no field {field}"));
    let (offset, size): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
    let mut number = [0; 16];
    number[..size].copy_from_slice(&block[offset..offset + size]);
    u128::from_le_bytes(number)
}

/// Fields that the decoder names, and the document: kind of the block, words before its table, where the table begins in the
/// block, and pairs of names.
type Pairs = &'static [(&'static str, &'static str)];
const NAMED: &[(&str, &str, usize, Pairs)] = &[
    (
        "journal entry",
        "## Journal entry",
        0,
        &[
            ("epoch", "epoch of the leader"),
            ("sequence", "sequence"),
            ("position", "logical position"),
            ("previous", "hash"),
        ],
    ),
    (
        "ballot block",
        "The content of a ballot block",
        16,
        &[
            ("instance", "instance"),
            ("value", "value accepted"),
            ("decided", "epoch decided"),
            ("decided_value", "hash of the body decided"),
        ],
    ),
    (
        "double-write area",
        "## Double-write area",
        0,
        &[("images", "number of images")],
    ),
    (
        "header of a redo stream",
        "Header:",
        0,
        &[
            ("stream", "stream"),
            ("generation", "generation"),
            ("ring_bytes", "ring bytes"),
            ("horizon", "horizon"),
            ("stamp", "stamp"),
        ],
    ),
    (
        "redo group",
        "Group:",
        0,
        &[
            ("stream", "stream"),
            ("lsn", "LSN of byte 0"),
            ("previous_end", "end of the group before"),
            ("incarnation", "incarnation"),
            ("epoch", "epoch"),
            ("stamp", "stamp"),
        ],
    ),
    (
        "page",
        "## Pages",
        0,
        &[
            ("version", "version"),
            ("kind", "kind"),
            ("file", "file"),
            ("number", "number"),
            ("tree", "tree"),
            ("psn", "PSN"),
            ("epoch", "epoch"),
            ("stamp", "stamp"),
        ],
    ),
];

/// Fields of tree pages, of which there is a second table.
const TREE: Pairs = &[("level", "level"), ("right", "right sibling")];
/// Decoded fields that are shown in hexadecimal digits.
const HEXADECIMAL: [&str; 3] = ["previous", "value", "decided_value"];

#[test]
fn the_tables_of_the_format_find_what_the_decoders_find() {
    let tables = tables();
    let mut looked = BTreeMap::new();
    for blocks in Golden::ALL.map(blocks) {
        for (offset, block) in &blocks {
            let decoded = recognise(&bytes(&blocks, *offset, 64 << 10));
            let field = |name: &str| decoded.fields.iter().find(|(field, _)| field == name);
            let agree = |words: &str, at: usize, pairs: Pairs| {
                for (name, in_document) in pairs {
                    let radix = if HEXADECIMAL.contains(name) { 16 } else { 10 };
                    let (_, shown) = field(name).unwrap_or_else(|| panic!("{decoded:?} has no {name}"));
                    let shown = shown.trim_start_matches(|c: char| c.is_alphabetic() && radix == 10);
                    let shown = u128::from_str_radix(shown, radix).unwrap();
                    let read = by_table(&tables, &block[at..], words, in_document);
                    assert_eq!(read, shown, "{}: {name} at {offset}", decoded.kind);
                }
            };
            for (kind, words, at, pairs) in NAMED {
                if decoded.kind == *kind && decoded.trouble.is_none() {
                    agree(words, *at, pairs);
                    *looked.entry(*kind).or_insert(0) += 1;
                }
            }
            if field("level").is_some() {
                agree("**Tree pages (leaf, inner)**", 0, TREE);
            }
        }
    }
    for (kind, ..) in NAMED {
        assert!(looked.contains_key(kind), "no {kind} among {looked:?}");
    }
}

#[test]
fn the_magic_words_of_the_document_are_those_on_the_device() {
    let (text, blocks) = (document(), blocks(Golden::Plain));
    let starts: BTreeSet<Vec<u8>> = blocks.values().map(|block| block[..8].to_vec()).collect();
    let words = [
        "AQLABEL\0",
        "AQCHECK\0",
        "AQJOURN\0",
        "AQSLOT\0\x01",
        "AQBALT\0\x01",
        "AQDBRWB1",
        "AQRH",
        "AQRG",
    ];
    for word in words {
        let written = word.replace('\0', "\\0").replace('\x01', "\\x01");
        assert!(
            text.contains(&format!("`{written}`")),
            "the document has no {written}"
        );
        assert!(
            starts.iter().any(|start| start.starts_with(word.as_bytes())),
            "{written}"
        );
    }
}

#[test]
fn the_layout_of_volume_0_in_the_document_is_that_of_the_code() {
    let text = document();
    let says = |wanted: String| assert!(text.contains(&wanted), "the document does not say: {wanted}");
    says(format!("# On-disk format, version {FORMAT_VERSION}\n"));
    assert_eq!(LABEL_OFFSETS[0], 0);
    let copy = LABEL_OFFSETS[1] >> 10;
    says(format!("| {copy} KiB | 4 KiB | label, copy B |"));
    let nodes = NodeId::MAX;
    let each = |offset: u64, what: &str| {
        says(format!(
            "| {} KiB + 4 KiB * (id - 1) | {nodes} * 4 KiB | {what}",
            offset >> 10
        ));
    };
    each(SLOTS_OFFSET, "node slots");
    each(BALLOTS_OFFSET, "ballot blocks");
    let bodies = BODIES_OFFSET >> 10;
    says(format!(
        "| {bodies} KiB + 2 * B * (id - 1) | {nodes} * 2 * B | ballot bodies"
    ));
    says(format!("J is {} MiB,", JOURNAL_OFFSET_LEAST >> 20));
    says(format!("format version ({FORMAT_VERSION})"));
}
