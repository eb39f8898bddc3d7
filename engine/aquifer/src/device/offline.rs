//! A volume group as its devices describe it, and the devices that no node can use meanwhile.

use super::plain::{PlainDevice, PlainOpener};
use crate::failure::Failure;
use crate::volume::GroupReport;
use aquifer_dss::fence::{Descriptor, LocalFencer};
use aquifer_dss::group::GroupImage;
use aquifer_dss::seam::{BlockDevice, FenceError, Fencer};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::NodeId;
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
        let fencer = LocalFencer::new(Arc::new(TokioRuntime::current()), descriptors)
            .map_err(|e| Failure::failed(format!("/proc does not say who this process is: {e}")))?;
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
