//! Each kind of damage is found, and what can be repaired is; the rest stays as it is.

use super::*;
use crate::device::{SimDisk, SimDiskOptions};
use crate::group::{CreateOptions, GroupOptions, NewDevice, StorageError, VolumeGroup};
use crate::seam::{BLOCK, BlockDevice, DeviceError, IoBuffer, VolumeOpener};
use crate::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::label::{LABEL_OFFSETS, Label, ballot_offset, slot_offset};
use aquifer_dss_proto::{Epoch, NodeId, NodeSet};
use std::collections::BTreeMap;

/// A group of one volume.
struct Alone;

impl VolumeOpener for Alone {
    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        Box::pin(async move { Err(DeviceError::Fenced(format!("there is no {path}"))) })
    }
    fn close(&self, _path: &str) {}
}

struct Rig {
    runtime: Arc<TestHandle>,
    device: Arc<dyn BlockDevice>,
    label: Label,
}

fn node() -> NodeId {
    NodeId::new(1).unwrap()
}

impl Rig {
    /// A group with files whose journal was recycled, so that both checkpoints are in use.
    fn new() -> Self {
        let runtime = TestRuntime::new(3);
        let disk = SimDisk::new(SimDiskOptions::new(6 << 20, 3));
        let device: Arc<dyn BlockDevice> = disk.attach(runtime.clone());
        let options = GroupOptions {
            au_bytes: 8192,
            journal_bytes: 64 << 10,
            checkpoint_bytes: 32 << 10,
            ..GroupOptions::default()
        };
        let label = runtime.block_on(async {
            VolumeGroup::format(&*device, &options).await.unwrap();
            let group = VolumeGroup::open(runtime.clone(), vec![device.clone()], node()).await;
            let group = group.unwrap();
            group.lead(Epoch(1)).await.unwrap();
            group.set_members(NodeSet::of(node()));
            for number in 0..40 {
                let options = CreateOptions {
                    size: 8192,
                    kind: FileKind::Tree,
                    exclusive: true,
                };
                group.create(&format!("/files/{number}"), options).await.unwrap();
            }
            group.label().clone()
        });
        Self {
            runtime,
            device,
            label,
        }
    }

    fn image(&self) -> Result<Arc<GroupImage>, StorageError> {
        let read = GroupImage::read(self.device.clone(), &Alone);
        self.runtime.block_on(read).map(Arc::new)
    }

    fn check(&self) -> Report {
        let image = self.image().unwrap();
        self.runtime.block_on(check(&image, &storage_passes()))
    }

    fn flip(&self, offset: u64) {
        let (block, byte) = (offset / BLOCK as u64 * BLOCK as u64, offset as usize % BLOCK);
        self.runtime.block_on(async {
            let mut bytes = self.device.read(block, IoBuffer::zeroed(BLOCK)).await.unwrap();
            bytes[byte] ^= 0x40;
            self.device.write(block, bytes).await.unwrap();
            self.device.flush().await.unwrap();
        });
    }

    /// Everything before the units, which repairs may change.
    fn content(&self) -> Vec<u8> {
        let length = self.label.au_offset as usize;
        let read = self.device.read(0, IoBuffer::zeroed(length));
        self.runtime.block_on(read).unwrap().to_vec()
    }

    fn repair(&self, report: &Report) {
        let devices = BTreeMap::from([(0, self.device.clone())]);
        let repairs: Vec<Repair> = report.repairs().cloned().collect();
        self.runtime.block_on(repair(&repairs, &devices)).unwrap();
    }

    fn newer_and_older(&self) -> (usize, usize) {
        let image = self.image().unwrap();
        let sequence = |which: usize| image.checkpoints[which].as_ref().unwrap().head.tail.sequence;
        if sequence(0) > sequence(1) { (0, 1) } else { (1, 0) }
    }
}

#[test]
fn a_sound_group_is_sound_and_a_check_writes_nothing() {
    let rig = Rig::new();
    let before = rig.content();
    let report = rig.check();
    assert!(report.is_sound(), "{report:#?}");
    assert!(rig.content() == before);
}

#[test]
fn a_bad_copy_of_the_label_is_written_again_from_the_other() {
    for offset in LABEL_OFFSETS {
        let rig = Rig::new();
        let before = rig.content();
        rig.flip(offset + 40);
        let report = rig.check();
        assert_eq!(
            (report.repairs().count(), report.wrongs().count()),
            (1, 0),
            "{report:#?}"
        );
        rig.repair(&report);
        assert!(rig.content() == before, "byte for byte");
        assert!(rig.check().is_sound());
    }
}

#[test]
fn a_bad_checkpoint_is_written_again_and_the_catalogue_is_the_same() {
    for newer in [false, true] {
        let rig = Rig::new();
        let (newest, oldest) = rig.newer_and_older();
        let which = if newer { newest } else { oldest };
        let catalog = rig.image().unwrap().catalog.clone();
        rig.flip(rig.label.checkpoint_offset(which) + BLOCK as u64 + 100);
        let lost = rig
            .image()
            .is_ok_and(|image| image.catalog.inode_count() < catalog.inode_count());
        let report = rig.check();
        if lost {
            // The journal behind the older one is written over: nothing can replace the newer one.
            assert_eq!(report.repairs().count(), 0, "{report:#?}");
            assert!(report.wrongs().count() > 0);
            continue;
        }
        assert_eq!(
            (report.repairs().count(), report.wrongs().count()),
            (1, 0),
            "{report:#?}"
        );
        rig.repair(&report);
        assert!(rig.check().is_sound(), "{:#?}", rig.check());
        assert!(rig.image().unwrap().catalog == catalog);
    }
}

#[test]
fn a_hole_in_the_journal_is_found_and_nothing_is_put_in_its_place() {
    let rig = Rig::new();
    let image = rig.image().unwrap();
    assert!(image.entries.len() > 2, "there is a chain to break");
    let position = image.entries[0].after.position;
    rig.flip(rig.label.journal_offset() + position % rig.label.journal_bytes + 70);
    let before = rig.content();
    let report = rig.check();
    let wrong: Vec<_> = report.wrongs().map(|finding| finding.what.as_str()).collect();
    assert_eq!(wrong, ["journal"], "{report:#?}");
    rig.repair(&report);
    assert!(rig.content() == before, "nothing more is lost");
}

#[test]
fn damaged_control_blocks_are_named_with_their_node() {
    let rig = Rig::new();
    let node = NodeId::new(7).unwrap();
    rig.flip(slot_offset(node));
    rig.flip(ballot_offset(node));
    let report = rig.check();
    let wrong: Vec<_> = report.wrongs().map(|finding| finding.what.as_str()).collect();
    assert_eq!(wrong, ["slot of node 7", "ballot block of node 7"]);
    assert_eq!(report.repairs().count(), 0);
}

#[test]
fn both_labels_or_both_checkpoints_gone_is_no_group() {
    let rig = Rig::new();
    (0..2).for_each(|which| rig.flip(rig.label.checkpoint_offset(which) + 40));
    assert!(matches!(rig.image(), Err(StorageError::Damaged(_))));
    LABEL_OFFSETS.iter().for_each(|offset| rig.flip(offset + 40));
    assert!(matches!(rig.image(), Err(StorageError::DamagedLabel)));
}

/// The second leg of a mirrored group, under its path.
struct Twin(Arc<dyn BlockDevice>);

impl VolumeOpener for Twin {
    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        assert_eq!(path, "twin");
        Box::pin(async move { Ok(self.0.clone()) })
    }
    fn close(&self, _path: &str) {}
}

#[test]
fn a_block_that_the_sides_of_a_mirror_have_differently_is_found() {
    let runtime = TestRuntime::new(5);
    let legs = [5, 6].map(|seed| -> Arc<dyn BlockDevice> {
        SimDisk::new(SimDiskOptions::new(9 << 20, seed)).attach(runtime.clone())
    });
    let new = [0u8, 1].map(|leg| NewDevice {
        device: &*legs[usize::from(leg)],
        path: ["", "twin"][usize::from(leg)],
        failure_group: leg,
    });
    let options = GroupOptions {
        au_bytes: 8192,
        journal_bytes: 64 << 10,
        checkpoint_bytes: 32 << 10,
        mirror: true,
        ..GroupOptions::default()
    };
    let report = || {
        runtime.block_on(async {
            let image = GroupImage::read(legs[0].clone(), &Twin(legs[1].clone())).await;
            check(&Arc::new(image.unwrap()), &storage_passes()).await
        })
    };
    let offset = runtime.block_on(async {
        VolumeGroup::format_all(&new, &options).await.unwrap();
        let group = VolumeGroup::open(runtime.clone(), legs.to_vec(), node()).await;
        let group = group.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        group.set_members(NodeSet::of(node()));
        let options = CreateOptions {
            size: 3 * 8192,
            kind: FileKind::Tree,
            exclusive: true,
        };
        let file = group.create("/f", options).await.unwrap();
        for unit in 0..3u64 {
            let mut bytes = IoBuffer::zeroed(8192);
            bytes.fill(unit as u8 + 1);
            group.write_at(file, unit * 8192, bytes).await.unwrap();
        }
        group.give_intents_back().await.unwrap();
        let run = group.stat(file).await.unwrap().extents[0];
        group.with_catalog(|catalog| catalog.offset_of(&run)) + 8192
    });
    assert!(report().is_sound(), "{:#?}", report());
    runtime.block_on(async {
        legs[1].write(offset, IoBuffer::zeroed(BLOCK)).await.unwrap();
        legs[1].flush().await.unwrap();
    });
    let found = report();
    let wrong: Vec<_> = found.wrongs().collect();
    assert_eq!(wrong.len(), 1, "{found:#?}");
    assert!(
        wrong[0]
            .detail
            .contains(&format!("1 blocks differ, at bytes {offset} ")),
        "{wrong:?}"
    );
}
