//! Tests of files as programs use them: bytes, several nodes, and removal while open.

use super::tests::{Network, connect, formatted, node, open};
use super::*;
use crate::device::SimDisk;
use crate::seam::{BLOCK, IoBuffer, Runtime};
use crate::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::catalog::{AttributeChange, FileKind, NewNode, OperationError};
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::{Epoch, FileId, NodeSet};
use std::sync::Arc;
use std::time::Duration;

/// Fills all space for files with bytes that nobody ever wrote into a file.
pub(super) fn soil(disk: &SimDisk, group: &VolumeGroup) {
    let label = group.label();
    let bytes = vec![0xEE; (u64::from(label.au_count) * label.au_bytes) as usize];
    disk.overwrite(label.au_offset, &bytes);
}

pub(super) fn created() -> OpenOptions {
    OpenOptions {
        create: true,
        ..OpenOptions::default()
    }
}

/// Two nodes of which the first leads, with a network that loses messages.
pub(super) async fn pair(runtime: &Arc<TestHandle>, disk: &SimDisk) -> [Arc<VolumeGroup>; 2] {
    let network = Arc::new(Network::default());
    let groups = [
        open(runtime, disk, 1).await.unwrap(),
        open(runtime, disk, 2).await.unwrap(),
    ];
    for (group, id) in groups.iter().zip(1..) {
        connect(&network, group, id);
        group.set_members([node(1), node(2)].into_iter().collect());
    }
    groups[1].follow(Epoch(1), node(1));
    groups[0].lead(Epoch(1)).await.unwrap();
    soil(disk, &groups[0]);
    // The network lives as long as the test.
    std::mem::forget(network);
    groups
}

/// A small generator of numbers, so that a failure names its seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A file beside an array of bytes.
struct Pair {
    file: File,
    bytes: Vec<u8>,
}

impl Pair {
    async fn step(&mut self, draw: &mut Draw) {
        let (offset, length) = (draw.below(60_000), draw.below(20_000) + 1);
        let end = (offset + length) as usize;
        match draw.below(12) {
            0..=4 => {
                let value = draw.below(255) as u8 + 1;
                self.file
                    .write_at(offset, &vec![value; length as usize])
                    .await
                    .unwrap();
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[offset as usize..end].fill(value);
            }
            5 | 6 => {
                self.file.set_len(offset).await.unwrap();
                self.bytes.resize(offset as usize, 0);
            }
            7 => {
                self.file.punch(offset, length).await.unwrap();
                let end = end.min(self.bytes.len());
                self.bytes[(offset as usize).min(end)..end].fill(0);
            }
            8 => {
                let keep_size = draw.below(2) == 0;
                self.file.allocate(offset, length, keep_size).await.unwrap();
                if !keep_size {
                    self.bytes.resize(self.bytes.len().max(end), 0);
                }
            }
            9 => {
                let at = self.file.append(&vec![7; length as usize]).await.unwrap();
                assert_eq!(at, self.bytes.len() as u64);
                self.bytes.resize(at as usize + length as usize, 7);
            }
            10 => {
                let mut blocks = IoBuffer::zeroed(3 * BLOCK);
                blocks.fill(9);
                let offset = offset / BLOCK as u64 * BLOCK as u64;
                self.file.write_blocks(offset, blocks).await.unwrap();
                let end = offset as usize + 3 * BLOCK;
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[offset as usize..end].fill(9);
            }
            _ => self.file.sync().await.unwrap(),
        }
        assert_eq!(self.file.size().unwrap(), self.bytes.len() as u64);
        let read = self.file.read_at(offset, length as usize).await.unwrap();
        let end = end.min(self.bytes.len());
        assert!(
            *read == self.bytes[(offset as usize).min(end)..end],
            "{offset}+{length}"
        );
    }
}

#[test]
fn a_file_is_an_array_of_bytes_with_holes() {
    for seed in 1..40 {
        let runtime = TestRuntime::new(seed);
        let disk = formatted(&runtime, seed);
        runtime.block_on(async {
            let group = open(&runtime, &disk, 1).await.unwrap();
            group.lead(Epoch(1)).await.unwrap();
            soil(&disk, &group);
            let mut draw = Draw(seed);
            let file = group.open_path("/f", created()).await.unwrap();
            let mut pair = Pair {
                file,
                bytes: Vec::new(),
            };
            for _ in 0..25 {
                pair.step(&mut draw).await;
            }
            let Pair { file, bytes } = pair;
            file.close().await.unwrap();
            let other = open(&runtime, &disk, 2).await.unwrap();
            let file = other.open_path("/f", OpenOptions::default()).await.unwrap();
            let read = file.read_at(0, 1 << 20).await.unwrap();
            assert!(
                *read == bytes[..],
                "seed {seed}: another node reads something else"
            );
        });
    }
}

#[test]
fn a_write_in_pieces_is_one_write() {
    use std::io::{IoSlice, IoSliceMut};
    let runtime = TestRuntime::new(1);
    let disk = formatted(&runtime, 1);
    runtime.block_on(async {
        let group = open(&runtime, &disk, 1).await.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        let file = group.open_path("/f", created()).await.unwrap();
        let pieces = [IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"three")];
        file.write_vectored_at(5, &pieces).await.unwrap();
        let (mut first, mut second) = ([0; 6], [0; 20]);
        let mut slices = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        assert_eq!(file.read_vectored_at(2, &mut slices).await.unwrap(), 11);
        assert_eq!((&first, &second[..5]), (b"\0\0\0one", &b"three"[..]));
        let misaligned = file.write_blocks(1, IoBuffer::zeroed(BLOCK)).await.unwrap_err();
        assert!(misaligned.is(OperationError::Invalid));
        assert!(
            file.write_at(u64::MAX - 4, b"x")
                .await
                .unwrap_err()
                .is(OperationError::TooLarge)
        );
        assert!(
            file.write_at(1 << 50, b"x")
                .await
                .unwrap_err()
                .is(OperationError::TooLarge)
        );
    });
}

fn appends_of_two_nodes() {
    (1..64).for_each(append_with_seed);
}

fn append_with_seed(seed: u64) {
    let runtime = TestRuntime::new(seed);
    let disk = formatted(&runtime, seed);
    runtime.block_on(async {
        let groups = pair(&runtime, &disk).await;
        groups[0].open_path("/log", created()).await.unwrap();
        let mut writers = Vec::new();
        for (group, id) in groups.iter().zip(1u8..) {
            let file = group.open_path("/log", OpenOptions::default()).await.unwrap();
            writers.push(async move {
                for number in 0..12u8 {
                    let record: Vec<u8> = [id, number]
                        .into_iter()
                        .cycle()
                        .take(100 + 2 * usize::from(number))
                        .collect();
                    file.append(&record).await.unwrap();
                }
            });
        }
        futures_util::future::join_all(writers).await;
        let file = groups[1].open_path("/log", OpenOptions::default()).await.unwrap();
        let log = file.read_at(0, 1 << 20).await.unwrap();
        let (mut at, mut seen) = (0, [0u8; 2]);
        while at < log.len() {
            let (id, number) = (log[at], log[at + 1]);
            let length = 100 + 2 * usize::from(number);
            assert!(
                log[at..at + length].chunks(2).all(|pair| pair == [id, number]),
                "a record is torn"
            );
            assert_eq!(
                seen[usize::from(id) - 1],
                number,
                "records of one node are in order"
            );
            seen[usize::from(id) - 1] += 1;
            at += length;
        }
        assert_eq!(seen, [12, 12]);
    });
}

#[test]
fn several_nodes_append_and_no_byte_is_lost() {
    appends_of_two_nodes();
    assert!(fails_with(Defect::AppendTogether, appends_of_two_nodes));
}

#[test]
fn two_nodes_write_different_blocks_of_one_hole() {
    let runtime = TestRuntime::new(4);
    let disk = formatted(&runtime, 4);
    runtime.block_on(async {
        let groups = pair(&runtime, &disk).await;
        groups[0].open_path("/f", created()).await.unwrap();
        let writers = groups.iter().zip(0u64..).map(|(group, which)| async move {
            let file = group.open_path("/f", OpenOptions::default()).await.unwrap();
            for block in 0..40 {
                let bytes = [which as u8 + 1; BLOCK];
                file.write_at((2 * block + which) * BLOCK as u64, &bytes)
                    .await
                    .unwrap();
            }
            file.sync().await.unwrap();
        });
        futures_util::future::join_all(writers).await;
        let file = groups[0].open_path("/f", OpenOptions::default()).await.unwrap();
        let read = file.read_at(0, 80 * BLOCK).await.unwrap();
        for (block, bytes) in read.chunks(BLOCK).enumerate() {
            assert!(
                bytes.iter().all(|byte| usize::from(*byte) == block % 2 + 1),
                "block {block}"
            );
        }
        assert_eq!(read.len(), 80 * BLOCK);
    });
}

async fn unlink(group: &Arc<VolumeGroup>, path: &str) -> FileId {
    let entry = group.entry(path).await.unwrap();
    let file = group.lookup(path).await.unwrap().unwrap();
    group.unlink(entry).await.unwrap();
    file
}

fn open_files_outlive_their_names() {
    let runtime = TestRuntime::new(5);
    let disk = formatted(&runtime, 5);
    runtime.block_on(async {
        let groups = pair(&runtime, &disk).await;
        let free = |group: &VolumeGroup| group.space().free;
        for path in ["/open", "/closed"] {
            let file = groups[0].open_path(path, created()).await.unwrap();
            file.write_at(0, &[1; 30_000]).await.unwrap();
            file.close().await.unwrap();
        }
        let held = groups[1]
            .open_path("/open", OpenOptions::default())
            .await
            .unwrap();
        let before = free(&groups[0]);
        let id = unlink(&groups[0], "/open").await;
        unlink(&groups[0], "/closed").await;
        runtime.sleep(Duration::from_secs(5)).await;
        assert_eq!(
            free(&groups[0]),
            before + 4,
            "one open file does not hold up the other"
        );
        assert_eq!(held.read_at(29_999, 9).await.unwrap().len(), 1);
        held.write_at(50_000, b"still here").await.unwrap();
        held.set_len(50_005).await.unwrap();
        assert_eq!(&*held.read_at(50_000, 99).await.unwrap(), b"still");
        let other = held.clone();
        assert!(matches!(
            groups[0].open_file(id).await,
            Err(StorageError::NoSuchFile(_))
        ));
        drop(held);
        runtime.sleep(Duration::from_secs(5)).await;
        assert!(groups[0].space().waiting > 0, "a second handle holds it");
        other.close().await.unwrap();
        runtime.sleep(Duration::from_secs(5)).await;
        assert_eq!(groups[0].space().waiting, 0);
        assert!(matches!(
            groups[1].open_file(id).await,
            Err(StorageError::NoSuchFile(_))
        ));
    });
}

#[test]
fn a_removed_file_lives_while_it_is_open_anywhere() {
    open_files_outlive_their_names();
    assert!(fails_with(Defect::FreeOpenFiles, open_files_outlive_their_names));
}

#[test]
fn a_dead_node_holds_nothing() {
    let runtime = TestRuntime::new(6);
    let disk = formatted(&runtime, 6);
    runtime.block_on(async {
        let groups = pair(&runtime, &disk).await;
        let file = groups[1].open_path("/f", created()).await.unwrap();
        file.write_at(0, &[1; 30_000]).await.unwrap();
        file.sync().await.unwrap();
        unlink(&groups[0], "/f").await;
        runtime.sleep(Duration::from_secs(3)).await;
        let space = groups[0].space();
        assert!(space.waiting > 0);
        groups[0].set_members(NodeSet::of(node(1)));
        runtime.sleep(Duration::from_secs(3)).await;
        let space = groups[0].space();
        assert_eq!(
            (space.waiting, space.free),
            (0, space.units),
            "its zeroed units are free too"
        );
        drop(file);
    });
}

fn cut_units_wait() {
    let runtime = TestRuntime::new(7);
    let disk = formatted(&runtime, 7);
    runtime.block_on(async {
        let groups = pair(&runtime, &disk).await;
        let file = groups[0].open_path("/f", created()).await.unwrap();
        file.write_at(0, &[1; 80_000]).await.unwrap();
        file.sync().await.unwrap();
        // Node 2 is not heard: it may still write where the file was.
        groups[0].set_members([node(1), node(2), node(3)].into_iter().collect());
        file.set_len(10).await.unwrap();
        runtime.sleep(Duration::from_secs(3)).await;
        assert_eq!(groups[0].space().waiting, 9);
        groups[0].set_members([node(1), node(2)].into_iter().collect());
        runtime.sleep(Duration::from_secs(3)).await;
        assert_eq!(groups[0].space().waiting, 0);
    });
}

#[test]
fn units_that_were_cut_off_wait_for_writes_of_others() {
    cut_units_wait();
    assert!(fails_with(Defect::FreeCutUnits, cut_units_wait));
}

#[test]
fn times_owner_and_links_are_those_of_posix() {
    let runtime = TestRuntime::new(8);
    let disk = formatted(&runtime, 8);
    runtime.block_on(async {
        let group = open(&runtime, &disk, 1).await.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        let file = group.open_path("/f", created()).await.unwrap();
        let made = file.stat().unwrap();
        runtime.sleep(Duration::from_secs(1)).await;
        file.write_at(0, b"x").await.unwrap();
        let written = file.stat().unwrap();
        assert!(written.attributes.modified > made.attributes.modified);
        let change = AttributeChange {
            mode: Some(0o4755),
            uid: Some(7),
            modified: Some(5),
            ..AttributeChange::default()
        };
        file.close().await.unwrap();
        group.set_attributes(made.id, change).await.unwrap();
        group
            .link(made.id, group.entry("/g").await.unwrap())
            .await
            .unwrap();
        let owner = OpenOptions::default().owner;
        let link = NewNode::Symlink { target: "g".into() };
        group
            .make(group.entry("/l").await.unwrap(), link, owner, true)
            .await
            .unwrap();
        let stat = group.stat_path("/l").await.unwrap();
        assert_eq!(
            (stat.id, stat.links, stat.attributes.mode, stat.attributes.uid),
            (made.id, 2, 0o4755, 7)
        );
        assert_eq!(stat.attributes.modified, 5);
        let link = group.stat_link("/l").await.unwrap();
        assert_eq!(group.read_link(link.id).await.unwrap(), "g");
        unlink(&group, "/f").await;
        assert_eq!(group.stat_path("/l").await.unwrap().path, "/g");
    });
}

#[test]
fn files_of_the_engine_are_read_and_not_written() {
    let runtime = TestRuntime::new(9);
    let disk = formatted(&runtime, 9);
    runtime.block_on(async {
        let group = open(&runtime, &disk, 1).await.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        let options = CreateOptions {
            size: 3 * 8192,
            kind: FileKind::Tree,
            exclusive: true,
        };
        let id = group.create("/engine", options).await.unwrap();
        let file = group.open_file(id).await.unwrap();
        // In units that it has the catalogue is not asked.
        for refused in [
            file.write_at(0, b"x").await,
            file.write_blocks(0, IoBuffer::zeroed(BLOCK)).await.map(drop),
            file.write_blocks_vectored(0, vec![IoBuffer::zeroed(BLOCK)])
                .await
                .map(drop),
            file.prepare_write(0, BLOCK).await.map(drop),
            file.allocate(0, 1, true).await,
            file.punch(10, 100).await,
            file.punch(0, 8192).await,
            file.set_len(0).await,
            file.append(b"x").await.map(drop),
        ] {
            assert!(refused.unwrap_err().is(OperationError::Protected));
        }
        let bytes = file.read_at(0, 3 * 8192).await.unwrap();
        assert!(bytes.len() == 3 * 8192 && bytes.iter().all(|byte| *byte == 0));
    });
}
