//! A store in memory for tests of the SQL layer: transactions with undo, row locks and intents that conflict at once (no waiting), and no
//! snapshots (readers see the newest version). Never used by a node.

use crate::store::{Committed, Isolation, KeyRange, Pairs, Store, StoreError, StoreTransaction};
use aquifer_dss_proto::FileId;
use aquifer_engine_proto::TreeId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct State {
    trees: BTreeMap<u64, Tree>,
    locks: BTreeMap<(u64, Vec<u8>), u64>,
    intents: BTreeSet<(u64, Vec<u8>, u64)>,
    next_tree: u64,
    next_transaction: u64,
}

/// The store.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        let mut state = State {
            next_tree: 2,
            ..State::default()
        };
        state.trees.insert(1, Tree::new());
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }
}

/// A transaction of it.
pub struct MemoryTransaction {
    state: Arc<Mutex<State>>,
    id: u64,
    undo: Vec<(u64, Vec<u8>, Option<Vec<u8>>)>,
    locks: Vec<(u64, Vec<u8>)>,
}

impl Store for MemoryStore {
    type Transaction = MemoryTransaction;

    fn begin(&self, _isolation: Isolation) -> MemoryTransaction {
        let mut state = self.state.lock();
        state.next_transaction += 1;
        MemoryTransaction {
            state: self.state.clone(),
            id: state.next_transaction,
            undo: Vec::new(),
            locks: Vec::new(),
        }
    }

    async fn create_tree(&self) -> Result<TreeId, StoreError> {
        let mut state = self.state.lock();
        let id = state.next_tree;
        state.next_tree += 1;
        state.trees.insert(id, Tree::new());
        Ok(TreeId(FileId(id)))
    }

    async fn drop_tree(&self, tree: TreeId) -> Result<(), StoreError> {
        self.state
            .lock()
            .trees
            .remove(&tree.0.0)
            .map(|_| ())
            .ok_or(StoreError::NoSuchTree)
    }

    fn retire_tree(&self, tree: TreeId) {
        self.state.lock().trees.remove(&tree.0.0);
    }

    fn catalog_tree(&self) -> TreeId {
        TreeId(FileId(1))
    }
}

impl MemoryTransaction {
    fn lock(&mut self, state: &mut State, tree: TreeId, key: &[u8]) -> Result<(), StoreError> {
        match state.locks.get(&(tree.0.0, key.to_vec())) {
            Some(owner) if *owner != self.id => Err(StoreError::LockTimeout),
            Some(_) => Ok(()),
            None => {
                state.locks.insert((tree.0.0, key.to_vec()), self.id);
                self.locks.push((tree.0.0, key.to_vec()));
                Ok(())
            }
        }
    }

    fn put(&mut self, tree: TreeId, key: &[u8], value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let state = self.state.clone();
        let mut state = state.lock();
        self.lock(&mut state, tree, key)?;
        let rows = state.trees.get_mut(&tree.0.0).ok_or(StoreError::NoSuchTree)?;
        let old = match value {
            Some(value) => rows.insert(key.to_vec(), value),
            None => rows.remove(key),
        };
        self.undo.push((tree.0.0, key.to_vec(), old));
        Ok(())
    }

    fn look(&self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .state
            .lock()
            .trees
            .get(&tree.0.0)
            .ok_or(StoreError::NoSuchTree)?
            .get(key)
            .cloned())
    }

    fn undo_to(&mut self, length: usize) {
        let mut state = self.state.lock();
        while self.undo.len() > length {
            let (tree, key, old) = self.undo.pop().expect("longer than length");
            if let Some(rows) = state.trees.get_mut(&tree) {
                match old {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
        }
    }
}

impl StoreTransaction for MemoryTransaction {
    type Savepoint = usize;

    async fn statement(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.look(tree, key)
    }

    async fn intend(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut state = self.state.lock();
        let intent = (tree.0.0, key.to_vec(), self.id);
        let holder = state.locks.get(&(tree.0.0, key.to_vec()));
        if holder.is_some_and(|holder| *holder != self.id) && !state.intents.contains(&intent) {
            return Err(StoreError::LockTimeout);
        }
        state.intents.insert(intent);
        drop(state);
        self.look(tree, key)
    }

    async fn wait_for_intents(&mut self, tree: TreeId, key: &[u8]) -> Result<(), StoreError> {
        let on_row = |(at, of, id): &(u64, Vec<u8>, u64)| *at == tree.0.0 && of == key && *id != self.id;
        if self.state.lock().intents.iter().any(on_row) {
            return Err(StoreError::LockTimeout);
        }
        Ok(())
    }

    async fn get_for_update(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.state.clone();
        self.lock(&mut state.lock(), tree, key)?;
        self.look(tree, key)
    }

    async fn scan(
        &mut self,
        tree: TreeId,
        range: KeyRange,
        reverse: bool,
        limit: usize,
    ) -> Result<Pairs, StoreError> {
        use std::ops::Bound::{Excluded, Included};
        if let (Included(low) | Excluded(low), Included(high) | Excluded(high)) = (&range.0, &range.1)
            && (low > high || (low == high && !matches!(range, (Included(_), Included(_)))))
        {
            return Ok(Vec::new());
        }
        let state = self.state.lock();
        let rows = state
            .trees
            .get(&tree.0.0)
            .ok_or(StoreError::NoSuchTree)?
            .range::<Vec<u8>, _>(range);
        let copy = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(if reverse {
            rows.rev().take(limit).map(copy).collect()
        } else {
            rows.take(limit).map(copy).collect()
        })
    }

    async fn insert(&mut self, tree: TreeId, key: &[u8], value: Vec<u8>) -> Result<(), StoreError> {
        if self.look(tree, key)?.is_some() {
            return Err(StoreError::DuplicateKey);
        }
        self.put(tree, key, Some(value))
    }

    async fn update(&mut self, tree: TreeId, key: &[u8], value: Vec<u8>) -> Result<bool, StoreError> {
        if self.look(tree, key)?.is_none() {
            return Ok(false);
        }
        self.put(tree, key, Some(value)).map(|()| true)
    }

    async fn update_with<F>(&mut self, tree: TreeId, key: &[u8], mut change: F) -> Result<bool, StoreError>
    where
        F: FnMut(&[u8]) -> Option<Vec<u8>> + Send,
    {
        match self.look(tree, key)?.and_then(|old| change(&old)) {
            Some(new) => self.put(tree, key, Some(new)).map(|()| true),
            None => Ok(false),
        }
    }

    async fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<bool, StoreError> {
        if self.look(tree, key)?.is_none() {
            return Ok(false);
        }
        self.put(tree, key, None).map(|()| true)
    }

    fn savepoint(&mut self) -> usize {
        self.undo.len()
    }

    async fn rollback_to(&mut self, savepoint: usize) -> Result<(), StoreError> {
        self.undo_to(savepoint);
        Ok(())
    }

    fn release(&mut self, _savepoint: usize) -> Result<(), StoreError> {
        Ok(())
    }

    async fn commit(mut self) -> Result<Committed, StoreError> {
        self.undo.clear();
        Ok(Committed::Yes)
    }

    async fn rollback(self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Drop for MemoryTransaction {
    fn drop(&mut self) {
        self.undo_to(0);
        let mut state = self.state.lock();
        state.intents.retain(|(_, _, id)| *id != self.id);
        for lock in self.locks.drain(..) {
            state.locks.remove(&lock);
        }
    }
}
