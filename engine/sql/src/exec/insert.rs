//! INSERT, and the counters that number rows without a primary key and fill serial columns.

use super::{Run, Sink, materialise};
use crate::catalog::Table;
use crate::error::SqlError;
use crate::expr::{Context, Expr};
use crate::plan::{Conflict, InsertPlan, InsertSource};
use crate::row;
use crate::store::{Isolation, Store, StoreError, StoreTransaction};
use crate::types::{Value, cast};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Numbers taken from the catalogue in ranges, one range per node and counter, so that nodes neither wait for each other nor fight
/// over the right edge of a tree. Numbers of a range that a node did not use are lost, as with PostgreSQL's cached sequences.
#[derive(Default)]
pub(crate) struct Counters {
    ranges: Mutex<BTreeMap<Vec<u8>, (i64, i64)>>,
}

const ROW_RANGE: i64 = 4096;
const SERIAL_RANGE: i64 = 32;

impl Counters {
    /// The next number of a counter.
    async fn next<S: Store>(&self, store: &S, key: &[u8], range: i64) -> Result<i64, SqlError> {
        loop {
            if let Some((next, end)) = self.ranges.lock().get_mut(key)
                && *next < *end
            {
                *next += 1;
                return Ok(*next - 1);
            }
            match take_range(store, key, range).await {
                Ok(first) => {
                    // Another session may have taken a range meanwhile: this one then simply comes after what is left of it.
                    let mut ranges = self.ranges.lock();
                    let slot = ranges.entry(key.to_vec()).or_insert((0, 0));
                    if slot.0 >= slot.1 {
                        *slot = (first, first + range);
                    }
                }
                Err(StoreError::DuplicateKey) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Takes a range in a transaction of its own.
async fn take_range<S: Store>(store: &S, key: &[u8], range: i64) -> Result<i64, StoreError> {
    let mut transaction = store.begin(Isolation::ReadCommitted);
    transaction.statement().await?;
    let tree = store.catalog_tree();
    let mut first = 1;
    let written = transaction
        .update_with(tree, key, |value| {
            first = value.try_into().map(i64::from_le_bytes).unwrap_or(1);
            Some((first + range).to_le_bytes().to_vec())
        })
        .await?;
    if !written {
        first = 1;
        transaction
            .insert(tree, key, (first + range).to_le_bytes().to_vec())
            .await?;
    }
    transaction.commit().await?;
    Ok(first)
}

fn counter_key(table: &Table, column: usize) -> Vec<u8> {
    format!("counter/{}/{column}", table.id).into_bytes()
}

/// Inserts a row, answering 23505 with the constraint's name.
pub(super) async fn put<T: StoreTransaction>(
    transaction: &mut T,
    table: &Table,
    key: &[u8],
    value: Vec<u8>,
    row: &[Value],
) -> Result<(), SqlError> {
    transaction
        .insert(table.tree(), key, value)
        .await
        .map_err(|error| match error {
            StoreError::DuplicateKey => table.duplicate(row),
            other => other.into(),
        })
}

/// Inserting rows of given columns into a table, shared by INSERT and COPY.
pub(crate) struct InsertRun<'a> {
    pub table: &'a Table,
    pub targets: &'a [usize],
    pub defaults: &'a [Option<Expr>],
}

impl InsertRun<'_> {
    /// Completes a row with defaults and checks it. `None` values ask for the default.
    pub(crate) async fn complete<S: Store>(
        &self,
        run: &mut Run<'_, S>,
        given: Vec<Option<Value>>,
    ) -> Result<Vec<Value>, SqlError> {
        let mut row: Vec<Option<Value>> = vec![None; self.table.columns.len()];
        for (target, value) in self.targets.iter().zip(given) {
            row[*target] = value;
        }
        let mut complete = Vec::with_capacity(row.len());
        for (index, value) in row.into_iter().enumerate() {
            complete.push(match (value, &self.defaults[index]) {
                (Some(value), _) => value,
                (None, Some(default)) => default.evaluate(run.context(&[]))?,
                (None, None) if self.table.columns[index].sequence => {
                    let key = counter_key(self.table, index);
                    let next = run.counters.next(run.store, &key, SERIAL_RANGE).await?;
                    cast(Value::Int8(next), self.table.columns[index].data_type, false)?
                }
                (None, None) => Value::Null,
            });
        }
        self.table.check(&complete)?;
        Ok(complete)
    }

    /// The key of a complete row.
    pub(crate) async fn key<S: Store>(
        &self,
        run: &mut Run<'_, S>,
        row: &[Value],
    ) -> Result<Vec<u8>, SqlError> {
        if !self.table.primary_key.is_empty() {
            return self.table.row_key(row);
        }
        let number = run
            .counters
            .next(run.store, &row_counter(self.table), ROW_RANGE)
            .await?;
        Ok(number.to_be_bytes().to_vec())
    }

    /// Inserts a complete row that must be new.
    pub(crate) async fn put<S: Store>(&self, run: &mut Run<'_, S>, row: &[Value]) -> Result<(), SqlError> {
        let key = self.key(run, row).await?;
        put(run.transaction, self.table, &key, row::encode(row), row).await
    }
}

/// Rows are numbered per tree: TRUNCATE begins anew.
fn row_counter(table: &Table) -> Vec<u8> {
    format!("rows/{}", table.tree).into_bytes()
}

impl<S: Store> Run<'_, S> {
    pub(super) async fn insert<K: Sink>(&mut self, plan: &InsertPlan, sink: &mut K) -> Result<u64, SqlError> {
        let run = InsertRun {
            table: &plan.table,
            targets: &plan.targets,
            defaults: &plan.defaults,
        };
        let mut count = 0;
        match &plan.source {
            InsertSource::Values(rows) => {
                for exprs in rows {
                    let context = self.context(&[]);
                    let evaluate =
                        |expr: &Option<Expr>| expr.as_ref().map(|expr| expr.evaluate(context)).transpose();
                    let given = exprs.iter().map(evaluate).collect::<Result<_, _>>()?;
                    count += u64::from(self.insert_row(plan, &run, given, sink).await?);
                }
            }
            InsertSource::Select(select) => {
                for row in materialise(self, select).await? {
                    let given = row.into_iter().map(Some).collect();
                    count += u64::from(self.insert_row(plan, &run, given, sink).await?);
                    if count % 1024 == 0 {
                        sink.drain().await?;
                    }
                }
            }
        }
        Ok(count)
    }

    async fn insert_row<K: Sink>(
        &mut self,
        plan: &InsertPlan,
        run: &InsertRun<'_>,
        given: Vec<Option<Value>>,
        sink: &mut K,
    ) -> Result<bool, SqlError> {
        let mut row = run.complete(self, given).await?;
        let Some(conflict) = &plan.conflict else {
            run.put(self, &row).await?;
            self.output(plan.returning.as_ref(), &row, sink)?;
            return Ok(true);
        };
        let key = run.key(self, &row).await?;
        let tree = plan.table.tree();
        loop {
            match self.transaction.insert(tree, &key, row::encode(&row)).await {
                Ok(()) => break,
                Err(StoreError::DuplicateKey) => {}
                Err(error) => return Err(error.into()),
            }
            let Conflict::Update { assignments, filter } = conflict else {
                return Ok(false);
            };
            let (parameters, now) = (self.parameters, self.now);
            let mut found = false;
            let mut outcome: Result<Option<Vec<Value>>, SqlError> = Ok(None);
            let proposed = &row;
            let written = self
                .transaction
                .update_with(tree, &key, |value| {
                    found = true;
                    outcome = merged(
                        &plan.table,
                        value,
                        proposed,
                        assignments,
                        filter.as_ref(),
                        parameters,
                        now,
                    );
                    outcome
                        .as_ref()
                        .ok()
                        .and_then(Option::as_ref)
                        .map(|row| row::encode(row))
                })
                .await?;
            match outcome? {
                Some(new) if written => {
                    row = new;
                    break;
                }
                _ if found => return Ok(false),
                // The row went away between the two steps: insert again.
                _ => {}
            }
        }
        self.output(plan.returning.as_ref(), &row, sink)?;
        Ok(true)
    }
}

/// The row that ON CONFLICT DO UPDATE makes of the existing and the proposed one.
fn merged(
    table: &Table,
    value: &[u8],
    proposed: &[Value],
    assignments: &[(usize, Expr)],
    filter: Option<&Expr>,
    parameters: &[Value],
    now: i64,
) -> Result<Option<Vec<Value>>, SqlError> {
    let mut both = Vec::new();
    row::decode(&table.columns, value, &mut both)?;
    both.extend_from_slice(proposed);
    let context = Context {
        row: &both,
        parameters,
        now,
    };
    if !context.accepts(filter)? {
        return Ok(None);
    }
    let values: Result<Vec<_>, _> = assignments
        .iter()
        .map(|(_, expr)| expr.evaluate(context))
        .collect();
    let values = values?;
    both.truncate(table.columns.len());
    for ((column, _), value) in assignments.iter().zip(values) {
        both[*column] = value;
    }
    table.check(&both)?;
    Ok(Some(both))
}
