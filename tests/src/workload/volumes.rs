//! Volumes that come and go under a workload: the one simulated disk is cut into slices, each a device with a path. So
//! crashes, power cuts and late writes are those of the disk.
//!
//! Each node that serves has an operator who adds, drains and removes volumes at random times; when the first two slices are the
//! legs of a mirrored volume, he breaks one of them, in each run the same, mends it, and lets it in again, and bits of its pages decay. What he asks for may be refused: others do
//! the same meanwhile.

use crate::sim::{SimDisk, World};
use crate::swarm::Layout;
use aquifer_dss::group::{AddVolumeOptions, NewDevice, StorageError, VolumeGroup, VolumeStatus};
use aquifer_dss::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, Runtime, VolumeOpener};
use aquifer_dss_proto::catalog::{Extent, FileKind, Inode, MirrorState, Node as InodeNode, VolumeState};
use aquifer_engine::node::Node;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How many slices the disk has.
const SLICES: u64 = 4;
/// What is wrong with one leg of a mirrored volume, which are the first two slices.
#[derive(Default)]
pub(super) struct Trouble {
    /// Which leg.
    leg: AtomicU8,
    /// It answers everybody with EIO.
    broken: AtomicBool,
    /// Operators only mend from now on.
    over: AtomicBool,
}
pub(super) type Broken = Arc<Trouble>;

impl Trouble {
    /// It is another leg in every other run.
    pub(super) fn choose(&self, seed: u64) {
        self.leg.store((seed % 2) as u8, Ordering::Relaxed);
    }

    fn leg(&self) -> u8 {
        self.leg.load(Ordering::Relaxed)
    }

    /// The run is at its end.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A part of the disk.
struct Slice {
    disk: Arc<dyn BlockDevice>,
    offset: u64,
    size: u64,
    number: u64,
    trouble: Broken,
}

impl Slice {
    fn of(disk: Arc<dyn BlockDevice>, number: u64, broken: &Broken) -> Arc<dyn BlockDevice> {
        let size = disk.geometry().size / SLICES;
        let offset = number * size;
        Arc::new(Self {
            disk,
            offset,
            size,
            number,
            trouble: broken.clone(),
        })
    }

    fn works(&self, operation: &'static str) -> Result<(), DeviceError> {
        let trouble = &self.trouble;
        if self.number != u64::from(trouble.leg()) || !trouble.broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(DeviceError::Io {
            operation,
            offset: self.offset,
            length: 0,
            errno: 5,
            message: "the leg is broken".into(),
        })
    }
}

impl BlockDevice for Slice {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.size,
            ..self.disk.geometry()
        }
    }

    fn read(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        assert!(
            offset + buffer.len() as u64 <= self.size,
            "a read past the end of its volume"
        );
        Box::pin(async move {
            self.works("read")?;
            self.disk.read(self.offset + offset, buffer).await
        })
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        assert!(
            offset + buffer.len() as u64 <= self.size,
            "a write past the end of its volume"
        );
        Box::pin(async move {
            self.works("write")?;
            let written = self.disk.write(self.offset + offset, buffer).await;
            // What it lost its way back from may be there or not.
            self.works("write").and(written)
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.works("flush")?;
            self.disk.flush().await
        })
    }

    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.disk.discard(self.offset + offset, length)
    }

    fn discards_to_zeros(&self) -> bool {
        self.disk.discards_to_zeros()
    }
}

/// The devices that nodes are told of.
pub(super) fn devices(
    disk: &Arc<dyn BlockDevice>,
    layout: Layout,
    broken: &Broken,
) -> Vec<Arc<dyn BlockDevice>> {
    let slice = |number| Slice::of(disk.clone(), number, broken);
    match layout {
        Layout::Whole => vec![disk.clone()],
        Layout::Volumes => vec![slice(0)],
        Layout::Mirror => vec![slice(0), slice(1)],
    }
}

/// The devices of a fresh group.
pub(super) fn named<'a>(devices: &'a [Arc<dyn BlockDevice>], paths: &'a [String; 2]) -> Vec<NewDevice<'a>> {
    let new = devices.iter().zip(paths).zip(0..);
    new.map(|((device, path), failure_group)| NewDevice {
        device: &**device,
        path,
        failure_group,
    })
    .collect()
}

/// Paths of the first two slices.
pub(super) fn paths() -> [String; 2] {
    [path(0), path(1)]
}

struct Slices(Arc<dyn BlockDevice>, Broken);

/// What a slice is called.
pub fn path(number: u64) -> String {
    format!("slice {number}")
}

/// The first slice of a disk.
pub fn first(disk: &Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice> {
    Slice::of(disk.clone(), 0, &Broken::default())
}

/// Opens the slices of a disk of which none is broken.
pub fn whole(disk: Arc<dyn BlockDevice>) -> Arc<dyn VolumeOpener> {
    opener(disk, &Broken::default())
}

impl VolumeOpener for Slices {
    fn open<'a>(&'a self, wanted: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        Box::pin(async move {
            let number = (0..SLICES).find(|number| path(*number) == wanted);
            let number = number.expect("only slices are added");
            Ok(Slice::of(self.0.clone(), number, &self.1))
        })
    }

    fn close(&self, _path: &str) {}
}

/// The other slices.
pub(super) fn opener(disk: Arc<dyn BlockDevice>, broken: &Broken) -> Arc<dyn VolumeOpener> {
    Arc::new(Slices(disk, broken.clone()))
}

/// Mends a broken leg now and then, also when every node has ended because of it.
pub(super) async fn repair(world: Arc<World>, trouble: Broken) {
    loop {
        world.sleep(Duration::from_secs(3)).await;
        trouble.broken.store(false, Ordering::Relaxed);
    }
}

/// Lets an operator work at this node until its life ends.
pub(super) fn operate(
    runtime: &Arc<dyn Runtime>,
    node: &Arc<Node>,
    layout: Layout,
    trouble: &Broken,
    decaying: Option<Arc<SimDisk>>,
) {
    let group = Arc::downgrade(node.group());
    let (clock, trouble) = (runtime.clone(), trouble.clone());
    let work = async move {
        loop {
            clock
                .sleep(Duration::from_millis(20 + clock.random() % 600))
                .await;
            let Some(group) = Weak::upgrade(&group) else {
                return;
            };
            // Refusals and time-outs are as good as successes: the workload says whether data is whole.
            let _done = match layout {
                Layout::Mirror => {
                    if let Some(disk) = &decaying {
                        decay_somewhere(&*clock, &group, &trouble, disk);
                    }
                    one_of_legs(&*clock, &group, &trouble).await
                }
                Layout::Whole | Layout::Volumes => one_operation(&*clock, &group).await,
            };
        }
    };
    runtime.spawn("operator of volumes", Box::pin(work));
}

/// A bit of a page decays on the leg that also breaks, which is never the only one that is current.
fn decay_somewhere(runtime: &dyn Runtime, group: &VolumeGroup, trouble: &Trouble, disk: &SimDisk) {
    if trouble.over.load(Ordering::Relaxed) || !runtime.random().is_multiple_of(2) {
        return;
    }
    let of_pages = |inode: &Inode| match &inode.node {
        InodeNode::File {
            kind: FileKind::Tree | FileKind::Status,
            extents,
            ..
        } => extents.clone(),
        _ => Vec::new(),
    };
    let place = group.with_catalog(|catalog| {
        let runs: Vec<Extent> = catalog.inodes().flat_map(|(_, inode)| of_pages(inode)).collect();
        let run = *runs.get(runtime.random() as usize % runs.len().max(1))?;
        let within = runtime.random() % (u64::from(run.count) * catalog.au_bytes());
        // What is written there is at the beginning of a file as a rule.
        let within = if runtime.random().is_multiple_of(4) {
            within
        } else {
            within % (1 << 18)
        };
        Some(catalog.offset_of(&run) + within)
    });
    if let Some(place) = place {
        disk.decay(disk.size() / SLICES * u64::from(trouble.leg()) + place);
    }
}

async fn one_of_legs(
    runtime: &dyn Runtime,
    group: &VolumeGroup,
    trouble: &Trouble,
) -> Result<(), StorageError> {
    let broken = &trouble.broken;
    if trouble.over.load(Ordering::Relaxed) {
        broken.store(false, Ordering::Relaxed);
        if let Some(MirrorState::Out { .. }) =
            group.with_catalog(|catalog| catalog.mirror(0).map(|mirror| mirror.state))
        {
            group.resync_leg(0).await?;
        }
        return Ok(());
    }
    let state = group.with_catalog(|catalog| catalog.mirror(0).map(|mirror| mirror.state));
    let chance = |of: u64| runtime.random().is_multiple_of(of);
    match state {
        Some(MirrorState::Both) if chance(6) => broken.store(true, Ordering::Relaxed),
        Some(MirrorState::Both) if chance(6) => group.detach_leg(0, trouble.leg()).await?,
        Some(MirrorState::Resyncing { .. }) if chance(10) => broken.store(true, Ordering::Relaxed),
        Some(MirrorState::Out { .. }) if chance(2) => {
            broken.store(false, Ordering::Relaxed);
            group.resync_leg(0).await?;
        }
        _ => {}
    }
    Ok(())
}

async fn one_operation(runtime: &dyn Runtime, group: &VolumeGroup) -> Result<(), StorageError> {
    let status = group.volume_status();
    let draining = |status: &&VolumeStatus| status.volume.state == VolumeState::Draining;
    if let Some(drained) = status.iter().find(draining) {
        return if drained.id > 0 && drained.free == drained.units {
            group.remove_volume(drained.id).await
        } else if runtime.random().is_multiple_of(8) {
            group.drain_volume(drained.id, false).await
        } else {
            Ok(())
        };
    }
    let unused = (1..SLICES).find(|number| status.iter().all(|status| status.volume.path != path(*number)));
    if let Some(number) = unused.filter(|_| status.len() < 2 || runtime.random().is_multiple_of(3)) {
        let options = AddVolumeOptions {
            force: true,
            ..AddVolumeOptions::default()
        };
        return group.add_volume(&path(number), &options).await.map(drop);
    }
    let active = |status: &&VolumeStatus| status.volume.takes_units();
    if status.iter().filter(active).count() < 2 {
        // Drained, the last one would leave no space for anybody.
        return Ok(());
    }
    let chosen = &status[(runtime.random() % status.len() as u64) as usize];
    group.drain_volume(chosen.id, true).await
}
