//! Bank: transfers between accounts, each with a history row under an id that the client made.

use super::client::{Body, Client};
use super::database::{DatabaseError, TransactionHandle, scan_all};
use super::{Size, Tally, Workload};
use crate::checker::Outcome;
use crate::checker::bank::{Snapshot, Transfer, check_snapshot, check_transfers};
use aquifer_dss::seam::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

const INITIAL: i64 = 1_000;

#[derive(Default)]
struct State {
    accounts_tree: u64,
    history_tree: u64,
    known: BTreeMap<u64, (Transfer, Outcome)>,
    tally: Tally,
}

/// The bank workload.
#[derive(Clone)]
pub struct Bank {
    accounts: u64,
    state: Arc<Mutex<State>>,
}

impl Bank {
    /// A bank with as many accounts as `size` has keys.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(size: Size) -> Arc<dyn Workload> {
        Arc::new(Self {
            accounts: size.keys.max(2),
            state: Arc::default(),
        })
    }

    async fn prepare_all(self, client: Client) -> Result<(), String> {
        let accounts_tree = client.create_tree().await?;
        let history_tree = client.create_tree().await?;
        {
            let mut state = self.state.lock();
            state.accounts_tree = accounts_tree;
            state.history_tree = history_tree;
        }
        for account in 0..self.accounts {
            loop {
                let finished = client
                    .transaction(false, open_account(accounts_tree, account))
                    .await;
                // Tried again after an unknown outcome, the row may be there already.
                if finished.outcome == Outcome::Committed || finished.error == Some(DatabaseError::Duplicate)
                {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn drive(self, client: Client) -> Result<(), String> {
        let mut sequence = 0;
        while !client.is_over() {
            client.think().await;
            let transfers = self.state.lock().known.len();
            if client.percent_at(20, transfers) {
                self.look(&client).await?;
                continue;
            }
            let from = client.below(self.accounts);
            let to = (from + 1 + client.below(self.accounts - 1)) % self.accounts;
            let transfer = Transfer {
                from,
                to,
                amount: client.below(100) as i64,
            };
            sequence += 1;
            let id = client.number << 32 | sequence;
            let (accounts_tree, history_tree) = self.trees();
            let finished = client
                .transaction(false, move_money(accounts_tree, history_tree, id, transfer))
                .await;
            if finished.error == Some(DatabaseError::Duplicate) {
                return Err(format!("transfer {id:#x} was there before it was made"));
            }
            let mut state = self.state.lock();
            state.known.insert(id, (transfer, finished.outcome));
            state.tally.count(finished.outcome);
        }
        Ok(())
    }

    /// Reads everything in one snapshot and checks it against what was known before it began.
    async fn look(&self, client: &Client) -> Result<(), String> {
        let (accounts_tree, history_tree) = self.trees();
        // An attempt that fails is begun again, with what is known by then.
        loop {
            let known = self.state.lock().known.clone();
            let finished = client
                .transaction(true, read_all(accounts_tree, history_tree))
                .await;
            let Some(snapshot) = finished.value else {
                if client.is_over() && finished.outcome != Outcome::Committed && client.number != u64::MAX {
                    return Ok(());
                }
                continue;
            };
            self.state.lock().tally.reads += 1;
            check_snapshot(&snapshot, self.accounts, INITIAL)?;
            return check_transfers(&snapshot, &known);
        }
    }

    fn trees(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.accounts_tree, state.history_tree)
    }
}

impl Workload for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.clone().prepare_all(client))
    }

    fn run(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.clone().drive(client))
    }

    fn check(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let bank = self.clone();
        Box::pin(async move {
            for node in client.nodes() {
                client.connect(node);
                bank.look(&client).await?;
            }
            Ok(())
        })
    }

    fn summary(&self) -> String {
        format!("bank: {}", self.state.lock().tally)
    }
}

fn open_account(tree: u64, account: u64) -> Body<()> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            transaction
                .insert(tree, &account.to_be_bytes(), INITIAL.to_le_bytes().to_vec())
                .await
        })
    })
}

fn move_money(accounts: u64, history: u64, id: u64, transfer: Transfer) -> Body<()> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            add(transaction, accounts, transfer.from, -transfer.amount).await?;
            add(transaction, accounts, transfer.to, transfer.amount).await?;
            let mut row = transfer.from.to_le_bytes().to_vec();
            row.extend(transfer.to.to_le_bytes());
            row.extend(transfer.amount.to_le_bytes());
            transaction.insert(history, &id.to_be_bytes(), row).await
        })
    })
}

async fn add(
    transaction: &mut dyn TransactionHandle,
    tree: u64,
    account: u64,
    amount: i64,
) -> Result<(), DatabaseError> {
    let mut change = |row: &[u8]| {
        let balance = i64::from_le_bytes(row.try_into().ok()?);
        Some((balance + amount).to_le_bytes().to_vec())
    };
    match transaction
        .update_with(tree, &account.to_be_bytes(), &mut change)
        .await?
    {
        Some(_) => Ok(()),
        None => Err(DatabaseError::Wrong(format!("account {account} is not there"))),
    }
}

fn read_all(accounts: u64, history: u64) -> Body<Snapshot> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            let mut snapshot = Snapshot::default();
            for (key, row) in scan_all(transaction, accounts).await? {
                snapshot.accounts.push((number(&key)?, number_le(&row)? as i64));
            }
            for (key, row) in scan_all(transaction, history).await? {
                let part = |index: usize| {
                    row.get(index * 8..index * 8 + 8)
                        .map_or_else(|| Err(broken(&row)), number_le)
                };
                let transfer = Transfer {
                    from: part(0)?,
                    to: part(1)?,
                    amount: part(2)? as i64,
                };
                snapshot.transfers.insert(number(&key)?, transfer);
            }
            Ok(snapshot)
        })
    })
}

fn broken(bytes: &[u8]) -> DatabaseError {
    DatabaseError::Wrong(format!("a row or key nobody wrote: {bytes:?}"))
}

fn number(key: &[u8]) -> Result<u64, DatabaseError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| broken(key))
}

fn number_le(value: &[u8]) -> Result<u64, DatabaseError> {
    value
        .try_into()
        .map(u64::from_le_bytes)
        .map_err(|_| broken(value))
}
