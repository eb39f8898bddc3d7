//! Running plans over a transaction.
//!
//! Under read committed an UPDATE or DELETE looks for rows in the statement's snapshot but decides on the newest version of each: it is
//! locked, the filter is checked again over it, and the new row is made from it.

mod aggregate;
mod insert;
mod select;

pub(crate) use insert::{Counters, InsertRun};
pub(crate) use select::materialise;

use crate::catalog::Table;
use crate::error::SqlError;
use crate::expr::{Context, Expr};
use crate::plan::{DeletePlan, Output, Path, Plan, UpdatePlan, keys_of};
use crate::row;
use crate::store::{KeyRange, Pairs, Store, StoreTransaction};
use crate::types::Value;
use aquifer_engine_proto::TreeId;
use std::future::Future;
use std::ops::Bound;

/// Where result rows go.
pub(crate) trait Sink: Send {
    /// Takes a row.
    fn row(&mut self, values: &[Value]) -> Result<(), SqlError>;
    /// Called between batches: may wait until the client has taken what was sent.
    fn drain(&mut self) -> impl Future<Output = Result<(), SqlError>> + Send;
}

/// What a run needs besides the plan.
pub(crate) struct Run<'a, S: Store> {
    pub store: &'a S,
    pub transaction: &'a mut S::Transaction,
    pub counters: &'a Counters,
    pub parameters: &'a [Value],
    pub now: i64,
    /// Rows of system views.
    pub views: crate::system::ViewContext,
}

impl<S: Store> Run<'_, S> {
    /// Runs a plan; the number of rows selected or changed.
    pub(crate) async fn run<K: Sink>(&mut self, plan: &Plan, sink: &mut K) -> Result<u64, SqlError> {
        match plan {
            Plan::Select(plan) => self.select(plan, sink).await,
            Plan::Insert(plan) => self.insert(plan, sink).await,
            Plan::Update(plan) => self.update(plan, sink).await,
            Plan::Delete(plan) => self.delete(plan, sink).await,
        }
    }

    fn context<'c>(&self, row: &'c [Value]) -> Context<'c>
    where
        Self: 'c,
    {
        Context {
            row,
            parameters: self.parameters,
            now: self.now,
        }
    }

    fn output<K: Sink>(&self, output: Option<&Output>, row: &[Value], sink: &mut K) -> Result<(), SqlError> {
        let Some(output) = output else { return Ok(()) };
        let context = Context {
            row,
            parameters: self.parameters,
            now: self.now,
        };
        let values: Result<Vec<_>, _> = output
            .expressions
            .iter()
            .map(|expr| expr.evaluate(context))
            .collect();
        sink.row(&values?)
    }

    fn cursor(&self, table: &Table, path: &Path, reverse: bool) -> Result<Cursor, SqlError> {
        let keys = keys_of(
            path,
            Context {
                row: &[],
                parameters: self.parameters,
                now: self.now,
            },
        )?;
        Ok(Cursor::new(table.tree(), keys, reverse))
    }

    async fn update<K: Sink>(&mut self, plan: &UpdatePlan, sink: &mut K) -> Result<u64, SqlError> {
        let mut cursor = self.cursor(&plan.table, &plan.path, false)?;
        let mut count = 0;
        // A key that changes could be met again further on: collect first.
        let moved = if plan.changes_key {
            Some(cursor.rest(self.transaction).await?)
        } else {
            None
        };
        let mut pending = moved;
        loop {
            let keys: Vec<Vec<u8>> = match (pending.take(), &mut cursor.keys) {
                (Some(pairs), _) => pairs.into_iter().map(|(key, _)| key).collect(),
                (None, Source::List(keys)) => std::mem::take(keys),
                (None, Source::Range(_)) => {
                    let mut keys = Vec::new();
                    for (key, value) in cursor.next(self.transaction).await? {
                        if self.matches(&plan.table, plan.filter.as_ref(), &value)? {
                            keys.push(key);
                        }
                    }
                    keys
                }
                (None, Source::Done) => break,
            };
            if keys.is_empty() && matches!(cursor.keys, Source::Done | Source::List(_)) {
                break;
            }
            for key in keys {
                count += u64::from(self.update_row(plan, &key, sink).await?);
            }
            sink.drain().await?;
        }
        Ok(count)
    }

    fn matches(&self, table: &Table, filter: Option<&Expr>, value: &[u8]) -> Result<bool, SqlError> {
        if filter.is_none() {
            return Ok(true);
        }
        let mut row = Vec::new();
        row::decode(&table.columns, value, &mut row)?;
        self.context(&row).accepts(filter)
    }

    async fn update_row<K: Sink>(
        &mut self,
        plan: &UpdatePlan,
        key: &[u8],
        sink: &mut K,
    ) -> Result<bool, SqlError> {
        let (parameters, now) = (self.parameters, self.now);
        let tree = plan.table.tree();
        let mut outcome: Result<Option<Vec<Value>>, SqlError> = Ok(None);
        let change = |value: &[u8]| {
            outcome = changed(plan, value, parameters, now);
            match &outcome {
                Ok(Some(row)) => Some(row::encode(row)),
                _ => None,
            }
        };
        if plan.changes_key {
            let Some(value) = self.transaction.get_for_update(tree, key).await? else {
                return Ok(false);
            };
            let Some(row) = changed(plan, &value, parameters, now)? else {
                return Ok(false);
            };
            let new_key = plan.table.row_key(&row)?;
            let value = row::encode(&row);
            if new_key == key {
                self.transaction.update(tree, key, value).await?;
            } else {
                self.transaction.delete(tree, key).await?;
                insert::put(self.transaction, &plan.table, &new_key, value, &row).await?;
            }
            self.output(plan.returning.as_ref(), &row, sink)?;
            return Ok(true);
        }
        let written = self.transaction.update_with(tree, key, change).await?;
        match outcome? {
            Some(row) if written => {
                self.output(plan.returning.as_ref(), &row, sink)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn delete<K: Sink>(&mut self, plan: &DeletePlan, sink: &mut K) -> Result<u64, SqlError> {
        let mut cursor = self.cursor(&plan.table, &plan.path, false)?;
        let tree = plan.table.tree();
        let mut count = 0;
        loop {
            let pairs = cursor.next(self.transaction).await?;
            if pairs.is_empty() {
                break;
            }
            for (key, value) in pairs {
                if !self.matches(&plan.table, plan.filter.as_ref(), &value)? {
                    continue;
                }
                let Some(newest) = self.transaction.get_for_update(tree, &key).await? else {
                    continue;
                };
                let mut row = Vec::new();
                row::decode(&plan.table.columns, &newest, &mut row)?;
                if self.context(&row).accepts(plan.filter.as_ref())?
                    && self.transaction.delete(tree, &key).await?
                {
                    count += 1;
                    self.output(plan.returning.as_ref(), &row, sink)?;
                }
            }
            sink.drain().await?;
        }
        Ok(count)
    }
}

/// The new row of an UPDATE, made from the newest version; `None` when the filter does not accept that one.
fn changed(
    plan: &UpdatePlan,
    value: &[u8],
    parameters: &[Value],
    now: i64,
) -> Result<Option<Vec<Value>>, SqlError> {
    let mut row = Vec::new();
    row::decode(&plan.table.columns, value, &mut row)?;
    let context = Context {
        row: &row,
        parameters,
        now,
    };
    if !context.accepts(plan.filter.as_ref())? {
        return Ok(None);
    }
    let values: Result<Vec<_>, _> = plan
        .assignments
        .iter()
        .map(|(_, expr)| expr.evaluate(context))
        .collect();
    for ((column, _), value) in plan.assignments.iter().zip(values?) {
        row[*column] = value;
    }
    plan.table.check(&row)?;
    Ok(Some(row))
}

enum Source {
    List(Vec<Vec<u8>>),
    Range(KeyRange),
    Done,
}

/// Rows of a path, batch by batch.
pub(crate) struct Cursor {
    tree: TreeId,
    keys: Source,
    reverse: bool,
    batch: usize,
}

const FIRST_BATCH: usize = 64;
const LARGEST_BATCH: usize = 1024;

impl Cursor {
    pub(crate) fn new(tree: TreeId, keys: crate::plan::Keys, reverse: bool) -> Self {
        let keys = match keys {
            crate::plan::Keys::List(mut keys) => {
                if reverse {
                    keys.reverse();
                }
                Source::List(keys)
            }
            crate::plan::Keys::Range(range) => Source::Range(range),
        };
        Self {
            tree,
            keys,
            reverse,
            batch: FIRST_BATCH,
        }
    }

    /// No more than this will be wanted.
    pub(crate) fn limit(&mut self, rows: usize) {
        self.batch = self.batch.min(rows.max(1));
    }

    /// The next batch, empty at the end.
    pub(crate) async fn next<T: StoreTransaction>(&mut self, transaction: &mut T) -> Result<Pairs, SqlError> {
        match std::mem::replace(&mut self.keys, Source::Done) {
            Source::Done => Ok(Vec::new()),
            Source::List(keys) => {
                let mut pairs = Vec::with_capacity(keys.len());
                for key in keys {
                    if let Some(value) = transaction.get(self.tree, &key).await? {
                        pairs.push((key, value));
                    }
                }
                Ok(pairs)
            }
            Source::Range(mut range) => {
                let pairs = transaction
                    .scan(self.tree, range.clone(), self.reverse, self.batch)
                    .await?;
                if pairs.len() == self.batch
                    && let Some((last, _)) = pairs.last()
                {
                    let bound = Bound::Excluded(last.clone());
                    if self.reverse {
                        range.1 = bound;
                    } else {
                        range.0 = bound;
                    }
                    self.keys = Source::Range(range);
                }
                self.batch = (self.batch * 4).min(LARGEST_BATCH);
                Ok(pairs)
            }
        }
    }

    async fn rest<T: StoreTransaction>(&mut self, transaction: &mut T) -> Result<Pairs, SqlError> {
        let mut all = Vec::new();
        loop {
            let pairs = self.next(transaction).await?;
            if pairs.is_empty() {
                return Ok(all);
            }
            all.extend(pairs);
        }
    }
}
