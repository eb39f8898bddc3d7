//! The audit: what the clients were told against what every node answers.

use super::bank::{Scale, Transfer, balance_tables, describe};
use super::worker::{LoadResult, connect};
use crate::failure::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tokio_postgres::Client;

/// Rows of one page of the history.
const PAGE: i64 = 5000;

/// What one node's tables say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Acknowledged transfers without a history row.
    pub lost: u64,
    /// Ids that have more than one history row.
    pub duplicated: u64,
    /// History rows that say something else than their client.
    pub altered: u64,
    /// History rows of transfers that were never committed.
    pub phantom: u64,
    /// Transfers of unknown outcome that are there.
    pub unknown_applied: u64,
    /// Rows whose balance is not the sum of their history deltas.
    pub wrong_balances: u64,
    /// Whether accounts = tellers = branches = sum of history.
    pub sums_agree: bool,
    /// Rows of history.
    pub rows: u64,
}

impl Audit {
    /// Whether each balance and each sum is right.
    pub fn balance_ok(&self) -> bool {
        self.sums_agree && self.wrong_balances == 0
    }

    /// Whether nothing at all is wrong.
    pub fn passes(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.altered == 0 && self.phantom == 0 && self.balance_ok()
    }
}

/// Reads all tables through the node at `address` and compares.
pub async fn audit(address: SocketAddr, scale: Scale, result: &LoadResult) -> Result<Audit, Failure> {
    let client = connect(address)
        .await
        .map_err(|e| Failure::failed(format!("the audit cannot connect to {address}: {e}")))?;
    let failed = |e: tokio_postgres::Error| {
        Failure::failed(format!("the audit on {address} failed: {}", describe(&e)))
    };
    let (history, duplicated) = read_history(&client).await.map_err(failed)?;
    let mut audit = compare(&history, result);
    audit.duplicated = duplicated;
    let mut sums = Vec::new();
    for (table, rows) in balance_tables(scale) {
        let balances = read_balances(&client, table).await.map_err(failed)?;
        let expected = expected(table, &history, rows);
        audit.wrong_balances += count_differences(&balances, &expected);
        sums.push(balances.values().sum::<i64>());
    }
    sums.push(history.values().map(|t| t.delta).sum());
    audit.sums_agree = sums.windows(2).all(|pair| pair[0] == pair[1]);
    Ok(audit)
}

async fn read_history(client: &Client) -> Result<(BTreeMap<i64, Transfer>, u64), tokio_postgres::Error> {
    let page = format!(
        "SELECT id, account, teller, branch, delta FROM history WHERE id > $1 ORDER BY id LIMIT {PAGE}"
    );
    let statement = client.prepare(&page).await?;
    let (mut history, mut twice) = (BTreeMap::new(), BTreeSet::new());
    let mut after = 0i64;
    loop {
        let rows = client.query(&statement, &[&after]).await?;
        for row in &rows {
            let transfer = Transfer {
                id: row.get(0),
                account: row.get(1),
                teller: row.get(2),
                branch: row.get(3),
                delta: row.get(4),
            };
            after = after.max(transfer.id);
            if history.insert(transfer.id, transfer).is_some() {
                twice.insert(transfer.id);
            }
        }
        if (rows.len() as i64) < PAGE {
            return Ok((history, twice.len() as u64));
        }
    }
}

async fn read_balances(client: &Client, table: &str) -> Result<BTreeMap<i64, i64>, tokio_postgres::Error> {
    let page = format!("SELECT id, balance FROM {table} WHERE id > $1 ORDER BY id LIMIT {PAGE}");
    let statement = client.prepare(&page).await?;
    let mut balances = BTreeMap::new();
    let mut after = 0i64;
    loop {
        let rows = client.query(&statement, &[&after]).await?;
        for row in &rows {
            let id: i64 = row.get(0);
            after = after.max(id);
            balances.insert(id, row.get(1));
        }
        if (rows.len() as i64) < PAGE {
            return Ok(balances);
        }
    }
}

fn compare(history: &BTreeMap<i64, Transfer>, result: &LoadResult) -> Audit {
    let mut audit = Audit {
        rows: history.len() as u64,
        ..Audit::default()
    };
    let mut known = BTreeSet::new();
    for transfer in result.acknowledged.iter().map(|a| a.transfer) {
        known.insert(transfer.id);
        match history.get(&transfer.id) {
            None => audit.lost += 1,
            Some(found) if *found != transfer => audit.altered += 1,
            Some(_) => {}
        }
    }
    for transfer in &result.unknown {
        known.insert(transfer.id);
        match history.get(&transfer.id) {
            None => {}
            Some(found) if found != transfer => audit.altered += 1,
            Some(_) => audit.unknown_applied += 1,
        }
    }
    audit.phantom = history.keys().filter(|id| !known.contains(id)).count() as u64;
    audit
}

fn expected(table: &str, history: &BTreeMap<i64, Transfer>, rows: i64) -> BTreeMap<i64, i64> {
    let mut balances: BTreeMap<i64, i64> = (1..=rows).map(|id| (id, 0)).collect();
    for transfer in history.values() {
        let row = match table {
            "accounts" => transfer.account,
            "tellers" => transfer.teller,
            _ => transfer.branch,
        };
        *balances.entry(row).or_default() += transfer.delta;
    }
    balances
}

fn count_differences(found: &BTreeMap<i64, i64>, expected: &BTreeMap<i64, i64>) -> u64 {
    let ids: BTreeSet<&i64> = found.keys().chain(expected.keys()).collect();
    ids.into_iter()
        .filter(|id| found.get(id) != expected.get(id))
        .count() as u64
}

#[cfg(test)]
mod tests {
    use super::super::worker::Acknowledged;
    use super::*;

    fn transfer(id: i64) -> Transfer {
        Transfer {
            id,
            account: 1,
            teller: 2,
            branch: 3,
            delta: 10,
        }
    }

    fn result(acknowledged: &[i64], unknown: &[i64]) -> LoadResult {
        let acknowledged = acknowledged.iter().map(|id| Acknowledged {
            transfer: transfer(*id),
            node: 0,
            at: 0,
        });
        LoadResult {
            acknowledged: acknowledged.collect(),
            unknown: unknown.iter().map(|id| transfer(*id)).collect(),
            retried: 0,
        }
    }

    fn history(ids: &[i64]) -> BTreeMap<i64, Transfer> {
        ids.iter().map(|id| (*id, transfer(*id))).collect()
    }

    #[test]
    fn a_missing_acknowledged_transfer_is_lost() {
        assert_eq!(compare(&history(&[1]), &result(&[1, 2], &[])).lost, 1);
    }

    #[test]
    fn an_unknown_transfer_may_be_there_or_not() {
        let audit = compare(&history(&[1, 2]), &result(&[1], &[2, 3]));
        assert_eq!((audit.lost, audit.phantom, audit.unknown_applied), (0, 0, 1));
    }

    #[test]
    fn a_rolled_back_transfer_that_is_there_is_a_phantom() {
        assert_eq!(compare(&history(&[1, 9]), &result(&[1], &[])).phantom, 1);
    }

    #[test]
    fn another_content_is_altered() {
        let mut found = history(&[1]);
        found.get_mut(&1).unwrap().delta = 11;
        assert_eq!(compare(&found, &result(&[1], &[])).altered, 1);
    }

    #[test]
    fn a_lost_update_shows_in_the_balances() {
        let expected = expected("accounts", &history(&[1, 2]), 2);
        assert_eq!(expected, BTreeMap::from([(1, 20), (2, 0)]));
        assert_eq!(
            count_differences(&BTreeMap::from([(1, 10), (2, 0)]), &expected),
            1
        );
    }
}
