//! Registers written by read-modify-write: the values form one chain, and no read is stale.
//!
//! A write says which value it replaced. So two acknowledged writes that replaced the same value are a lost update, and
//! the chain from the first value is the order of the writes, the only one possible. A register is linearizable exactly
//! when, in that order, no operation that had ended belongs to a later value than one that began after it:
//! a read belongs to the value that it saw, a write comes before everything that belongs to its value. So each read must
//! see, and each write must replace, a value that is not older than any known before it began.

use super::Outcome;
use std::collections::{BTreeMap, BTreeSet};

/// Something a client did to one register. Times are virtual nanoseconds: when it was begun and when its answer was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Replaced `replaced` by `value` (unique, never 0). `replaced` is `None` when the client never learned it.
    Write {
        /// When it was begun.
        begun: u64,
        /// When the answer was there.
        ended: u64,
        /// The new value.
        value: u64,
        /// The value it replaced.
        replaced: Option<u64>,
        /// What became of it.
        outcome: Outcome,
    },
    /// Saw `value`; 0 is the first one.
    Read {
        /// When it was begun.
        begun: u64,
        /// When the answer was there.
        ended: u64,
        /// What it saw.
        value: u64,
    },
}

/// Checks the whole history of one register.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let order = chain(history)?;
    let position: BTreeMap<u64, usize> = order
        .iter()
        .enumerate()
        .map(|(index, value)| (*value, index))
        .collect();
    // (time at which it was known, position): the newest position known to be visible at a time.
    let mut known: Vec<(u64, usize)> = Vec::new();
    let mut seen: Vec<(u64, u64, u64)> = Vec::new();
    for operation in history {
        match *operation {
            Operation::Write {
                begun,
                ended,
                value,
                replaced,
                outcome: Outcome::Committed,
            } => {
                let index = *position
                    .get(&value)
                    .ok_or_else(|| format!("value {value} is not in the chain"))?;
                known.push((ended, index));
                if let Some(replaced) = replaced {
                    seen.push((begun, ended, replaced));
                }
            }
            Operation::Read { begun, ended, value } => {
                let index = *position
                    .get(&value)
                    .ok_or_else(|| format!("a read saw {value}, which nobody committed"))?;
                known.push((ended, index));
                seen.push((begun, ended, value));
            }
            // It happened at some time after it was begun, exactly when it is in the chain.
            Operation::Write {
                begun,
                ended,
                value,
                outcome: Outcome::Unknown,
                ..
            } => {
                if let Some(index) = position.get(&value) {
                    seen.push((begun, ended, order[index - 1]));
                }
            }
            Operation::Write { .. } => {}
        }
    }
    known.sort_unstable();
    let mut newest = 0;
    for entry in &mut known {
        newest = newest.max(entry.1);
        entry.1 = newest;
    }
    for (begun, ended, value) in seen {
        let before = known.partition_point(|(time, _)| *time < begun);
        let least = if before == 0 { 0 } else { known[before - 1].1 };
        let index = position.get(&value).copied().unwrap_or(0);
        if index < least {
            return Err(format!(
                "stale read: begun at {begun}, ended at {ended}, saw {value} (number {index}); \
                 number {least} ({}) was visible before it began",
                order[least]
            ));
        }
    }
    Ok(())
}

/// What a history says of the values written.
#[derive(Default)]
struct Written {
    /// Value replaced -> acknowledged value.
    acknowledged: BTreeMap<u64, u64>,
    /// Value replaced -> values of unknown outcome.
    unknown: BTreeMap<u64, Vec<u64>>,
    observed: BTreeSet<u64>,
    aborted: BTreeSet<u64>,
}

impl Written {
    fn gather(history: &[Operation]) -> Result<Self, String> {
        let mut written = Self::default();
        for operation in history {
            match *operation {
                Operation::Write {
                    value,
                    replaced,
                    outcome,
                    ..
                } => written.write(value, replaced, outcome)?,
                Operation::Read { value, .. } => {
                    written.observed.insert(value);
                }
            }
        }
        written.follow_back();
        match written.observed.intersection(&written.aborted).next() {
            Some(value) => Err(format!("value {value} was refused and somebody saw it")),
            None => Ok(written),
        }
    }

    /// A write of unknown outcome whose value was seen happened, and so did what it replaced.
    fn follow_back(&mut self) {
        let replaced: BTreeMap<u64, u64> = self
            .unknown
            .iter()
            .flat_map(|(replaced, values)| values.iter().map(|value| (*value, *replaced)))
            .filter(|(_, replaced)| *replaced != u64::MAX)
            .collect();
        let mut open: Vec<u64> = self.observed.iter().copied().collect();
        while let Some(value) = open.pop() {
            if let Some(before) = replaced.get(&value)
                && self.observed.insert(*before)
            {
                open.push(*before);
            }
        }
    }

    fn write(&mut self, value: u64, replaced: Option<u64>, outcome: Outcome) -> Result<(), String> {
        match (outcome, replaced) {
            (Outcome::Committed, Some(replaced)) => {
                self.observed.insert(replaced);
                if let Some(other) = self.acknowledged.insert(replaced, value) {
                    return Err(format!(
                        "lost update: {other} and {value} both replaced {replaced}"
                    ));
                }
            }
            (Outcome::Committed, None) => {
                return Err(format!("write of {value} was acknowledged but replaced nothing"));
            }
            (Outcome::Unknown, replaced) => {
                self.unknown
                    .entry(replaced.unwrap_or(u64::MAX))
                    .or_default()
                    .push(value);
            }
            (Outcome::Aborted, _) => {
                self.aborted.insert(value);
            }
        }
        Ok(())
    }
}

/// The order of the values, from the first (0).
fn chain(history: &[Operation]) -> Result<Vec<u64>, String> {
    let Written {
        mut acknowledged,
        unknown,
        observed,
        ..
    } = Written::gather(history)?;
    let mut order = vec![0];
    let mut last = 0;
    loop {
        let open = unknown.get(&last).map(Vec::as_slice).unwrap_or_default();
        let mut next: Vec<u64> = open
            .iter()
            .copied()
            .filter(|value| observed.contains(value))
            .collect();
        next.extend(acknowledged.remove(&last));
        match next.as_slice() {
            [] => break,
            [value] => last = *value,
            several => return Err(format!("lost update: all of {several:?} replaced {last}")),
        }
        order.push(last);
    }
    match acknowledged.first_key_value() {
        Some((replaced, value)) => Err(format!(
            "{value} replaced {replaced}, which is not in the chain of {last}"
        )),
        None => Ok(order),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(begun: u64, ended: u64, replaced: u64, value: u64, outcome: Outcome) -> Operation {
        Operation::Write {
            begun,
            ended,
            value,
            replaced: Some(replaced),
            outcome,
        }
    }

    fn read(begun: u64, ended: u64, value: u64) -> Operation {
        Operation::Read { begun, ended, value }
    }

    #[test]
    fn a_chain_with_concurrent_reads_is_fine() {
        let history = [
            write(0, 10, 0, 5, Outcome::Committed),
            write(11, 20, 5, 6, Outcome::Unknown),
            read(5, 30, 0),
            read(12, 13, 5),
            read(31, 33, 6),
            write(34, 35, 6, 7, Outcome::Committed),
        ];
        assert_eq!(check(&history), Ok(()));
    }

    /// Two lives in a row ended while they committed, and the third write shows that both had happened.
    #[test]
    fn what_a_seen_write_replaced_was_written_too() {
        let history = [
            write(0, 10, 0, 5, Outcome::Committed),
            write(11, 12, 5, 6, Outcome::Unknown),
            write(13, 14, 6, 7, Outcome::Unknown),
            write(15, 16, 7, 8, Outcome::Committed),
        ];
        assert_eq!(check(&history), Ok(()));
        let lost = [history[0], history[2], history[3]];
        assert!(check(&lost).unwrap_err().contains("not in the chain"));
    }

    #[test]
    fn a_value_is_not_read_before_its_write_begins() {
        for outcome in [Outcome::Committed, Outcome::Unknown] {
            let history = [read(1, 2, 5), write(3, 4, 0, 5, outcome)];
            assert!(check(&history).unwrap_err().contains("stale"), "{outcome:?}");
            let history = [read(1, 5, 5), write(3, 4, 0, 5, outcome)];
            assert_eq!(check(&history), Ok(()), "{outcome:?}");
        }
    }

    #[test]
    fn contradictions_are_found() {
        let first = write(0, 10, 0, 5, Outcome::Committed);
        assert!(check(&[first, read(11, 12, 0)]).unwrap_err().contains("stale"));
        assert!(
            check(&[first, write(1, 9, 0, 6, Outcome::Committed)])
                .unwrap_err()
                .contains("lost update")
        );
        assert!(
            check(&[write(0, 1, 0, 5, Outcome::Aborted), read(2, 3, 5)])
                .unwrap_err()
                .contains("refused")
        );
        assert!(check(&[read(2, 3, 9)]).unwrap_err().contains("nobody committed"));
        let unknown = write(0, 1, 0, 5, Outcome::Unknown);
        assert!(
            check(&[unknown, read(2, 3, 5), read(4, 5, 0)])
                .unwrap_err()
                .contains("stale")
        );
        assert!(
            check(&[first, write(11, 12, 9, 10, Outcome::Committed)])
                .unwrap_err()
                .contains("not in the chain")
        );
    }
}
