//! Volumes that come and go under a workload: the one simulated disk is cut into slices, each a device with a path. So
//! crashes, power cuts and late writes are those of the disk.
//!
//! Each node that serves has an operator who adds, drains and removes volumes at random times. What he asks for may be
//! refused: others do the same meanwhile.

use aquifer_dss::group::{AddVolumeOptions, VolumeGroup, VolumeStatus};
use aquifer_dss::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, Runtime, VolumeOpener};
use aquifer_dss_proto::catalog::VolumeState;
use aquifer_engine::node::Node;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How many slices the disk has.
const SLICES: u64 = 4;

/// A part of the disk.
struct Slice {
    disk: Arc<dyn BlockDevice>,
    offset: u64,
    size: u64,
}

impl Slice {
    fn of(disk: Arc<dyn BlockDevice>, number: u64) -> Arc<dyn BlockDevice> {
        let size = disk.geometry().size / SLICES;
        let offset = number * size;
        Arc::new(Self { disk, offset, size })
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
        self.disk.read(self.offset + offset, buffer)
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        assert!(
            offset + buffer.len() as u64 <= self.size,
            "a write past the end of its volume"
        );
        self.disk.write(self.offset + offset, buffer)
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.disk.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.disk.discard(self.offset + offset, length)
    }
}

/// The device of volume 0: all of the disk when it is not cut.
pub(super) fn first(disk: Arc<dyn BlockDevice>, cut: bool) -> Arc<dyn BlockDevice> {
    if cut { Slice::of(disk, 0) } else { disk }
}

struct Slices(Arc<dyn BlockDevice>);

fn path(number: u64) -> String {
    format!("slice {number}")
}

impl VolumeOpener for Slices {
    fn open<'a>(&'a self, wanted: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        Box::pin(async move {
            let number = (1..SLICES).find(|number| path(*number) == wanted);
            let number = number.expect("only slices are added");
            Ok(Slice::of(self.0.clone(), number))
        })
    }

    fn close(&self, _path: &str) {}
}

/// The other slices.
pub(super) fn opener(disk: Arc<dyn BlockDevice>) -> Arc<dyn VolumeOpener> {
    Arc::new(Slices(disk))
}

/// Lets an operator work at this node until its life ends.
pub(super) fn operate(runtime: &Arc<dyn Runtime>, node: &Arc<Node>) {
    let group = Arc::downgrade(node.group());
    let clock = runtime.clone();
    let work = async move {
        loop {
            clock
                .sleep(Duration::from_millis(20 + clock.random() % 600))
                .await;
            let Some(group) = Weak::upgrade(&group) else {
                return;
            };
            // Refusals and time-outs are as good as successes: the workload says whether data is whole.
            let _done = one_operation(&*clock, &group).await;
        }
    };
    runtime.spawn("operator of volumes", Box::pin(work));
}

async fn one_operation(
    runtime: &dyn Runtime,
    group: &VolumeGroup,
) -> Result<(), aquifer_dss::group::StorageError> {
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
