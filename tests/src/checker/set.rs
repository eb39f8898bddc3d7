//! Set of inserted keys: what was acknowledged is there, what was refused is not, and nothing came from nowhere.

use super::Outcome;
use std::collections::{BTreeMap, BTreeSet};

/// Checks the keys that one snapshot shows (in the order of the scan) against what was tried before it was taken.
/// `tried` holds, per key, what was known *before the snapshot was begun*; keys tried later may be there or not.
pub fn check(
    seen: &[u64],
    tried: &BTreeMap<u64, Outcome>,
    tried_later: &BTreeSet<u64>,
) -> Result<(), String> {
    if let Some(pair) = seen.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(format!(
            "the scan shows key {:#x} and then {:#x}",
            pair[0], pair[1]
        ));
    }
    let set: BTreeSet<u64> = seen.iter().copied().collect();
    for key in &set {
        match tried.get(key) {
            Some(Outcome::Aborted) => return Err(format!("key {key:#x} was refused and is there")),
            None if !tried_later.contains(key) => return Err(format!("key {key:#x} was never inserted")),
            _ => {}
        }
    }
    for (key, outcome) in tried {
        if *outcome == Outcome::Committed && !set.contains(key) {
            return Err(format!("key {key:#x} was acknowledged and is not there"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_is_there_and_refused_is_not() {
        let tried = BTreeMap::from([
            (1, Outcome::Committed),
            (2, Outcome::Aborted),
            (3, Outcome::Unknown),
        ]);
        let later = BTreeSet::from([4]);
        assert_eq!(check(&[1, 3, 4], &tried, &later), Ok(()));
        assert_eq!(check(&[1], &tried, &later), Ok(()));
        assert!(check(&[3], &tried, &later).is_err());
        assert!(check(&[1, 2], &tried, &later).is_err());
        assert!(check(&[1, 5], &tried, &later).is_err());
        assert!(check(&[1, 1], &tried, &later).is_err());
    }
}
