//! Truth tables: every stack of up to three versions against a second, slower statement of the rules.

use super::*;
use alloc::vec;
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::defect::fails_with;

const HORIZON: u64 = 10;
const SNAPSHOT: u64 = 20;

/// What a version may be; the SCN in the last column is that of the transaction.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Own,
    Active,
    Committing,
    Aborted,
    Unknown,
    Stamped(u64),
    Committed(u64),
}

const KINDS: [Kind; 11] = [
    Kind::Own,
    Kind::Active,
    Kind::Committing,
    Kind::Aborted,
    Kind::Unknown,
    Kind::Stamped(10),
    Kind::Stamped(20),
    Kind::Stamped(21),
    Kind::Committed(10),
    Kind::Committed(20),
    Kind::Committed(21),
];

fn txn(index: usize) -> TxnId {
    TxnId::new(NodeId::new(1).unwrap(), index as u64 + 1)
}

#[derive(Clone, Debug)]
struct Row(Vec<(Kind, bool, bool)>);

impl Row {
    fn heads(&self) -> Vec<VersionHead> {
        let head = |(index, (kind, deleted, lock_only)): (usize, &(Kind, bool, bool))| VersionHead {
            txn: txn(index),
            scn: Scn(if let Kind::Stamped(scn) = kind { *scn } else { 0 }),
            deleted: *deleted,
            lock_only: *lock_only,
        };
        self.0.iter().enumerate().map(head).collect()
    }
    fn kind(&self, id: TxnId) -> Kind {
        self.0[id.sequence() as usize - 1].0
    }
    fn own(&self, id: TxnId) -> bool {
        self.kind(id) == Kind::Own
    }
    fn status(&self, id: TxnId) -> Result<TxnStatus, ()> {
        match self.kind(id) {
            Kind::Own | Kind::Active => Ok(TxnStatus::Active),
            Kind::Committing => Ok(TxnStatus::Committing),
            Kind::Aborted => Ok(TxnStatus::Aborted),
            Kind::Unknown => Err(()),
            Kind::Stamped(scn) | Kind::Committed(scn) => Ok(TxnStatus::Committed(Scn(scn))),
        }
    }
}

fn every_row(mut check: impl FnMut(&Row)) {
    let mut cells = Vec::new();
    for kind in KINDS {
        cells.extend([(kind, false, false), (kind, true, false), (kind, false, true)]);
    }
    check(&Row(vec![]));
    for a in &cells {
        check(&Row(vec![*a]));
        for b in &cells {
            check(&Row(vec![*a, *b]));
            for c in &cells {
                check(&Row(vec![*a, *b, *c]));
            }
        }
    }
}

#[test]
fn every_stack_shows_the_newest_covered_version() {
    every_row(|row| {
        let got = visible(row.heads(), Scn(SNAPSHOT), |t| row.own(t), |t| row.status(t));
        let mut expected = Ok(Visible::Nothing(None));
        for (index, (kind, deleted, lock_only)) in row.0.iter().enumerate() {
            let covered = match kind {
                _ if *lock_only => continue,
                Kind::Own => true,
                Kind::Active | Kind::Aborted => continue,
                Kind::Stamped(scn) | Kind::Committed(scn) if *scn > SNAPSHOT => continue,
                Kind::Stamped(_) | Kind::Committed(_) => true,
                Kind::Committing => {
                    expected = Ok(Visible::WaitFor(txn(index)));
                    break;
                }
                Kind::Unknown => {
                    expected = Err(());
                    break;
                }
            };
            assert!(covered);
            expected = Ok(if *deleted {
                Visible::Nothing(Some(index))
            } else {
                Visible::Version(index)
            });
            break;
        }
        assert_eq!(got, expected, "{row:?}");
    });
}

#[test]
fn a_row_is_free_only_when_its_newest_living_writer_has_ended() {
    every_row(|row| {
        for snapshot in [None, Some(Scn(SNAPSHOT))] {
            let got = writable(row.heads(), snapshot, |t| row.own(t), |t| row.status(t));
            let decided = row
                .0
                .iter()
                .enumerate()
                .find(|(_, (kind, _, lock_only))| match kind {
                    Kind::Aborted => false,
                    Kind::Own | Kind::Stamped(_) | Kind::Committed(_) => !lock_only,
                    Kind::Active | Kind::Committing | Kind::Unknown => true,
                });
            let expected = match decided {
                None => Ok(Writable::Free(None)),
                Some((_, (Kind::Unknown, ..))) => Err(()),
                Some((index, (Kind::Active | Kind::Committing, ..))) => Ok(Writable::WaitFor(txn(index))),
                Some((_, (Kind::Stamped(scn) | Kind::Committed(scn), ..)))
                    if *scn > SNAPSHOT && snapshot.is_some() =>
                {
                    Ok(Writable::Conflict(Scn(*scn)))
                }
                Some((_, (_, true, _))) => Ok(Writable::Free(None)),
                Some((index, _)) => Ok(Writable::Free(Some(index))),
            };
            assert_eq!(got, expected, "{row:?} {snapshot:?}");
        }
    });
}

#[test]
fn pruning_changes_nothing_for_any_snapshot_at_or_above_the_horizon() {
    every_row(|row| {
        // A row is written over only when its writer has ended: other stacks do not exist. What became of an ended one need
        // not be known here.
        let living = |kind: Kind| matches!(kind, Kind::Own | Kind::Active | Kind::Committing);
        if row.0.iter().skip(1).any(|(kind, ..)| living(*kind)) {
            return;
        }
        // Nor do SCNs that rise towards older versions.
        let scns = row.0.iter().filter_map(|(kind, ..)| match kind {
            Kind::Stamped(scn) | Kind::Committed(scn) => Some(*scn),
            _ => None,
        });
        if !scns.is_sorted_by(|newer, older| newer >= older) {
            return;
        }
        let gone = prunable(row.heads(), Scn(HORIZON), |t| row.status(t));
        let heads = row.heads();
        let kept: Vec<_> = (0..heads.len()).filter(|i| !gone.contains(i)).collect();
        for snapshot in [HORIZON, 15, 20, 25] {
            let full = visible(heads.clone(), Scn(snapshot), |t| row.own(t), |t| row.status(t));
            let left: Vec<_> = kept.iter().map(|i| heads[*i]).collect();
            let pruned = visible(left, Scn(snapshot), |t| row.own(t), |t| row.status(t));
            let pruned = pruned.map(|seen| match seen {
                Visible::Version(index) => Visible::Version(kept[index]),
                other => other,
            });
            match (full, pruned) {
                (Ok(Visible::Nothing(_)), Ok(Visible::Nothing(_))) => {}
                (full, pruned) => assert_eq!(full, pruned, "{row:?} at {snapshot} without {gone:?}"),
            }
        }
        for index in &gone {
            assert!(
                !living(row.0[*index].0),
                "{row:?}: version {index} has no final status"
            );
        }
    });
}

#[test]
fn pruning_is_complete_for_the_usual_row() {
    let row = Row(vec![
        (Kind::Active, false, false),
        (Kind::Aborted, false, false),
        (Kind::Committed(20), false, false),
        (Kind::Committed(10), false, false),
        (Kind::Stamped(9), false, false),
        (Kind::Stamped(3), true, false),
    ]);
    assert_eq!(prunable(row.heads(), Scn(HORIZON), |t| row.status(t)), [1, 4, 5]);
    let dead = Row(vec![
        (Kind::Committed(10), true, false),
        (Kind::Stamped(3), false, false),
    ]);
    assert_eq!(prunable(dead.heads(), Scn(HORIZON), |t| dead.status(t)), [0, 1]);
}

#[test]
fn a_deletion_takes_along_what_it_hides_also_when_the_writer_of_that_is_not_known_here() {
    let row = Row(vec![
        (Kind::Stamped(9), true, false),
        (Kind::Committed(3), false, false),
        (Kind::Aborted, false, false),
    ]);
    let gone = prunable(row.heads(), Scn(HORIZON), |_| Err(()));
    assert_eq!(gone, [0, 1, 2], "otherwise the row of version 1 comes back");
}

#[test]
fn a_committing_transaction_that_is_passed_over_is_missed() {
    let stacks: fn() = every_stack_shows_the_newest_covered_version;
    assert!(fails_with(Defect::ReadPastCommitting, stacks));
}
