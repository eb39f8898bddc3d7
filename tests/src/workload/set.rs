//! Set: inserts of new keys, several in one transaction; what was acknowledged is in every later snapshot.

use super::client::{Body, Client};
use super::database::{DatabaseError, scan_all};
use super::{Tally, Workload};
use crate::checker::{Outcome, set::check};
use aquifer_dss::seam::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default)]
struct State {
    tree: u64,
    /// Everything that anybody has begun to insert.
    begun: BTreeSet<u64>,
    known: BTreeMap<u64, Outcome>,
    tally: Tally,
}

/// The set workload.
#[derive(Clone, Default)]
pub struct Set {
    state: Arc<Mutex<State>>,
}

impl Set {
    /// An empty set.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Arc<dyn Workload> {
        Arc::new(Self::default())
    }

    async fn drive(self, client: Client) -> Result<(), String> {
        let mut sequence = 0;
        while !client.is_over() {
            client.think().await;
            let keys = self.state.lock().begun.len();
            if client.percent_at(15, keys) {
                self.look(&client).await?;
                continue;
            }
            // Keys of all clients lie close together, so that nodes meet in the leaves.
            let keys: Vec<u64> = (0..=client.below(3))
                .map(|n| (sequence + n) << 16 | client.number)
                .collect();
            sequence += keys.len() as u64;
            let tree = self.state.lock().tree;
            self.state.lock().begun.extend(&keys);
            let finished = client.transaction(false, insert_all(tree, keys.clone())).await;
            if finished.error == Some(DatabaseError::Duplicate) {
                return Err(format!(
                    "one of the keys {keys:x?} was there before it was inserted"
                ));
            }
            let mut state = self.state.lock();
            state
                .known
                .extend(keys.into_iter().map(|key| (key, finished.outcome)));
            state.tally.count(finished.outcome);
        }
        Ok(())
    }

    async fn look(&self, client: &Client) -> Result<(), String> {
        let tree = self.state.lock().tree;
        let known = Arc::new(Mutex::new(BTreeMap::new()));
        let finished = client.read(|| {
            *known.lock() = self.state.lock().known.clone();
            read_keys(tree)
        });
        let seen = finished.await.value.expect("read answers a value");
        let mut state = self.state.lock();
        state.tally.reads += 1;
        let known = known.lock();
        check(&seen, &known, &state.begun)
    }
}

impl Workload for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let set = self.clone();
        Box::pin(async move {
            let tree = client.create_tree().await?;
            set.state.lock().tree = tree;
            Ok(())
        })
    }

    fn run(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.clone().drive(client))
    }

    fn check(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let set = self.clone();
        Box::pin(async move {
            for node in client.nodes() {
                client.connect(node);
                set.look(&client).await?;
            }
            Ok(())
        })
    }

    fn summary(&self) -> String {
        format!("set: {}", self.state.lock().tally)
    }
}

fn insert_all(tree: u64, keys: Vec<u64>) -> Body<()> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            for key in keys {
                transaction
                    .insert(tree, &key.to_be_bytes(), key.to_le_bytes().repeat(4))
                    .await?;
            }
            Ok(())
        })
    })
}

fn read_keys(tree: u64) -> Body<Vec<u64>> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            let mut keys = Vec::new();
            for (key, value) in scan_all(transaction, tree).await? {
                let wrong = || DatabaseError::Wrong(format!("key {key:?} has the value {value:?}"));
                let number = u64::from_be_bytes(key.as_slice().try_into().map_err(|_| wrong())?);
                if value != number.to_le_bytes().repeat(4) {
                    return Err(wrong());
                }
                keys.push(number);
            }
            Ok(keys)
        })
    })
}
