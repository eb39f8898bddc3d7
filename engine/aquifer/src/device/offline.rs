//! A volume group as its devices describe it, and the devices that no node can use meanwhile.

use super::plain::{PlainDevice, PlainOpener};
use crate::failure::Failure;
use crate::volume::GroupReport;
use aquifer_dss::fence::{Descriptor, LocalFencer};
use aquifer_dss::group::GroupImage;
use aquifer_dss::seam::{BlockDevice, FenceError, Fencer, Runtime};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::catalog::Mirror;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A volume group opened read-only, without being a node.
pub struct OfflineGroup {
    /// Where it was found.
    pub path: PathBuf,
    /// What is there.
    pub image: Arc<GroupImage>,
}

impl Deref for OfflineGroup {
    type Target = GroupImage;

    fn deref(&self) -> &GroupImage {
        &self.image
    }
}

impl OfflineGroup {
    /// Opens the group on `path`.
    pub async fn open(path: &Path) -> Result<Self, Failure> {
        let device = PlainDevice::open(path, false)?;
        let image = GroupImage::read(Arc::new(device), &PlainOpener)
            .await
            .map_err(|e| super::make::storage_failure(path, &e))?;
        Ok(Self {
            path: path.to_owned(),
            image: Arc::new(image),
        })
    }

    /// Its figures.
    pub fn report(&self) -> GroupReport {
        let mut report = GroupReport::of(&self.label, &self.catalog);
        for volume in &mut report.volumes {
            let missing = self
                .further
                .get(&volume.id)
                .and_then(|found| found.as_ref().err());
            volume.missing = missing.cloned();
        }
        report
    }

    /// Paths of everything that nodes write besides the first device: each side of each volume, but those that are out.
    pub fn written_paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for (id, volume) in self.catalog.volumes().filter(|(_, volume)| volume.exists()) {
            let out = self.catalog.mirror(id).and_then(Mirror::out);
            let sides = volume
                .legs()
                .filter(|leg| (id, *leg) != (0, self.label.leg) && out != Some(*leg));
            paths.extend(sides.filter_map(|leg| Some(PathBuf::from(volume.leg(leg)?.1))));
        }
        paths
    }

    /// Paths of the volumes besides the first, with their ids. All of them can be read.
    pub fn further_paths(&self) -> Result<Vec<(u16, PathBuf)>, Failure> {
        let volumes = self.catalog.volumes();
        let further = volumes.filter(|(id, volume)| *id > 0 && volume.exists());
        let paths = further.map(|(id, _)| match self.device(id) {
            Ok(_) => Ok((id, PathBuf::from(self.path(id).unwrap_or_default()))),
            Err(reason) => Err(Failure::unavailable(format!("volume {id}: {reason}"))),
        });
        paths.collect()
    }
}

/// Sees and takes locks of slots by these descriptors.
pub(super) fn fencer(descriptors: Vec<Descriptor>) -> Result<(Arc<dyn Runtime>, LocalFencer), Failure> {
    let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::current());
    let fencer = LocalFencer::new(runtime.clone(), descriptors)
        .map_err(|e| Failure::failed(format!("/proc does not say who this process is: {e}")))?;
    Ok((runtime, fencer))
}

/// The devices of a group, writable, while no node can run: this process has the lock of every slot.
pub struct HeldDevices {
    /// By volume.
    pub devices: BTreeMap<u16, Arc<dyn BlockDevice>>,
    /// Has the descriptors of the locks.
    _fencer: LocalFencer,
}

impl HeldDevices {
    /// Takes them; refused while a node has its slot.
    pub async fn hold(path: &Path) -> Result<Self, Failure> {
        let mut paths = vec![(0, path.to_owned())];
        paths.extend(OfflineGroup::open(path).await?.further_paths()?);
        let (mut devices, mut descriptors) = (BTreeMap::new(), Vec::new());
        for (volume, path) in &paths {
            let device: Arc<dyn BlockDevice> = Arc::new(PlainDevice::open(path, true)?);
            devices.insert(*volume, device);
            let descriptor: Descriptor = Arc::new(PlainDevice::open(path, true)?.into_file());
            descriptors.push(descriptor);
        }
        let (_, fencer) = fencer(descriptors)?;
        for node in (1..=NodeId::MAX).filter_map(NodeId::new) {
            fencer.hold(node).map_err(|error| match error {
                FenceError::SlotBusy(_) => Failure::refused(format!(
                    "node {node} is running on {}: stop it first with `aquifer node stop {node}`; a node repairs its label by itself when it starts",
                    path.display()
                )),
                other => Failure::failed(other),
            })?;
        }
        Ok(Self {
            devices,
            _fencer: fencer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss::group::GroupOptions;

    /// A fence by hand is proven, and what the dead node wrote is flushed, on each of them (HZ-17).
    #[tokio::test]
    async fn nodes_write_both_sides_of_each_volume() {
        let directory = std::env::temp_dir().join(format!("aquifer-sides-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let paths: Vec<PathBuf> = (0..4)
            .map(|number| directory.join(format!("side{number}")))
            .collect();
        for path in &paths {
            super::super::create(path, 256 << 20).unwrap();
        }
        let options = GroupOptions {
            mirror: true,
            ..GroupOptions::default()
        };
        super::super::format(&paths, &[0, 1, 0, 1], &options)
            .await
            .unwrap();
        let group = OfflineGroup::open(&paths[0]).await.unwrap();
        assert_eq!(group.written_paths(), paths[1..]);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
