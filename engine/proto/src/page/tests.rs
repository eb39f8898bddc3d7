//! Layouts and operations: any bytes are safe, what fits is applied, redo equals run time.

use super::*;
use crate::{RedoRecord, TxnId};
use alloc::vec;
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::{PageId, PageSize, Psn, Scn, Stamp};
use aquifer_dss_proto::{FileId, NodeId};
use proptest::prelude::*;

const ID: PageId = PageId {
    file: FileId(3),
    number: 9,
};

fn txn(sequence: u64) -> TxnId {
    TxnId::new(NodeId::new(2).unwrap(), sequence)
}

fn version(sequence: u64, value: &[u8]) -> Version {
    Version {
        txn: txn(sequence),
        scn: Scn(0),
        flags: 0,
        value: value.to_vec(),
    }
}

fn sized(page_size: PageSize, content: PageContent) -> Vec<u8> {
    let mut page = vec![0; page_size.bytes()];
    apply(page.as_mut_slice(), ID, &PageOperation::Format(content)).unwrap();
    page
}

fn page_of(content: PageContent) -> Vec<u8> {
    sized(PageSize::default(), content)
}

fn leaf(rows: Vec<RowContent>) -> PageContent {
    PageContent::Leaf {
        low: b"a".to_vec(),
        high: Some(b"zz".to_vec()),
        right: 12,
        rows,
    }
}

fn row(key: &[u8], versions: Vec<Version>) -> RowContent {
    RowContent {
        key: key.to_vec(),
        truncated_below: Scn(0),
        versions,
    }
}

/// Everything a page can be asked; only that it returns matters.
fn exercise(page: &[u8]) {
    let _ = (status_of(page, 5), sequence_of(page), psn_of(page), file_of(page));
    if let Ok(map) = SpaceMapView::new(page) {
        let _ = map.free_pages(1, u32::MAX, 3);
    }
    if let Ok(node) = NodeView::new(page) {
        let _ = (
            node.low(),
            node.high(),
            node.right(),
            node.search(b"m"),
            node.free(),
        );
    }
    if let Ok(inner) = InnerView::new(page) {
        for slot in 0..inner.node().count() {
            let _ = inner.entry(slot);
        }
    }
    if let Ok(leaf) = LeafView::new(page) {
        for slot in 0..leaf.node().count() {
            let _ = leaf.row(slot).map(|row| row.to_content());
        }
    }
    let key = b"m".to_vec();
    let operations = [
        PageOperation::PutVersion {
            key: key.clone(),
            version: version(1, &[1; 900]),
        },
        PageOperation::Prune {
            key: key.clone(),
            versions: vec![PruneVersion {
                position: 0,
                txn: txn(1),
            }],
            truncated_below: Scn(3),
        },
        PageOperation::RemoveKey { key: key.clone() },
        PageOperation::InsertChild(ChildEntry {
            key: key.clone(),
            child: 4,
        }),
        PageOperation::TruncateRight {
            separator: key.clone(),
            right: 5,
        },
        PageOperation::SetSpace {
            chunk: 3,
            owner: 1,
            page: 2,
        },
        PageOperation::SetStatus {
            index: 1015,
            scn: Scn(4),
        },
        PageOperation::SetSequence { next: u64::MAX },
    ];
    for operation in operations {
        let mut copy = page.to_vec();
        let _ = (fits(&copy, &operation), apply(&mut copy, ID, &operation));
        let mut copy = page.to_vec();
        let _ = stamp(&mut copy, &key, txn(1), Scn(5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_never_panic(
        kind in 0u8..7,
        size in 0usize..4,
        seed in proptest::collection::vec(any::<u8>(), 200),
    ) {
        let mut page: Vec<u8> = seed.iter().cycle().take(PageSize::ALL[size].bytes()).copied().collect();
        page[5] = kind;
        exercise(&page);
    }

    #[test]
    fn damaged_pages_never_panic(
        inner in any::<bool>(),
        size in 0usize..4,
        hits in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<bool>()), 1..12),
    ) {
        let mut page = if inner {
            let children = (0u8..20).map(|n| ChildEntry { key: vec![b'a' + n; 9], child: n.into() }).collect();
            sized(PageSize::ALL[size], PageContent::Inner { level: 2, low: b"a".to_vec(), high: None, right: 0, children })
        } else {
            sized(PageSize::ALL[size], leaf((0u8..20).map(|n| row(&[b'a' + n; 9], vec![version(1, &[n; 40])])).collect()))
        };
        for (at, value, near) in hits {
            // Half of the damage goes to the node's header and slots, where it hurts.
            let at = if near { 40 + usize::from(at) % 80 } else { usize::from(at) % page.len() };
            page[at] = value;
        }
        exercise(page.as_slice());
    }

    #[test]
    fn random_operations_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(operation) = decode_operation(&bytes) {
            let mut page = [0; PageSize::LEAST.bytes()];
            let _ = apply(&mut page, ID, &operation);
            let mut page = page_of(leaf(vec![row(b"m", vec![version(1, b"x")])]));
            let _ = apply(page.as_mut_slice(), ID, &operation);
        }
    }

    #[test]
    fn what_fits_is_applied_and_redo_from_another_layout_is_equal(
        size in 0usize..4,
        steps in proptest::collection::vec((0u8..12, 0u64..6, 0usize..700, any::<u8>()), 1..120),
    ) {
        let mut page = sized(PageSize::ALL[size], leaf(Vec::new()));
        let mut log = Vec::new();
        let mut psn = Psn(0);
        for (key, writer, length, what) in steps {
            let key = vec![b'a' + key; 1 + usize::from(key) * 3];
            let known = LeafView::new(page.as_slice()).unwrap().find(&key).unwrap().to_content();
            let operation = match what % 4 {
                0 if !known.versions.is_empty() => {
                    let position = (known.versions.len() - 1) as u16;
                    let txn = known.versions[usize::from(position)].txn;
                    PageOperation::Prune { key: key.clone(), versions: vec![PruneVersion { position, txn }], truncated_below: Scn(0) }
                }
                1 => {
                    stamp(page.as_mut_slice(), &key, txn(writer), Scn(writer + 1)).unwrap();
                    continue;
                }
                _ => PageOperation::PutVersion { key: key.clone(), version: version(writer, &vec![what; length]) },
            };
            let before = page.clone();
            let fitting = fits(page.as_slice(), &operation).unwrap();
            let done = apply(page.as_mut_slice(), ID, &operation);
            prop_assert_eq!(fitting, done.is_ok());
            if done.is_err() {
                prop_assert!(before == page);
                continue;
            }
            log.push(RedoRecord { page: ID, prev_psn: psn, operation: encode_operation(&operation) });
            psn = Psn(psn.0 + 1);
            set_psn(page.as_mut_slice(), psn);
        }
        let mut again = sized(PageSize::ALL[size], leaf(Vec::new()));
        for record in &log {
            prop_assert_eq!(redo(again.as_mut_slice(), record, Stamp(record.prev_psn.0 + 1)), Ok(Redone::Applied));
        }
        let content = |page: &[u8]| {
            let leaf = LeafView::new(page).unwrap();
            let rows: Vec<_> = (0..leaf.node().count()).map(|slot| {
                let mut row = leaf.row(slot).unwrap().to_content();
                row.versions.iter_mut().for_each(|version| version.scn = Scn(0));
                row
            }).collect();
            (rows, leaf.node().free(), psn_of(page))
        };
        prop_assert_eq!(content(page.as_slice()), content(again.as_slice()));
    }
}

#[test]
fn redo_applies_exactly_once_and_sees_a_gap() {
    let mut page = page_of(leaf(Vec::new()));
    set_psn(page.as_mut_slice(), Psn(7));
    let operation = encode_operation(&PageOperation::PutVersion {
        key: b"k".to_vec(),
        version: version(1, b"v"),
    });
    let record = |psn| RedoRecord {
        page: ID,
        prev_psn: Psn(psn),
        operation: operation.clone(),
    };
    assert_eq!(redo(page.as_mut_slice(), &record(8), Stamp(50)), Ok(Redone::Gap));
    assert_eq!(
        redo(page.as_mut_slice(), &record(7), Stamp(50)),
        Ok(Redone::Applied)
    );
    assert_eq!(
        redo(page.as_mut_slice(), &record(7), Stamp(50)),
        Ok(Redone::Skipped)
    );
    let format = encode_operation(&PageOperation::Format(PageContent::Status));
    let format = RedoRecord {
        page: ID,
        prev_psn: Psn(20),
        operation: format,
    };
    assert_eq!(
        redo(page.as_mut_slice(), &format, Stamp(60)),
        Ok(Redone::Applied),
        "Format needs no base"
    );
    assert_eq!(psn_of(page.as_slice()), Ok(Psn(21)));
    assert_eq!(stamp_of(page.as_slice()), Ok(Stamp(60)));
    apply(
        page.as_mut_slice(),
        ID,
        &PageOperation::Format(PageContent::Status),
    )
    .unwrap();
    assert_eq!(
        stamp_of(page.as_slice()),
        Ok(Stamp(60)),
        "a Format continues it (HZ-6)"
    );
    assert_eq!(file_of(page.as_slice()), Ok(ID));
}

#[test]
fn status_sequence_and_space_are_kept_and_final() {
    let mut page = page_of(PageContent::Status);
    let set = |index, scn| PageOperation::SetStatus { index, scn: Scn(scn) };
    apply(page.as_mut_slice(), ID, &set(1015, 44)).unwrap();
    assert_eq!(status_of(page.as_slice(), 1015), Ok(Scn(44)));
    assert!(apply(page.as_mut_slice(), ID, &set(1015, 45)).is_err());
    assert!(apply(page.as_mut_slice(), ID, &set(1016, 1)).is_err());

    let mut page = page_of(PageContent::Sequence { next: 10 });
    assert!(apply(page.as_mut_slice(), ID, &PageOperation::SetSequence { next: 9 }).is_err());
    apply(page.as_mut_slice(), ID, &PageOperation::SetSequence { next: 12 }).unwrap();
    assert_eq!(sequence_of(page.as_slice()), Ok(12));

    let mut page = page_of(PageContent::SpaceMap);
    let take = |chunk, owner, page| PageOperation::SetSpace { chunk, owner, page };
    apply(page.as_mut_slice(), ID, &take(0, 1, 5)).unwrap();
    assert!(apply(page.as_mut_slice(), ID, &take(0, 1, 5)).is_err(), "used");
    assert!(
        apply(page.as_mut_slice(), ID, &take(0, 2, 6)).is_err(),
        "another node's chunk"
    );
    let map = SpaceMapView::new(page.as_slice()).unwrap();
    assert_eq!(map.free_pages(2, 66, 9).unwrap(), [(1, 0), (1, 1)]);
    assert_eq!(map.free_pages(1, 200, 2).unwrap(), [(0, 1), (0, 2)]);
}

#[test]
fn a_lock_does_not_replace_what_its_transaction_wrote() {
    let mut page = page_of(leaf(Vec::new()));
    let put = |version| PageOperation::PutVersion {
        key: b"k".to_vec(),
        version,
    };
    let lock = Version {
        flags: LOCK_ONLY,
        ..version(1, b"")
    };
    apply(page.as_mut_slice(), ID, &put(lock.clone())).unwrap();
    apply(page.as_mut_slice(), ID, &put(version(1, b"value"))).unwrap();
    apply(page.as_mut_slice(), ID, &put(lock)).unwrap();
    let content = LeafView::new(page.as_slice())
        .unwrap()
        .find(b"k")
        .unwrap()
        .to_content();
    assert_eq!(content.versions, [version(1, b"value")]);
}

/// The heap begins at the very end of the page: 32,768 in the largest, which is an offset of 16 bits like any other.
#[test]
fn a_page_of_any_size_is_filled_to_its_end_and_emptied() {
    for page_size in PageSize::ALL {
        let mut page = sized(page_size, leaf(Vec::new()));
        let empty = NodeView::new(&page).unwrap().free().unwrap();
        assert_eq!(empty, capacity(page_size.bytes()) - 3, "two fences of 3 bytes");
        let put = |number: u32| PageOperation::PutVersion {
            key: number.to_be_bytes().to_vec(),
            version: version(1, &[number as u8; 300]),
        };
        let count = (0..)
            .take_while(|number| apply(&mut page, ID, &put(*number)).is_ok())
            .count() as u32;
        let cell = 7 + 4 + VERSION_OVERHEAD + 300 + 2;
        assert_eq!(count as usize, empty / cell);
        assert!(!fits(&page, &put(count)).unwrap());
        let last = LeafView::new(&page).unwrap();
        assert_eq!(
            last.find(&0u32.to_be_bytes())
                .unwrap()
                .versions()
                .next()
                .unwrap()
                .value,
            [0; 300]
        );
        for number in 0..count {
            let key = number.to_be_bytes().to_vec();
            apply(&mut page, ID, &PageOperation::RemoveKey { key }).unwrap();
        }
        assert_eq!(NodeView::new(&page).unwrap().free(), Ok(empty));
        apply(&mut page, ID, &put(count)).unwrap();
    }
}

#[test]
fn status_pages_and_space_maps_are_used_to_their_end() {
    for page_size in PageSize::ALL {
        let mut page = sized(page_size, PageContent::Status);
        let count = status_per_page(page_size) as u16;
        let set = |index| PageOperation::SetStatus { index, scn: Scn(7) };
        assert!(apply(&mut page, ID, &set(count)).is_err());
        apply(&mut page, ID, &set(count - 1)).unwrap();
        assert_eq!(page[page_size.bytes() - 8], 7, "the last word is the last status");

        let mut page = sized(page_size, PageContent::SpaceMap);
        let chunks = (pages_per_map(page_size) / CHUNK_PAGES) as u16;
        let take = |chunk| PageOperation::SetSpace {
            chunk,
            owner: 1,
            page: 63,
        };
        assert!(apply(&mut page, ID, &take(chunks)).is_err());
        apply(&mut page, ID, &take(chunks - 1)).unwrap();
        let map = SpaceMapView::new(&page).unwrap();
        assert_eq!(map.chunk(u32::from(chunks) - 1).unwrap().used, 1 << 63);
        assert_eq!(
            map.free_pages(2, u32::MAX, 1),
            Ok(vec![(0, 1)]),
            "page 0 is the map"
        );
    }
}
