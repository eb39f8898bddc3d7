//! The pool's public face. Bodies follow in the next landings.

use crate::config::{Miss, PageStore, PoolConfig, PoolCounters, PoolError, Redo, RedoTask};
use aquifer_buffer_pool_proto::{ImageInfo, Lsn, Mode, PAGE_SIZE, PageId, Psn};
use aquifer_dss::seam::{IoBuffer, Runtime, Transport};
use aquifer_dss_proto::{Incarnation, NodeId, NodeSet, View};
use std::marker::PhantomData;
use std::sync::Arc;

/// The page cache of one node.
pub struct Pool {}
/// Keeps a page from being surrendered, at most for the configured time.
pub struct Hold {}
/// A page held for reading; only in synchronous code.
pub struct PageReadGuard<'a>(PhantomData<&'a Pool>);
/// A page held for changing; only in synchronous code.
pub struct PageWriteGuard<'a>(PhantomData<&'a Pool>);

impl PageReadGuard<'_> {
    /// The page.
    pub fn bytes(&self) -> &[u8; PAGE_SIZE] {
        unimplemented!()
    }
    /// Its PSN.
    pub fn psn(&self) -> Psn {
        unimplemented!()
    }
}

impl PageWriteGuard<'_> {
    /// The page.
    pub fn bytes(&self) -> &[u8; PAGE_SIZE] {
        unimplemented!()
    }
    /// The page, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        unimplemented!()
    }
    /// Its PSN before the change.
    pub fn psn(&self) -> Psn {
        unimplemented!()
    }
    /// The page was changed to `psn` by redo that ends at `redo_end`.
    pub fn finish(self, _psn: Psn, _redo_end: Lsn) {
        unimplemented!()
    }
}

impl Pool {
    /// A pool without pages, in no view.
    pub fn new(
        _config: PoolConfig,
        _runtime: Arc<dyn Runtime>,
        _transport: Arc<dyn Transport>,
        _store: Arc<dyn PageStore>,
        _redo: Arc<dyn Redo>,
    ) -> Arc<Self> {
        unimplemented!()
    }
    /// A message of `Service::Pages` from one life of a peer.
    pub fn receive(self: &Arc<Self>, _from: NodeId, _incarnation: Incarnation, _body: &[u8]) {
        unimplemented!()
    }
    /// The page, if it is possessed.
    pub fn read(&self, _page: PageId) -> Result<PageReadGuard<'_>, Miss> {
        unimplemented!()
    }
    /// The page, if it is possessed exclusively.
    pub fn write(&self, _page: PageId) -> Result<PageWriteGuard<'_>, Miss> {
        unimplemented!()
    }
    /// Until the page is possessed.
    pub async fn acquire(self: &Arc<Self>, _page: PageId, _mode: Mode) -> Result<Hold, PoolError> {
        unimplemented!()
    }
    /// A new view.
    pub fn install_view(self: &Arc<Self>, _view: Arc<View>, _dead: NodeSet, _pending_redo: bool) {
        unimplemented!()
    }
    /// Leader: the targets of the analysis.
    pub fn analysed(self: &Arc<Self>, _pages: Vec<(PageId, Psn)>) {
        unimplemented!()
    }
    /// Leader: the next page to redo.
    pub async fn next_redo(self: &Arc<Self>) -> RedoTask {
        unimplemented!()
    }
    /// Leader: the page is at its target.
    pub async fn redone(self: &Arc<Self>, _task: RedoTask, _image: IoBuffer, _info: ImageInfo) {
        unimplemented!()
    }
    /// Leader: storage has it already.
    pub fn redo_current(self: &Arc<Self>, _task: RedoTask) {
        unimplemented!()
    }
    /// Leader: it cannot be redone.
    pub fn redo_failed(self: &Arc<Self>, _task: RedoTask, _reason: &str) {
        unimplemented!()
    }
    /// Leader: 0 when every home has answered and every page is redone.
    pub fn redo_outstanding(&self) -> usize {
        unimplemented!()
    }
    /// Writes up to `max_pages` old or wanted dirty pages back; how many were written.
    pub async fn write_back(self: &Arc<Self>, _max_pages: usize) -> usize {
        unimplemented!()
    }
    /// Asks the dirty holders of `pages` to write them back soon.
    pub fn want_flush(self: &Arc<Self>, _pages: &[PageId]) {
        unimplemented!()
    }
    /// Writes everything dirty back and gives every page up.
    pub async fn flush_all(self: &Arc<Self>) -> Result<(), PoolError> {
        unimplemented!()
    }
    /// Figures.
    pub fn counters(&self) -> PoolCounters {
        unimplemented!()
    }
}
