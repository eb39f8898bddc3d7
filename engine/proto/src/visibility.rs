//! Which version of a row a snapshot sees, whether a row may be written, and what nobody can see any more.
//!
//! Rules:
//! - a snapshot sees what committed with an SCN at or below its own, and its transaction's own changes;
//! - a transaction that is *committing* may turn out to be covered by the snapshot: wait for its outcome (HZ-13).
//!   One that is still active takes an SCN above every snapshot that exists, so it is simply not seen;
//! - a version that only locks the row carries no value: readers pass over it;
//! - what cannot be decided now (`Err` of the status function) is never guessed.

use crate::TxnId;
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::Scn;
use aquifer_dss_proto::defect::{Defect, planted};
use serde::{Deserialize, Serialize};

/// What is known of a transaction. The last two are final.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum TxnStatus {
    /// It may still change rows; its SCN, if it gets one, lies above every snapshot taken before this answer.
    Active,
    /// It asks for an SCN or has one and is being made durable.
    Committing,
    /// Durable, with this SCN.
    Committed(Scn),
    /// It changed nothing.
    Aborted,
}

impl TxnStatus {
    /// Whether the status never changes again.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Committed(_) | Self::Aborted)
    }
}

/// The part of a row version that decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionHead {
    /// Who wrote it.
    pub txn: TxnId,
    /// Its SCN once stamped, otherwise 0.
    pub scn: Scn,
    /// The row does not exist in this version.
    pub deleted: bool,
    /// The version only locks the row.
    pub lock_only: bool,
}

/// What a snapshot sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visible {
    /// The version at this index.
    Version(usize),
    /// No row: no version is covered, or the newest covered one (at the index) is a deletion.
    Nothing(Option<usize>),
    /// The outcome of this transaction decides.
    WaitFor(TxnId),
}

/// Whether a transaction may put a new version on a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writable {
    /// It may. The row it replaces is the version at the index; `None` when there is no row (never, or deleted).
    Free(Option<usize>),
    /// This transaction holds the row.
    WaitFor(TxnId),
    /// Somebody committed a change after the snapshot (first updater wins).
    Conflict(Scn),
}

fn status_of<E>(
    version: &VersionHead,
    status: &mut impl FnMut(TxnId) -> Result<TxnStatus, E>,
) -> Result<TxnStatus, E> {
    if version.scn.0 != 0 {
        Ok(TxnStatus::Committed(version.scn))
    } else {
        status(version.txn)
    }
}

/// The version that `snapshot` sees, of `versions` newest first. `own` says which ids are the reader's, including its
/// sub-transactions that are not rolled back.
pub fn visible<E>(
    versions: impl IntoIterator<Item = VersionHead>,
    snapshot: Scn,
    own: impl Fn(TxnId) -> bool,
    mut status: impl FnMut(TxnId) -> Result<TxnStatus, E>,
) -> Result<Visible, E> {
    for (index, version) in versions.into_iter().enumerate() {
        if version.lock_only {
            continue;
        }
        let seen = (version.scn.0 == 0 && own(version.txn))
            || match status_of(&version, &mut status)? {
                TxnStatus::Committed(scn) => scn <= snapshot,
                TxnStatus::Committing if !planted(Defect::ReadPastCommitting) => {
                    return Ok(Visible::WaitFor(version.txn));
                }
                TxnStatus::Committing | TxnStatus::Active | TxnStatus::Aborted => false,
            };
        if seen {
            return Ok(if version.deleted {
                Visible::Nothing(Some(index))
            } else {
                Visible::Version(index)
            });
        }
    }
    Ok(Visible::Nothing(None))
}

/// Whether the transaction of `own` may write the row. `snapshot` is `Some` under snapshot isolation, where a change
/// committed after it is a conflict; under read committed the newest committed version is written over.
pub fn writable<E>(
    versions: impl IntoIterator<Item = VersionHead>,
    snapshot: Option<Scn>,
    own: impl Fn(TxnId) -> bool,
    mut status: impl FnMut(TxnId) -> Result<TxnStatus, E>,
) -> Result<Writable, E> {
    for (index, version) in versions.into_iter().enumerate() {
        let mine = version.scn.0 == 0 && own(version.txn);
        if !mine {
            match status_of(&version, &mut status)? {
                TxnStatus::Active | TxnStatus::Committing => return Ok(Writable::WaitFor(version.txn)),
                TxnStatus::Aborted => continue,
                TxnStatus::Committed(_) if version.lock_only => continue,
                TxnStatus::Committed(scn) => {
                    if snapshot.is_some_and(|snapshot| scn > snapshot) {
                        return Ok(Writable::Conflict(scn));
                    }
                }
            }
        } else if version.lock_only {
            continue;
        }
        return Ok(Writable::Free((!version.deleted).then_some(index)));
    }
    Ok(Writable::Free(None))
}

/// Indexes (rising) of the versions that no snapshot at or above `horizon` can see. A version that nothing covered hides is
/// kept while its status is not known. All of them go in one change: a deletion leaves together with what it hides.
pub fn prunable<E>(
    versions: impl IntoIterator<Item = VersionHead>,
    horizon: Scn,
    mut status: impl FnMut(TxnId) -> Result<TxnStatus, E>,
) -> Vec<usize> {
    let mut gone = Vec::new();
    let mut hidden = false;
    for (index, version) in versions.into_iter().enumerate() {
        if hidden {
            // A version behind a covered one is seen by nobody, whatever became of it. Its writer has ended, since a row is
            // written over only then, also when that is not known here: if it stayed while the deletion in front of
            // it goes, the row would come back.
            gone.push(index);
            continue;
        }
        match status_of(&version, &mut status) {
            Ok(TxnStatus::Aborted) => gone.push(index),
            Ok(TxnStatus::Committed(_)) if version.lock_only => gone.push(index),
            Ok(TxnStatus::Committed(scn)) if scn <= horizon => {
                hidden = true;
                if version.deleted {
                    gone.push(index);
                }
            }
            _ => {}
        }
    }
    gone
}

#[cfg(test)]
#[path = "visibility_tests.rs"]
mod tests;
