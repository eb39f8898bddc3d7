//! Which keys a condition leaves: the primary key's columns in order, equal first, then one range.

use crate::catalog::Table;
use crate::error::SqlError;
use crate::expr::{Comparison, Context, Expr};
use crate::key;
use crate::store::KeyRange;
use crate::types::Value;
use std::ops::Bound;

/// How rows are reached.
#[derive(Debug, Clone)]
pub(crate) enum Path {
    /// The whole key is given.
    Point(Vec<Expr>),
    /// A key of one column is one of these.
    Points(Vec<Expr>),
    /// Leading columns are given, the next is between bounds.
    Range {
        equal: Vec<Expr>,
        lower: Option<(Expr, bool)>,
        upper: Option<(Expr, bool)>,
    },
}

/// The keys of a path.
pub(crate) enum Keys {
    List(Vec<Vec<u8>>),
    Range(KeyRange),
}

/// Takes what the key answers out of a filter; gives the path and the residual filter.
pub(crate) fn choose(table: &Table, filter: Option<Expr>) -> (Path, Option<Expr>) {
    let mut conjuncts = Vec::new();
    if let Some(filter) = filter {
        split(filter, &mut conjuncts);
    }
    let mut equal = Vec::new();
    for &column in &table.primary_key {
        let Some(at) = conjuncts
            .iter()
            .position(|expr| bound_of(expr, column, &[Comparison::Equal]).is_some())
        else {
            break;
        };
        let (_, value) = bound_of(&conjuncts[at], column, &[Comparison::Equal]).expect("found above");
        equal.push(value);
        conjuncts.remove(at);
    }
    let rest = |conjuncts: Vec<Expr>| {
        conjuncts
            .into_iter()
            .reduce(|left, right| Expr::And(Box::new(left), Box::new(right)))
    };
    let Some(&next) = table.primary_key.get(equal.len()) else {
        let path = if equal.is_empty() {
            Path::Range {
                equal,
                lower: None,
                upper: None,
            }
        } else {
            Path::Point(equal)
        };
        return (path, rest(conjuncts));
    };
    if table.primary_key.len() == 1
        && let Some(at) = conjuncts.iter().position(|expr| is_list(expr, next))
        && let Expr::In { list, .. } = conjuncts.remove(at)
    {
        return (Path::Points(list), rest(conjuncts));
    }
    let mut take = |comparisons: &[Comparison]| {
        let at = conjuncts
            .iter()
            .position(|expr| bound_of(expr, next, comparisons).is_some())?;
        let bound = bound_of(&conjuncts[at], next, comparisons);
        conjuncts.remove(at);
        bound
    };
    let lower = take(&[Comparison::Greater, Comparison::GreaterEqual])
        .map(|(comparison, value)| (value, comparison == Comparison::GreaterEqual));
    let upper = take(&[Comparison::Less, Comparison::LessEqual])
        .map(|(comparison, value)| (value, comparison == Comparison::LessEqual));
    (Path::Range { equal, lower, upper }, rest(conjuncts))
}

fn split(filter: Expr, conjuncts: &mut Vec<Expr>) {
    match filter {
        Expr::And(left, right) => {
            split(*left, conjuncts);
            split(*right, conjuncts);
        }
        other => conjuncts.push(other),
    }
}

fn is_list(expr: &Expr, column: usize) -> bool {
    matches!(expr, Expr::In { expr, list, negated: false }
        if matches!(**expr, Expr::Column(index) if index == column) && list.iter().all(Expr::is_row_free))
}

/// `column OP value` or `value OP column` with one of these comparisons.
fn bound_of(expr: &Expr, column: usize, wanted: &[Comparison]) -> Option<(Comparison, Expr)> {
    let Expr::Compare {
        comparison,
        left,
        right,
    } = expr
    else {
        return None;
    };
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(index) if *index == column);
    let (comparison, value) = if is_column(left) && right.is_row_free() {
        (*comparison, right)
    } else if is_column(right) && left.is_row_free() {
        (comparison.flipped(), left)
    } else {
        return None;
    };
    wanted
        .contains(&comparison)
        .then(|| (comparison, (**value).clone()))
}

impl Path {
    /// Evaluates the path. A NULL anywhere leaves no keys.
    pub(crate) fn keys(&self, context: Context) -> Result<Keys, SqlError> {
        match self {
            Self::Point(values) => Ok(match encode(values, context)? {
                Some(key) => Keys::List(vec![key]),
                None => Keys::List(Vec::new()),
            }),
            Self::Points(values) => {
                let mut keys = Vec::with_capacity(values.len());
                for value in values {
                    keys.extend(encode(std::slice::from_ref(value), context)?);
                }
                keys.sort();
                keys.dedup();
                Ok(Keys::List(keys))
            }
            Self::Range { equal, lower, upper } => {
                let none = Ok(Keys::List(Vec::new()));
                let Some(prefix) = encode(equal, context)? else {
                    return none;
                };
                let mut range = prefix_range(prefix.clone());
                if let Some((value, inclusive)) = lower {
                    let Some(key) = extend(&prefix, value, context)? else {
                        return none;
                    };
                    // Beyond all keys that begin with the bound, unless the bound itself belongs to the range.
                    range.0 = match if *inclusive {
                        Some(key)
                    } else {
                        key::successor(key)
                    } {
                        Some(key) => Bound::Included(key),
                        None => return none,
                    };
                }
                if let Some((value, inclusive)) = upper {
                    let Some(key) = extend(&prefix, value, context)? else {
                        return none;
                    };
                    range.1 = match if *inclusive {
                        key::successor(key)
                    } else {
                        Some(key)
                    } {
                        Some(key) => Bound::Excluded(key),
                        None => Bound::Unbounded,
                    };
                }
                Ok(Keys::Range(range))
            }
        }
    }
}

/// All keys that begin with `prefix`.
pub(crate) fn prefix_range(prefix: Vec<u8>) -> KeyRange {
    let upper = key::successor(prefix.clone()).map_or(Bound::Unbounded, Bound::Excluded);
    (
        if prefix.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Included(prefix)
        },
        upper,
    )
}

fn encode(values: &[Expr], context: Context) -> Result<Option<Vec<u8>>, SqlError> {
    let mut key = Vec::with_capacity(values.len() * 8);
    for value in values {
        match value.evaluate(context)? {
            Value::Null => return Ok(None),
            value => key::encode(&value, &mut key)?,
        }
    }
    Ok(Some(key))
}

fn extend(prefix: &[u8], value: &Expr, context: Context) -> Result<Option<Vec<u8>>, SqlError> {
    Ok(encode(std::slice::from_ref(value), context)?.map(|tail| [prefix, &tail].concat()))
}
