//! What belongs to one life of a node for a while: units that it zeroes before they go into a file, and the ends of files
//! that it works on.
//!
//! Two nodes may fill the same hole, append to the same file or grow it after a cut at the same time. If one of them
//! zeroed units that are in the file already, it could wipe what the other has just written there. So:
//! - units are zeroed while they are nobody's, and go into a file afterwards; who comes second keeps its own;
//! - the rest of the last unit after a cut is zeroed by the one node that claimed it, and the file does not grow before;
//! - one node at a time appends, because two ranges can share a block.
//!
//! A claim ends with the life that made it: with its next life (whose first request names another session), or when the
//! leader says so of a node that is out of the view, and fenced.

use super::{Catalog, Extent, OperationError, Origin, Outcome, Reply, extents};
use crate::defect::{Defect, planted};
use crate::{FileId, NodeId};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Bytes a reservation takes in a checkpoint at most, beside its extents.
pub(super) const RESERVATION_WEIGHT: usize = 32;
/// Bytes a claim on the end of a file takes in a checkpoint at most.
pub(super) const CLAIM_WEIGHT: usize = 40;

/// One life of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// Which life, as its requests say it.
    pub session: u64,
}

impl From<&Origin> for Life {
    fn from(origin: &Origin) -> Self {
        Self {
            node: origin.node,
            session: origin.session,
        }
    }
}

/// Units that a life set aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reservation {
    /// For whom.
    pub life: Life,
    /// What is left; `unit` says nothing here.
    pub extents: Vec<Extent>,
}

/// What is going on at the end of files.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) reservations: BTreeMap<u64, Reservation>,
    /// Files whose last unit has old bytes past the end, and who zeroes them.
    pub(super) tails: BTreeMap<FileId, Option<Life>>,
    /// Who appends.
    pub(super) appending: BTreeMap<FileId, Life>,
}

impl Claims {
    pub(super) fn weight(&self) -> usize {
        let reservations = self.reservations.values();
        reservations
            .map(|reservation| RESERVATION_WEIGHT + reservation.extents.len() * super::inode::EXTENT_WEIGHT)
            .sum::<usize>()
            + (self.tails.len() + self.appending.len()) * CLAIM_WEIGHT
    }

    /// Every life that has something.
    pub(super) fn lives(&self) -> impl Iterator<Item = Life> {
        let reservations = self.reservations.values().map(|reservation| reservation.life);
        let tails = self.tails.values().filter_map(|life| *life);
        reservations.chain(tails).chain(self.appending.values().copied())
    }
}

impl Catalog {
    /// Lives of nodes that have something set aside for them.
    pub fn claimants(&self) -> Vec<Life> {
        let mut lives: Vec<Life> = self.claims.lives().collect();
        lives.sort_unstable();
        lives.dedup();
        lives
    }

    /// A reservation.
    pub fn reservation(&self, number: u64) -> Option<&Reservation> {
        self.claims.reservations.get(&number)
    }

    /// Whether the last unit of a file has old bytes past the end, and whose work it is to zero them.
    pub fn tail(&self, file: FileId) -> Option<Option<Life>> {
        self.claims.tails.get(&file).copied()
    }

    pub(super) fn reserve(&mut self, asker: Option<Life>, units: u32) -> Outcome {
        let life = asker.ok_or(OperationError::Invalid)?;
        if units == 0 {
            return Err(OperationError::Invalid);
        }
        self.require_room(RESERVATION_WEIGHT)?;
        let extents = self.take_units(u64::from(units), 0)?;
        let number = self.next_number();
        self.weight += RESERVATION_WEIGHT + extents.len() * super::inode::EXTENT_WEIGHT;
        self.claims
            .reservations
            .insert(number, Reservation { life, extents });
        Ok(Reply::Reservation(number))
    }

    /// Units of a reservation of `asker`, at most `count` in one run.
    pub(super) fn take_reserved(&mut self, number: u64, unit: u32, count: u32) -> Option<Extent> {
        let reservation = self.claims.reservations.get_mut(&number)?;
        let first = reservation.extents.first_mut()?;
        let taken = Extent {
            unit,
            count: count.min(first.count),
            ..*first
        };
        first.start += taken.count;
        first.count -= taken.count;
        if first.count == 0 {
            reservation.extents.remove(0);
            self.weight -= super::inode::EXTENT_WEIGHT;
        }
        if reservation.extents.is_empty() {
            self.claims.reservations.remove(&number);
            self.weight -= RESERVATION_WEIGHT;
        }
        Some(taken)
    }

    /// Whether `asker` has this reservation.
    pub(super) fn has_reserved(&self, asker: Option<Life>, number: u64) -> bool {
        self.reservation(number)
            .is_some_and(|reservation| Some(reservation.life) == asker)
    }

    pub(super) fn give_reservation_back(&mut self, asker: Option<Life>, number: u64) -> Outcome {
        if !self.has_reserved(asker, number) {
            return Err(OperationError::NotFound);
        }
        self.free_reservation(number);
        Ok(Reply::Done)
    }

    fn free_reservation(&mut self, number: u64) {
        let Some(reservation) = self.claims.reservations.remove(&number) else {
            return;
        };
        self.weight -= RESERVATION_WEIGHT + reservation.extents.len() * super::inode::EXTENT_WEIGHT;
        self.free(&reservation.extents);
    }

    /// What a life had set aside is free again, and its claims are void: it can write no more.
    pub(super) fn forfeit(&mut self, life: Life) {
        let reservations = self.claims.reservations.iter();
        let gone: Vec<u64> = reservations
            .filter(|(_, reservation)| reservation.life == life)
            .map(|(number, _)| *number)
            .collect();
        gone.into_iter().for_each(|number| self.free_reservation(number));
        for claim in self.claims.tails.values_mut() {
            if *claim == Some(life) {
                *claim = None;
            }
        }
        let before = self.claims.appending.len();
        self.claims.appending.retain(|_, holder| *holder != life);
        self.weight -= (before - self.claims.appending.len()) * CLAIM_WEIGHT;
    }

    /// Refuses when another life zeroes the end of the file.
    pub(super) fn require_own_tail(&self, asker: Option<Life>, file: FileId) -> Result<(), OperationError> {
        match self.tail(file) {
            Some(Some(life)) if Some(life) != asker => Err(OperationError::Busy),
            _ => Ok(()),
        }
    }

    pub(super) fn set_tail(&mut self, file: FileId, life: Option<Life>) {
        if self.claims.tails.insert(file, life).is_none() {
            self.weight += CLAIM_WEIGHT;
        }
    }

    pub(super) fn clear_tail(&mut self, file: FileId) {
        if self.claims.tails.remove(&file).is_some() {
            self.weight -= CLAIM_WEIGHT;
        }
    }

    /// Forgets claims on a file that is gone.
    pub(super) fn drop_claims(&mut self, file: FileId) {
        self.clear_tail(file);
        if self.claims.appending.remove(&file).is_some() {
            self.weight -= CLAIM_WEIGHT;
        }
    }

    pub(super) fn claim_tail(&mut self, asker: Option<Life>, file: FileId) -> Outcome {
        self.require_own_tail(asker, file)?;
        if self.tail(file).is_some() {
            self.set_tail(file, asker);
        }
        Ok(Reply::Done)
    }

    pub(super) fn tail_zeroed(&mut self, asker: Option<Life>, file: FileId) -> Outcome {
        match self.tail(file) {
            Some(life) if life == asker => self.clear_tail(file),
            Some(_) => return Err(OperationError::Busy),
            None => {}
        }
        Ok(Reply::Done)
    }

    /// The end of a file is `life`'s, until it says that it has appended.
    pub(super) fn claim_end(&mut self, life: Life, file: FileId) -> Result<(), OperationError> {
        match self.claims.appending.get(&file) {
            Some(holder) if *holder != life && !planted(Defect::AppendTogether) => Err(OperationError::Busy),
            Some(_) => Ok(()),
            None => {
                self.require_room(CLAIM_WEIGHT)?;
                self.claims.appending.insert(file, life);
                self.weight += CLAIM_WEIGHT;
                Ok(())
            }
        }
    }

    pub(super) fn appended(&mut self, asker: Option<Life>, file: FileId) -> Outcome {
        if self.claims.appending.get(&file).copied() == asker && asker.is_some() {
            self.claims.appending.remove(&file);
            self.weight -= CLAIM_WEIGHT;
        }
        Ok(Reply::Done)
    }

    /// Units of all reservations.
    pub(super) fn reserved_extents(&self) -> impl Iterator<Item = &Extent> {
        self.claims
            .reservations
            .values()
            .flat_map(|reservation| &reservation.extents)
    }

    /// Units that nodes have set aside.
    pub fn reserved_units(&self) -> u64 {
        let all: Vec<Extent> = self.reserved_extents().copied().collect();
        extents::units(&all)
    }
}
