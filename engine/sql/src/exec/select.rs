//! SELECT: filter, group, order, limit.

use super::aggregate::{Groups, identity};
use super::{Run, Sink};
use crate::error::SqlError;
use crate::expr::{Context, Expr};
use crate::plan::{OrderItem, SelectPlan, Source};
use crate::row;
use crate::store::{Store, StoreTransaction};
use crate::types::Value;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// A sink that keeps the rows.
struct Kept(Vec<Vec<Value>>);

impl Sink for Kept {
    fn row(&mut self, values: &[Value]) -> Result<(), SqlError> {
        self.0.push(values.to_vec());
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), SqlError> {
        Ok(())
    }
}

/// All rows of a query.
pub(crate) async fn materialise<S: Store>(
    run: &mut Run<'_, S>,
    plan: &SelectPlan,
) -> Result<Vec<Vec<Value>>, SqlError> {
    let mut kept = Kept(Vec::new());
    run.select(plan, &mut kept).await?;
    Ok(kept.0)
}

/// Passes output rows on: DISTINCT, ORDER BY, OFFSET, LIMIT.
struct Tail<'a> {
    plan: &'a SelectPlan,
    skip: u64,
    left: u64,
    sent: u64,
    seen: BTreeSet<Vec<u8>>,
    sorting: Vec<(Vec<Value>, Vec<Value>)>,
}

impl Tail<'_> {
    /// False when no more rows are wanted.
    fn take<K: Sink>(&mut self, context: Context, sink: &mut K) -> Result<bool, SqlError> {
        let plan = self.plan;
        // Rows before the offset need not be computed.
        if plan.order.is_empty() && !plan.distinct {
            if self.skip > 0 {
                self.skip -= 1;
                return Ok(true);
            }
            if self.left == 0 {
                return Ok(false);
            }
        }
        let evaluate = |expr: &Expr| expr.evaluate(context);
        let row = plan
            .output
            .expressions
            .iter()
            .map(evaluate)
            .collect::<Result<Vec<_>, _>>()?;
        if plan.distinct && !self.seen.insert(identity(&row)) {
            return Ok(true);
        }
        if !plan.order.is_empty() {
            let keys = plan
                .order
                .iter()
                .map(|item| item.expr.evaluate(context))
                .collect::<Result<_, _>>()?;
            self.sorting.push((keys, row));
            return Ok(true);
        }
        self.send(&row, sink)
    }

    fn send<K: Sink>(&mut self, row: &[Value], sink: &mut K) -> Result<bool, SqlError> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(true);
        }
        if self.left == 0 {
            return Ok(false);
        }
        sink.row(row)?;
        self.left -= 1;
        self.sent += 1;
        Ok(self.left > 0)
    }

    async fn finish<K: Sink>(mut self, sink: &mut K) -> Result<u64, SqlError> {
        let order = &self.plan.order;
        let mut rows = std::mem::take(&mut self.sorting);
        rows.sort_by(|(left, _), (right, _)| compare(order, left, right));
        for (index, (_, row)) in rows.iter().enumerate() {
            if !self.send(row, sink)? {
                break;
            }
            if index % 1024 == 1023 {
                sink.drain().await?;
            }
        }
        Ok(self.sent)
    }
}

fn compare(order: &[OrderItem], left: &[Value], right: &[Value]) -> Ordering {
    for (item, (left, right)) in order.iter().zip(left.iter().zip(right)) {
        let ordering = match (left.is_null(), right.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) if item.nulls_first => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, true) if item.nulls_first => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ if item.descending => right.order(left),
            _ => left.order(right),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
    Ordering::Equal
}

impl<S: Store> Run<'_, S> {
    fn count(&self, expr: Option<&Expr>, name: &str) -> Result<Option<u64>, SqlError> {
        match expr.map(|expr| expr.evaluate(self.context(&[]))).transpose()? {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Int8(count)) if count >= 0 => Ok(Some(count as u64)),
            Some(_) => Err(SqlError::new("2201W", format!("{name} must not be negative"))),
        }
    }

    /// Runs a SELECT.
    pub(crate) async fn select<K: Sink>(&mut self, plan: &SelectPlan, sink: &mut K) -> Result<u64, SqlError> {
        let limit = self.count(plan.limit.as_ref(), "LIMIT")?;
        let skip = self.count(plan.offset.as_ref(), "OFFSET")?.unwrap_or(0);
        let mut tail = Tail {
            plan,
            skip,
            left: limit.unwrap_or(u64::MAX),
            sent: 0,
            seen: BTreeSet::new(),
            sorting: Vec::new(),
        };
        if limit == Some(0) {
            return Ok(0);
        }
        let Some(grouping) = &plan.grouping else {
            let (parameters, now) = (self.parameters, self.now);
            let each = |row: &[Value], sink: &mut K, tail: &mut Tail| {
                tail.take(Context { row, parameters, now }, sink)
            };
            self.rows(plan, sink, &mut tail, each).await?;
            return tail.finish(sink).await;
        };
        let mut groups = Groups::new(grouping);
        let (parameters, now) = (self.parameters, self.now);
        let each = |row: &[Value], _: &mut K, groups: &mut Groups| {
            groups.add(Context { row, parameters, now }).map(|()| true)
        };
        self.rows(plan, sink, &mut groups, each).await?;
        for row in groups.finish()? {
            let context = Context {
                row: &row,
                parameters,
                now,
            };
            if context.accepts(grouping.having.as_ref())? && !tail.take(context, sink)? {
                break;
            }
        }
        tail.finish(sink).await
    }

    /// Calls `each` for every row that the filter accepts until it answers false.
    async fn rows<K: Sink, A: Send>(
        &mut self,
        plan: &SelectPlan,
        sink: &mut K,
        state: &mut A,
        each: impl Fn(&[Value], &mut K, &mut A) -> Result<bool, SqlError> + Send,
    ) -> Result<(), SqlError> {
        let filter = plan.filter.as_ref();
        match &plan.source {
            Source::Nothing => {
                if self.context(&[]).accepts(filter)? {
                    each(&[], sink, state)?;
                }
            }
            Source::Table { table, path } => {
                let mut cursor = self.cursor(table, path, plan.reverse)?;
                if filter.is_none()
                    && plan.order.is_empty()
                    && plan.grouping.is_none()
                    && !plan.distinct
                    && let Some(limit) = self.count(plan.limit.as_ref(), "LIMIT")?
                {
                    let skip = self.count(plan.offset.as_ref(), "OFFSET")?.unwrap_or(0);
                    cursor.limit(limit.saturating_add(skip).min(1 << 20) as usize);
                }
                let mut row = Vec::new();
                loop {
                    let pairs = cursor.next(self.transaction).await?;
                    if pairs.is_empty() {
                        break;
                    }
                    for (key, value) in pairs {
                        row::decode(&table.columns, &value, &mut row)?;
                        if !self.context(&row).accepts(filter)? {
                            continue;
                        }
                        if plan.for_update {
                            let Some(newest) = self.transaction.get_for_update(table.tree(), &key).await?
                            else {
                                continue;
                            };
                            row::decode(&table.columns, &newest, &mut row)?;
                            if !self.context(&row).accepts(filter)? {
                                continue;
                            }
                        }
                        if !each(&row, sink, state)? {
                            return Ok(());
                        }
                    }
                    sink.drain().await?;
                }
            }
            Source::View(view) => self.list((view.rows)(&self.views), filter, sink, state, each)?,
            Source::Rows(rows) => {
                for exprs in rows {
                    let context = self.context(&[]);
                    let row = exprs
                        .iter()
                        .map(|expr| expr.evaluate(context))
                        .collect::<Result<Vec<_>, _>>()?;
                    if !each(&row, sink, state)? {
                        break;
                    }
                }
            }
            Source::Series(bounds) => self.series(bounds, filter, sink, state, each).await?,
        }
        Ok(())
    }

    /// The numbers of generate_series.
    async fn series<K: Sink, A: Send>(
        &mut self,
        bounds: &[Expr; 3],
        filter: Option<&Expr>,
        sink: &mut K,
        state: &mut A,
        each: impl Fn(&[Value], &mut K, &mut A) -> Result<bool, SqlError> + Send,
    ) -> Result<(), SqlError> {
        let mut numbers = [0i64; 3];
        for (slot, expr) in numbers.iter_mut().zip(bounds.iter()) {
            match expr.evaluate(self.context(&[]))? {
                Value::Int8(value) => *slot = value,
                _ => return Ok(()),
            }
        }
        let [start, stop, step] = numbers;
        if step == 0 {
            return Err(SqlError::new("22023", "step size cannot equal zero"));
        }
        let mut at = Some(start);
        let mut made = 0u64;
        while let Some(value) = at.filter(|value| if step > 0 { *value <= stop } else { *value >= stop }) {
            let row = [Value::Int8(value)];
            if self.context(&row).accepts(filter)? && !each(&row, sink, state)? {
                break;
            }
            made += 1;
            if made.is_multiple_of(1024) {
                sink.drain().await?;
            }
            at = value.checked_add(step);
        }
        Ok(())
    }

    fn list<K: Sink, A>(
        &self,
        rows: Vec<Vec<Value>>,
        filter: Option<&Expr>,
        sink: &mut K,
        state: &mut A,
        each: impl Fn(&[Value], &mut K, &mut A) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError> {
        for row in rows {
            if self.context(&row).accepts(filter)? && !each(&row, sink, state)? {
                break;
            }
        }
        Ok(())
    }
}
