//! A model database in memory: what a correct cluster looks like to the workloads, and, with a fault planted, a wrong one.
//!
//! It stands behind the nodes and loses nothing when they die. Its use is to test workloads and checkers: correct, they pass;
//! with each fault planted they must fail.

use super::client::Sessions;
use super::database::{Change, Database, DatabaseError, Pairs, TransactionHandle};
use crate::sim::{NodeContext, NodeProgram};
use aquifer_dss::seam::{BoxFuture, Runtime};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// What is wrong with the database, on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Planted {
    /// Nothing.
    #[default]
    Nothing,
    /// Rows are not locked, and the newest version is not looked for.
    LostUpdate,
    /// Now and then a snapshot is some commits old.
    StaleRead,
    /// Now and then a commit leaves out its last write.
    HalfCommit,
    /// Now and then a commit is acknowledged and thrown away.
    LostCommit,
    /// Now and then a rolled-back transaction commits.
    DirtyAbort,
}

type Row = (u64, Vec<u8>);
type Versions = Vec<(u64, Option<Vec<u8>>)>;

#[derive(Default)]
struct Store {
    rows: BTreeMap<(u64, Vec<u8>), Versions>,
    locks: BTreeMap<(u64, Vec<u8>), u64>,
    clock: u64,
    trees: u64,
    transactions: u64,
}

/// Nodes that all stand before one store.
pub struct MemoryProgram {
    store: Arc<Mutex<Store>>,
    sessions: Arc<Sessions>,
    planted: Planted,
}

impl MemoryProgram {
    /// An empty store.
    pub fn new(sessions: Arc<Sessions>, planted: Planted) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::default(),
            sessions,
            planted,
        })
    }
}

impl NodeProgram for MemoryProgram {
    fn start(&self, context: NodeContext) -> BoxFuture<'static, ()> {
        let database = Memory {
            store: self.store.clone(),
            runtime: context.runtime.clone(),
            planted: self.planted,
        };
        let sessions = self.sessions.clone();
        Box::pin(async move {
            context.runtime.sleep(Duration::from_millis(50)).await;
            sessions.open(context.life, Arc::new(database));
            std::future::pending().await
        })
    }
}

#[derive(Clone)]
struct Memory {
    store: Arc<Mutex<Store>>,
    runtime: Arc<dyn Runtime>,
    planted: Planted,
}

impl Memory {
    fn planted(&self, which: Planted) -> bool {
        self.planted == which && self.runtime.random().is_multiple_of(10)
    }

    async fn work(&self) {
        let pause = Duration::from_micros(self.runtime.random() % 500);
        self.runtime.sleep(pause).await;
    }
}

impl Database for Memory {
    fn create_tree(&self) -> BoxFuture<'_, Result<u64, DatabaseError>> {
        Box::pin(async {
            self.work().await;
            let mut store = self.store.lock();
            store.trees += 1;
            Ok(store.trees)
        })
    }

    fn retire_tree(&self, _tree: u64) {}

    fn begin(&self, one_snapshot: bool) -> BoxFuture<'_, Result<Box<dyn TransactionHandle>, DatabaseError>> {
        Box::pin(async move {
            self.work().await;
            let stale = self.planted(Planted::StaleRead);
            let mut store = self.store.lock();
            store.transactions += 1;
            let snapshot = if stale {
                store.clock.saturating_sub(5)
            } else {
                store.clock
            };
            let number = store.transactions;
            drop(store);
            let transaction = MemoryTransaction {
                memory: self.clone(),
                number,
                snapshot,
                one_snapshot,
                writes: Vec::new(),
            };
            Ok(Box::new(transaction) as Box<dyn TransactionHandle>)
        })
    }
}

struct MemoryTransaction {
    memory: Memory,
    number: u64,
    snapshot: u64,
    one_snapshot: bool,
    writes: Vec<(Row, Option<Vec<u8>>)>,
}

impl Drop for MemoryTransaction {
    fn drop(&mut self) {
        let number = self.number;
        self.memory
            .store
            .lock()
            .locks
            .retain(|_, holder| *holder != number);
    }
}

impl MemoryTransaction {
    fn refresh(&mut self) {
        if !self.one_snapshot {
            self.snapshot = self.memory.store.lock().clock;
        }
    }

    fn visible(&self, versions: &Versions) -> Option<Vec<u8>> {
        versions
            .iter()
            .rev()
            .find(|(scn, _)| *scn <= self.snapshot)
            .and_then(|(_, value)| value.clone())
    }

    fn own(&self, row: &(u64, Vec<u8>)) -> Option<Option<Vec<u8>>> {
        self.writes
            .iter()
            .rev()
            .find(|(written, _)| written == row)
            .map(|(_, value)| value.clone())
    }

    /// Locks the row and answers its newest value.
    fn lock(&mut self, row: &(u64, Vec<u8>)) -> Result<Option<Vec<u8>>, DatabaseError> {
        if let Some(value) = self.own(row) {
            return Ok(value);
        }
        let mut store = self.memory.store.lock();
        let newest = store.rows.get(row).and_then(|versions| versions.last()).cloned();
        if self.memory.planted == Planted::LostUpdate {
            return Ok(newest.and_then(|(_, value)| value));
        }
        let holder = *store.locks.entry(row.clone()).or_insert(self.number);
        if holder != self.number {
            return Err(DatabaseError::Retry("row is locked".to_owned()));
        }
        if self.one_snapshot && newest.as_ref().is_some_and(|(scn, _)| *scn > self.snapshot) {
            return Err(DatabaseError::Retry("first updater wins".to_owned()));
        }
        Ok(newest.and_then(|(_, value)| value))
    }

    fn publish(&mut self) {
        let mut writes = std::mem::take(&mut self.writes);
        if self.memory.planted(Planted::HalfCommit) {
            writes.pop();
        }
        if self.memory.planted(Planted::LostCommit) {
            writes.clear();
        }
        let mut store = self.memory.store.lock();
        store.clock += 1;
        let scn = store.clock;
        for (row, value) in writes {
            store.rows.entry(row).or_default().push((scn, value));
        }
    }
}

impl TransactionHandle for MemoryTransaction {
    fn get<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>> {
        Box::pin(async move {
            self.memory.work().await;
            self.refresh();
            let row = (tree, key.to_vec());
            if let Some(value) = self.own(&row) {
                return Ok(value);
            }
            let store = self.memory.store.lock();
            Ok(store.rows.get(&row).and_then(|versions| self.visible(versions)))
        })
    }

    /// A lock keeps the row as it is too.
    fn intend<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>> {
        self.take_over(tree, key)
    }

    fn take_over<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>> {
        Box::pin(async move {
            self.memory.work().await;
            self.lock(&(tree, key.to_vec()))
        })
    }

    fn scan(
        &mut self,
        tree: u64,
        from: Bound<Vec<u8>>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Pairs, DatabaseError>> {
        Box::pin(async move {
            self.memory.work().await;
            self.refresh();
            let start = match from {
                Bound::Included(key) => Bound::Included((tree, key)),
                Bound::Excluded(key) => Bound::Excluded((tree, key)),
                Bound::Unbounded => Bound::Included((tree, Vec::new())),
            };
            let range = (start.clone(), Bound::Excluded((tree + 1, Vec::new())));
            let mut pairs = BTreeMap::new();
            for ((_, key), versions) in self.memory.store.lock().rows.range(range.clone()) {
                pairs.insert(key.clone(), self.visible(versions));
            }
            let own: BTreeMap<_, _> = self.writes.iter().cloned().collect();
            for ((_, key), value) in own.range(range) {
                pairs.insert(key.clone(), value.clone());
            }
            let present = pairs
                .into_iter()
                .filter_map(|(key, value)| value.map(|value| (key, value)));
            Ok(present.take(limit).collect())
        })
    }

    fn insert<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
        value: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), DatabaseError>> {
        Box::pin(async move {
            self.memory.work().await;
            let row = (tree, key.to_vec());
            if self.lock(&row)?.is_some() {
                return Err(DatabaseError::Duplicate);
            }
            self.writes.push((row, Some(value)));
            Ok(())
        })
    }

    fn update_with<'a>(
        &'a mut self,
        tree: u64,
        key: &'a [u8],
        change: Change<'a>,
    ) -> BoxFuture<'a, Result<Option<Vec<u8>>, DatabaseError>> {
        Box::pin(async move {
            self.memory.work().await;
            let row = (tree, key.to_vec());
            let Some(old) = self.lock(&row)? else {
                return Ok(None);
            };
            let Some(new) = change(&old) else { return Ok(None) };
            self.writes.push((row, Some(new.clone())));
            Ok(Some(new))
        })
    }

    fn delete<'a>(&'a mut self, tree: u64, key: &'a [u8]) -> BoxFuture<'a, Result<bool, DatabaseError>> {
        Box::pin(async move {
            self.memory.work().await;
            let row = (tree, key.to_vec());
            let there = self.lock(&row)?.is_some();
            self.writes.push((row, None));
            Ok(there)
        })
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<(), DatabaseError>> {
        Box::pin(async move {
            self.memory.work().await;
            self.publish();
            self.memory.work().await;
            Ok(())
        })
    }

    fn rollback(mut self: Box<Self>) -> BoxFuture<'static, Result<(), DatabaseError>> {
        Box::pin(async move {
            self.memory.work().await;
            if self.memory.planted(Planted::DirtyAbort) {
                self.publish();
            }
            Ok(())
        })
    }
}
