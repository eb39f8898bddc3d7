//! The tree against a map; redo against run time; crashes between the steps of a split.

mod memory;

use super::{Decision, ROOT, Room, ScanEnd};
use crate::mtr::{Pages, ReadPage};
use crate::{Blocked, Error};
use aquifer_buffer_pool_proto::{PageSize, Scn};
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_engine_proto::TxnId;
use aquifer_engine_proto::page::{
    DELETED, InnerView, LeafView, Limits, NodeView, PageKind, RowContent, SpaceMapView, Version, kind_of,
    psn_of,
};
use memory::{Memory, TREE};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn txn(sequence: u64) -> TxnId {
    TxnId::new(NodeId::new(1).unwrap(), sequence)
}

fn version(sequence: u64, value: &[u8]) -> Version {
    Version {
        txn: txn(sequence),
        scn: Scn(0),
        flags: 0,
        value: value.to_vec(),
    }
}

/// Puts a value, pruning all older versions.
fn put(memory: &Memory, key: &[u8], new: &Version) {
    memory.run(|tree| {
        tree.modify(
            key,
            &mut |row| {
                let mut decision = Decision::put(new.clone());
                decision.prune = (1..row.count() as u16).collect();
                Ok(decision)
            },
            &mut |row| (1..row.count() as u16).collect(),
        )
    });
}

fn remove(memory: &Memory, key: &[u8]) {
    memory.run(|tree| {
        tree.modify(
            key,
            &mut |row| {
                Ok(Decision {
                    prune: (0..row.count() as u16).collect(),
                    ..Decision::nothing()
                })
            },
            &mut |_| Vec::new(),
        )
    });
}

fn get(memory: &Memory, key: &[u8]) -> Option<Vec<u8>> {
    memory.run(|tree| {
        tree.read(key, |row| {
            Ok(row.versions().next().map(|version| version.value.to_vec()))
        })
    })
}

fn scan(memory: &Memory, lower: Bound<&[u8]>, upper: Bound<&[u8]>, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut lower, mut upper) = (lower.map(<[u8]>::to_vec), upper.map(<[u8]>::to_vec));
    let mut found = Vec::new();
    loop {
        let (batch, end) = memory.run(|tree| {
            let mut batch = Vec::new();
            let end = tree.scan(
                lower.as_ref().map(Vec::as_slice),
                upper.as_ref().map(Vec::as_slice),
                reverse,
                &mut |row| {
                    batch.push((row.key().to_vec(), row.versions().next().unwrap().value.to_vec()));
                    Ok(ControlFlow::Continue(()))
                },
            )?;
            Ok((batch, end))
        });
        found.extend(batch);
        match end {
            ScanEnd::Done => return found,
            ScanEnd::Next(bound) if reverse => upper = bound,
            ScanEnd::Next(bound) => lower = bound,
            ScanEnd::Stopped => panic!("nobody stopped it"),
        }
    }
}

/// All rows by their keys, and checks of every page: fences join at each level, children lie at their separators, pages are used once.
/// `strict`: every page but the leftmost of a level has its parent entry.
fn verify(memory: &Memory, strict: bool) -> Vec<RowContent> {
    let mut rows = Vec::new();
    let mut first = ROOT;
    let mut seen = std::collections::BTreeSet::new();
    let mut known: Option<std::collections::BTreeMap<Vec<u8>, u32>> = None;
    loop {
        let (mut number, mut low) = (first, Vec::new());
        let mut children = BTreeMap::new();
        let level = loop {
            assert!(seen.insert(number), "page {number} is reached twice");
            let guard = memory.read(TREE.page(number)).unwrap();
            let node = NodeView::new(guard.bytes()).unwrap();
            assert_eq!(node.low().unwrap(), low);
            let entry = known.as_ref().and_then(|known| known.get(&low));
            assert!(entry.is_none_or(|child| *child == number));
            assert!(
                !strict || known.is_none() || entry.is_some(),
                "no parent knows page {number}"
            );
            let keys: Vec<_> = (0..node.count()).map(|slot| node.key(slot).unwrap()).collect();
            assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(
                keys.iter()
                    .all(|key| *key >= low.as_slice() && node.high().unwrap().is_none_or(|h| *key < h))
            );
            if node.is_leaf() {
                let leaf = LeafView::new(guard.bytes()).unwrap();
                rows.extend((0..node.count()).map(|slot| leaf.row(slot).unwrap().to_content()));
            } else {
                let inner = InnerView::new(guard.bytes()).unwrap();
                assert_eq!(keys[0], low.as_slice());
                for (slot, key) in keys.iter().enumerate() {
                    children.insert(key.to_vec(), inner.child(slot).unwrap());
                }
            }
            match node.high().unwrap() {
                None => break node.level(),
                Some(high) => (number, low) = (node.right().unwrap(), high.to_vec()),
            }
        };
        if level == 0 {
            break;
        }
        first = children[&Vec::new()];
        known = Some(children);
    }
    let guard = memory.read(TREE.page(0)).unwrap();
    let map = SpaceMapView::new(guard.bytes()).unwrap();
    let used: u32 = (0..map.chunks())
        .map(|chunk| map.chunk(chunk).unwrap().used.count_ones())
        .sum();
    assert_eq!(
        used as usize,
        seen.len() + 1,
        "used pages are those of the tree and the map"
    );
    rows
}

/// The logical content of a page, SCNs left out.
fn logical(bytes: &[u8]) -> String {
    match kind_of(bytes).unwrap() {
        None => "nothing".to_owned(),
        Some(PageKind::Leaf | PageKind::Inner) => {
            let node = NodeView::new(bytes).unwrap();
            let mut text = format!(
                "{:?} level {} low {:?} high {:?} right {:?}",
                psn_of(bytes).unwrap(),
                node.level(),
                node.low(),
                node.high(),
                node.right()
            );
            for slot in 0..node.count() {
                text += &if node.is_leaf() {
                    let mut row = LeafView::new(bytes).unwrap().row(slot).unwrap().to_content();
                    row.versions.iter_mut().for_each(|version| version.scn = Scn(0));
                    format!("{row:?}")
                } else {
                    format!("{:?}", InnerView::new(bytes).unwrap().entry(slot).unwrap())
                };
            }
            text
        }
        Some(_) => format!("{:?}", &bytes[24..]),
    }
}

fn key_of(random: &mut Random, space: u64, limits: Limits) -> Vec<u8> {
    let number = random.below(space);
    let mut key = format!("{:05}", number * 7919 % 99991).into_bytes();
    // The same number always gives the same key; some are long.
    if number.is_multiple_of(11) {
        key.resize(key.len() + (number as usize * 37) % (limits.key - 8), b'x');
    }
    key
}

fn model(page_size: PageSize, seed: u64, steps: usize, misses: u64) {
    let limits = Limits::of(page_size);
    let memory = Memory::of(page_size, 4000);
    memory.run(|tree| tree.create());
    memory
        .miss_every
        .store(misses, std::sync::atomic::Ordering::Relaxed);
    let mut random = Random(seed);
    let mut map: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for step in 0..steps {
        let key = key_of(&mut random, 1500, limits);
        match random.below(10) {
            0..=5 => {
                let length = if random.below(8) == 0 {
                    limits.value as u64
                } else {
                    random.below(200)
                };
                let value = vec![step as u8; length as usize];
                put(&memory, &key, &version(step as u64, &value));
                map.insert(key, value);
            }
            6 | 7 => {
                remove(&memory, &key);
                map.remove(&key);
            }
            8 => assert_eq!(get(&memory, &key), map.get(&key).cloned()),
            _ => {
                let other = key_of(&mut random, 1500, limits);
                let (from, to) = if key <= other { (key, other) } else { (other, key) };
                let reverse = random.below(2) == 0;
                let mut expected: Vec<_> = map
                    .range(from.clone()..to.clone())
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                if reverse {
                    expected.reverse();
                }
                assert_eq!(
                    scan(&memory, Bound::Included(&from), Bound::Excluded(&to), reverse),
                    expected
                );
            }
        }
        if random.below(5) == 0 {
            let key = key_of(&mut random, 1500, limits);
            let stamped = memory
                .tree()
                .read(&key, |row| Ok(row.versions().next().map(|v| v.txn)));
            if let Ok(Some(txn)) = stamped {
                // A hint: it is not in redo.
                let _ = memory.tree().stamp(&key, txn, Scn(step as u64 + 1));
            }
        }
    }
    memory.miss_every.store(0, std::sync::atomic::Ordering::Relaxed);
    let all: Vec<_> = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(scan(&memory, Bound::Unbounded, Bound::Unbounded, false), all);
    let rows = verify(&memory, misses == 0);
    assert_eq!(rows.len(), map.len());
    let groups = memory.groups.lock().len();
    let replayed = memory.replayed(groups);
    for (here, there) in memory.copy().iter().zip(replayed.copy()) {
        assert_eq!(logical(here.as_slice()), logical(there.as_slice()));
    }
}

#[test]
fn the_tree_is_a_map_and_redo_gives_it_again() {
    for (seed, page_size) in (1..).zip(PageSize::ALL) {
        model(page_size, seed, 3000, 0);
    }
}

#[test]
fn steps_that_are_blocked_anywhere_can_be_run_again() {
    for (seed, page_size) in (2..).zip(PageSize::ALL) {
        model(page_size, seed, 2500, 9);
    }
}

#[test]
fn every_prefix_of_redo_is_a_tree_that_can_be_used_and_repaired() {
    let memory = Memory::new(600);
    memory.run(|tree| tree.create());
    let mut random = Random(9);
    for step in 0..400 {
        let mut key = format!("{:04}", random.below(10000)).into_bytes();
        key.resize(700, b'k');
        put(&memory, &key, &version(step, &[7; 300]));
    }
    let groups = memory.groups.lock().len();
    let whole = verify(&memory, true);
    for end in (1..=groups).step_by(3) {
        let crashed = memory.replayed(end);
        let before = verify(&crashed, false);
        for row in &before {
            assert!(get(&crashed, &row.key).is_some());
        }
        // Writers that move right post what is missing; so all keys are written again, those too that came after the crash.
        for row in &whole {
            put(&crashed, &row.key, &version(100_000, &row.versions[0].value));
        }
        assert_eq!(verify(&crashed, true).len(), whole.len());
    }
}

#[test]
fn ascending_inserts_fill_their_leaves() {
    let memory = Memory::new(2000);
    memory.run(|tree| tree.create());
    for step in 0..4000u64 {
        put(&memory, &step.to_be_bytes(), &version(step, &[1; 100]));
    }
    let rows = verify(&memory, true);
    assert_eq!(rows.len(), 4000);
    let used = memory.allocated.load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        used < 4000 * 140 / 8192 + 24,
        "{used} pages for ascending inserts"
    );
}

#[test]
fn old_versions_stay_until_there_is_no_room_and_then_the_row_says_so() {
    let memory = Memory::new(100);
    memory.run(|tree| tree.create());
    let write = |sequence: u64, room: Option<Room>| {
        let tree = memory.tree();
        let mut decide = |row: aquifer_engine_proto::page::RowView<'_>| {
            let mut decision = Decision::put(version(sequence, &[sequence as u8; 1050]));
            decision.stamps = row
                .versions()
                .filter(|v| v.scn.0 == 0)
                .map(|v| (v.txn, Scn(v.txn.sequence())))
                .collect();
            decision.room = room;
            Ok(decision)
        };
        tree.modify(b"k", &mut decide, &mut |_| Vec::new())
    };
    for sequence in 1..=4 {
        write(sequence, None).unwrap();
    }
    assert!(matches!(
        write(5, None),
        Err(Blocked::Failed(Error::TooLarge { .. }))
    ));
    write(
        5,
        Some(Room {
            keep: 1,
            truncated_below: Scn(4),
        }),
    )
    .unwrap();
    let (versions, truncated) = memory.run(|tree| {
        tree.read(b"k", |row| {
            Ok((
                row.versions().map(|v| v.txn).collect::<Vec<_>>(),
                row.truncated_below(),
            ))
        })
    });
    assert_eq!(versions, [5, 4, 3, 2].map(txn));
    assert_eq!(truncated, Scn(4));
}

#[test]
fn the_longest_rows_and_keys_split_and_longer_ones_are_refused() {
    PageSize::ALL.into_iter().for_each(longest);
}

fn longest(page_size: PageSize) {
    let limits = Limits::of(page_size);
    let memory = Memory::of(page_size, 2000);
    memory.run(|tree| tree.create());
    let mut random = Random(4);
    let mut map = BTreeMap::new();
    for step in 0..600u64 {
        let mut key = vec![b'k'; limits.key];
        let tail = (random.below(200) as u32).to_be_bytes();
        key[limits.key - 4..].copy_from_slice(&tail);
        let new = version(step, &vec![step as u8; limits.value]);
        // The version before stays, as for a snapshot that needs it.
        memory.run(|tree| {
            tree.modify(
                &key,
                &mut |row| {
                    let mut decision = Decision::put(new.clone());
                    decision.prune = (1..row.count() as u16).collect();
                    Ok(decision)
                },
                &mut |_| Vec::new(),
            )
        });
        map.insert(key, step as u8);
    }
    let rows = verify(&memory, true);
    assert!(rows.iter().all(|row| map[&row.key] == row.versions[0].value[0]));
    assert_eq!(rows.len(), map.len());
    let long = vec![0; limits.key + 1];
    let refused = memory
        .tree()
        .modify(&long, &mut |_| Ok(Decision::nothing()), &mut |_| Vec::new());
    assert!(matches!(
        refused,
        Err(Blocked::Failed(Error::TooLarge { what: "key", .. }))
    ));
}

#[test]
fn a_decision_that_is_blocked_changes_nothing() {
    let memory = Memory::new(100);
    memory.run(|tree| tree.create());
    put(&memory, b"a", &version(1, b"1"));
    let before = memory.copy();
    let blocked = memory
        .tree()
        .modify(b"a", &mut |_| Err(Blocked::Transaction(txn(1))), &mut |_| {
            Vec::new()
        });
    assert!(matches!(blocked, Err(Blocked::Transaction(_))));
    assert!(before == memory.copy());
    let deleted = Version {
        flags: DELETED,
        ..version(1, b"")
    };
    put(&memory, b"a", &deleted);
    let row = memory.run(|tree| tree.read(b"a", |row| Ok(row.to_content())));
    assert_eq!(
        row.versions,
        [deleted],
        "a transaction's newest version is replaced by its next"
    );
}

#[test]
fn threads_work_on_one_tree() {
    let memory = Memory::new(4000);
    memory.run(|tree| tree.create());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let memory = &memory;
            scope.spawn(move || {
                for step in 0..800u64 {
                    let key = (step * 4 + thread).to_be_bytes();
                    put(memory, &key, &version(step, &[thread as u8; 150]));
                    assert_eq!(get(memory, &key), Some(vec![thread as u8; 150]));
                }
            });
        }
    });
    assert_eq!(verify(&memory, false).len(), 3200);
    let groups = memory.groups.lock().len();
    let replayed = memory.replayed(groups);
    for (here, there) in memory.copy().iter().zip(replayed.copy()) {
        assert_eq!(logical(here.as_slice()), logical(there.as_slice()));
    }
}

/// HZ-6, HZ-9, HZ-12: split pages go on from their PSN, stale parents cost a move to the right, and redo knows no stamps.
#[test]
fn each_rule_of_the_tree_is_missed_when_it_is_gone() {
    let model: fn() = the_tree_is_a_map_and_redo_gives_it_again;
    assert!(fails_with(Defect::FormatStartsOver, model));
    assert!(fails_with(Defect::PruneStampedOnly, model));
    let prefixes = every_prefix_of_redo_is_a_tree_that_can_be_used_and_repaired;
    assert!(fails_with(Defect::TrustParent, prefixes));
}

fn one_row() {
    let memory = Memory::new(16);
    memory.run(|tree| tree.create());
    put(&memory, b"key", &version(1, b"value"));
}

/// HZ-11: an image may leave the node once redo is durable up to what the page was finished with.
#[test]
fn pages_wait_for_the_end_of_their_group() {
    one_row();
    assert!(fails_with(Defect::WaitForGroupBegin, one_row));
}

/// The leaves in order, each with its low fence.
fn leaves(memory: &Memory) -> Vec<(u32, Vec<u8>)> {
    let (mut number, mut all) = (ROOT, Vec::new());
    while number != 0 {
        let guard = memory.read(TREE.page(number)).unwrap();
        let node = NodeView::new(guard.bytes()).unwrap();
        if node.is_leaf() {
            all.push((number, node.low().unwrap().to_vec()));
            number = node.right().unwrap();
        } else {
            number = InnerView::new(guard.bytes()).unwrap().child(0).unwrap();
        }
    }
    all
}

#[test]
fn the_pages_ahead_of_a_scan_are_the_next_leaves_in_its_range() {
    let memory = Memory::new(1000);
    memory.run(|tree| tree.create());
    for number in 0..600 {
        let key = format!("{number:0>300}");
        put(&memory, key.as_bytes(), &version(number, &[7; 900]));
    }
    let leaves = leaves(&memory);
    assert!(leaves.len() > 60, "several pages of parents: {}", leaves.len());
    let tree = memory.tree();
    let numbers = |from: usize, to: usize| -> Vec<_> {
        let to = to.min(leaves.len());
        leaves[from.min(to)..to]
            .iter()
            .map(|(number, _)| TREE.page(*number))
            .collect()
    };
    for (place, (_, low)) in leaves.iter().enumerate() {
        let from = Bound::Included(low.as_slice());
        let ahead = |upper, count| tree.pages_ahead(from, upper, false, count);
        assert_eq!(ahead(Bound::Unbounded, 5), numbers(place + 1, place + 6));
        assert_eq!(ahead(Bound::Unbounded, 0), []);
        if let Some((_, end)) = leaves.get(place + 3) {
            assert_eq!(ahead(Bound::Excluded(end), 5), numbers(place + 1, place + 3));
            assert_eq!(ahead(Bound::Included(end), 5), numbers(place + 1, place + 4));
        }
        let back = |lower| tree.pages_ahead(lower, Bound::Included(low), true, 5);
        let mut before = numbers(place.saturating_sub(5), place);
        before.reverse();
        let found = back(Bound::Unbounded);
        assert!(before.starts_with(&found), "{found:?} of {before:?}");
        if let Some((_, end)) = place.checked_sub(3).map(|to| &leaves[to]) {
            assert!(back(Bound::Included(end)).len() <= 3);
        }
    }
    let all_back = leaves.iter().map(|(_, low)| {
        tree.pages_ahead(Bound::Unbounded, Bound::Included(low), true, 1)
            .len()
    });
    assert!(
        all_back.sum::<usize>() > leaves.len() * 9 / 10,
        "only the first of each page of parents has nothing before it"
    );
    assert_eq!(
        tree.pages_ahead(Bound::Unbounded, Bound::Excluded(b""), true, 5),
        []
    );
}
