//! Formatting a device, and reading (and repairing) its label.

use super::error::StorageError;
use super::volume_label::{further_label, newer_label, read_label_copies, units_in, write_label};
use crate::seam::{BLOCK, BlockDevice, IoBuffer};
use aquifer_dss_proto::catalog::{Catalog, NewVolume, Twin, VOLUMES_MAX};
use aquifer_dss_proto::journal::{Tail, encode_checkpoint};
use aquifer_dss_proto::label::{JOURNAL_OFFSET_LEAST, Label, Uuid, journal_offset};
use aquifer_dss_proto::{HomeSlots, PageSize};

/// How a volume group shall be.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// A name for people.
    pub name: String,
    /// Bytes of an allocation unit: a power of two from 1 to 64 MiB (tests: from one block).
    pub au_bytes: u64,
    /// Bytes of the metadata journal: a multiple of 32 KiB, at least 64 KiB.
    pub journal_bytes: u64,
    /// Bytes of each of the two checkpoints: a multiple of 4 KiB.
    pub checkpoint_bytes: u64,
    /// Size of a page.
    pub page_size: PageSize,
    /// Slots of the directory.
    pub home_slots: HomeSlots,
    /// User and group that the root directory belongs to.
    pub owner: (u32, u32),
    /// Whether devices come in pairs, each the two legs of a volume.
    pub mirror: bool,
    /// Files for whose metadata [`sized_for`](Self::sized_for) makes room; `None`: as many as suit the device.
    pub files: Option<u64>,
    /// Overwrite what is on the device.
    pub force: bool,
    /// Where ids come from; `None` draws from the kernel. The simulator sets it.
    pub seed: Option<[u8; 16]>,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            name: String::from("aquifer"),
            au_bytes: 4 << 20,
            journal_bytes: 16 << 20,
            checkpoint_bytes: 8 << 20,
            page_size: PageSize::default(),
            home_slots: HomeSlots::default(),
            owner: (0, 0),
            mirror: false,
            files: None,
            force: false,
            seed: None,
        }
    }
}

/// Files for which there is room where nobody says otherwise, on a device that is large enough.
const FILES: u64 = 1_000_000;
/// Bytes a file of one extent takes in a checkpoint at most, with a name of 42 bytes.
const FILE_METADATA_BYTES: u64 = 176;
/// Least and most bytes of a checkpoint that is sized for a device or for files.
const CHECKPOINT_BYTES: std::ops::RangeInclusive<u64> = 8 << 20..=1 << 32;

/// Bytes of a checkpoint with room for `files`: growing operations may fill 7/8 of it.
fn checkpoint_for(files: u64) -> u64 {
    let bytes = files.saturating_mul(FILE_METADATA_BYTES).saturating_mul(8) / 7;
    let (least, most) = CHECKPOINT_BYTES.into_inner();
    bytes.clamp(least, most).next_multiple_of(1 << 20)
}

impl GroupOptions {
    /// With room for the metadata of `files`. Where nobody said how many: for a million, as far as both checkpoints
    /// take no more than an eighth of a device of `size` bytes. The journal stays as it is, because a new leader reads
    /// all of it.
    pub fn sized_for(self, size: u64) -> Self {
        let suits = || (size / 16).clamp(*CHECKPOINT_BYTES.start(), checkpoint_for(FILES)) >> 20 << 20;
        Self {
            checkpoint_bytes: self.files.map_or_else(suits, checkpoint_for),
            ..self
        }
    }
}

/// What a fresh group is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupIdentity {
    /// Its id.
    pub group: Uuid,
    /// Its name.
    pub name: String,
    /// Allocation units for files.
    pub units: u64,
}

/// A device that shall become a volume of a fresh group.
#[derive(Clone, Copy)]
pub struct NewDevice<'a> {
    /// The device.
    pub device: &'a dyn BlockDevice,
    /// Where every node finds it; empty for the first, which every node is told.
    pub path: &'a str,
    /// Devices of one failure group fail together; the two legs of a volume are of different ones.
    pub failure_group: u8,
}

/// Refuses a device that something is on.
pub(super) async fn require_blank(device: &dyn BlockDevice) -> Result<(), StorageError> {
    match newer_label(&read_label_copies(device).await?) {
        Ok(label) => {
            return Err(StorageError::InUse {
                name: label.name,
                group: label.group,
            });
        }
        Err(StorageError::NoLabel) => {}
        Err(damaged) => return Err(damaged),
    }
    let start = device
        .read(0, IoBuffer::zeroed(JOURNAL_OFFSET_LEAST as usize))
        .await?;
    match start.iter().position(|byte| *byte != 0) {
        Some(offset) => Err(StorageError::NotBlank {
            offset: offset as u64,
        }),
        None => Ok(()),
    }
}

fn plan(size: u64, options: &GroupOptions) -> Result<Label, StorageError> {
    let block = BLOCK as u64;
    let invalid = |text: &str| Err(StorageError::Invalid(String::from(text)));
    if options.name.is_empty() || options.name.len() > 64 {
        return invalid("the name has 1 to 64 bytes");
    }
    if !options.au_bytes.is_power_of_two() || options.au_bytes < block || options.au_bytes > 64 << 20 {
        return invalid("an allocation unit is a power of two up to 64 MiB");
    }
    if options.journal_bytes < 64 << 10
        || !options.journal_bytes.is_multiple_of(32 << 10)
        || options.journal_bytes > 1 << 40
    {
        return invalid("the journal is a multiple of 32 KiB and at least 64 KiB");
    }
    let checkpoint = options.checkpoint_bytes;
    if checkpoint < 32 << 10 || !checkpoint.is_multiple_of(block) || checkpoint > 1 << 32 {
        return invalid("a checkpoint is a multiple of 4 KiB and at least 32 KiB");
    }
    let segment = if options.journal_bytes.is_multiple_of(256 << 10) && options.journal_bytes >= 2 << 20 {
        256 << 10
    } else {
        options.journal_bytes / 8
    };
    let end = journal_offset(options.home_slots) + options.journal_bytes + 2 * checkpoint;
    let au_offset = end.next_multiple_of(options.au_bytes);
    let needed = au_offset + options.au_bytes;
    if size < needed {
        return Err(StorageError::TooSmall { size, needed });
    }
    Ok(Label {
        group: Uuid::default(),
        name: options.name.clone(),
        volume_uuid: Uuid::default(),
        volume: 0,
        generation: 1,
        size,
        au_bytes: options.au_bytes,
        au_offset,
        au_count: units_in(size, au_offset, options.au_bytes),
        journal_bytes: options.journal_bytes,
        segment_bytes: segment,
        checkpoint_bytes: checkpoint,
        page_bytes: options.page_size.bytes() as u32,
        home_slots: options.home_slots.count() as u32,
        legs: if options.mirror { 2 } else { 1 },
        leg: 0,
        leg_generation: 1,
    })
}

fn draw_uuid(seed: Option<[u8; 16]>) -> Uuid {
    let mut group = seed.unwrap_or_default();
    if seed.is_none() {
        crate::random_bytes(&mut group);
    }
    Uuid(group)
}

/// UUID of the second leg of a volume of a fresh group.
fn twin_uuid(mut volume: Uuid) -> Uuid {
    volume.0[0] ^= 0x80;
    volume
}

/// UUID of a volume of a fresh group.
fn volume_uuid(group: Uuid, volume: u16) -> Uuid {
    let mut uuid = group.0;
    let last = u16::from_le_bytes([uuid[14], uuid[15]]).wrapping_add(volume + 1);
    uuid[14..].copy_from_slice(&last.to_le_bytes());
    Uuid(uuid)
}

/// Devices by volume: one, or the two legs of a mirrored one.
fn volumes<'a, 'b>(
    devices: &'b [NewDevice<'a>],
    options: &GroupOptions,
) -> Result<Vec<&'b [NewDevice<'a>]>, StorageError> {
    let invalid = |text: &str| Err(StorageError::Invalid(text.into()));
    if devices.is_empty() {
        return invalid("name at least one device");
    }
    let legs = if options.mirror { 2 } else { 1 };
    if !devices.len().is_multiple_of(legs) {
        return invalid("a mirrored group takes devices in pairs");
    }
    if devices.len() / legs > VOLUMES_MAX {
        return invalid("a group has at most 256 volumes");
    }
    let volumes: Vec<_> = devices.chunks(legs).collect();
    let is_alone =
        |legs: &&[NewDevice<'_>]| legs.len() == 2 && legs[0].failure_group == legs[1].failure_group;
    if volumes.iter().any(is_alone) {
        return invalid("the two devices of a mirrored volume are of different failure groups");
    }
    Ok(volumes)
}

/// The labels of all volumes of a fresh group, that of volume 0 first: one for each leg.
fn plan_all(volumes: &[&[NewDevice<'_>]], options: &GroupOptions) -> Result<Vec<Vec<Label>>, StorageError> {
    let size = |legs: &[NewDevice<'_>]| {
        let sizes = legs.iter().map(|leg| leg.device.geometry().size);
        sizes.min().expect("a volume has a device")
    };
    let mut first = plan(size(volumes[0]), options)?;
    first.group = draw_uuid(options.seed);
    let mut planned = Vec::new();
    for (volume, legs) in (0u16..).zip(volumes) {
        let uuid = volume_uuid(first.group, volume);
        let mut label = match volume {
            0 => first.clone(),
            _ => further_label(&first, uuid, size(legs))?,
        };
        (label.volume, label.volume_uuid, label.generation) = (volume, uuid, 1);
        let mut twin = label.clone();
        (twin.leg, twin.volume_uuid) = (1, twin_uuid(uuid));
        planned.push([label, twin].into_iter().take(legs.len()).collect());
    }
    Ok(planned)
}

fn fresh_catalog(volumes: &[&[NewDevice<'_>]], labels: &[Vec<Label>], owner: (u32, u32)) -> Catalog {
    let volume = |(devices, labels): (&&[NewDevice<'_>], &Vec<Label>)| NewVolume {
        volume: labels[0].volume,
        uuid: labels[0].volume_uuid,
        units: labels[0].au_count,
        au_offset: labels[0].au_offset,
        failure_group: devices[0].failure_group,
        path: devices[0].path.into(),
        twin: labels.get(1).map(|label| Twin {
            uuid: label.volume_uuid,
            failure_group: devices[1].failure_group,
            path: devices[1].path.into(),
        }),
    };
    let new: Vec<_> = volumes.iter().zip(labels).map(volume).collect();
    let first = &labels[0][0];
    let capacity = (first.checkpoint_bytes - BLOCK as u64) as usize;
    Catalog::with_volumes(first.au_bytes, &new, capacity).owned_by(owner)
}

/// Writes a fresh volume group. The labels go last, that of volume 0 behind all others, after everything else is
/// durable, so that a format that was cut off leaves no group.
pub(super) async fn format(
    devices: &[NewDevice<'_>],
    options: &GroupOptions,
) -> Result<GroupIdentity, StorageError> {
    let volumes = volumes(devices, options)?;
    let labels = plan_all(&volumes, options)?;
    for device in devices.iter().filter(|_| !options.force) {
        require_blank(device.device).await?;
    }
    for device in devices {
        let length = labels[0][0].journal_offset();
        device.device.write_zeroes(0, length).await?;
        device.device.flush().await?;
    }
    let label = &labels[0][0];
    // Old journal entries need no wiping: the chain starts from the new group's id (DSS-3).
    let checkpoint = encode_checkpoint(
        label.group,
        Tail::first(label.group),
        &fresh_catalog(&volumes, &labels, options.owner),
    );
    for first in volumes[0].iter().map(|leg| leg.device) {
        first
            .write(label.checkpoint_offset(0), IoBuffer::copy_padded(&checkpoint))
            .await?;
        first
            .write(label.checkpoint_offset(1), IoBuffer::zeroed(BLOCK))
            .await?;
        first.flush().await?;
    }
    let all: Vec<&Label> = labels.iter().flatten().collect();
    for (device, label) in devices.iter().zip(all).rev() {
        write_label(device.device, label).await?;
    }
    Ok(GroupIdentity {
        group: label.group,
        name: label.name.clone(),
        units: labels.iter().map(|legs| u64::from(legs[0].au_count)).sum(),
    })
}
