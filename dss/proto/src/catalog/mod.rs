//! The catalogue: volumes, files, directories, configuration and history of a volume group.
//!
//! One state machine in the memory of every node. Rules:
//! - `apply` depends on the state and the record alone: every node that applied the same records is the same;
//! - a request is done once, however often it is repeated (DSS-4);
//! - a unit belongs to one file, or waits in limbo, or is free (DSS-5);
//! - file ids are never reused (HZ-6).

mod allocator;
mod image;
mod record;
#[cfg(test)]
mod tests;
mod tree;

pub use allocator::FreeMap;
pub use image::CatalogImage;
pub use record::{
    Extent, FileKind, HistoryEntry, Limbo, Operation, OperationError, Origin, Outcome, Record, Reply,
};
pub use tree::{Inode, Node};

use crate::{Epoch, FileId, NodeId};
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

/// A volume as the catalogue knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Allocation units.
    pub units: u32,
    /// Where the next search for free units starts.
    pub cursor: u32,
}

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
    volumes: Vec<FreeMap>,
    inodes: BTreeMap<FileId, Inode>,
    config: BTreeMap<String, String>,
    limbo: Vec<Limbo>,
    sessions: BTreeMap<NodeId, Session>,
    history: Vec<HistoryEntry>,
}

impl Catalog {
    /// The catalogue of a fresh group whose checkpoints can take `capacity` bytes.
    pub fn new(au_bytes: u64, volumes: &[u32], capacity: usize) -> Self {
        let mut inodes = BTreeMap::new();
        inodes.insert(ROOT, Inode::root());
        let volumes: Vec<_> = volumes.iter().map(|units| FreeMap::new(*units, 0)).collect();
        let mut catalog = Self {
            au_bytes,
            capacity,
            weight: 0,
            next_file: ROOT.0 + 1,
            volumes,
            inodes,
            config: BTreeMap::new(),
            limbo: Vec::new(),
            sessions: BTreeMap::new(),
            history: Vec::new(),
        };
        catalog.weight = catalog.weigh();
        catalog
    }

    /// Applies one record of journal entry `sequence`.
    pub fn apply(&mut self, sequence: u64, record: &Record) -> Outcome {
        let Some(origin) = record.origin else {
            return self.perform(sequence, &record.operation);
        };
        if let Some(outcome) = self.known_outcome(&origin) {
            return outcome;
        }
        let session = self.sessions.entry(origin.node).or_default();
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
        let outcome = self.perform(sequence, &record.operation);
        let session = self.sessions.entry(origin.node).or_default();
        session.outcomes.insert(origin.request, outcome);
        outcome
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

    fn perform(&mut self, sequence: u64, operation: &Operation) -> Outcome {
        match operation {
            Operation::Create {
                path,
                size,
                kind,
                exclusive,
            } => self.create(path, *size, *kind, *exclusive),
            Operation::Allocate { file, size } => self.allocate(*file, *size),
            Operation::Remove { path } => self.remove(sequence, path),
            Operation::Rename { from, to } => self.rename(from, to),
            Operation::MakeDirectory { path } => self.make_directory(path),
            Operation::SetConfig { key, value } => self.set_config(key, value.as_deref()),
            Operation::Release { through } => self.release(*through),
            Operation::Lead { epoch, leader } => self.record_leader(sequence, *epoch, *leader),
        }
    }

    fn allocate(&mut self, file: FileId, size: u64) -> Outcome {
        let Some(inode) = self.inodes.get(&file) else {
            return Err(OperationError::NotFound);
        };
        let Node::File {
            size: old,
            ref extents,
            ..
        } = inode.node
        else {
            return Err(OperationError::IsADirectory);
        };
        if size <= old {
            return Ok(Reply::Done);
        }
        let mut extents = extents.clone();
        self.grow(&mut extents, size)?;
        let inode = self.inodes.get_mut(&file).expect("looked up above");
        let before = inode.weight();
        if let Node::File {
            size: current,
            extents: list,
            ..
        } = &mut inode.node
        {
            *current = size;
            *list = extents;
        }
        self.weight = self.weight + inode.weight() - before;
        Ok(Reply::Done)
    }

    /// Adds units to `extents` until `size` bytes fit; changes nothing when there are too few.
    fn grow(&mut self, extents: &mut Vec<Extent>, size: u64) -> Result<(), OperationError> {
        let have: u64 = extents.iter().map(|extent| u64::from(extent.count)).sum();
        let mut missing = size.div_ceil(self.au_bytes).saturating_sub(have);
        if missing > self.free_units() {
            return Err(OperationError::NoSpace);
        }
        let (before, old) = (self.volumes.clone(), extents.len());
        while missing > 0 {
            let volume = self.emptiest_volume();
            let wanted = u32::try_from(missing).unwrap_or(u32::MAX);
            let run = self.volumes[volume].next_run(wanted);
            let (start, count) = run.expect("the emptiest volume has space while the group has");
            missing -= u64::from(count);
            push_extent(
                extents,
                Extent {
                    volume: volume as u16,
                    start,
                    count,
                },
            );
        }
        let fits = self.require_room((extents.len() - old) * tree::EXTENT_WEIGHT);
        if fits.is_err() {
            self.volumes = before;
        }
        fits
    }

    fn emptiest_volume(&self) -> usize {
        let volumes = self.volumes.iter().enumerate();
        volumes
            .max_by_key(|(index, map)| (map.free(), usize::MAX - index))
            .map_or(0, |(index, _)| index)
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

    fn release(&mut self, through: u64) -> Outcome {
        let limbo = core::mem::take(&mut self.limbo);
        let (gone, kept) = limbo.into_iter().partition(|entry| entry.sequence <= through);
        self.limbo = kept;
        let gone: Vec<Limbo> = gone;
        for entry in &gone {
            self.weight -= tree::limbo_weight(entry);
            for extent in &entry.extents {
                self.volumes[usize::from(extent.volume)].give_back(extent.start, extent.count);
            }
        }
        Ok(Reply::Done)
    }

    fn record_leader(&mut self, sequence: u64, epoch: Epoch, leader: NodeId) -> Outcome {
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
        let sessions: usize = self
            .sessions
            .values()
            .map(|session| 32 + 16 * session.outcomes.len())
            .sum();
        let fits = self.weight.saturating_add(more).saturating_add(sessions) <= self.room();
        if fits {
            Ok(())
        } else {
            Err(OperationError::NoMetadataSpace)
        }
    }

    fn weigh(&self) -> usize {
        let fixed = 128 + HISTORY * 24 + self.volumes.len() * 16;
        let inodes: usize = self.inodes.values().map(Inode::weight).sum();
        let config: usize = self
            .config
            .iter()
            .map(|(key, value)| key.len() + value.len() + 10)
            .sum();
        let limbo: usize = self.limbo.iter().map(tree::limbo_weight).sum();
        fixed + inodes + config + limbo
    }

    /// Size of an allocation unit in bytes.
    pub const fn au_bytes(&self) -> u64 {
        self.au_bytes
    }

    /// Free allocation units of the group.
    pub fn free_units(&self) -> u64 {
        self.volumes.iter().map(|map| u64::from(map.free())).sum()
    }

    /// Allocation units of each volume.
    pub fn volume_units(&self) -> Vec<u32> {
        self.volumes.iter().map(FreeMap::units).collect()
    }

    /// A file or directory.
    pub fn inode(&self, file: FileId) -> Option<&Inode> {
        self.inodes.get(&file)
    }

    /// Every file and directory in the order of ids.
    pub fn inodes(&self) -> impl Iterator<Item = (FileId, &Inode)> {
        self.inodes.iter().map(|(id, inode)| (*id, inode))
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

    /// Removed units that wait for the members (HZ-7), oldest first.
    pub fn limbo(&self) -> &[Limbo] {
        &self.limbo
    }

    /// The last leaders, oldest first.
    pub fn history(&self) -> &[HistoryEntry] {
        &self.history
    }
}

/// Appends a run, joined with the one before when it continues that.
fn push_extent(extents: &mut Vec<Extent>, run: Extent) {
    match extents.last_mut() {
        Some(last) if last.volume == run.volume && last.start + last.count == run.start => {
            last.count += run.count;
        }
        _ => extents.push(run),
    }
}
