//! Tests of volumes that come, grow and go while nodes serve, on simulated disks.

use super::decrees::Decrees;
use super::tests::{Network, check_units, connect, node, tiny};
use super::*;
use crate::device::{CutPoint, SimDevice, SimDisk, SimDiskOptions};
use crate::seam::{BlockDevice, BoxFuture, DeviceError, IoBuffer, Runtime, VolumeOpener};
use crate::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::catalog::{FileKind, OperationError, UNITS_MAX, VolumeState};
use aquifer_dss_proto::{Epoch, FileId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Disks by the path under which nodes find them; the first is volume 0.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) runtime: Arc<TestHandle>,
    decrees: Decrees,
    pub(super) disks: Arc<Mutex<BTreeMap<String, SimDisk>>>,
}

/// One node's way to the disks.
struct SimOpener {
    rig: Rig,
    open: Mutex<BTreeMap<String, Arc<SimDevice>>>,
}

impl VolumeOpener for SimOpener {
    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        Box::pin(async move {
            let disk = self.rig.disks.lock().get(path).cloned();
            let disk = disk.ok_or_else(|| DeviceError::Io {
                operation: "open",
                offset: 0,
                length: 0,
                errno: libc::ENOENT,
                message: format!("{path} is not there"),
            })?;
            let mut open = self.open.lock();
            let device = open
                .entry(path.into())
                .or_insert_with(|| disk.attach(self.rig.runtime.clone()));
            let device: Arc<dyn BlockDevice> = device.clone();
            Ok(device)
        })
    }

    fn close(&self, path: &str) {
        self.open.lock().remove(path);
    }
}

impl Rig {
    /// A formatted first disk of 64 units at "a".
    pub(super) fn new(seed: u64) -> Self {
        let rig = Self {
            runtime: TestRuntime::new(seed),
            disks: Arc::default(),
            decrees: Decrees::default(),
        };
        let first = rig.disk("a", (4 << 20) + (1 << 20), seed);
        let device = first.attach(rig.runtime.clone());
        rig.runtime
            .block_on(VolumeGroup::format(&*device, &tiny()))
            .unwrap();
        rig
    }

    pub(super) fn disk(&self, path: &str, size: u64, seed: u64) -> SimDisk {
        let disk = SimDisk::new(SimDiskOptions::new(size, seed));
        self.disks.lock().insert(path.into(), disk.clone());
        disk
    }

    pub(super) fn device(&self, path: &str) -> Arc<dyn BlockDevice> {
        self.disks.lock()[path].attach(self.runtime.clone())
    }

    fn opener(&self) -> Arc<SimOpener> {
        Arc::new(SimOpener {
            rig: self.clone(),
            open: Mutex::default(),
        })
    }

    pub(super) async fn open(&self, id: u8) -> Result<Arc<VolumeGroup>, StorageError> {
        self.open_without(id, None).await
    }

    pub(super) async fn open_without(
        &self,
        id: u8,
        lost: Option<u8>,
    ) -> Result<Arc<VolumeGroup>, StorageError> {
        let (devices, opener) = (vec![self.device("a")], Some(self.opener() as _));
        let group = VolumeGroup::open_without(self.runtime.clone(), devices, opener, node(id), lost).await?;
        self.decrees.follow(&self.runtime, &group);
        Ok(group)
    }

    pub(super) async fn leader(&self) -> Arc<VolumeGroup> {
        let leader = self.open(1).await.unwrap();
        leader.lead(Epoch(1)).await.unwrap();
        leader
    }

    /// A leader of a group to which the disk at "b" was added.
    pub(super) async fn leader_of_two(&self) -> Arc<VolumeGroup> {
        let leader = self.leader().await;
        add(&leader, "b").await.unwrap();
        leader
    }

    /// All nodes are killed: what they have in flight lands now, or never.
    pub(super) fn crash(&self) {
        self.runtime.drop_tasks();
        self.disks.lock().values().for_each(SimDisk::kill_all);
    }

    /// The leader of a group whose power was cut while a second volume was added, and whether the catalogue names that.
    pub(super) async fn after_cut(&self) -> (Arc<VolumeGroup>, bool) {
        let group = self.open(2).await.expect("a cut group opens");
        group.lead(Epoch(5)).await.unwrap();
        check_units(&group);
        let named = group.volume_status().len() == 2;
        (group, named)
    }

    /// Does `work` and cuts the power of all disks when `path` reaches `point`; whether the work was done before. Then the
    /// power is back.
    pub(super) fn cut_at(
        &self,
        path: &str,
        point: CutPoint,
        work: impl Future<Output = Result<(), StorageError>>,
    ) -> bool {
        let disks: Vec<SimDisk> = self.disks.lock().values().cloned().collect();
        self.disks.lock()[path].cut_at(point);
        self.runtime.tolerate_aborts();
        let powered = || disks.iter().all(SimDisk::has_power);
        let done = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = async { while powered() { self.runtime.sleep(Duration::from_micros(10)).await } } => false,
                done = work => done.is_ok(),
            }
        });
        self.runtime.drop_tasks();
        for disk in &disks {
            disk.power_cut();
            disk.power_on();
        }
        done
    }
}

pub(super) async fn add(group: &VolumeGroup, path: &str) -> Result<u16, StorageError> {
    group.add_volume(path, &AddVolumeOptions::default()).await
}

pub(super) fn sized(size: u64) -> CreateOptions {
    CreateOptions {
        size,
        kind: FileKind::Tree,
        ..CreateOptions::default()
    }
}

pub(super) async fn fill(group: &VolumeGroup, file: FileId, at: u64, value: u8) -> Result<(), StorageError> {
    let mut buffer = IoBuffer::zeroed(4096);
    buffer.fill(value);
    group.write_at(file, at, buffer).await.map(drop)
}

pub(super) async fn first_byte(group: &VolumeGroup, file: FileId, at: u64) -> Result<u8, StorageError> {
    let read = group.read_at(file, at, IoBuffer::zeroed(4096)).await?;
    assert!(read.iter().all(|byte| *byte == read[0]));
    Ok(read[0])
}

const FIVE_MIB: u64 = 5 << 20;

#[test]
fn volumes_are_found_by_their_labels_in_any_order() {
    let rig = Rig::new(1);
    for (path, seed) in [("b", 2), ("c", 3)] {
        rig.disk(path, FIVE_MIB, seed);
    }
    let open = |paths: &[&str]| {
        let devices = paths.iter().map(|path| rig.device(path)).collect();
        VolumeGroup::open(rig.runtime.clone(), devices, node(1))
    };
    rig.runtime.block_on(async {
        let devices = ["a", "b", "c"].map(|path| (rig.device(path), path));
        let new = devices.each_ref().map(|(device, path)| NewDevice {
            device: &**device,
            path,
            failure_group: 0,
        });
        let other = VolumeGroup::format_all(&new[..1], &tiny()).await;
        assert!(matches!(other, Err(StorageError::InUse { .. })));
        let force = GroupOptions {
            force: true,
            ..tiny()
        };
        VolumeGroup::format_all(&new, &force).await.unwrap();
        let group = open(&["c", "a", "b"]).await.unwrap();
        let paths: Vec<_> = group
            .volume_status()
            .into_iter()
            .map(|status| status.volume.path)
            .collect();
        assert_eq!(paths, ["a", "b", "c"]);
        assert_eq!(group.space().units, 112 + 128 + 128);
        let missing = open(&["c", "a"]).await.err().unwrap();
        assert!(
            matches!(&missing, StorageError::MissingVolume { volume: 1, path, .. } if path == "b"),
            "{missing}"
        );
        let twice = open(&["a", "b", "c", "b"]).await.err().unwrap();
        assert!(matches!(twice, StorageError::RefusedVolume { .. }), "{twice}");
        let headless = open(&["b", "c"]).await.err().unwrap();
        assert!(matches!(headless, StorageError::Invalid(_)), "{headless}");
        let stranger = rig.disk("d", FIVE_MIB, 4).attach(rig.runtime.clone());
        let options = GroupOptions {
            seed: Some([9; 16]),
            ..tiny()
        };
        VolumeGroup::format(&*stranger, &options).await.unwrap();
        let foreign = open(&["a", "d", "b", "c"]).await.err().unwrap();
        assert!(
            matches!(
                foreign,
                StorageError::OtherGroup { .. } | StorageError::RefusedVolume { .. }
            ),
            "{foreign}"
        );
    });
}

#[test]
fn a_new_volume_gets_units_when_every_member_has_opened_it() {
    let rig = Rig::new(2);
    rig.disk("b", FIVE_MIB, 7);
    let network = Arc::new(Network::default());
    rig.runtime.block_on(async {
        let leader = rig.leader().await;
        connect(&network, &leader, 1);
        leader.set_members([node(1), node(2)].into_iter().collect());
        let follower = rig.open(2).await.unwrap();
        let before = leader.space().free;
        let id = leader
            .add_volume("b", &AddVolumeOptions::default())
            .await
            .unwrap();
        assert_eq!(id, 1);
        let joining = leader.volume_status()[1].clone();
        assert!(
            matches!(joining.volume.state, VolumeState::Joining { .. }),
            "node 2 did not answer"
        );
        assert_eq!(leader.space().free, before);
        follower.follow(Epoch(1), node(1));
        connect(&network, &follower, 2);
        while leader.space().free == before {
            rig.runtime.sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(leader.space().free, before + 128);
        assert!(
            follower
                .volume_status()
                .iter()
                .all(|status| status.missing.is_none())
        );
        let file = follower.create("/both", sized(150 * 8192)).await.unwrap();
        for unit in 0..150 {
            fill(&follower, file, unit * 8192, unit as u8 + 1).await.unwrap();
        }
        follower.flush().await.unwrap();
        rig.disks.lock()["b"].power_cut();
        rig.disks.lock()["b"].power_on();
        let third = rig.open(3).await.unwrap();
        for unit in 0..150 {
            assert_eq!(
                first_byte(&third, file, unit * 8192).await.unwrap(),
                unit as u8 + 1
            );
        }
        check_units(&leader);
    });
}

#[test]
fn a_node_that_cannot_open_a_volume_says_so_and_serves_the_rest() {
    let rig = Rig::new(3);
    rig.disk("b", FIVE_MIB, 7);
    let blind = Rig {
        decrees: Decrees::default(),
        runtime: rig.runtime.clone(),
        disks: Arc::new(Mutex::new(rig.disks.lock().clone())),
    };
    blind.disks.lock().remove("b");
    let network = Arc::new(Network::default());
    rig.runtime.block_on(async {
        let leader = rig.leader().await;
        let follower = blind.open(2).await.unwrap();
        follower.follow(Epoch(1), node(1));
        leader.set_members([node(1), node(2)].into_iter().collect());
        connect(&network, &leader, 1);
        connect(&network, &follower, 2);
        let small = leader.create("/small", sized(8192)).await.unwrap();
        leader
            .add_volume("b", &AddVolumeOptions::default())
            .await
            .unwrap();
        let file = leader.create("/large", sized(130 * 8192)).await.unwrap();
        fill(&leader, file, 0, 5).await.unwrap();
        assert_eq!(
            leader.stat(file).await.unwrap().extents[0].volume,
            1,
            "the emptier volume"
        );
        let status = follower.volume_status();
        assert!(
            status[1].missing.as_ref().unwrap().contains("not there"),
            "{status:?}"
        );
        let refused = first_byte(&follower, file, 0).await.err().unwrap();
        assert!(
            matches!(refused, StorageError::MissingVolume { volume: 1, .. }),
            "{refused}"
        );
        first_byte(&follower, small, 0).await.unwrap();
        let disk = rig.disks.lock()["b"].clone();
        blind.disks.lock().insert("b".into(), disk);
        assert_eq!(first_byte(&follower, file, 0).await.unwrap(), 5);
        assert!(follower.volume_status()[1].missing.is_none());
    });
}

#[test]
fn a_volume_grows_and_shrinks_as_far_as_its_tail_is_free() {
    let rig = Rig::new(4);
    let disk = rig.disk("b", FIVE_MIB, 7);
    rig.runtime.block_on(async {
        let leader = rig.leader_of_two().await;
        let file = leader.create("/f", sized(100 * 8192)).await.unwrap();
        disk.resize(FIVE_MIB + 64 * 8192);
        assert_eq!(leader.resize_volume(1, None).await.unwrap(), 128 + 64);
        leader.allocate(file, 280 * 8192).await.unwrap();
        fill(&leader, file, 279 * 8192, 9).await.unwrap();
        let refused = leader.resize_volume(1, Some(FIVE_MIB)).await.err().unwrap();
        assert!(refused.is(OperationError::VolumeInUse), "{refused}");
        let least = leader.resize_volume(1, Some(1 << 20)).await.err().unwrap();
        assert!(matches!(least, StorageError::TooSmall { .. }));
        assert_eq!(
            leader.resize_volume(1, Some(FIVE_MIB + 50 * 8192)).await.unwrap(),
            178
        );
        disk.resize(FIVE_MIB + 50 * 8192);
        let again = rig.open(2).await.unwrap();
        assert_eq!(first_byte(&again, file, 279 * 8192).await.unwrap(), 9);
        check_units(&again);
        disk.resize(FIVE_MIB + 49 * 8192);
        let short = rig.open(2).await.err().unwrap();
        assert!(
            matches!(short, StorageError::MissingVolume { volume: 1, .. }),
            "{short}"
        );
    });
}

#[test]
fn a_removed_volume_is_refused_and_its_id_is_not_used_again() {
    let rig = Rig::new(5);
    let disk = rig.disk("b", FIVE_MIB, 7);
    rig.runtime.block_on(async {
        let leader = rig.leader_of_two().await;
        let label = disk.peek(0, 4096);
        let undrained = leader.remove_volume(1).await.err().unwrap();
        assert!(undrained.is(OperationError::VolumeInUse));
        leader.drain_volume(1, true).await.unwrap();
        leader.remove_volume(1).await.unwrap();
        let devices = || vec![rig.device("b"), rig.device("a")];
        let open = || VolumeGroup::open(rig.runtime.clone(), devices(), node(2));
        assert!(
            matches!(open().await, Err(StorageError::NoLabel)),
            "its label was erased"
        );
        disk.overwrite(0, &label);
        let refused = open().await.err().unwrap().to_string();
        assert!(refused.contains("was removed from its group"), "{refused}");
        assert!(
            leader.remove_volume(0).await.is_err(),
            "volume 0 has the metadata"
        );
        let force = AddVolumeOptions {
            force: true,
            ..AddVolumeOptions::default()
        };
        assert_eq!(leader.add_volume("b", &force).await.unwrap(), 2);
        check_units(&leader);
    });
}

#[test]
fn the_largest_volume_takes_little_memory() {
    let runtime = TestRuntime::new(6);
    let disk = SimDisk::new(SimDiskOptions::new((64 << 40) + (64 << 20), 6));
    let device = disk.attach(runtime.clone());
    let options = GroupOptions {
        au_bytes: 1 << 20,
        ..GroupOptions::default()
    };
    runtime.block_on(async {
        let identity = VolumeGroup::format(&*device, &options).await.unwrap();
        assert!(identity.units > u64::from(UNITS_MAX) - 64);
        let group = VolumeGroup::open(runtime.clone(), vec![device.clone()], node(1))
            .await
            .unwrap();
        group.lead(Epoch(1)).await.unwrap();
        let file = group.create("/huge", sized(60 << 40)).await.unwrap();
        fill(&group, file, (60 << 40) - 4096, 1).await.unwrap();
        let bytes = group.with_catalog(|catalog| catalog.encode().len());
        assert!(bytes < 4096, "{bytes} bytes of metadata");
    });
}

/// Adds and grows a volume; says whether the addition was acknowledged.
async fn add_and_grow(rig: &Rig, acknowledged: &Mutex<bool>) -> Result<(), StorageError> {
    let leader = rig.open(1).await?;
    leader.lead(Epoch(1)).await?;
    leader.create("/f", sized(20 * 8192)).await?;
    leader.add_volume("b", &AddVolumeOptions::default()).await?;
    *acknowledged.lock() = true;
    let file = leader.create("/g", sized(60 * 8192)).await?;
    fill(&leader, file, 0, 3).await?;
    rig.disks.lock()["b"].resize(FIVE_MIB + 64 * 8192);
    leader.resize_volume(1, None).await?;
    leader.set_config("end", Some("yes")).await
}

/// Cuts the power of both disks when `path` reaches `point`; whether the work was done before.
fn cut_addition(seed: u64, path: &str, point: CutPoint) -> bool {
    let rig = Rig::new(seed);
    rig.disk("b", FIVE_MIB, seed + 1);
    let acknowledged = Mutex::new(false);
    let done = rig.cut_at(path, point, add_and_grow(&rig, &acknowledged));
    rig.runtime.block_on(async {
        let (group, named) = rig.after_cut().await;
        assert!(
            named || !*acknowledged.lock(),
            "{point:?} of {path}: the volume is gone"
        );
        if !named {
            // Also over the label of an addition that was cut off.
            group.add_volume("b", &AddVolumeOptions::default()).await.unwrap();
        }
        let file = group.create("/after", sized(150 * 8192)).await.unwrap();
        for unit in [0, 149] {
            fill(&group, file, unit * 8192, 1).await.unwrap();
        }
    });
    done
}

#[test]
fn a_volume_is_added_as_a_whole_or_not_at_all() {
    for path in ["a", "b"] {
        for kind in [CutPoint::DuringWrite, CutPoint::DuringFlush, CutPoint::AfterFlush] {
            let mut number = 1;
            while !cut_addition(40 + number, path, kind(number)) {
                number += 1;
            }
        }
    }
}
