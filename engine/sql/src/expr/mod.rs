//! Bound expressions: names are positions, types are settled, so running one cannot meet a name or type error.

mod arithmetic;
mod bind;
mod function;

pub(crate) use arithmetic::arithmetic;
pub(crate) use bind::{
    Aggregate, AggregateKind, Binder, ScopeColumn, fold as fold_ident, object_name, type_of,
};
pub(crate) use function::Function;

use crate::error::SqlError;
use crate::types::{DataType, Value, cast};
use std::cmp::Ordering;

/// + - * / %
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

/// = <> < <= > >=
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterEqual => order.is_ge(),
        }
    }

    /// The comparison with its sides exchanged.
    pub(crate) fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
            same => same,
        }
    }
}

/// An expression.
#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Constant(Value),
    Column(usize),
    Parameter(usize),
    Arithmetic {
        operator: Operator,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    Negate(Box<Expr>),
    Compare {
        comparison: Comparison,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    IsNull {
        expr: Box<Expr>,
        negated: bool,
    },
    IsBoolean {
        expr: Box<Expr>,
        expected: bool,
        negated: bool,
    },
    DistinctFrom {
        left: Box<Expr>,
        right: Box<Expr>,
        negated: bool,
    },
    Cast {
        expr: Box<Expr>,
        target: DataType,
        explicit: bool,
    },
    Concat(Box<Expr>, Box<Expr>),
    Coalesce(Vec<Expr>),
    Case {
        conditions: Vec<(Expr, Expr)>,
        otherwise: Box<Expr>,
    },
    In {
        expr: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    Like {
        expr: Box<Expr>,
        pattern: Box<Expr>,
        negated: bool,
        ignore_case: bool,
    },
    Now(DataType),
    Call {
        function: Function,
        arguments: Vec<Expr>,
    },
}

/// What an expression is evaluated over.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The row.
    pub row: &'a [Value],
    /// Values of `$1`...
    pub parameters: &'a [Value],
    /// Start of the transaction, microseconds since 2000-01-01.
    pub now: i64,
}

impl Context<'_> {
    /// Whether a filter accepts the row: NULL does not.
    pub(crate) fn accepts(&self, filter: Option<&Expr>) -> Result<bool, SqlError> {
        match filter {
            None => Ok(true),
            Some(filter) => Ok(filter.evaluate(*self)? == Value::Boolean(true)),
        }
    }
}

impl Expr {
    /// Evaluates.
    pub(crate) fn evaluate(&self, context: Context) -> Result<Value, SqlError> {
        Ok(match self {
            Self::Constant(value) => value.clone(),
            Self::Column(index) => context.row[*index].clone(),
            Self::Parameter(index) => context
                .parameters
                .get(*index)
                .cloned()
                .ok_or_else(|| SqlError::new("42P02", format!("there is no parameter ${}", index + 1)))?,
            Self::Arithmetic {
                operator,
                left,
                right,
            } => arithmetic(*operator, left.evaluate(context)?, right.evaluate(context)?)?,
            Self::Negate(expr) => arithmetic::negate(expr.evaluate(context)?)?,
            Self::Compare {
                comparison,
                left,
                right,
            } => {
                let (left, right) = (left.evaluate(context)?, right.evaluate(context)?);
                if left.is_null() || right.is_null() {
                    return Ok(Value::Null);
                }
                Value::Boolean(comparison.holds(left.order(&right)))
            }
            Self::Cast {
                expr,
                target,
                explicit,
            } => cast(expr.evaluate(context)?, *target, *explicit)?,
            Self::Concat(left, right) => concat(left.evaluate(context)?, right.evaluate(context)?),
            Self::Coalesce(list) => {
                for expr in list {
                    let value = expr.evaluate(context)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Value::Null
            }
            Self::Case {
                conditions,
                otherwise,
            } => {
                for (condition, result) in conditions {
                    if condition.evaluate(context)? == Value::Boolean(true) {
                        return result.evaluate(context);
                    }
                }
                otherwise.evaluate(context)?
            }
            Self::Now(data_type) => cast(Value::TimestampTz(context.now), *data_type, true)?,
            Self::Call { function, arguments } => {
                let values: Result<Vec<_>, _> = arguments.iter().map(|expr| expr.evaluate(context)).collect();
                function.call(&values?, context)?
            }
            other => other.evaluate_logic(context)?,
        })
    }

    fn evaluate_logic(&self, context: Context) -> Result<Value, SqlError> {
        let three = |value: Option<bool>| value.map_or(Value::Null, Value::Boolean);
        Ok(match self {
            Self::And(left, right) => match truth(left.evaluate(context)?) {
                Some(false) => Value::Boolean(false),
                Some(true) => right.evaluate(context)?,
                None if truth(right.evaluate(context)?) == Some(false) => Value::Boolean(false),
                None => Value::Null,
            },
            Self::Or(left, right) => match truth(left.evaluate(context)?) {
                Some(true) => Value::Boolean(true),
                Some(false) => right.evaluate(context)?,
                None if truth(right.evaluate(context)?) == Some(true) => Value::Boolean(true),
                None => Value::Null,
            },
            Self::Not(expr) => three(truth(expr.evaluate(context)?).map(|value| !value)),
            Self::IsNull { expr, negated } => Value::Boolean(expr.evaluate(context)?.is_null() != *negated),
            Self::IsBoolean {
                expr,
                expected,
                negated,
            } => Value::Boolean((truth(expr.evaluate(context)?) == Some(*expected)) != *negated),
            Self::DistinctFrom { left, right, negated } => {
                let differ = left.evaluate(context)?.order(&right.evaluate(context)?).is_ne();
                Value::Boolean(differ != *negated)
            }
            Self::In { expr, list, negated } => {
                let value = expr.evaluate(context)?;
                if value.is_null() {
                    return Ok(Value::Null);
                }
                let mut found = Some(false);
                for item in list {
                    let item = item.evaluate(context)?;
                    if item.is_null() {
                        found = None;
                    } else if value.order(&item).is_eq() {
                        found = Some(true);
                        break;
                    }
                }
                three(found.map(|found| found != *negated))
            }
            Self::Like {
                expr,
                pattern,
                negated,
                ignore_case,
            } => {
                let (Value::Text(text), Value::Text(pattern)) =
                    (expr.evaluate(context)?, pattern.evaluate(context)?)
                else {
                    return Ok(Value::Null);
                };
                let fold = |text: String| if *ignore_case { text.to_lowercase() } else { text };
                let (text, pattern): (Vec<char>, Vec<char>) =
                    (fold(text).chars().collect(), fold(pattern).chars().collect());
                Value::Boolean(like(&text, &pattern) != *negated)
            }
            other => return Err(SqlError::internal(format!("not a logical expression: {other:?}"))),
        })
    }

    /// Whether no column of a row is needed.
    pub(crate) fn is_row_free(&self) -> bool {
        match self {
            Self::Constant(_) | Self::Parameter(_) | Self::Now(_) => true,
            Self::Cast { expr, .. } | Self::Negate(expr) => expr.is_row_free(),
            Self::Arithmetic { left, right, .. } | Self::Concat(left, right) => {
                left.is_row_free() && right.is_row_free()
            }
            Self::Call { arguments, .. } | Self::Coalesce(arguments) => {
                arguments.iter().all(Self::is_row_free)
            }
            _ => false,
        }
    }
}

fn truth(value: Value) -> Option<bool> {
    match value {
        Value::Boolean(value) => Some(value),
        _ => None,
    }
}

fn concat(left: Value, right: Value) -> Value {
    match (left, right) {
        (Value::Text(mut left), Value::Text(right)) => {
            left.push_str(&right);
            Value::Text(left)
        }
        (Value::Bytes(mut left), Value::Bytes(right)) => {
            left.extend_from_slice(&right);
            Value::Bytes(left)
        }
        _ => Value::Null,
    }
}

/// `%` is any text, `_` one character, `\` escapes. Backtracks to the last `%` only, so it is at most quadratic.
fn like(text: &[char], pattern: &[char]) -> bool {
    let (mut at, mut pattern_at, mut retry) = (0, 0, None);
    loop {
        match pattern.get(pattern_at) {
            Some('%') => {
                retry = Some((at, pattern_at));
                pattern_at += 1;
                continue;
            }
            Some('_') if at < text.len() => {
                (at, pattern_at) = (at + 1, pattern_at + 1);
                continue;
            }
            Some('\\') if pattern_at + 1 < pattern.len() && text.get(at) == pattern.get(pattern_at + 1) => {
                (at, pattern_at) = (at + 1, pattern_at + 2);
                continue;
            }
            Some(character) if !matches!(character, '_' | '\\') && text.get(at) == Some(character) => {
                (at, pattern_at) = (at + 1, pattern_at + 1);
                continue;
            }
            None if at == text.len() => return true,
            _ => {}
        }
        match retry {
            Some((start, star)) if start < text.len() => {
                retry = Some((start + 1, star));
                (at, pattern_at) = (start + 1, star + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn like_matches_as_sql_does() {
        let like = |text: &str, pattern: &str| {
            super::like(
                &text.chars().collect::<Vec<_>>(),
                &pattern.chars().collect::<Vec<_>>(),
            )
        };
        assert!(like("abcde", "a%d_"));
        assert!(like("a%b", "a\\%b"));
        assert!(!like("axb", "a\\%b"));
        assert!(like("", "%"));
        assert!(!like("abc", "ab"));
    }
}
