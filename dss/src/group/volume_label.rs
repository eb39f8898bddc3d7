//! Labels of volumes: what fits, and how they are written.

use super::error::StorageError;
use crate::seam::{BlockDevice, DeviceError, IoBuffer};
use aquifer_dss_proto::catalog::UNITS_MAX;
use aquifer_dss_proto::label::{LABEL_OFFSETS, Label, Uuid};

/// Allocation units that fit.
pub(super) const fn units_in(size: u64, au_offset: u64, au_bytes: u64) -> u32 {
    let units = (size - au_offset) / au_bytes;
    if units > UNITS_MAX as u64 {
        UNITS_MAX
    } else {
        units as u32
    }
}

/// Why a device does not hold all units of its volume.
pub(super) fn too_small(
    device: &dyn BlockDevice,
    au_offset: u64,
    units: u32,
    au_bytes: u64,
) -> Option<String> {
    let (size, needed) = (device.geometry().size, au_offset + u64::from(units) * au_bytes);
    (size < needed).then(|| format!("its device has {size} bytes and the volume needs {needed}"))
}

/// The label of a volume besides the first: allocation units only.
pub(super) fn further_label(first: &Label, uuid: Uuid, size: u64) -> Result<Label, StorageError> {
    let au_offset = first.journal_offset().next_multiple_of(first.au_bytes);
    let needed = au_offset + first.au_bytes;
    if size < needed {
        return Err(StorageError::TooSmall { size, needed });
    }
    Ok(Label {
        volume_uuid: uuid,
        generation: 0,
        size,
        au_offset,
        au_count: units_in(size, au_offset, first.au_bytes),
        journal_bytes: 0,
        segment_bytes: 0,
        checkpoint_bytes: 0,
        ..first.clone()
    })
}

/// Writes both copies of a label, one after the other, each durable.
pub(super) async fn write_label(device: &dyn BlockDevice, label: &Label) -> Result<(), DeviceError> {
    for offset in LABEL_OFFSETS {
        device
            .write(offset, IoBuffer::copy_padded(&label.encode()))
            .await?;
        device.flush().await?;
    }
    Ok(())
}
