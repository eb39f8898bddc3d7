//! What was removed and may still be in use somewhere: it comes back only when every member let go of it (HZ-7).

use super::inode::EXTENT_WEIGHT;
use super::{Catalog, Extent, Limbo, Node, Outcome, Removed, Reply, extents};
use crate::FileId;
use crate::defect::{Defect, planted};
use alloc::vec::Vec;

/// Bytes an entry takes in a checkpoint at most; that of a removed file is paid by its inode.
pub(super) fn weight(limbo: &Limbo) -> usize {
    match &limbo.what {
        Removed::File => 0,
        Removed::Units(runs) => 36 + runs.len() * EXTENT_WEIGHT,
    }
}

impl Catalog {
    /// Puts into limbo what was removed in journal entry `sequence`.
    pub(super) fn bury(&mut self, sequence: u64, file: FileId, what: Removed) {
        let number = self.next_number();
        let limbo = Limbo {
            number,
            sequence,
            file,
            what,
        };
        self.weight += weight(&limbo);
        self.limbo.insert(number, limbo);
    }

    /// Puts units that were cut off a file into limbo.
    pub(super) fn bury_units(&mut self, sequence: u64, file: FileId, runs: Vec<Extent>) {
        if planted(Defect::FreeCutUnits) {
            self.free(&runs);
        } else if !runs.is_empty() {
            self.bury(sequence, file, Removed::Units(runs));
        }
    }

    /// Frees what entries of limbo hold; those that are not there are free already.
    pub(super) fn release(&mut self, entries: &[u64]) -> Outcome {
        for number in entries {
            let Some(limbo) = self.limbo.remove(number) else {
                continue;
            };
            self.weight -= weight(&limbo);
            match limbo.what {
                Removed::Units(runs) => self.free(&runs),
                Removed::File => self.free_file(limbo.file),
            }
        }
        Ok(Reply::Done)
    }

    fn free_file(&mut self, file: FileId) {
        let Some(inode) = self.inodes.remove(&file) else {
            return;
        };
        self.weight -= inode.weight();
        self.drop_claims(file);
        if let Node::File { extents, .. } = &inode.node {
            self.free(extents);
        }
    }

    /// What waits for the members, oldest first.
    pub fn limbo(&self) -> impl DoubleEndedIterator<Item = &Limbo> {
        self.limbo.values()
    }

    /// An entry that waits.
    pub fn limbo_entry(&self, number: u64) -> Option<&Limbo> {
        self.limbo.get(&number)
    }

    /// The units of an entry.
    pub fn limbo_runs<'a>(&'a self, limbo: &'a Limbo) -> &'a [Extent] {
        match &limbo.what {
            Removed::Units(runs) => runs,
            Removed::File => match self.inodes.get(&limbo.file).map(|inode| &inode.node) {
                Some(Node::File { extents, .. }) => extents,
                _ => &[],
            },
        }
    }

    /// Units that wait for the members.
    pub fn waiting_units(&self) -> u64 {
        let runs = self.limbo.values().map(|limbo| self.limbo_runs(limbo));
        runs.map(extents::units).sum()
    }
}
