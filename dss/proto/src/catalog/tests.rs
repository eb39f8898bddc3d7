//! Tests of the catalogue, the journal's bytes and every decoder: any bytes are safe, any history is consistent.

use super::*;
use crate::defect::{Defect, fails_with};
use crate::envelope::{open_block, seal_block};
use crate::journal::{
    Tail, decode_checkpoint_body, decode_checkpoint_head, decode_entry, encode_checkpoint, encode_entry,
    sequence_of,
};
use crate::label::{Label, Uuid};
use crate::storage_message::StorageMessage;
use crate::{BLOCK_BYTES, Epoch, NodeId};
use alloc::format;
use alloc::string::ToString;
use proptest::prelude::*;

const GROUP: Uuid = Uuid([9; 16]);

fn record(operation: Operation) -> Record {
    Record {
        origin: None,
        operation,
    }
}

fn asked(session: u64, request: u64, settled: u64, operation: Operation) -> Record {
    let node = NodeId::new(3).unwrap();
    Record {
        origin: Some(Origin {
            node,
            session,
            request,
            settled,
            time: 1,
        }),
        operation,
    }
}

/// Releases what waits in limbo since journal entry `through` or before.
fn release(catalog: &mut Catalog, sequence: u64, through: u64) {
    let waiting = catalog.limbo().filter(|limbo| limbo.sequence <= through);
    let entries = waiting.map(|limbo| limbo.number).collect();
    catalog
        .apply(sequence, &record(Operation::Release { entries }))
        .unwrap();
}

fn create(path: &str, size: u64) -> Operation {
    Operation::Create {
        path: path.to_string(),
        size,
        kind: FileKind::Tree,
        exclusive: true,
    }
}

#[test]
fn a_repeated_request_is_answered_and_not_done_again() {
    let mut catalog = Catalog::new(4096, &[8], 1 << 16);
    let first = catalog.apply(1, &asked(1, 1, 1, create("/a", 1)));
    assert_eq!(catalog.apply(2, &asked(1, 1, 1, create("/a", 1))), first);
    let another = catalog.apply(3, &asked(1, 2, 2, create("/a", 1)));
    assert_eq!(another, Err(OperationError::AlreadyExists));
    assert_eq!(
        catalog.apply(4, &asked(1, 1, 1, create("/b", 1))),
        Err(OperationError::Settled)
    );
    assert!(
        catalog.apply(5, &asked(2, 1, 1, create("/b", 1))).is_ok(),
        "another life starts again"
    );
    assert_eq!(catalog.free_units(), 6);
}

#[test]
fn removed_units_wait_in_limbo_until_released() {
    let mut catalog = Catalog::new(4096, &[4], 1 << 16);
    catalog.apply(1, &record(create("/a", 4 * 4096))).unwrap();
    catalog
        .apply(2, &record(Operation::Remove { path: "/a".into() }))
        .unwrap();
    assert_eq!(
        catalog.apply(3, &record(create("/b", 1))),
        Err(OperationError::NoSpace)
    );
    release(&mut catalog, 4, 1);
    assert_eq!(catalog.free_units(), 0);
    release(&mut catalog, 5, 2);
    assert_eq!(catalog.free_units(), 4);
    catalog.apply(6, &record(create("/b", 1))).unwrap();
}

#[test]
fn the_id_of_a_removed_file_is_never_given_again() {
    let mut catalog = Catalog::new(4096, &[4], 1 << 16);
    let mut given = alloc::collections::BTreeSet::new();
    for round in 0..6 {
        catalog.apply(3 * round + 1, &record(create("/a", 4096))).unwrap();
        let file = catalog.lookup("/a").unwrap();
        assert!(given.insert(file), "HZ-6: {file:?} is a second file");
        catalog
            .apply(3 * round + 2, &record(Operation::Remove { path: "/a".into() }))
            .unwrap();
        let through = 3 * round + 2;
        release(&mut catalog, 3 * round + 3, through);
    }
}

#[test]
fn a_second_use_of_a_file_id_is_missed() {
    let ids: fn() = the_id_of_a_removed_file_is_never_given_again;
    assert!(fails_with(Defect::ReuseFileId, ids));
}

#[test]
fn a_directory_cannot_go_into_itself_or_away_while_it_has_entries() {
    let mut catalog = Catalog::new(4096, &[4], 1 << 16);
    catalog
        .apply(1, &record(Operation::MakeDirectory { path: "/a/b".into() }))
        .unwrap();
    let into = Operation::Rename {
        from: "/a".into(),
        to: "/a/b/c".into(),
    };
    assert_eq!(catalog.apply(2, &record(into)), Err(OperationError::Invalid));
    assert_eq!(
        catalog.apply(3, &record(Operation::Remove { path: "/a".into() })),
        Err(OperationError::NotEmpty)
    );
    for bad in ["a", "//", "/a//b", "/a/.", "/..", "", "/x\0"] {
        assert_eq!(
            catalog.apply(4, &record(create(bad, 0))),
            Err(OperationError::Invalid),
            "{bad:?}"
        );
    }
}

#[test]
fn metadata_never_outgrows_its_checkpoint() {
    let capacity = 16 << 10;
    let mut catalog = Catalog::new(4096, &[100_000], capacity);
    let mut refused = 0;
    for number in 0..2000 {
        let outcome = catalog.apply(
            number,
            &asked(1, number + 1, number, create(&format!("/{number}"), 4096)),
        );
        refused += usize::from(outcome == Err(OperationError::NoMetadataSpace));
    }
    assert!(refused > 0 && catalog.encode().len() <= capacity);
}

fn operations() -> impl Strategy<Value = Operation> {
    let path = "/[ab](/[ab]){0,2}";
    prop_oneof![
        4 => (path, 0u64..60_000, any::<bool>()).prop_map(|(path, size, exclusive)| Operation::Create {
            path, size, kind: FileKind::Tree, exclusive
        }),
        2 => (1u64..20, 0u64..100_000).prop_map(|(file, size)| Operation::Allocate { file: FileId(file), size }),
        3 => path.prop_map(|path| Operation::Remove { path }),
        2 => (path, path).prop_map(|(from, to)| Operation::Rename { from, to }),
        1 => path.prop_map(|path| Operation::MakeDirectory { path }),
        1 => ("[ab]", proptest::option::of("[a-z]{0,9}")).prop_map(|(key, value)| Operation::SetConfig { key, value }),
        1 => prop::collection::vec(0u64..60, 0..9).prop_map(|entries| Operation::Release { entries }),
    ]
}

fn units_in_use(catalog: &Catalog) -> u64 {
    let files = catalog.inodes().flat_map(|(_, inode)| match &inode.node {
        Node::File { extents, .. } => extents.clone(),
        _ => Vec::new(),
    });
    // The file operations of `model_tests` cut and reserve; these do not.
    files.map(|extent| u64::from(extent.count)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_consistent_and_survives_its_checkpoint(history in prop::collection::vec(operations(), 0..60)) {
        let mut catalog = Catalog::new(4096, &[40, 25], 1 << 16);
        for (sequence, operation) in history.into_iter().enumerate() {
            let before = catalog.clone();
            if catalog.apply(sequence as u64, &record(operation)).is_err() {
                prop_assert_eq!(&before, &catalog, "a refusal changes nothing");
            }
            prop_assert_eq!(units_in_use(&catalog) + catalog.free_units(), 65);
            // Decoding checks owners of units, names and the way to the root.
            prop_assert_eq!(Catalog::decode(&catalog.encode()).unwrap(), catalog.clone());
            for (file, _) in catalog.inodes().filter(|(id, inode)| !inode.is_removed(*id)) {
                prop_assert_eq!(catalog.lookup(&catalog.path(file).unwrap()).unwrap(), file);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let tail = Tail::first(GROUP);
        let _ = Catalog::decode(&bytes);
        let _ = Label::decode(&bytes);
        let _ = StorageMessage::decode(&bytes);
        let _ = open_block(1, 1, &bytes);
        let _ = decode_entry(&bytes, GROUP, &tail, 0);
        let _ = sequence_of(&bytes, GROUP);
        let _ = decode_checkpoint_head(&bytes, GROUP, 1 << 20);
        let _ = Label::decode(&seal_block(crate::label::LABEL_MAGIC, 1, &bytes));
    }

    #[test]
    fn a_changed_bit_is_noticed(at in 0usize..400, bit in 0u8..8) {
        let tail = Tail::first(GROUP);
        let records = [record(create("/some/where", 5)), asked(1, 2, 2, create("/else", 7))];
        let (mut bytes, after) = encode_entry(GROUP, &tail, 0, Epoch(2), &records);
        prop_assert_eq!(bytes.len(), BLOCK_BYTES);
        let entry = decode_entry(&bytes, GROUP, &tail, 0).unwrap();
        prop_assert_eq!((&entry.records[..], entry.after), (&records[..], after));
        let length = 64 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        bytes[at % length] ^= 1 << bit;
        prop_assert!(decode_entry(&bytes, GROUP, &tail, 0).is_none());

        let mut catalog = Catalog::new(4096, &[8], 1 << 16);
        catalog.apply(1, &records[0]).unwrap();
        let mut bytes = encode_checkpoint(GROUP, tail, &catalog);
        let head = decode_checkpoint_head(&bytes, GROUP, 1 << 16).unwrap();
        prop_assert_eq!(&decode_checkpoint_body(&head, &bytes[BLOCK_BYTES..]).unwrap(), &catalog);
        let end = BLOCK_BYTES + at % head.length as usize;
        bytes[end] ^= 1 << bit;
        prop_assert!(decode_checkpoint_body(&head, &bytes[BLOCK_BYTES..]).is_err());
    }

    #[test]
    fn a_changed_catalogue_is_refused_or_sound(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        let mut catalog = Catalog::new(4096, &[8], 1 << 16);
        catalog.apply(1, &asked(1, 1, 1, create("/a/b", 9000))).unwrap();
        catalog.apply(2, &record(create("/c", 9000))).unwrap();
        catalog.apply(3, &record(Operation::Remove { path: "/c".into() })).unwrap();
        let mut bytes = catalog.encode();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(mut catalog) = Catalog::decode(&bytes) {
            let _ = catalog.apply(9, &record(create("/x/y", 5000)));
            let _ = catalog.apply(10, &record(Operation::Remove { path: "/a/b".into() }));
            let _ = catalog.apply(11, &record(Operation::Release { entries: alloc::vec![1, 2] }));
        }
    }
}
