//! The store of a node: the engine's transactions as they are.

use crate::store::{Committed, Isolation, KeyRange, Pairs, Store, StoreError, StoreTransaction};
use aquifer_engine::{Engine, Savepoint, Transaction};
use aquifer_engine_proto::TreeId;
use std::sync::Arc;

impl Store for Arc<Engine> {
    type Transaction = Transaction;

    fn begin(&self, isolation: Isolation) -> Transaction {
        Engine::begin(
            self,
            match isolation {
                Isolation::ReadCommitted => aquifer_engine::Isolation::ReadCommitted,
                Isolation::Snapshot => aquifer_engine::Isolation::Snapshot,
            },
        )
    }

    async fn create_tree(&self) -> Result<TreeId, StoreError> {
        Engine::create_tree(self).await
    }

    async fn drop_tree(&self, tree: TreeId) -> Result<(), StoreError> {
        Engine::drop_tree(self, tree).await
    }

    fn retire_tree(&self, tree: TreeId) {
        Engine::retire_tree(self, tree);
    }

    fn catalog_tree(&self) -> TreeId {
        Engine::catalog_tree(self)
    }
}

impl StoreTransaction for Transaction {
    type Savepoint = Savepoint;

    async fn statement(&mut self) -> Result<(), StoreError> {
        Self::statement(self).await
    }

    async fn get(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Self::get(self, tree, key).await
    }

    async fn intend(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Self::intend(self, tree, key).await
    }

    async fn wait_for_intents(&mut self, tree: TreeId, key: &[u8]) -> Result<(), StoreError> {
        Self::wait_for_intents(self, tree, key).await
    }

    async fn get_for_update(&mut self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Self::get_for_update(self, tree, key).await
    }

    async fn scan(
        &mut self,
        tree: TreeId,
        range: KeyRange,
        reverse: bool,
        limit: usize,
    ) -> Result<Pairs, StoreError> {
        Self::scan(self, tree, range, reverse, limit).await
    }

    async fn insert(&mut self, tree: TreeId, key: &[u8], value: Vec<u8>) -> Result<(), StoreError> {
        Self::insert(self, tree, key, &value).await
    }

    async fn update(&mut self, tree: TreeId, key: &[u8], value: Vec<u8>) -> Result<bool, StoreError> {
        Self::update(self, tree, key, &value).await
    }

    async fn update_with<F>(&mut self, tree: TreeId, key: &[u8], change: F) -> Result<bool, StoreError>
    where
        F: FnMut(&[u8]) -> Option<Vec<u8>> + Send,
    {
        Self::update_with(self, tree, key, change)
            .await
            .map(|written| written.is_some())
    }

    async fn delete(&mut self, tree: TreeId, key: &[u8]) -> Result<bool, StoreError> {
        Self::delete(self, tree, key).await
    }

    fn savepoint(&mut self) -> Savepoint {
        Self::savepoint(self)
    }

    async fn rollback_to(&mut self, savepoint: Savepoint) -> Result<(), StoreError> {
        Self::rollback_to(self, savepoint)
    }

    fn release(&mut self, savepoint: Savepoint) -> Result<(), StoreError> {
        Self::release(self, savepoint)
    }

    async fn commit(self) -> Result<Committed, StoreError> {
        Self::commit(self).await.map(|_| Committed::Yes)
    }

    async fn rollback(self) -> Result<(), StoreError> {
        Self::rollback(self).await;
        Ok(())
    }
}
