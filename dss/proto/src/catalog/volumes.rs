//! Volumes of the group: which there are, what is on them, and how they come and go while nodes serve.
//!
//! Rules (VOL-n, README of `aquifer-dss`):
//! - an id is given once and never again, also not after the volume is removed;
//! - a volume takes new units only when every member opened it (or said that it cannot): until then it is `Joining`;
//! - a volume is removed only when no unit of it is taken, in limbo or the place of a move.

use super::allocator::{FreeMap, UNITS_MAX};
use super::mirrors::Mirror;
use super::{Catalog, OperationError, Outcome, ROOT, Reply};
use crate::label::Uuid;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Most volumes that a group ever has, removed ones included.
pub const VOLUMES_MAX: usize = 256;
/// Longest path of a device, in bytes.
pub const DEVICE_PATH_BYTES: usize = 512;

/// What may be done with a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VolumeState {
    /// Members are opening it; no unit of it is taken.
    Joining {
        /// Journal sequence of its entry.
        since: u64,
    },
    /// Read and written, and new units are taken from it.
    Active,
    /// Read and written; its units move away, and no new ones are taken from it.
    Draining,
    /// Gone. Its id and its label are never used again.
    Removed,
}

/// The second leg of a mirrored volume: a device of the same size, with the same units at the same offsets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Twin {
    /// What its label says.
    pub uuid: Uuid,
    /// Another one than that of the first leg.
    pub failure_group: u8,
    /// Its device, as the node saw it that added it.
    pub path: String,
}

/// A volume as the catalogue knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// What its label says.
    pub uuid: Uuid,
    /// Byte offset of its unit 0.
    pub au_offset: u64,
    /// Volumes of one failure group fail together.
    pub failure_group: u8,
    /// What may be done with it.
    pub state: VolumeState,
    /// Its device, as the node saw it that added it; empty when nobody said.
    pub path: String,
    /// Its second leg, when it is mirrored; what is above is said of the first one.
    pub twin: Option<Twin>,
}

/// A volume that shall be added. Its label is on the device and durable before this is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewVolume {
    /// The id that its label has: the next one that is free.
    pub volume: u16,
    /// What its label says.
    pub uuid: Uuid,
    /// Its allocation units.
    pub units: u32,
    /// Byte offset of its unit 0.
    pub au_offset: u64,
    /// Volumes of one failure group fail together.
    pub failure_group: u8,
    /// Its device, as the node sees it that adds it.
    pub path: String,
    /// Its second leg, when it is mirrored.
    pub twin: Option<Twin>,
}

/// A device that shall be a leg in the place of one that is out. Its label is on it and durable before this is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewLeg {
    /// Which volume.
    pub volume: u16,
    /// Which leg.
    pub leg: u8,
    /// What its label says; no leg of the group ever had it.
    pub uuid: Uuid,
    /// What its label says of how often the leg was let in: more often than the one before.
    pub generation: u64,
    /// Another one than that of the other leg.
    pub failure_group: u8,
    /// Its device, as the node sees it that puts it there.
    pub path: String,
}

impl Volume {
    /// A volume of which nobody said what it is.
    pub(super) const fn unnamed(au_offset: u64) -> Self {
        Self {
            uuid: Uuid([0; 16]),
            au_offset,
            failure_group: 0,
            state: VolumeState::Active,
            path: String::new(),
            twin: None,
        }
    }

    /// Bytes it takes in a checkpoint at most.
    pub(super) fn weight(&self) -> usize {
        64 + self.path.len() + self.twin.as_ref().map_or(0, |twin| 32 + twin.path.len())
    }

    /// What the label of a leg says, and where its device was seen.
    pub fn leg(&self, leg: u8) -> Option<(Uuid, &str)> {
        match (leg, &self.twin) {
            (0, _) => Some((self.uuid, &self.path)),
            (1, Some(twin)) => Some((twin.uuid, &twin.path)),
            _ => None,
        }
    }

    /// Its legs: one or two.
    pub fn legs(&self) -> impl Iterator<Item = u8> + use<> {
        0..1 + u8::from(self.twin.is_some())
    }

    /// The failure groups of its legs.
    pub fn failure_group_of(&self, leg: u8) -> Option<u8> {
        match (leg, &self.twin) {
            (0, _) => Some(self.failure_group),
            (1, Some(twin)) => Some(twin.failure_group),
            _ => None,
        }
    }

    /// Whether one of its legs has this UUID.
    pub fn has_leg(&self, uuid: Uuid) -> bool {
        let mut legs = self.legs().filter_map(|leg| self.leg(leg));
        legs.any(|(known, _)| known == uuid)
    }

    /// Whether it is there, with a leg at this path.
    pub fn is_at(&self, path: &str) -> bool {
        let mut legs = self.legs().filter_map(|leg| self.leg(leg));
        self.exists() && !path.is_empty() && legs.any(|(_, named)| named == path)
    }

    /// Puts another device in the place of a leg.
    pub(super) fn put_leg(&mut self, new: &NewLeg) {
        match &mut self.twin {
            Some(twin) if new.leg == 1 => {
                (twin.uuid, twin.failure_group) = (new.uuid, new.failure_group);
                twin.path.clone_from(&new.path);
            }
            _ => {
                (self.uuid, self.failure_group) = (new.uuid, new.failure_group);
                self.path.clone_from(&new.path);
            }
        }
    }

    pub(super) fn has_sound_paths(&self) -> bool {
        let fits = |path: &String| path.len() <= DEVICE_PATH_BYTES;
        fits(&self.path) && self.twin.as_ref().is_none_or(|twin| fits(&twin.path))
    }

    /// Whether new units may be taken from it.
    pub fn takes_units(&self) -> bool {
        self.state == VolumeState::Active
    }

    /// Whether it is there at all.
    pub fn exists(&self) -> bool {
        self.state != VolumeState::Removed
    }
}

impl NewVolume {
    fn is_sound(&self, au_bytes: u64) -> bool {
        (1..=UNITS_MAX).contains(&self.units)
            && self.au_offset > 0
            && self.au_offset <= 1 << 60
            && self.au_offset.is_multiple_of(au_bytes)
            && self.path.len() <= DEVICE_PATH_BYTES
            && self.twin.as_ref().is_none_or(|twin| self.suits(twin))
    }

    /// Whether the two legs are of different devices, which do not fail together.
    fn suits(&self, twin: &Twin) -> bool {
        twin.path.len() <= DEVICE_PATH_BYTES
            && twin.uuid != self.uuid
            && twin.failure_group != self.failure_group
            && (twin.path != self.path || twin.path.is_empty())
    }

    fn entry(&self, state: VolumeState) -> Volume {
        Volume {
            uuid: self.uuid,
            au_offset: self.au_offset,
            failure_group: self.failure_group,
            state,
            path: self.path.clone(),
            twin: self.twin.clone(),
        }
    }
}

impl Catalog {
    /// Names the volumes of a fresh group, in the order of their ids, which start at 0.
    pub fn with_volumes(au_bytes: u64, volumes: &[NewVolume], capacity: usize) -> Self {
        let units: alloc::vec::Vec<u32> = volumes.iter().map(|volume| volume.units).collect();
        let mut catalog = Self::new(au_bytes, &units, capacity);
        catalog.table = volumes
            .iter()
            .map(|volume| volume.entry(VolumeState::Active))
            .collect();
        let mirrored = volumes.iter().filter(|volume| volume.twin.is_some());
        catalog.mirrors.volumes = mirrored.map(|volume| (volume.volume, Mirror::new())).collect();
        catalog.weight = catalog.weigh();
        catalog
    }

    /// A fresh catalogue whose root directory belongs to a user and a group.
    #[must_use]
    pub fn owned_by(mut self, (uid, gid): (u32, u32)) -> Self {
        let root = self.inodes.get_mut(&ROOT).expect("a catalogue has a root");
        (root.attributes.uid, root.attributes.gid) = (uid, gid);
        self
    }

    pub(super) fn add_volume(&mut self, sequence: u64, new: &NewVolume) -> Outcome {
        if self.table.len() >= VOLUMES_MAX {
            return Err(OperationError::TooManyVolumes);
        }
        if usize::from(new.volume) != self.table.len() {
            return Err(OperationError::VolumeRaced);
        }
        // All volumes of a group have two legs, or none has.
        if !new.is_sound(self.au_bytes) || new.twin.is_some() != self.is_mirrored() {
            return Err(OperationError::Invalid);
        }
        let entry = new.entry(VolumeState::Joining { since: sequence });
        let mut legs = entry.legs().filter_map(|leg| entry.leg(leg));
        if legs.any(|(uuid, path)| self.has_device(uuid, path)) {
            return Err(OperationError::AlreadyExists);
        }
        self.require_room(entry.weight())?;
        self.weight += entry.weight();
        if entry.twin.is_some() {
            self.mirrors.volumes.insert(new.volume, Mirror::new());
        }
        self.table.push(entry);
        self.volumes.push(FreeMap::new(new.units, 0));
        Ok(Reply::Volume(new.volume))
    }

    /// Whether a device is a leg already, or of a removed volume.
    fn has_device(&self, uuid: Uuid, path: &str) -> bool {
        let mut volumes = self.table.iter();
        volumes.any(|volume| volume.has_leg(uuid) || volume.is_at(path))
    }

    /// Another device is a leg from now on, and has nothing yet.
    pub(super) fn replace_leg(&mut self, sequence: u64, new: &NewLeg) -> Outcome {
        let index = self.existing(new.volume)?;
        let before = &self.table[index];
        let other = before.failure_group_of(1 - new.leg.min(1));
        if new.leg > 1 || new.path.len() > DEVICE_PATH_BYTES || other == Some(new.failure_group) {
            return Err(OperationError::Invalid);
        }
        // The device that goes may be in its old place: nobody uses it any more.
        let is_own_path = before.leg(new.leg).is_some_and(|(_, path)| path == new.path);
        let path = if is_own_path { "" } else { &new.path };
        if self.has_device(new.uuid, path) {
            return Err(OperationError::AlreadyExists);
        }
        let mut after = before.clone();
        after.put_leg(new);
        let more = after.weight().saturating_sub(before.weight());
        self.require_room(more)?;
        self.begin_stay(sequence, new)?;
        self.weight = self.weight - self.table[index].weight() + after.weight();
        self.table[index] = after;
        Ok(Reply::Volume(new.volume))
    }

    pub(super) fn resize_volume(&mut self, volume: u16, units: u32) -> Outcome {
        let index = self.existing(volume)?;
        if !(1..=UNITS_MAX).contains(&units) {
            return Err(OperationError::Invalid);
        }
        if !self.is_named_by_a_move(volume, units) && self.volumes[index].resize(units) {
            self.mirrors.trim(volume, units);
            Ok(Reply::Volume(volume))
        } else {
            Err(OperationError::VolumeInUse)
        }
    }

    /// Stops or resumes taking units from a volume.
    pub(super) fn drain_volume(&mut self, volume: u16, drain: bool) -> Outcome {
        let index = self.existing(volume)?;
        let other = |(other, entry): (usize, &Volume)| other != index && entry.takes_units();
        if drain && !self.table.iter().enumerate().any(other) {
            // Nobody would get a unit any more, and nothing could move.
            return Err(OperationError::NoSpace);
        }
        let entry = &mut self.table[index];
        entry.state = match (entry.state, drain) {
            // Not every member has it yet: it goes on joining, and may be drained then.
            (VolumeState::Joining { .. }, _) => return Err(OperationError::VolumeRaced),
            (_, true) => VolumeState::Draining,
            (_, false) => VolumeState::Active,
        };
        Ok(Reply::Volume(volume))
    }

    pub(super) fn remove_volume(&mut self, volume: u16) -> Outcome {
        let index = self.existing(volume)?;
        if index == 0 {
            return Err(OperationError::Invalid);
        }
        let map = &self.volumes[index];
        let moving = self.is_named_by_a_move(volume, 0);
        if self.table[index].state != VolumeState::Draining || map.free() != map.units() || moving {
            return Err(OperationError::VolumeInUse);
        }
        self.table[index].state = VolumeState::Removed;
        self.volumes[index] = FreeMap::new(0, 0);
        self.mirrors.trim(volume, 0);
        Ok(Reply::Volume(volume))
    }

    /// Whether a move reads or writes units of the volume from `first` on. It may outlive its file, whose units are free by then.
    fn is_named_by_a_move(&self, volume: u16, first: u32) -> bool {
        let is_there =
            |run: &super::Extent| run.volume == volume && run.start.saturating_add(run.count) > first;
        self.moves
            .iter()
            .any(|unit| is_there(&unit.from) || is_there(&unit.to))
    }

    /// Every member read past `through`: volumes that were added before are used from now on.
    pub(super) fn activate_volumes(&mut self, through: u64) {
        for volume in &mut self.table {
            if matches!(volume.state, VolumeState::Joining { since } if since <= through) {
                volume.state = VolumeState::Active;
            }
        }
    }

    /// Journal sequences of the volumes that members are opening.
    pub(super) fn joining(&self) -> impl Iterator<Item = u64> {
        self.table.iter().filter_map(|volume| match volume.state {
            VolumeState::Joining { since } => Some(since),
            _ => None,
        })
    }

    fn existing(&self, volume: u16) -> Result<usize, OperationError> {
        let index = usize::from(volume);
        let entry = self.table.get(index).filter(|entry| entry.exists());
        entry.map(|_| index).ok_or(OperationError::NoSuchVolume)
    }

    /// A volume, also when it was removed.
    pub fn volume(&self, volume: u16) -> Option<&Volume> {
        self.table.get(usize::from(volume))
    }

    /// Every volume that ever was, in the order of ids.
    pub fn volumes(&self) -> impl Iterator<Item = (u16, &Volume)> {
        (0u16..).zip(&self.table)
    }

    /// Units of a volume, and how many of them nobody has. None of either when it was removed.
    pub fn units_of(&self, volume: u16) -> (u32, u32) {
        let map = self.volumes.get(usize::from(volume));
        map.map_or((0, 0), |map| (map.units(), map.free()))
    }

    /// The id of the next volume.
    pub fn next_volume(&self) -> u16 {
        u16::try_from(self.table.len()).expect("a group has at most 256 volumes")
    }

    /// The oldest and the newest journal entry that every member must read before somebody goes on (HZ-7).
    pub fn awaited(&self) -> Option<(u64, u64)> {
        let moves = self.moves.iter().filter_map(super::Move::awaited);
        let all = moves.chain(self.joining()).chain(self.mirrors.awaited());
        all.fold(None, |range: Option<(u64, u64)>, sequence| {
            let (oldest, newest) = range.unwrap_or((sequence, sequence));
            Some((oldest.min(sequence), newest.max(sequence)))
        })
    }
}
