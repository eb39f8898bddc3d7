//! Bank: in every snapshot the balances follow from the transfers that the same snapshot shows.

use super::Outcome;
use std::collections::BTreeMap;

/// One transfer, as its history row says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Account that pays.
    pub from: u64,
    /// Account that gets.
    pub to: u64,
    /// How much.
    pub amount: i64,
}

/// A snapshot as one transaction read it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Balance of each account.
    pub accounts: Vec<(u64, i64)>,
    /// History row of each transfer.
    pub transfers: BTreeMap<u64, Transfer>,
}

/// Checks a snapshot: `accounts` accounts began with `initial` each. The sum is a consequence and is named first, because
/// it is what people look for.
pub fn check_snapshot(snapshot: &Snapshot, accounts: u64, initial: i64) -> Result<(), String> {
    let numbers: Vec<u64> = snapshot.accounts.iter().map(|(number, _)| *number).collect();
    if numbers != (0..accounts).collect::<Vec<u64>>() {
        return Err(format!(
            "the scan shows accounts {numbers:?}, there are {accounts}"
        ));
    }
    let sum: i64 = snapshot.accounts.iter().map(|(_, balance)| balance).sum();
    let wanted = initial * accounts as i64;
    if sum != wanted {
        return Err(format!("the sum of all accounts is {sum}, not {wanted}"));
    }
    let mut balances = vec![initial; accounts as usize];
    for transfer in snapshot.transfers.values() {
        balances[transfer.from as usize] -= transfer.amount;
        balances[transfer.to as usize] += transfer.amount;
    }
    for (number, balance) in &snapshot.accounts {
        let computed = balances[*number as usize];
        if *balance != computed {
            return Err(format!(
                "account {number} has {balance}, its transfers say {computed}"
            ));
        }
    }
    Ok(())
}

/// Checks the transfers of a snapshot against what clients knew before it was begun.
pub fn check_transfers(
    snapshot: &Snapshot,
    known: &BTreeMap<u64, (Transfer, Outcome)>,
) -> Result<(), String> {
    for (id, (transfer, outcome)) in known {
        match (outcome, snapshot.transfers.get(id)) {
            (Outcome::Committed, None) => {
                return Err(format!("transfer {id:#x} was acknowledged and is not there"));
            }
            (Outcome::Aborted, Some(_)) => return Err(format!("transfer {id:#x} was refused and is there")),
            (_, Some(seen)) if seen != transfer => {
                return Err(format!(
                    "transfer {id:#x} is {seen:?}, it was made as {transfer:?}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(balances: &[i64], transfers: &[(u64, u64, u64, i64)]) -> Snapshot {
        let accounts = balances
            .iter()
            .enumerate()
            .map(|(number, balance)| (number as u64, *balance))
            .collect();
        let transfers = transfers.iter().map(|(id, from, to, amount)| {
            (
                *id,
                Transfer {
                    from: *from,
                    to: *to,
                    amount: *amount,
                },
            )
        });
        Snapshot {
            accounts,
            transfers: transfers.collect(),
        }
    }

    #[test]
    fn balances_follow_from_transfers() {
        assert_eq!(
            check_snapshot(&snapshot(&[90, 110], &[(1, 0, 1, 10)]), 2, 100),
            Ok(())
        );
        assert!(check_snapshot(&snapshot(&[90, 100], &[(1, 0, 1, 10)]), 2, 100).is_err());
        assert!(check_snapshot(&snapshot(&[90, 110], &[]), 2, 100).is_err());
        assert!(check_snapshot(&snapshot(&[90], &[(1, 0, 1, 10)]), 2, 100).is_err());
    }

    #[test]
    fn acknowledged_transfers_are_there() {
        let transfer = Transfer {
            from: 0,
            to: 1,
            amount: 10,
        };
        let seen = snapshot(&[90, 110], &[(1, 0, 1, 10)]);
        let known = |outcome| BTreeMap::from([(1, (transfer, outcome))]);
        assert_eq!(check_transfers(&seen, &known(Outcome::Committed)), Ok(()));
        assert!(check_transfers(&seen, &known(Outcome::Aborted)).is_err());
        let lost = snapshot(&[100, 100], &[]);
        assert!(check_transfers(&lost, &known(Outcome::Committed)).is_err());
        assert_eq!(check_transfers(&lost, &known(Outcome::Unknown)), Ok(()));
    }
}
