//! Writing a row: the caller decides under the leaf, the tree makes room.

use super::descent::Target;
use super::{Tree, check_lengths, corrupt};
use crate::mtr::{HeldPage, Mtr, Pages};
use crate::{Blocked, Error};
use aquifer_buffer_pool_proto::{Lsn, Scn};
use aquifer_engine_proto::TxnId;
use aquifer_engine_proto::page::{
    LeafView, PageError, PageOperation, PruneVersion, RowView, VERSION_OVERHEAD, Version, row_bytes_with,
};

/// What may be given up when the versions of one row do not fit in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// How many of the newest versions there are now must stay (those of running transactions and the newest committed one).
    pub keep: usize,
    /// An SCN at or above that of every version that stays or goes, so: the newest there can be now. Snapshots below it that miss a version are told so.
    pub truncated_below: Scn,
}

/// What is to happen to the row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The version to put in front, if any.
    pub put: Option<Version>,
    /// Positions (0 is the newest, rising) of versions nobody can see any more.
    pub prune: Vec<u16>,
    /// Commits learned on the way, to be stamped into this row.
    pub stamps: Vec<(TxnId, Scn)>,
    /// What may be given up for the new version; `None`: nothing.
    pub room: Option<Room>,
}

impl Decision {
    /// Leaves the row as it is.
    pub const fn nothing() -> Self {
        Self {
            put: None,
            prune: Vec::new(),
            stamps: Vec::new(),
            room: None,
        }
    }

    /// Puts a version.
    pub const fn put(version: Version) -> Self {
        Self {
            put: Some(version),
            prune: Vec::new(),
            stamps: Vec::new(),
            room: None,
        }
    }
}

/// How an attempt on a leaf ended. What it changed up to then is valid by itself.
enum Attempt {
    Done,
    /// The page must be split for a row of so many bytes.
    Split(usize),
}

impl<'a, P: Pages> Tree<'a, P> {
    /// Asks `decide` about the row of `key` (without versions when there is none) with its leaf held for change, and does what it
    /// says. When a version does not fit, `prunable` is asked for each row of the leaf which versions (rising positions)
    /// nobody can see any more; then the page is split. Answers the end of the redo written, `None` when nothing was changed.
    pub fn modify(
        &self,
        key: &[u8],
        decide: &mut dyn FnMut(RowView<'_>) -> Result<Decision, Blocked>,
        prunable: &mut dyn FnMut(RowView<'_>) -> Vec<u16>,
    ) -> Result<Option<Lsn>, Blocked> {
        check_lengths(self.limits(), key, &[])?;
        let mut posted = false;
        loop {
            let mut missing = Vec::new();
            let target = Target::Key(key);
            let Some(number) = self.locate(target, 0, &mut missing)? else {
                continue;
            };
            let Some((mut mtr, leaf)) = self.covering_write(number, 0, target, &mut missing)? else {
                continue;
            };
            if !missing.is_empty() && !posted {
                drop(mtr);
                posted = true;
                self.repair(missing)?;
                continue;
            }
            let id = mtr.id(leaf);
            let row = LeafView::new(mtr.bytes(leaf)).and_then(|leaf| leaf.find(key));
            let decision = decide(row.map_err(|error| corrupt(id, error))?)?;
            let attempt = self.carry_out(&mut mtr, leaf, key, &decision, prunable);
            let end = mtr.commit(self.redo);
            match attempt? {
                Attempt::Done => return Ok(end),
                Attempt::Split(bytes) => self.split(id.number, 0, key, bytes)?,
            }
        }
    }

    /// Stamps a commit's SCN into the row of `key`, if the leaf is at hand for change. A hint: it may be lost (BT-5).
    pub fn stamp(&self, key: &[u8], txn: TxnId, scn: Scn) -> Result<(), Blocked> {
        let target = Target::Key(key);
        let Some(number) = self.locate(target, 0, &mut Vec::new())? else {
            return Ok(());
        };
        match self.covering_write(number, 0, target, &mut Vec::new())? {
            Some((mut mtr, leaf)) => mtr.stamp(leaf, key, txn, scn),
            None => Ok(()),
        }
    }

    fn carry_out(
        &self,
        mtr: &mut Mtr<'a, P>,
        leaf: HeldPage,
        key: &[u8],
        decision: &Decision,
        prunable: &mut dyn FnMut(RowView<'_>) -> Vec<u16>,
    ) -> Result<Attempt, Blocked> {
        for (txn, scn) in &decision.stamps {
            mtr.stamp(leaf, key, *txn, *scn)?;
        }
        self.prune(mtr, leaf, key, &decision.prune, Scn(0))?;
        let Some(version) = &decision.put else {
            return Ok(Attempt::Done);
        };
        let limits = self.limits();
        check_lengths(limits, key, &version.value)?;
        let put = PageOperation::PutVersion {
            key: key.to_vec(),
            version: version.clone(),
        };
        // The row itself first: its size decides whether splitting can help at all.
        let mut bytes = self.row_bytes(mtr, leaf, key, version)?;
        if bytes > limits.row {
            let room = decision.room.unwrap_or(Room {
                keep: usize::MAX,
                truncated_below: Scn(0),
            });
            self.drop_oldest(mtr, leaf, key, &room, bytes - limits.row)?;
            bytes = self.row_bytes(mtr, leaf, key, version)?;
        }
        if bytes > limits.row {
            return Err(Error::TooLarge {
                what: "row with the versions in use",
                length: bytes,
                limit: limits.row,
            }
            .into());
        }
        if !mtr.fits(leaf, &put)? {
            self.prune_all(mtr, leaf, key, prunable)?;
        }
        if !mtr.fits(leaf, &put)? {
            return Ok(Attempt::Split(bytes));
        }
        mtr.change(leaf, &put)?;
        Ok(Attempt::Done)
    }

    fn row_bytes(
        &self,
        mtr: &Mtr<'a, P>,
        leaf: HeldPage,
        key: &[u8],
        version: &Version,
    ) -> Result<usize, Blocked> {
        let view = LeafView::new(mtr.bytes(leaf));
        let row = view
            .and_then(|view| view.find(key))
            .map_err(|error| corrupt(mtr.id(leaf), error))?;
        Ok(row_bytes_with(
            &row,
            version.txn,
            version.flags,
            version.value.len(),
        ))
    }

    /// Prunes versions of a row by their positions.
    fn prune(
        &self,
        mtr: &mut Mtr<'a, P>,
        leaf: HeldPage,
        key: &[u8],
        positions: &[u16],
        truncated_below: Scn,
    ) -> Result<(), Blocked> {
        if positions.is_empty() {
            return Ok(());
        }
        let view = LeafView::new(mtr.bytes(leaf));
        let row = view
            .and_then(|view| view.find(key))
            .map_err(|error| corrupt(mtr.id(leaf), error))?;
        let versions: Vec<PruneVersion> = positions
            .iter()
            .filter_map(|position| {
                let version = row.versions().nth(usize::from(*position))?;
                Some(PruneVersion {
                    position: *position,
                    txn: version.txn,
                })
            })
            .collect();
        assert!(
            versions.len() == positions.len(),
            "a version was named that the row does not have"
        );
        let whole = versions.len() == row.count();
        let key = key.to_vec();
        let operation = if whole {
            PageOperation::RemoveKey { key }
        } else {
            PageOperation::Prune {
                key,
                versions,
                truncated_below,
            }
        };
        mtr.change(leaf, &operation)
    }

    /// Drops versions from the oldest on until `surplus` bytes are gone or only what must stay is left. The row may have been pruned
    /// since `room` was counted: then more stays than must, which is safe.
    fn drop_oldest(
        &self,
        mtr: &mut Mtr<'a, P>,
        leaf: HeldPage,
        key: &[u8],
        room: &Room,
        surplus: usize,
    ) -> Result<(), Blocked> {
        let view = LeafView::new(mtr.bytes(leaf));
        let row = view
            .and_then(|view| view.find(key))
            .map_err(|error| corrupt(mtr.id(leaf), error))?;
        let sizes: Vec<usize> = row
            .versions()
            .map(|version| VERSION_OVERHEAD + version.value.len())
            .collect();
        // The row may grow by the mark itself.
        let surplus = surplus + if row.truncated_below().0 == 0 { 8 } else { 0 };
        let (mut first, mut gone) = (sizes.len(), 0);
        // One version stays in any case: it carries the mark.
        while first > room.keep.max(1) && gone < surplus {
            first -= 1;
            gone += sizes[first];
        }
        let positions: Vec<u16> = (first..sizes.len()).map(|position| position as u16).collect();
        self.prune(mtr, leaf, key, &positions, room.truncated_below)
    }

    /// Prunes what nobody can see from every row of the leaf but `key`, which was asked about already.
    fn prune_all(
        &self,
        mtr: &mut Mtr<'a, P>,
        leaf: HeldPage,
        key: &[u8],
        prunable: &mut dyn FnMut(RowView<'_>) -> Vec<u16>,
    ) -> Result<(), Blocked> {
        let id = mtr.id(leaf);
        let mut found: Vec<(Vec<u8>, Vec<u16>)> = Vec::new();
        let mut gather = || -> Result<(), PageError> {
            let view = LeafView::new(mtr.bytes(leaf))?;
            for slot in 0..view.node().count() {
                let row = view.row(slot)?;
                if row.key() != key {
                    found.push((row.key().to_vec(), prunable(row)));
                }
            }
            Ok(())
        };
        gather().map_err(|error| corrupt(id, error))?;
        for (key, positions) in found {
            self.prune(mtr, leaf, &key, &positions, Scn(0))?;
        }
        Ok(())
    }
}
