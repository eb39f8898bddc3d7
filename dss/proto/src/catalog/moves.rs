//! Units that move to another volume while their file is read and written.
//!
//! A move goes through these states, each of which is in the journal. `Passed` of an entry means that every member has
//! read up to there and has finished what it began before (HZ-7).
//!
//! ```text
//! BeginMove -> Freezing --Passed--> Copying --EndMove--> Switched --Passed--> gone, `from` is free
//!                  \___________________\---CancelMove---> Abandoned --Passed--> gone, `to` is free
//! ```
//!
//! Rules (README of `aquifer-dss`):
//! - MOV-1 nobody writes to a run that is Freezing, Copying or Switched; everybody may read it;
//! - MOV-2 the copy is made when every member has stopped writing, by the leader alone, and is durable before EndMove;
//! - MOV-3 writes go on, and the old units are free, only when every member uses the new place: otherwise one would read the
//!   old one after another wrote the new one;
//! - MOV-4 what moves is named by its units, not by its place in the file, so that it does not matter what the file becomes
//!   meanwhile: when the units are no longer its own at the end, the move is abandoned.

use super::inode::EXTENT_WEIGHT;
use super::{Catalog, Extent, FreeMap, Node, OperationError, Outcome, Reply, Volume, VolumeState, extents};
use crate::FileId;
use crate::defect::{Defect, planted};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Moves that are under way at a time.
pub const MOVES_MAX: usize = 8;

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MoveState {
    /// Members stop writing.
    Freezing {
        /// Journal sequence that they have to pass.
        since: u64,
    },
    /// Nobody writes; the leader copies.
    Copying,
    /// The file has the new units; members learn it.
    Switched {
        /// Journal sequence that they have to pass.
        since: u64,
    },
    /// It stays where it was; nobody copies any more.
    Abandoned {
        /// Journal sequence that members have to pass.
        since: u64,
    },
}

/// Units on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Move {
    /// Names it; never given again.
    pub number: u64,
    /// The file that they belong to.
    pub file: FileId,
    /// Where they are.
    pub from: Extent,
    /// Where they go; as many.
    pub to: Extent,
    /// How far it is.
    pub state: MoveState,
}

impl Move {
    /// Where nobody may write now.
    pub const fn frozen(&self) -> Option<Extent> {
        match self.state {
            MoveState::Freezing { .. } | MoveState::Copying => Some(self.from),
            MoveState::Switched { .. } => Some(self.to),
            MoveState::Abandoned { .. } => None,
        }
    }

    /// The units that are no file's.
    pub(super) const fn spare(&self) -> Extent {
        match self.state {
            MoveState::Switched { .. } => self.from,
            _ => self.to,
        }
    }

    /// The entry that members have to pass before it goes on.
    pub(super) const fn awaited(&self) -> Option<u64> {
        match self.state {
            MoveState::Freezing { since }
            | MoveState::Switched { since }
            | MoveState::Abandoned { since } => Some(since),
            MoveState::Copying => None,
        }
    }
}

/// Bytes that moves take in a checkpoint at most.
pub(super) const MOVES_WEIGHT: usize = MOVES_MAX * (32 + 2 * EXTENT_WEIGHT);

fn has(outer: &Extent, inner: &Extent) -> bool {
    outer.volume == inner.volume
        && outer.start <= inner.start
        && inner.start - outer.start <= outer.count
        && inner.count <= outer.count - (inner.start - outer.start)
}

fn meet(one: &Extent, other: &Extent) -> bool {
    let end = |extent: &Extent| u64::from(extent.start) + u64::from(extent.count);
    one.volume == other.volume && u64::from(one.start) < end(other) && u64::from(other.start) < end(one)
}

/// Puts `to` in the place of `from`, which lies inside one of the runs. False when it does not.
fn replace(runs: &mut Vec<Extent>, from: &Extent, to: &Extent) -> bool {
    let Some(run) = runs.iter().find(|run| has(run, from)) else {
        return false;
    };
    let unit = run.unit + (from.start - run.start);
    let gone = extents::cut(runs, unit, unit + from.count);
    assert!(!gone.is_empty(), "what was found is there");
    extents::insert(runs, Extent { unit, ..*to });
    true
}

impl Catalog {
    pub(super) fn begin_move(&mut self, sequence: u64, file: FileId, from: Extent) -> Outcome {
        if self.moves.len() >= MOVES_MAX
            || self
                .moves
                .iter()
                .any(|unit| meet(&unit.from, &from) || meet(&unit.to, &from))
        {
            return Err(OperationError::VolumeRaced);
        }
        let Some(Node::File { extents, .. }) = self.inodes.get(&file).map(|inode| &inode.node) else {
            return Err(OperationError::NotFound);
        };
        if from.count == 0 || !extents.iter().any(|run| has(run, &from)) {
            return Err(OperationError::NotFound);
        }
        // The new run may cut one extent into three.
        self.require_room(2 * EXTENT_WEIGHT)?;
        let volume = self.emptiest_volume();
        if !self.table[volume].takes_units() {
            return Err(OperationError::NoSpace);
        }
        let run = self.volumes[volume].next_run(from.count);
        let (start, count) = run.ok_or(OperationError::NoSpace)?;
        let volume = u16::try_from(volume).expect("a group has at most 256 volumes");
        let number = self.next_move;
        self.next_move += 1;
        let state = if planted(Defect::CopyBesideWriters) {
            MoveState::Copying
        } else {
            MoveState::Freezing { since: sequence }
        };
        self.moves.push(Move {
            number,
            file,
            from: Extent { count, ..from },
            to: Extent {
                volume,
                start,
                count,
                ..from
            },
            state,
        });
        Ok(Reply::Done)
    }

    /// The copy is durable: the file gets the new units.
    pub(super) fn end_move(&mut self, sequence: u64, number: u64) -> Outcome {
        let index = self.move_index(number)?;
        let Move {
            file,
            from,
            to,
            state,
            ..
        } = self.moves[index];
        if state != MoveState::Copying {
            return Err(OperationError::VolumeRaced);
        }
        let mut replaced = false;
        if self.inodes.contains_key(&file) {
            self.change(file, |inode| {
                if let Node::File { extents, .. } = &mut inode.node {
                    replaced = replace(extents, &from, &to);
                }
            });
        }
        self.moves[index].state = if replaced {
            MoveState::Switched { since: sequence }
        } else {
            MoveState::Abandoned { since: sequence }
        };
        if replaced && planted(Defect::ThawBeforeEverybodySwitched) {
            self.drop_move(index);
        }
        Ok(Reply::Done)
    }

    /// Nobody copies any more: the file stays where it is.
    pub(super) fn cancel_move(&mut self, sequence: u64, number: u64) -> Outcome {
        let index = self.move_index(number)?;
        let unit = &mut self.moves[index];
        if matches!(
            unit.state,
            MoveState::Switched { .. } | MoveState::Abandoned { .. }
        ) {
            return Err(OperationError::VolumeRaced);
        }
        unit.state = MoveState::Abandoned { since: sequence };
        Ok(Reply::Done)
    }

    /// Every member read up to `through` and finished what it began before.
    pub(super) fn pass(&mut self, through: u64) -> Outcome {
        self.activate_volumes(through);
        self.mirrors.pass(through);
        let mut index = 0;
        while index < self.moves.len() {
            match self.moves[index].state {
                MoveState::Freezing { since } if since <= through => {
                    self.moves[index].state = MoveState::Copying;
                }
                MoveState::Switched { since } | MoveState::Abandoned { since } if since <= through => {
                    self.drop_move(index);
                    continue;
                }
                _ => {}
            }
            index += 1;
        }
        Ok(Reply::Done)
    }

    fn drop_move(&mut self, index: usize) {
        let spare = self.moves.remove(index).spare();
        self.volumes[usize::from(spare.volume)].give_back(spare.start, spare.count);
    }

    fn move_index(&self, number: u64) -> Result<usize, OperationError> {
        let found = self.moves.iter().position(|unit| unit.number == number);
        found.ok_or(OperationError::NotFound)
    }

    /// Whether nobody may write to this run now (MOV-1).
    pub fn is_frozen(&self, volume: u16, start: u32, count: u32) -> bool {
        let end = u64::from(start) + u64::from(count);
        let meets = |frozen: Extent| {
            frozen.volume == volume
                && u64::from(frozen.start) < end
                && start < frozen.start.saturating_add(frozen.count)
        };
        self.moves.iter().any(|unit| unit.frozen().is_some_and(meets))
    }

    /// Units that are on their way, oldest first.
    pub fn moves(&self) -> impl Iterator<Item = &Move> {
        self.moves.iter()
    }

    /// A run of at most `most` units of a volume that is drained, which does not move yet: of the first such file from
    /// `cursor` on, then of those before.
    pub fn next_to_move(&self, cursor: FileId, most: u32) -> Option<(FileId, Extent)> {
        if !self
            .table
            .iter()
            .any(|volume| volume.state == VolumeState::Draining)
        {
            return None;
        }
        let earlier = self.inodes.iter().take_while(|(file, _)| *file < cursor);
        let mut files = self.inodes.from(cursor).chain(earlier);
        files.find_map(|(file, inode)| {
            let Node::File { extents, .. } = &inode.node else {
                return None;
            };
            let run = extents.iter().find_map(|run| self.run_to_move(run, most))?;
            Some((file, run))
        })
    }

    fn run_to_move(&self, run: &Extent, most: u32) -> Option<Extent> {
        let draining = |volume: &Volume| volume.state == VolumeState::Draining;
        if !self.table.get(usize::from(run.volume)).is_some_and(draining) {
            return None;
        }
        let free = |start: &u32| {
            let unit = Extent {
                start: *start,
                count: 1,
                ..*run
            };
            !self.moves.iter().any(|moving| meet(&moving.from, &unit))
        };
        let start = (run.start..run.start + run.count).find(free)?;
        let limit = start.saturating_add(most).min(run.start + run.count);
        let end = (start..limit).find(|unit| !free(unit)).unwrap_or(limit);
        Some(Extent {
            unit: run.unit + (start - run.start),
            start,
            count: end - start,
            ..*run
        })
    }

    /// Units that files have on volumes that are drained.
    pub fn units_to_move(&self) -> u64 {
        let draining = self.table.iter().zip(&self.volumes);
        let draining = draining.filter(|(volume, _)| volume.state == VolumeState::Draining);
        draining.map(|(_, map)| u64::from(map.units() - map.free())).sum()
    }

    /// Marks the units that moves hold besides those of files; `None` when somebody has one, or one is outside.
    pub(super) fn take_spares(volumes: &mut [FreeMap], moves: &[Move]) -> Option<()> {
        for unit in moves {
            let is_inside = |run: &Extent| {
                let map = volumes.get(usize::from(run.volume));
                map.is_some_and(|map| u64::from(run.start) + u64::from(run.count) <= u64::from(map.units()))
            };
            if unit.from.count == 0
                || unit.from.count != unit.to.count
                || !is_inside(&unit.from)
                || !is_inside(&unit.to)
            {
                return None;
            }
            let spare = unit.spare();
            if !volumes[usize::from(spare.volume)].take(spare.start, spare.count) {
                return None;
            }
        }
        Some(())
    }
}
