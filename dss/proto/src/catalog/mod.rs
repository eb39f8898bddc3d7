//! The catalogue: volumes, files, directories, configuration and history of a volume group.
//!
//! One state machine in the memory of every node. Rules:
//! - `apply` depends on the state and the record alone: every node that applied the same records is the same;
//! - a request is done once, however often it is repeated (DSS-4);
//! - a unit belongs to one file, or waits in limbo, or is free (DSS-5);
//! - file ids are never reused (HZ-6).
//!
//! The engine names its files by paths (`tree.rs`); what programs ask for has the meaning of POSIX (`files.rs`).

mod allocator;
mod audit;
mod claims;
mod cut;
pub mod extents;
mod file_operation;
mod files;
mod image;
mod inode;
mod inodes;
mod intents;
mod limbo;
#[cfg(test)]
mod mirror_tests;
mod mirrors;
#[cfg(test)]
mod model_tests;
mod moves;
mod names;
mod record;
#[cfg(test)]
mod tests;
mod tree;
mod unit_set;
#[cfg(test)]
mod volume_tests;
mod volumes;

pub use allocator::{FreeMap, UNITS_MAX};
pub use audit::UnitBalance;
pub use claims::{Life, Reservation};
pub use cut::CatalogCut;
pub use file_operation::{AttributeChange, FileOperation, NewNode};
pub use files::FILE_BYTES;
pub use inode::{Attributes, Entry, Inode, Node};
use inodes::Inodes;
pub use intents::{INTENTS_MAX, VolumeUnit};
pub use mirrors::{Legs, Mirror, MirrorState, SYNCS_MAX, Sync, UnitAccess};
pub use moves::{MOVES_MAX, Move, MoveState};
pub use names::Entries;
use names::Names;
pub use record::{
    Extent, FileKind, HistoryEntry, Limbo, Operation, OperationError, Origin, Outcome, Record, Removed, Reply,
};
pub use unit_set::UnitSet;
pub use volumes::{DEVICE_PATH_BYTES, NewLeg, NewVolume, Twin, VOLUMES_MAX, Volume, VolumeState};

use claims::Claims;
use files::Asked;
use mirrors::Mirrors;

use crate::{Epoch, FileId, Member, NodeId};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The root directory.
pub const ROOT: FileId = FileId(1);
/// Longest path in bytes.
pub const PATH_BYTES: usize = 1024;
/// Longest name in a directory, and longest configuration key, in bytes.
pub const NAME_BYTES: usize = 255;
/// Longest configuration value in bytes.
pub const VALUE_BYTES: usize = 2048;
/// Entries of history that are kept.
const HISTORY: usize = 64;

/// One life of a node and the outcomes it may ask for again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Session {
    id: u64,
    settled: u64,
    outcomes: BTreeMap<u64, Outcome>,
}

/// The state machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalog {
    au_bytes: u64,
    /// Bytes a checkpoint can take.
    capacity: usize,
    /// Upper bound of the bytes of a checkpoint now.
    weight: usize,
    next_file: u64,
    /// Free space of each volume of the table.
    volumes: Vec<FreeMap>,
    table: Vec<Volume>,
    /// Units on their way, oldest first.
    moves: Vec<Move>,
    next_move: u64,
    inodes: Inodes,
    names: Names,
    config: BTreeMap<String, String>,
    /// By number, which is the order of removal too.
    limbo: BTreeMap<u64, Limbo>,
    claims: Claims,
    /// Number of the next reservation or entry of limbo.
    next_number: u64,
    sessions: BTreeMap<NodeId, Session>,
    history: Vec<HistoryEntry>,
    mirrors: Mirrors,
}

impl Catalog {
    /// The catalogue of a fresh group whose checkpoints can take `capacity` bytes.
    pub fn new(au_bytes: u64, volumes: &[u32], capacity: usize) -> Self {
        let (mut inodes, mut names) = (Inodes::default(), Names::default());
        inodes.insert(ROOT, Inode::root());
        names.add_directory(ROOT);
        let table = volumes.iter().map(|_| Volume::unnamed(au_bytes)).collect();
        let volumes: Vec<_> = volumes.iter().map(|units| FreeMap::new(*units, 0)).collect();
        let mut catalog = Self {
            au_bytes,
            capacity,
            weight: 0,
            next_file: ROOT.0 + 1,
            volumes,
            table,
            moves: Vec::new(),
            next_move: 1,
            inodes,
            names,
            config: BTreeMap::new(),
            limbo: BTreeMap::new(),
            claims: Claims::default(),
            next_number: 1,
            sessions: BTreeMap::new(),
            history: Vec::new(),
            mirrors: Mirrors::default(),
        };
        catalog.weight = catalog.weigh();
        catalog
    }

    /// Applies one record of journal entry `sequence`.
    pub fn apply(&mut self, sequence: u64, record: &Record) -> Outcome {
        let Some(origin) = record.origin else {
            let asked = Asked {
                sequence,
                time: 0,
                life: None,
            };
            return self.perform(asked, &record.operation);
        };
        if let Some(outcome) = self.known_outcome(&origin) {
            return outcome;
        }
        self.enter_session(&origin);
        let asked = Asked {
            sequence,
            time: origin.time,
            life: Some(Life::from(&origin)),
        };
        let outcome = self.perform(asked, &record.operation);
        let session = self.sessions.entry(origin.node).or_default();
        session.outcomes.insert(origin.request, outcome);
        outcome
    }

    /// Makes the asker's life the current one of its node, and forgets the outcomes that it has.
    fn enter_session(&mut self, origin: &Origin) {
        let session = self.sessions.entry(origin.node).or_default();
        let before = Life {
            node: origin.node,
            session: session.id,
        };
        if session.id != origin.session {
            *session = Session {
                id: origin.session,
                ..Session::default()
            };
        }
        if origin.settled > session.settled {
            session.settled = origin.settled;
            session.outcomes = session.outcomes.split_off(&origin.settled);
        }
        if before.session != origin.session {
            // A node lives once at a time: whoever asks now has its slot, so the life before can write no more.
            self.forfeit(before);
        }
    }

    /// What a request came to, when it was done before (DSS-4).
    pub fn known_outcome(&self, origin: &Origin) -> Option<Outcome> {
        let session = self
            .sessions
            .get(&origin.node)
            .filter(|session| session.id == origin.session)?;
        if origin.request < session.settled {
            return Some(Err(OperationError::Settled));
        }
        session.outcomes.get(&origin.request).copied()
    }

    fn perform(&mut self, asked: Asked, operation: &Operation) -> Outcome {
        let Asked { sequence, time, .. } = asked;
        match operation {
            Operation::Create {
                path,
                size,
                kind,
                exclusive,
            } => self.create(time, path, *size, *kind, *exclusive),
            Operation::Allocate { file, size } => self.allocate(*file, *size),
            Operation::Remove { path } => self.remove(sequence, time, path),
            Operation::Rename { from, to } => self.rename(time, from, to),
            Operation::MakeDirectory { path } => self.make_directory(time, path),
            Operation::SetConfig { key, value } => self.set_config(key, value.as_deref()),
            Operation::Release { entries } => self.release(entries),
            Operation::Lead {
                epoch,
                leader,
                members,
            } => self.record_leader(sequence, *epoch, *leader, members),
            Operation::Forfeit { node, session } => {
                self.forfeit(Life {
                    node: *node,
                    session: *session,
                });
                Ok(Reply::Done)
            }
            Operation::Files(operation) => self.perform_on_files(asked, operation),
            Operation::AddVolume(new) => self.add_volume(sequence, new),
            Operation::ResizeVolume { volume, units } => self.resize_volume(*volume, *units),
            Operation::DrainVolume { volume, drain } => self.drain_volume(*volume, *drain),
            Operation::RemoveVolume { volume } => self.remove_volume(*volume),
            Operation::ReplaceLeg(new) => self.replace_leg(sequence, new),
            Operation::Passed { through } => self.pass(*through),
            Operation::BeginMove { file, from } => self.begin_move(sequence, *file, *from),
            Operation::EndMove { number } => self.end_move(sequence, *number),
            Operation::CancelMove { number } => self.cancel_move(sequence, *number),
            operation => self.perform_on_legs(asked, operation),
        }
    }

    /// What is asked of mirrored volumes.
    fn perform_on_legs(&mut self, asked: Asked, operation: &Operation) -> Outcome {
        let sequence = asked.sequence;
        match operation {
            Operation::Detach {
                volume,
                leg,
                generation,
                units,
            } => self.detach(sequence, *volume, *leg, *generation, units),
            Operation::MarkDirty { volume, units } => self.mark_dirty(*volume, units),
            Operation::Resync {
                volume,
                leg,
                generation,
            } => self.resync(sequence, *volume, *leg, *generation),
            Operation::BeginSync { volume, start, count } => {
                self.begin_sync(sequence, *volume, *start, *count)
            }
            Operation::EndSync { volume, start, count } => self.end_sync(*volume, *start, *count),
            Operation::Intend { life, add, clear } => {
                self.intend(asked.life.map(|life| life.node), *life, add, clear)
            }
            Operation::Healed { units } => self.heal(units),
            _ => unreachable!("every other operation is done by `perform`"),
        }
    }

    /// Takes `units` free units, as runs of a file from logical unit `from` on; changes nothing when there are too few.
    fn take_units(&mut self, units: u64, from: u32) -> Result<Vec<Extent>, OperationError> {
        if units > self.free_units() {
            return Err(OperationError::NoSpace);
        }
        let cursors: Vec<u32> = self.volumes.iter().map(FreeMap::cursor).collect();
        let (mut runs, mut missing, mut unit) = (Vec::new(), units, from);
        while missing > 0 {
            let volume = self.emptiest_volume();
            let wanted = u32::try_from(missing).unwrap_or(u32::MAX);
            let run = self.volumes[volume].next_run(wanted);
            let (start, count) = run.expect("the emptiest volume has space while the group has");
            missing -= u64::from(count);
            let run = Extent {
                unit,
                volume: volume as u16,
                start,
                count,
            };
            unit += count;
            extents::insert(&mut runs, run);
        }
        let fits = self.require_room(runs.len() * inode::EXTENT_WEIGHT);
        if let Err(error) = fits {
            self.free(&runs);
            for (volume, cursor) in self.volumes.iter_mut().zip(cursors) {
                volume.search_from(cursor);
            }
            return Err(error);
        }
        Ok(runs)
    }

    /// Gives units back that nobody uses any more.
    fn free(&mut self, runs: &[Extent]) {
        for run in runs {
            self.volumes[usize::from(run.volume)].give_back(run.start, run.count);
        }
    }

    fn emptiest_volume(&self) -> usize {
        let volumes = self.volumes.iter().enumerate();
        volumes
            .filter(|(index, _)| self.table[*index].takes_units())
            .max_by_key(|(index, map)| (map.free(), usize::MAX - index))
            .map_or(0, |(index, _)| index)
    }

    /// A number that was never given before.
    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    fn set_config(&mut self, key: &str, value: Option<&str>) -> Outcome {
        let length = value.map_or(0, str::len);
        if key.is_empty() || key.len() > NAME_BYTES || length > VALUE_BYTES {
            return Err(OperationError::Invalid);
        }
        if let Some(value) = value {
            self.require_room(key.len() + value.len() + 10)?;
            self.weight += key.len() + value.len() + 10;
            if let Some(old) = self.config.insert(key.into(), value.into()) {
                self.weight -= key.len() + old.len() + 10;
            }
        } else if let Some(old) = self.config.remove(key) {
            self.weight -= key.len() + old.len() + 10;
        }
        Ok(Reply::Done)
    }

    fn record_leader(&mut self, sequence: u64, epoch: Epoch, leader: NodeId, members: &[Member]) -> Outcome {
        self.tear(sequence, members);
        if self.history.len() >= HISTORY {
            self.history.remove(0);
        }
        self.history.push(HistoryEntry {
            sequence,
            leader,
            epoch,
        });
        Ok(Reply::Done)
    }

    /// Bytes that growing operations may fill; the rest is for answers and for operations that only free.
    const fn room(&self) -> usize {
        self.capacity - self.capacity / 8
    }

    fn require_room(&self, more: usize) -> Result<(), OperationError> {
        self.require_in(self.room(), more)
    }

    /// Writers of mirrored volumes may have half of what is kept from others.
    fn require_mirror_room(&self, more: usize) -> Result<(), OperationError> {
        self.require_in(self.capacity - self.capacity / 16, more)
    }

    fn require_in(&self, room: usize, more: usize) -> Result<(), OperationError> {
        let sessions: usize = self
            .sessions
            .values()
            .map(|session| 32 + 16 * session.outcomes.len())
            .sum();
        let mirrors = self.mirrors.weight();
        let weight = self
            .weight
            .saturating_add(more)
            .saturating_add(sessions)
            .saturating_add(mirrors);
        if weight <= room {
            Ok(())
        } else {
            Err(OperationError::NoMetadataSpace)
        }
    }

    fn weigh(&self) -> usize {
        let fixed = 128 + HISTORY * 24 + moves::MOVES_WEIGHT;
        let volumes: usize = self.table.iter().map(Volume::weight).sum();
        let inodes: usize = self.inodes.values().map(Inode::weight).sum();
        let config: usize = self
            .config
            .iter()
            .map(|(key, value)| key.len() + value.len() + 10)
            .sum();
        let limbo: usize = self.limbo.values().map(limbo::weight).sum();
        fixed + volumes + inodes + config + limbo + self.claims.weight()
    }

    /// Size of an allocation unit in bytes.
    pub const fn au_bytes(&self) -> u64 {
        self.au_bytes
    }

    /// Free allocation units of the volumes from which units are taken.
    pub fn free_units(&self) -> u64 {
        let volumes = self.volumes.iter().zip(&self.table);
        volumes
            .filter(|(_, volume)| volume.takes_units())
            .map(|(map, _)| u64::from(map.free()))
            .sum()
    }

    /// Byte offset of a run on its volume.
    pub fn offset_of(&self, run: &Extent) -> u64 {
        self.offset_of_unit(run.volume, run.start)
    }

    /// Byte offset of a unit on its volume.
    pub fn offset_of_unit(&self, volume: u16, unit: u32) -> u64 {
        let volume = self.volume(volume).expect("units are on a volume");
        volume.au_offset + u64::from(unit) * self.au_bytes
    }

    /// Allocation units of each volume.
    pub fn volume_units(&self) -> Vec<u32> {
        self.volumes.iter().map(FreeMap::units).collect()
    }

    /// A file, directory or link that has a name.
    pub fn inode(&self, file: FileId) -> Option<&Inode> {
        self.inodes.get(&file).filter(|inode| !inode.is_removed(file))
    }

    /// An inode, also of a removed file that waits until nobody has it open.
    pub fn open_inode(&self, file: FileId) -> Option<&Inode> {
        self.inodes.get(&file)
    }

    /// Every inode in the order of ids, removed files that wait included.
    pub fn inodes(&self) -> impl Iterator<Item = (FileId, &Inode)> {
        self.inodes.iter()
    }

    /// How many inodes there are.
    pub fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// A configuration value.
    pub fn config(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str)
    }

    /// All configuration values in the order of keys.
    pub fn configs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The last leaders, oldest first.
    pub fn history(&self) -> &[HistoryEntry] {
        &self.history
    }
}
