//! One transaction: its isolation, its snapshot, its ids, its end.

use super::ahead::ReadAhead;
use crate::Error;
use crate::engine::Engine;
use crate::transaction::{Resolutions, Snapshot};
use crate::waits::WaitCause;
use aquifer_buffer_pool::Scn;
use aquifer_engine_proto::{TreeId, TxnId};
use std::sync::Arc;

/// Rows remembered for stamping at commit.
const STAMPED_AT_COMMIT: usize = 64;

/// What a transaction sees of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Each statement sees what was committed before it began.
    #[default]
    ReadCommitted,
    /// The whole transaction sees what was committed before its first statement; the first updater of a row wins.
    Snapshot,
}

/// How a commit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitOutcome {
    /// Durable, with this commit timestamp.
    Committed(Scn),
    /// Nothing was written.
    ReadOnly,
}

/// A point that a transaction can be rolled back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Savepoint(usize);

/// A transaction. Dropped without commit it is rolled back.
pub struct Transaction {
    pub(super) engine: Arc<Engine>,
    pub(super) isolation: Isolation,
    pub(super) snapshot: Option<Snapshot>,
    /// A newer one, for the rest of the statement.
    pub(super) latest: Option<Snapshot>,
    pub(super) learned: Resolutions,
    pub(super) read_ahead: ReadAhead,
    /// The top id, taken at the first write or intent.
    pub(super) id: Option<TxnId>,
    /// Open savepoints, each with the ids taken since; the last id of the last one writes.
    levels: Vec<Vec<TxnId>>,
    /// Ids of released savepoints: own, and not to be rolled back alone any more.
    kept: Vec<TxnId>,
    written: Vec<(TreeId, Vec<u8>, TxnId)>,
    /// Whether a row may have been written.
    pub(super) wrote: bool,
    ended: bool,
}

impl Engine {
    /// Begins a transaction. Nothing is taken from anybody before its first statement.
    pub fn begin(self: &Arc<Self>, isolation: Isolation) -> Transaction {
        Transaction {
            engine: self.clone(),
            isolation,
            snapshot: None,
            latest: None,
            learned: Resolutions::new(),
            read_ahead: ReadAhead::default(),
            id: None,
            levels: Vec::new(),
            kept: Vec::new(),
            written: Vec::new(),
            wrote: false,
            ended: false,
        }
    }
}

impl Transaction {
    /// Begins a statement: under read committed a new snapshot is taken, under snapshot isolation only the first time.
    pub async fn statement(&mut self) -> Result<(), Error> {
        self.open()?;
        self.latest = None;
        if self.isolation == Isolation::ReadCommitted || self.snapshot.is_none() {
            let snapshot = self.engine.txns.snapshot();
            self.snapshot = Some(self.engine.charge(WaitCause::Snapshot, snapshot).await);
            self.learned.clear();
        }
        self.engine.check()
    }

    /// Which isolation.
    pub const fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Whether something was written.
    pub const fn has_written(&self) -> bool {
        self.wrote
    }

    /// A point to roll back to.
    pub fn savepoint(&mut self) -> Savepoint {
        self.levels.push(Vec::new());
        Savepoint(self.levels.len() - 1)
    }

    /// Undoes what was written since the savepoint, which stays.
    pub fn rollback_to(&mut self, savepoint: Savepoint) -> Result<(), Error> {
        self.open()?;
        if savepoint.0 >= self.levels.len() {
            return Err(Error::State("no such savepoint"));
        }
        for id in self.levels.drain(savepoint.0..).flatten() {
            self.engine.txns.abort_child(id);
            self.written.retain(|(_, _, writer)| *writer != id);
        }
        self.levels.push(Vec::new());
        Ok(())
    }

    /// Forgets the savepoint and those after it; what was written since stays.
    pub fn release(&mut self, savepoint: Savepoint) -> Result<(), Error> {
        self.open()?;
        if savepoint.0 >= self.levels.len() {
            return Err(Error::State("no such savepoint"));
        }
        let released: Vec<TxnId> = self.levels.drain(savepoint.0..).flatten().collect();
        match self.levels.last_mut() {
            Some(outer) => outer.extend(released),
            None => self.kept.extend(released),
        }
        Ok(())
    }

    /// Commits. On `Ok` the transaction is durable and every snapshot taken from now on, at any node, sees it. On
    /// [`Error::OutcomeUnknown`] it may or may not be; on another error it is rolled back.
    pub async fn commit(mut self) -> Result<CommitOutcome, Error> {
        self.open()?;
        let Some(id) = self.id.filter(|_| self.wrote) else {
            self.end();
            self.engine.check()?;
            return Ok(CommitOutcome::ReadOnly);
        };
        self.engine.check()?;
        self.ended = true;
        let commit = self.engine.txns.commit(id);
        let scn = self.engine.charge(WaitCause::Commit, commit).await?;
        if !(self.engine.lease)() {
            return Err(Error::OutcomeUnknown(
                "the lease of this node ran out during the commit".to_owned(),
            )); // ENG-2
        }
        self.engine.reform.lock().committed(|| self.engine.runtime.now());
        self.stamp(scn);
        Ok(CommitOutcome::Committed(scn))
    }

    /// Rolls back.
    pub async fn rollback(mut self) {
        self.end();
    }

    pub(super) const fn open(&self) -> Result<(), Error> {
        if self.ended {
            Err(Error::State("the transaction has ended"))
        } else {
            Ok(())
        }
    }

    pub(super) fn snapshot_scn(&self) -> Result<Scn, Error> {
        self.latest
            .as_ref()
            .or(self.snapshot.as_ref())
            .map(Snapshot::scn)
            .ok_or(Error::State("no statement was begun"))
    }

    /// Whether `txn` is this transaction or a part of it that is not rolled back.
    pub(super) fn own(&self) -> Own {
        let mut ids: Vec<TxnId> = self.id.into_iter().chain(self.kept.iter().copied()).collect();
        ids.extend(self.levels.iter().flatten());
        Own(ids)
    }

    /// The top id; taken when there is none.
    pub(super) async fn top(&mut self) -> Result<TxnId, Error> {
        if let Some(id) = self.id {
            return Ok(id);
        }
        let id = self.engine.next_transaction().await?;
        self.id = Some(id);
        Ok(id)
    }

    /// The id that writes now; taken when there is none.
    pub(super) async fn writer(&mut self) -> Result<TxnId, Error> {
        let top = self.top().await?;
        self.wrote = true;
        let Some(level) = self.levels.last() else {
            return Ok(top);
        };
        if let Some(id) = level.last() {
            return Ok(*id);
        }
        let id = self.engine.next_child(top).await?;
        self.levels.last_mut().expect("just seen").push(id);
        Ok(id)
    }

    pub(super) fn remember(&mut self, tree: TreeId, key: &[u8], writer: TxnId) {
        if self.written.len() < STAMPED_AT_COMMIT {
            self.written.push((tree, key.to_vec(), writer));
        }
    }

    /// Writes the SCN into the rows whose leaves are at hand, so that others need not ask. A hint.
    fn stamp(&self, scn: Scn) {
        for (tree, key, writer) in &self.written {
            // A leaf that has moved on is stamped by whoever reads it there.
            let _ = self.engine.tree(*tree).stamp(key, *writer, scn);
        }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true)
            && let Some(id) = self.id
        {
            self.engine.txns.abort(id);
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.end();
    }
}

/// The ids of a transaction.
pub(super) struct Own(Vec<TxnId>);

impl Own {
    pub(super) fn contains(&self, txn: TxnId) -> bool {
        self.0.contains(&txn)
    }
}

impl Engine {
    async fn next_transaction(&self) -> Result<TxnId, Error> {
        loop {
            self.check()?;
            if let Some(id) = self.txns.begin() {
                self.refill_sequences();
                return Ok(id);
            }
            self.wait_sequences().await;
        }
    }

    async fn next_child(&self, top: TxnId) -> Result<TxnId, Error> {
        loop {
            self.check()?;
            if let Some(id) = self.txns.begin_child(top) {
                self.refill_sequences();
                return Ok(id);
            }
            self.wait_sequences().await;
        }
    }
}
