//! Tree against map: each client owns the keys that begin with its number, does random inserts, updates, deletes, reads
//! and scans on any node, and compares every answer with a map of its own. Long and short keys and values make leaves
//! split often.

use super::client::{Body, Client};
use super::database::{DatabaseError, TransactionHandle, scan_prefix};
use super::{Size, Tally, Workload};
use crate::checker::Outcome;
use aquifer_dss::seam::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct State {
    tree: u64,
    maps: BTreeMap<u64, Map>,
    tally: Tally,
}

/// The tree workload.
#[derive(Clone)]
pub struct TreeAgainstMap {
    size: Size,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Get(Vec<u8>),
    Scan,
}

impl TreeAgainstMap {
    /// An empty tree.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(size: Size) -> Arc<dyn Workload> {
        Arc::new(Self {
            size,
            state: Arc::default(),
        })
    }

    async fn drive(self, client: Client) -> Result<(), String> {
        let tree = self.state.lock().tree;
        let mut map = Map::new();
        while !client.is_over() {
            client.think().await;
            let steps: Vec<Step> = (0..=client.below(5)).map(|_| self.draw(&client)).collect();
            let finished = client
                .transaction(false, run_steps(tree, client.number, steps.clone(), map.clone()))
                .await;
            let mut after = map.clone();
            steps.iter().for_each(|step| change(&mut after, step));
            self.state.lock().tally.count(finished.outcome);
            match finished.outcome {
                Outcome::Committed => map = after,
                Outcome::Aborted => {}
                Outcome::Unknown => {
                    let seen = self.read_back(&client).await;
                    if seen == after {
                        map = after;
                    } else if seen != map {
                        return Err(format!(
                            "client {}: after {steps:?} of unknown outcome {}",
                            client.number,
                            difference(&map, &seen)
                        ));
                    }
                }
            }
            self.state.lock().maps.insert(client.number, map.clone());
        }
        Ok(())
    }

    async fn read_back(&self, client: &Client) -> Map {
        let tree = self.state.lock().tree;
        let number = client.number;
        let finished = client.read(|| read_map(tree, number)).await;
        self.state.lock().tally.reads += 1;
        finished.value.expect("read answers a value")
    }

    fn draw(&self, client: &Client) -> Step {
        let mut key = prefix(client.number);
        let number = client.below(self.size.keys);
        key.extend(number.to_be_bytes());
        if number.is_multiple_of(7) {
            key.extend(std::iter::repeat_n(b'k', (number % 97) as usize));
        }
        match client.below(10) {
            0..=4 => {
                let length = if client.percent(70) {
                    client.below(32)
                } else {
                    client.below(self.size.value as u64 + 1)
                };
                let byte = client.below(256) as u8;
                Step::Put(key, vec![byte; length as usize])
            }
            5..=6 => Step::Delete(key),
            7..=8 => Step::Get(key),
            _ => Step::Scan,
        }
    }
}

impl Workload for TreeAgainstMap {
    fn name(&self) -> &'static str {
        "tree"
    }

    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let workload = self.clone();
        Box::pin(async move {
            let tree = client.create_tree().await?;
            workload.state.lock().tree = tree;
            Ok(())
        })
    }

    fn run(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.clone().drive(client))
    }

    fn check(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let workload = self.clone();
        Box::pin(async move {
            let (tree, maps) = {
                let state = workload.state.lock();
                (state.tree, state.maps.clone())
            };
            for node in client.nodes() {
                client.connect(node);
                for (number, map) in &maps {
                    let seen = client
                        .read(|| read_map(tree, *number))
                        .await
                        .value
                        .expect("read answers a value");
                    if seen != *map {
                        return Err(format!("client {number}, at the end {}", difference(map, &seen)));
                    }
                }
            }
            Ok(())
        })
    }

    fn summary(&self) -> String {
        format!("tree: {}", self.state.lock().tally)
    }
}

fn prefix(client: u64) -> Vec<u8> {
    (client as u16).to_be_bytes().to_vec()
}

fn change(map: &mut Map, step: &Step) {
    match step {
        Step::Put(key, value) => {
            map.insert(key.clone(), value.clone());
        }
        Step::Delete(key) => {
            map.remove(key);
        }
        Step::Get(_) | Step::Scan => {}
    }
}

fn difference(wanted: &Map, seen: &Map) -> String {
    let lost = wanted.iter().find(|(key, value)| seen.get(*key) != Some(*value));
    if let Some((key, value)) = lost {
        return format!(
            "key {key:?} is {:?}, not {:?}",
            seen.get(key).map(|v| shorten(v)),
            shorten(value)
        );
    }
    let extra = seen.keys().find(|key| !wanted.contains_key(*key));
    format!("key {extra:?} is there and should not")
}

fn shorten(value: &[u8]) -> String {
    format!("{} x {:?}", value.len(), value.first())
}

fn run_steps(tree: u64, number: u64, steps: Vec<Step>, map: Map) -> Body<()> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            let mut map = map;
            for step in &steps {
                run_step(transaction, tree, number, step, &map).await?;
                change(&mut map, step);
            }
            Ok(())
        })
    })
}

async fn run_step(
    transaction: &mut dyn TransactionHandle,
    tree: u64,
    number: u64,
    step: &Step,
    map: &Map,
) -> Result<(), DatabaseError> {
    let wrong = |text: String| Err(DatabaseError::Wrong(text));
    match step {
        Step::Put(key, value) if map.contains_key(key) => {
            let mut old = Vec::new();
            let mut change = |row: &[u8]| {
                old = row.to_vec();
                Some(value.clone())
            };
            let done = transaction.update_with(tree, key, &mut change).await?;
            if done.is_none() || map.get(key) != Some(&old) {
                return wrong(format!(
                    "update of {key:?} found {:?}",
                    done.map(|_| shorten(&old))
                ));
            }
        }
        Step::Put(key, value) => match transaction.insert(tree, key, value.clone()).await {
            Err(DatabaseError::Duplicate) => return wrong(format!("insert of {key:?} found a row")),
            other => other?,
        },
        Step::Delete(key) => {
            if transaction.delete(tree, key).await? != map.contains_key(key) {
                return wrong(format!("delete of {key:?}: {} expected", map.contains_key(key)));
            }
        }
        Step::Get(key) => {
            let seen = transaction.get(tree, key).await?;
            if seen.as_ref() != map.get(key) {
                return wrong(format!(
                    "get of {key:?} answers {:?}",
                    seen.map(|value| shorten(&value))
                ));
            }
        }
        Step::Scan => {
            let seen: Map = scan_prefix(transaction, tree, &prefix(number))
                .await?
                .into_iter()
                .collect();
            if seen != *map {
                return wrong(format!("a scan of client {number}: {}", difference(map, &seen)));
            }
        }
    }
    Ok(())
}

fn read_map(tree: u64, number: u64) -> Body<Map> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            Ok(scan_prefix(transaction, tree, &prefix(number))
                .await?
                .into_iter()
                .collect())
        })
    })
}
