//! Definitions beside writers: a row names the tree that rows go to, as a descriptor names a table's; now and then somebody copies
//! all rows to a new tree (as ALTER TABLE ADD PRIMARY KEY does) or begins with an empty one (TRUNCATE), and the old tree is removed.
//!
//! The descriptor counts how often the table was emptied. An insert notes the count it goes on from, which cannot change before it has
//! committed; so a row that was acknowledged is there exactly as long as the count is the same.

use super::client::{Body, Client};
use super::database::{DatabaseError, Pairs, TransactionHandle, scan_all};
use super::{Tally, Workload};
use crate::checker::{Outcome, set::check};
use aquifer_dss::seam::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

const DESCRIPTOR: &[u8] = b"table";
/// A table with more rows is emptied, not copied.
const COPIED: usize = 150;

#[derive(Default)]
struct State {
    catalog: u64,
    begun: BTreeSet<u64>,
    /// The outcome of each insert, and the count it went on from, if it came so far.
    known: BTreeMap<u64, (Outcome, Option<u64>)>,
    /// Rows inserted since the table was emptied, about.
    rows: usize,
    definitions: Tally,
    tally: Tally,
}

/// The workload.
#[derive(Clone, Default)]
pub struct Definitions {
    state: Arc<Mutex<State>>,
}

/// What the descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Descriptor {
    tree: u64,
    emptied: u64,
}

impl Descriptor {
    fn encode(self) -> Vec<u8> {
        [self.tree.to_le_bytes(), self.emptied.to_le_bytes()].concat()
    }

    fn decode(value: Option<&[u8]>) -> Result<Self, DatabaseError> {
        let wrong = || DatabaseError::Wrong(format!("the descriptor is {value:?}"));
        let (tree, emptied) = value
            .and_then(|value| value.split_at_checked(8))
            .ok_or_else(wrong)?;
        Ok(Self {
            tree: u64::from_le_bytes(tree.try_into().map_err(|_| wrong())?),
            emptied: u64::from_le_bytes(emptied.try_into().map_err(|_| wrong())?),
        })
    }
}

impl Definitions {
    /// A table without rows.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Arc<dyn Workload> {
        Arc::new(Self::default())
    }

    async fn prepare_all(self, client: Client) -> Result<(), String> {
        let catalog = client.create_tree().await?;
        let tree = client.create_tree().await?;
        self.state.lock().catalog = catalog;
        loop {
            let finished = client.transaction(false, first_descriptor(catalog, tree)).await;
            // Tried again after an unknown outcome, the row may be there already.
            if finished.outcome == Outcome::Committed || finished.error == Some(DatabaseError::Duplicate) {
                return Ok(());
            }
        }
    }

    async fn drive(self, client: Client) -> Result<(), String> {
        let mut sequence = 0;
        while !client.is_over() {
            client.think().await;
            if client.percent(4) {
                self.define(&client).await?;
                continue;
            }
            let keys = self.state.lock().begun.len();
            if client.percent_at(10, keys) {
                self.look(&client).await?;
                continue;
            }
            let keys: Vec<u64> = (0..=client.below(3))
                .map(|n| (sequence + n) << 16 | client.number)
                .collect();
            sequence += keys.len() as u64;
            self.write(&client, keys).await?;
        }
        Ok(())
    }

    async fn write(&self, client: &Client, keys: Vec<u64>) -> Result<(), String> {
        let catalog = self.state.lock().catalog;
        self.state.lock().begun.extend(&keys);
        let finished = client.transaction(false, insert_all(catalog, keys.clone())).await;
        if finished.error == Some(DatabaseError::Duplicate) {
            return Err(format!(
                "one of the keys {keys:x?} was there before it was inserted"
            ));
        }
        let mut state = self.state.lock();
        state.tally.count(finished.outcome);
        state.rows += keys.len();
        let told = (finished.outcome, finished.note);
        state.known.extend(keys.into_iter().map(|key| (key, told)));
        Ok(())
    }

    async fn define(&self, client: &Client) -> Result<(), String> {
        let new = client.create_tree().await?;
        let (catalog, copies) = {
            let state = self.state.lock();
            (state.catalog, state.rows <= COPIED && client.percent(60))
        };
        let finished = client.transaction(false, redefine(catalog, new, copies)).await;
        {
            let mut state = self.state.lock();
            state.definitions.count(finished.outcome);
            if finished.outcome == Outcome::Committed && !copies {
                state.rows = 0;
            }
        }
        match (finished.outcome, finished.value) {
            (Outcome::Committed, Some(old)) => client.retire_tree(old).await,
            (Outcome::Aborted, _) => client.retire_tree(new).await,
            _ => {}
        }
        Ok(())
    }

    async fn look(&self, client: &Client) -> Result<(), String> {
        let catalog = self.state.lock().catalog;
        let known = Arc::new(Mutex::new(BTreeMap::new()));
        let finished = client.read(|| {
            *known.lock() = self.state.lock().known.clone();
            read_keys(catalog, client.clone())
        });
        let (descriptor, seen) = finished.await.value.expect("read answers a value");
        let mut state = self.state.lock();
        state.tally.reads += 1;
        let here = |(outcome, emptied): &(Outcome, Option<u64>)| match emptied {
            Some(emptied) if *emptied != descriptor.emptied => Outcome::Aborted,
            _ => *outcome,
        };
        let expected = known
            .lock()
            .iter()
            .map(|(key, told)| (*key, here(told)))
            .collect();
        check(&seen, &expected, &state.begun).map_err(|error| format!("{descriptor:?}: {error}"))
    }
}

impl Workload for Definitions {
    fn name(&self) -> &'static str {
        "definitions"
    }

    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.clone().prepare_all(client))
    }

    fn run(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.clone().drive(client))
    }

    fn check(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let definitions = self.clone();
        Box::pin(async move {
            for node in client.nodes() {
                client.connect(node);
                definitions.look(&client).await?;
            }
            Ok(())
        })
    }

    fn summary(&self) -> String {
        let state = self.state.lock();
        format!(
            "definitions: {}; table defined anew: {} committed, {} refused, {} unknown",
            state.tally, state.definitions.committed, state.definitions.aborted, state.definitions.unknown
        )
    }
}

fn first_descriptor(catalog: u64, tree: u64) -> Body<()> {
    Box::new(move |transaction, _| {
        let first = Descriptor { tree, emptied: 0 };
        Box::pin(async move { transaction.insert(catalog, DESCRIPTOR, first.encode()).await })
    })
}

fn insert_all(catalog: u64, keys: Vec<u64>) -> Body<()> {
    Box::new(move |transaction, note| {
        Box::pin(async move {
            let mut first = None;
            for key in keys {
                let value = transaction.intend(catalog, DESCRIPTOR).await?;
                let descriptor = Descriptor::decode(value.as_deref())?;
                if *first.get_or_insert(descriptor) != descriptor {
                    let text = format!("{first:?} became {descriptor:?} beside a writer");
                    return Err(DatabaseError::Wrong(text));
                }
                note.set(descriptor.emptied);
                let value = key.to_le_bytes().repeat(4);
                transaction
                    .insert(descriptor.tree, &key.to_be_bytes(), value)
                    .await?;
            }
            Ok(())
        })
    })
}

/// Answers the old tree.
fn redefine(catalog: u64, new: u64, copies: bool) -> Body<u64> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            let value = transaction.take_over(catalog, DESCRIPTOR).await?;
            let old = Descriptor::decode(value.as_deref())?;
            if copies {
                for (key, value) in scan_all(transaction, old.tree).await? {
                    transaction.insert(new, &key, value).await?;
                }
            }
            let next = Descriptor {
                tree: new,
                emptied: old.emptied + u64::from(!copies),
            };
            let mut change = |_: &[u8]| Some(next.encode());
            transaction.update_with(catalog, DESCRIPTOR, &mut change).await?;
            Ok(old.tree)
        })
    })
}

/// Reads slowly, so that the tree is given up meanwhile.
fn read_keys(catalog: u64, client: Client) -> Body<(Descriptor, Vec<u64>)> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            let value = transaction.get(catalog, DESCRIPTOR).await?;
            let descriptor = Descriptor::decode(value.as_deref())?;
            let mut keys = Vec::new();
            for (key, value) in scan_slowly(transaction, descriptor.tree, &client).await? {
                let wrong = || DatabaseError::Wrong(format!("key {key:?} has the value {value:?}"));
                let number = u64::from_be_bytes(key.as_slice().try_into().map_err(|_| wrong())?);
                if value != number.to_le_bytes().repeat(4) {
                    return Err(wrong());
                }
                keys.push(number);
            }
            Ok((descriptor, keys))
        })
    })
}

async fn scan_slowly(
    transaction: &mut dyn TransactionHandle,
    tree: u64,
    client: &Client,
) -> Result<Pairs, DatabaseError> {
    let mut all: Pairs = Vec::new();
    loop {
        client.think().await;
        let from = all
            .last()
            .map_or(Bound::Unbounded, |(key, _)| Bound::Excluded(key.clone()));
        let batch = transaction.scan(tree, from, 17).await?;
        let last = batch.len() < 17;
        all.extend(batch);
        if last {
            return Ok(all);
        }
    }
}
