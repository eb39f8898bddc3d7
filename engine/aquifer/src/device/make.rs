//! Making a device file and writing a volume group on it.

use super::plain::PlainDevice;
use crate::failure::{Exit, Failure};
use aquifer_dss::group::{GroupOptions, NewDevice, StorageError, VolumeGroup};
use aquifer_dss::seam::BlockDevice;
use std::path::{Path, PathBuf};

/// What `format` made.
pub struct Formatted {
    /// UUID of the volume group.
    pub uuid: String,
    /// Size of the device in bytes.
    pub size: u64,
}

/// Makes a sparse file, readable by this user only.
pub fn create(path: &Path, size: u64) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |e: std::io::Error| Failure::usage(format!("cannot make {}: {e}", path.display()));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.set_len(size).map_err(failed)
}

/// Writes a volume group on devices of these failure groups; the first has the metadata.
pub async fn format(
    paths: &[PathBuf],
    failure_groups: &[u8],
    options: &GroupOptions,
) -> Result<Formatted, Failure> {
    let mut devices = Vec::new();
    for path in paths {
        let device = PlainDevice::open(path, true)?;
        let shown = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        if super::slots::anybody_runs(path)? {
            return Err(Failure::refused(format!(
                "a node is running on {}: stop it first",
                path.display()
            )));
        }
        devices.push((device, shown.display().to_string()));
    }
    // Whoever makes the group can make files in a mount of it.
    let owner = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let options = &GroupOptions {
        owner,
        ..options.clone().sized_for(devices[0].0.geometry().size)
    };
    let new: Vec<_> = devices
        .iter()
        .zip(failure_groups)
        .map(|((device, path), failure_group)| NewDevice {
            device,
            path,
            failure_group: *failure_group,
        })
        .collect();
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let identity = VolumeGroup::format_all(&new, options)
        .await
        .map_err(|e| storage_failure(Path::new(&shown.join(", ")), &e))?;
    let legs = if options.mirror { 2 } else { 1 };
    Ok(Formatted {
        uuid: identity.group.to_string(),
        size: devices
            .iter()
            .map(|(device, _)| device.geometry().size)
            .sum::<u64>()
            / legs,
    })
}

/// The one line for an error of storage, with what to do about it.
pub fn storage_failure(path: &Path, error: &StorageError) -> Failure {
    let shown = path.display();
    match error {
        StorageError::NoLabel => Failure::usage(format!(
            "{shown} has no volume group: make one with `aquifer cluster init --vg NAME {shown}`, or name the right device"
        )),
        StorageError::DamagedLabel => Failure::refused(format!(
            "{shown}: both copies of the label are damaged; look with `aquifer inspect label --device {shown}`, restore its first 128 KiB, or overwrite it with `cluster init --force`"
        )),
        StorageError::OtherVersion { found, expected } => Failure::refused(format!(
            "{shown} has format version {found} and this program reads {expected}: use the matching version of aquifer"
        )),
        StorageError::InUse { name, group } => Failure::refused(format!(
            "{shown} has volume group `{name}` ({group}) already: choose another device, or add --force and lose it"
        )),
        StorageError::NotBlank { offset } => Failure::refused(format!(
            "{shown} is not blank (something is at byte {offset}): choose another device, or add --force and lose it"
        )),
        StorageError::TooSmall { size, needed } => Failure::usage(format!(
            "{shown} has {size} bytes and needs at least {needed}: use a larger device, or --size"
        )),
        StorageError::Damaged(what) => Failure::failed(format!(
            "{shown}: metadata is damaged ({what}); look with `aquifer vg check --device {shown}`"
        )),
        StorageError::RefusedVolume { .. }
        | StorageError::OtherGroup { .. }
        | StorageError::OneSide { .. } => Failure::refused(format!("{shown}: {error}")),
        StorageError::MissingVolume { .. } => {
            Failure::unavailable(format!("{shown}: {error}; name its device with --device too"))
        }
        StorageError::NotLeader(_) => Failure::unavailable(format!("{shown}: {error}")),
        StorageError::Unavailable => Failure::new(
            Exit::Unknown,
            "no storage leader answered in time, so the outcome is unknown; look with `aquifer cluster status`",
        ),
        StorageError::Device(e) => Failure::unavailable(format!("{shown}: {e}")),
        other => Failure::failed(format!("{shown}: {other}")),
    }
}
