//! GROUP BY and aggregates: groups in memory, keyed by the text of their values, in order of first appearance.

use crate::error::SqlError;
use crate::expr::{Aggregate, AggregateKind, Context, Operator, arithmetic};
use crate::plan::Grouping;
use crate::types::Value;
use bigdecimal::BigDecimal;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default, Clone)]
struct State {
    count: i64,
    value: Option<Value>,
    seen: BTreeSet<Vec<u8>>,
}

/// The groups so far.
pub(super) struct Groups<'a> {
    plan: &'a Grouping,
    index: BTreeMap<Vec<u8>, usize>,
    groups: Vec<(Vec<Value>, Vec<State>)>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(plan: &'a Grouping) -> Self {
        let mut groups = Self {
            plan,
            index: BTreeMap::new(),
            groups: Vec::new(),
        };
        if plan.keys.is_empty() {
            groups.index.insert(crate::row::encode(&[]), 0);
            groups
                .groups
                .push((Vec::new(), vec![State::default(); plan.aggregates.len()]));
        }
        groups
    }

    pub(super) fn add(&mut self, context: Context) -> Result<(), SqlError> {
        let keys: Vec<Value> = self
            .plan
            .keys
            .iter()
            .map(|expr| expr.evaluate(context))
            .collect::<Result<_, _>>()?;
        let at = match self.index.get(&identity(&keys)) {
            Some(at) => *at,
            None => {
                self.index.insert(identity(&keys), self.groups.len());
                self.groups
                    .push((keys, vec![State::default(); self.plan.aggregates.len()]));
                self.groups.len() - 1
            }
        };
        for (aggregate, state) in self.plan.aggregates.iter().zip(&mut self.groups[at].1) {
            state.add(aggregate, context)?;
        }
        Ok(())
    }

    /// Rows of (keys, aggregates).
    pub(super) fn finish(self) -> Result<Vec<Vec<Value>>, SqlError> {
        let plan = self.plan;
        let finish = |(mut row, states): (Vec<Value>, Vec<State>)| {
            for (aggregate, state) in plan.aggregates.iter().zip(states) {
                row.push(state.finish(aggregate)?);
            }
            Ok(row)
        };
        self.groups.into_iter().map(finish).collect()
    }
}

/// Bytes that are equal for equal values: numerics lose their trailing zeros.
pub(super) fn identity(values: &[Value]) -> Vec<u8> {
    let plain = |value: &Value| match value {
        Value::Numeric(value) => Value::Numeric(value.normalized()),
        Value::Double(value) if *value == 0.0 => Value::Double(0.0),
        other => other.clone(),
    };
    crate::row::encode(&values.iter().map(plain).collect::<Vec<_>>())
}

impl State {
    fn add(&mut self, aggregate: &Aggregate, context: Context) -> Result<(), SqlError> {
        if !context.accepts(aggregate.filter.as_ref())? {
            return Ok(());
        }
        let Some(argument) = &aggregate.argument else {
            self.count += 1;
            return Ok(());
        };
        let value = argument.evaluate(context)?;
        if value.is_null()
            || (aggregate.distinct && !self.seen.insert(identity(std::slice::from_ref(&value))))
        {
            return Ok(());
        }
        self.count += 1;
        let Some(old) = self.value.take() else {
            self.value = Some(value);
            return Ok(());
        };
        self.value = Some(match aggregate.kind {
            AggregateKind::Count => old,
            AggregateKind::Sum | AggregateKind::Average => arithmetic(Operator::Add, old, value)?,
            AggregateKind::Min if value.order(&old).is_lt() => value,
            AggregateKind::Max if value.order(&old).is_gt() => value,
            AggregateKind::Min | AggregateKind::Max => old,
            AggregateKind::Every => {
                Value::Boolean(old == Value::Boolean(true) && value == Value::Boolean(true))
            }
            AggregateKind::Any => {
                Value::Boolean(old == Value::Boolean(true) || value == Value::Boolean(true))
            }
            AggregateKind::StringAggregate => {
                let separator = aggregate
                    .separator
                    .as_ref()
                    .map(|expr| expr.evaluate(context))
                    .transpose()?;
                let mut text = old.to_text().unwrap_or_default();
                text.push_str(&separator.and_then(|value| value.to_text()).unwrap_or_default());
                text.push_str(&value.to_text().unwrap_or_default());
                Value::Text(text)
            }
        });
        Ok(())
    }

    fn finish(self, aggregate: &Aggregate) -> Result<Value, SqlError> {
        match (aggregate.kind, self.value) {
            (AggregateKind::Count, _) => Ok(Value::Int8(self.count)),
            (_, None) => Ok(Value::Null),
            (AggregateKind::Average, Some(Value::Double(sum))) => Ok(Value::Double(sum / self.count as f64)),
            (AggregateKind::Average, Some(sum)) => arithmetic(
                Operator::Divide,
                sum,
                Value::Numeric(BigDecimal::from(self.count)),
            ),
            (_, Some(value)) => Ok(value),
        }
    }
}
