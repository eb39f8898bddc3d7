//! Labels of volumes: what fits, and how they are read and written.

use super::error::StorageError;
use crate::seam::{BLOCK, BlockDevice, DeviceError, IoBuffer};
use aquifer_dss_proto::catalog::UNITS_MAX;
use aquifer_dss_proto::envelope::EnvelopeError;
use aquifer_dss_proto::label::{FORMAT_VERSION, JOURNAL_OFFSET_LEAST, LABEL_OFFSETS, Label, Uuid};

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
        write_copy(device, offset, label).await?;
    }
    Ok(())
}

async fn write_copy(device: &dyn BlockDevice, offset: u64, label: &Label) -> Result<(), DeviceError> {
    device
        .write(offset, IoBuffer::copy_padded(&label.encode()))
        .await?;
    device.flush().await
}

/// Both copies of a label, as decoded.
pub type LabelCopies = [Result<Label, EnvelopeError>; 2];

/// Both copies of the label of a device.
pub async fn read_label_copies(device: &dyn BlockDevice) -> Result<LabelCopies, StorageError> {
    if device.geometry().size < JOURNAL_OFFSET_LEAST {
        return Ok([Err(EnvelopeError::Absent), Err(EnvelopeError::Absent)]);
    }
    let a = device.read(LABEL_OFFSETS[0], IoBuffer::zeroed(BLOCK)).await?;
    let b = device.read(LABEL_OFFSETS[1], IoBuffer::zeroed(BLOCK)).await?;
    Ok([Label::decode(&a), Label::decode(&b)])
}

/// The label that counts of two copies.
pub(super) fn newer_label(copies: &LabelCopies) -> Result<Label, StorageError> {
    match copies {
        [Ok(a), Ok(b)] => Ok(if a.generation > b.generation { a } else { b }.clone()),
        [Ok(label), Err(_)] | [Err(_), Ok(label)] => Ok(label.clone()),
        [Err(EnvelopeError::Version(found)), Err(_)] | [Err(_), Err(EnvelopeError::Version(found))] => {
            Err(StorageError::OtherVersion {
                found: *found,
                expected: FORMAT_VERSION,
            })
        }
        [Err(EnvelopeError::Absent), Err(EnvelopeError::Absent)] => Err(StorageError::NoLabel),
        [Err(_), Err(_)] => Err(StorageError::DamagedLabel),
    }
}

/// The label of a device; a copy that is damaged or old is written again from the other (DSS-1).
pub(super) async fn read_label(device: &dyn BlockDevice) -> Result<Label, StorageError> {
    let copies = read_label_copies(device).await?;
    let label = newer_label(&copies)?;
    for (copy, offset) in copies.iter().zip(LABEL_OFFSETS) {
        if copy.as_ref() != Ok(&label) {
            tracing::warn!(
                offset,
                "a copy of the label was damaged or old: written again from the other"
            );
            write_copy(device, offset, &label).await?;
        }
    }
    let size = device.geometry().size;
    let needed = label.au_offset + u64::from(label.au_count) * label.au_bytes;
    if size < needed {
        Err(StorageError::TooSmall { size, needed })
    } else {
        Ok(label)
    }
}
