//! The largest volume groups: as many volumes as there can be, the largest units on the largest volume, control blocks of all nodes.

use aquifer_dss::device::{SimDevice, SimDisk, SimDiskOptions};
use aquifer_dss::group::{
    AddVolumeOptions, ControlBlocks, CreateOptions, GroupOptions, OpenOptions, StorageError, VolumeGroup,
};
use aquifer_dss::seam::{BlockDevice, BoxFuture, DeviceError, IoBuffer, VolumeOpener};
use aquifer_dss::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::{Epoch, HomeSlots, NodeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const UNIT: u64 = 64 << 10;
const VOLUMES: u64 = 256;

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

fn block_of(value: u8) -> IoBuffer {
    let mut block = IoBuffer::zeroed(4096);
    block.fill(value);
    block
}

/// Disks that are there as soon as somebody opens them.
struct Disks {
    runtime: Arc<TestHandle>,
    disks: Mutex<BTreeMap<String, Arc<SimDevice>>>,
}

impl VolumeOpener for Disks {
    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        let mut disks = self.disks.lock().unwrap();
        let attach =
            || SimDisk::new(SimDiskOptions::new((4 << 20) + 4 * UNIT, 1)).attach(self.runtime.clone());
        let disk: Arc<dyn BlockDevice> = disks.entry(path.into()).or_insert_with(attach).clone();
        Box::pin(async move { Ok(disk) })
    }

    fn close(&self, _path: &str) {}
}

#[test]
fn a_group_has_256_volumes_and_a_file_on_all_of_them() {
    let runtime = TestRuntime::new(1);
    let first = SimDisk::new(SimDiskOptions::new((8 << 20) + 4 * UNIT, 1));
    let disks = Arc::new(Disks {
        runtime: runtime.clone(),
        disks: Mutex::default(),
    });
    let options = GroupOptions {
        au_bytes: UNIT,
        journal_bytes: 1 << 20,
        checkpoint_bytes: 512 << 10,
        seed: Some([7; 16]),
        ..GroupOptions::default()
    };
    let open = || {
        let devices: Vec<Arc<dyn BlockDevice>> = vec![first.attach(runtime.clone())];
        VolumeGroup::open_with(runtime.clone(), devices, Some(disks.clone()), node(1))
    };
    runtime.block_on(async {
        let device = first.attach(runtime.clone());
        VolumeGroup::format(&*device, &options).await.unwrap();
        let group = open().await.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        for number in 1..VOLUMES {
            let path = format!("disk {number}");
            let added = group.add_volume(&path, &AddVolumeOptions::default()).await;
            assert_eq!(u64::from(added.unwrap()), number);
        }
        let refused = group.add_volume("one more", &AddVolumeOptions::default()).await;
        assert!(
            matches!(refused, Err(StorageError::Operation { .. })),
            "{refused:?}"
        );
        let units = group.space().free;
        assert!(units > 4 * (VOLUMES - 1), "{units}");
        let size = units * UNIT;
        let create = CreateOptions {
            size,
            kind: FileKind::Tree,
            exclusive: true,
        };
        let file = group.create("/all", create).await.unwrap();
        for unit in 0..units {
            let written = group.write_at(file, unit * UNIT, block_of(unit as u8)).await;
            written.unwrap();
        }
        group.flush().await.unwrap();
        let again = open().await.unwrap();
        assert_eq!(again.volume_status().len() as u64, VOLUMES);
        let volumes = again.stat(file).await.unwrap().extents;
        assert!(volumes.len() as u64 >= VOLUMES, "{} extents", volumes.len());
        for unit in 0..units {
            let read = again
                .read_at(file, unit * UNIT, IoBuffer::zeroed(4096))
                .await
                .unwrap();
            assert_eq!(*read, *block_of(unit as u8), "unit {unit}");
        }
    });
}

#[test]
fn units_of_64_mib_on_a_volume_of_64_tib() {
    let runtime = TestRuntime::new(2);
    let disk = SimDisk::new(SimDiskOptions::new(64 << 40, 2));
    let device = disk.attach(runtime.clone());
    let options = GroupOptions {
        au_bytes: 64 << 20,
        ..GroupOptions::default()
    };
    runtime.block_on(async {
        let identity = VolumeGroup::format(&*device, &options).await.unwrap();
        assert!(identity.units > (1 << 20) - 16);
        let group = VolumeGroup::open(runtime.clone(), vec![device.clone()], node(1))
            .await
            .unwrap();
        group.lead(Epoch(1)).await.unwrap();
        let size = 63 << 40;
        let create = CreateOptions {
            size,
            kind: FileKind::Tree,
            exclusive: true,
        };
        let file = group.create("/huge", create).await.unwrap();
        let end = size - 4096;
        group.write_at(file, end, block_of(9)).await.unwrap();
        assert_eq!(
            *group.read_at(file, end, IoBuffer::zeroed(4096)).await.unwrap(),
            *block_of(9)
        );
        // A program's file: its unit is zeroed before, and the file is sparse around it.
        let create = OpenOptions {
            create: true,
            ..OpenOptions::default()
        };
        let sparse = group.open_path("/sparse", create).await.unwrap();
        let far = (1 << 40) + 12_345;
        sparse.write_at(far, b"far away").await.unwrap();
        sparse.sync().await.unwrap();
        assert_eq!(&*sparse.read_at(far - 2, 99).await.unwrap(), b"\0\0far away");
        let stat = group.stat_path("/sparse").await.unwrap();
        assert_eq!((stat.size, stat.extents.len()), (far + 8, 1));
        sparse.close().await.unwrap();
    });
}

/// Every node has its own control blocks, whatever the size of bodies, and they leave labels and journal alone.
#[test]
fn the_control_blocks_of_64_nodes_are_apart() {
    for slots in [4096, 65_536] {
        let runtime = TestRuntime::new(3);
        let disk = SimDisk::new(SimDiskOptions::new(64 << 20, 3));
        let device = disk.attach(runtime.clone());
        let home_slots = HomeSlots::new(slots).unwrap();
        let options = GroupOptions {
            au_bytes: 1 << 20,
            home_slots,
            seed: Some([7; 16]),
            ..GroupOptions::default()
        };
        runtime.block_on(async {
            VolumeGroup::format(&*device, &options).await.unwrap();
            let control = ControlBlocks::new(device.clone(), home_slots);
            let body = |id: u8, which: usize| vec![id ^ (which as u8) << 7; 2 * slots];
            for id in 1..=NodeId::MAX {
                control.write_slot_block(node(id), &[id; 512]).await.unwrap();
                control
                    .write_ballot_block(node(id), &[id | 0x80; 512])
                    .await
                    .unwrap();
                for which in 0..2 {
                    control
                        .write_body(node(id), which, &body(id, which))
                        .await
                        .unwrap();
                }
            }
            let all = control.read_all_slot_blocks().await.unwrap();
            let ballots = control.read_all_ballot_blocks().await.unwrap();
            for id in 1..=NodeId::MAX {
                assert_eq!(all.of(node(id))[..512], [id; 512]);
                assert_eq!(ballots.of(node(id))[..512], [id | 0x80; 512]);
                for which in 0..2 {
                    let read = control.read_body(node(id), which).await.unwrap();
                    assert_eq!(read[..2 * slots], body(id, which));
                }
            }
            // Bytes that are no slots of members: a group is opened all the same, and its metadata are as they were.
            let group = VolumeGroup::open(runtime.clone(), vec![device.clone()], node(1))
                .await
                .unwrap();
            group.lead(Epoch(1)).await.unwrap();
            assert_eq!(group.history().len(), 1);
        });
    }
}
