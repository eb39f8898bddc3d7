//! Arithmetic with PostgreSQL's overflow and division errors.

use super::Operator;
use crate::error::SqlError;
use crate::types::{Interval, Value, datetime};
use bigdecimal::{BigDecimal, RoundingMode, Zero};

/// Applies an operator to two values that the binder made compatible.
pub(crate) fn arithmetic(operator: Operator, left: Value, right: Value) -> Result<Value, SqlError> {
    Ok(match (left, right) {
        (Value::Null, _) | (_, Value::Null) => Value::Null,
        (Value::Int2(left), Value::Int2(right)) => {
            let value = integer(operator, i64::from(left), i64::from(right), "smallint")?;
            Value::Int2(value.try_into().map_err(|_| SqlError::out_of_range("smallint"))?)
        }
        (Value::Int4(left), Value::Int4(right)) => {
            let value = integer(operator, i64::from(left), i64::from(right), "integer")?;
            Value::Int4(value.try_into().map_err(|_| SqlError::out_of_range("integer"))?)
        }
        (Value::Int8(left), Value::Int8(right)) => Value::Int8(integer(operator, left, right, "bigint")?),
        (Value::Real(left), Value::Real(right)) => {
            Value::Real(float(operator, f64::from(left), f64::from(right), |value| {
                f64::from(value as f32)
            })? as f32)
        }
        (Value::Double(left), Value::Double(right)) => {
            Value::Double(float(operator, left, right, |value| value)?)
        }
        (Value::Numeric(left), Value::Numeric(right)) => Value::Numeric(numeric(operator, &left, &right)?),
        (left, right) => moment(operator, left, right)?,
    })
}

pub(crate) fn negate(value: Value) -> Result<Value, SqlError> {
    Ok(match value {
        Value::Null => Value::Null,
        Value::Int2(value) => Value::Int2(
            value
                .checked_neg()
                .ok_or_else(|| SqlError::out_of_range("smallint"))?,
        ),
        Value::Int4(value) => Value::Int4(
            value
                .checked_neg()
                .ok_or_else(|| SqlError::out_of_range("integer"))?,
        ),
        Value::Int8(value) => Value::Int8(
            value
                .checked_neg()
                .ok_or_else(|| SqlError::out_of_range("bigint"))?,
        ),
        Value::Real(value) => Value::Real(-value),
        Value::Double(value) => Value::Double(-value),
        Value::Numeric(value) => Value::Numeric(-value),
        Value::Interval(value) => Value::Interval(minus(value)),
        other => return Err(SqlError::internal(format!("cannot negate {other:?}"))),
    })
}

fn division_by_zero() -> SqlError {
    SqlError::new("22012", "division by zero")
}

fn integer(operator: Operator, left: i64, right: i64, name: &str) -> Result<i64, SqlError> {
    if matches!(operator, Operator::Divide | Operator::Modulo) && right == 0 {
        return Err(division_by_zero());
    }
    match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide => left.checked_div(right),
        Operator::Modulo => Some(left.wrapping_rem(right)),
    }
    .ok_or_else(|| SqlError::out_of_range(name))
}

fn float(operator: Operator, left: f64, right: f64, round: impl Fn(f64) -> f64) -> Result<f64, SqlError> {
    let value = round(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide | Operator::Modulo if right == 0.0 => return Err(division_by_zero()),
        Operator::Divide => left / right,
        Operator::Modulo => left % right,
    });
    if value.is_infinite() && left.is_finite() && right.is_finite() {
        return Err(SqlError::new("22003", "value out of range: overflow"));
    }
    Ok(value)
}

fn numeric(operator: Operator, left: &BigDecimal, right: &BigDecimal) -> Result<BigDecimal, SqlError> {
    if matches!(operator, Operator::Divide | Operator::Modulo) && right.is_zero() {
        return Err(division_by_zero());
    }
    Ok(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Modulo => left % right,
        Operator::Divide => divide(left, right),
    })
}

/// Scale as PostgreSQL chooses it: at least 16 significant digits, counted in digits of base 10000, and the scale of either side.
pub(crate) fn divide(left: &BigDecimal, right: &BigDecimal) -> BigDecimal {
    let ((left_weight, left_first), (right_weight, right_first)) = (leading(left), leading(right));
    let weight = left_weight - right_weight - i64::from(left_first <= right_first);
    let scale = (16 - weight * 4)
        .max(left.fractional_digit_count())
        .max(right.fractional_digit_count())
        .clamp(0, 1000);
    let quotient = left.with_scale(left.fractional_digit_count().max(0) + scale + 4) / right;
    quotient.with_scale_round(scale, RoundingMode::HalfUp)
}

/// Weight and value of the first digit of base 10000.
fn leading(value: &BigDecimal) -> (i64, u32) {
    let (digits, scale) = value.as_bigint_and_exponent();
    let digits = digits.magnitude().to_str_radix(10);
    let last = digits.len() as i64 - scale - 1;
    let count = last.rem_euclid(4) as usize + 1;
    let first: String = digits.chars().chain(std::iter::repeat('0')).take(count).collect();
    (last.div_euclid(4), first.parse().unwrap_or(0))
}

fn minus(value: Interval) -> Interval {
    Interval {
        months: value.months.wrapping_neg(),
        days: value.days.wrapping_neg(),
        micros: value.micros.wrapping_neg(),
    }
}

fn moment(operator: Operator, left: Value, right: Value) -> Result<Value, SqlError> {
    use Operator::{Add, Divide, Multiply, Subtract};
    let range = || SqlError::new("22008", "timestamp out of range");
    let shift = |micros, interval| datetime::add_interval(micros, interval).ok_or_else(range);
    Ok(match (left, operator, right) {
        (Value::Date(left), Add, Value::Int4(right)) | (Value::Int4(right), Add, Value::Date(left)) => {
            Value::Date(left.checked_add(right).ok_or_else(range)?)
        }
        (Value::Date(left), Subtract, Value::Int4(right)) => {
            Value::Date(left.checked_sub(right).ok_or_else(range)?)
        }
        (Value::Date(left), Subtract, Value::Date(right)) => {
            Value::Int4(left.checked_sub(right).ok_or_else(range)?)
        }
        (Value::Timestamp(left), Subtract, Value::Timestamp(right))
        | (Value::TimestampTz(left), Subtract, Value::TimestampTz(right)) => {
            let micros = left.checked_sub(right).ok_or_else(range)?;
            let days = (micros / datetime::DAY) as i32;
            Value::Interval(Interval {
                months: 0,
                days,
                micros: micros % datetime::DAY,
            })
        }
        (Value::Timestamp(at), Add, Value::Interval(by))
        | (Value::Interval(by), Add, Value::Timestamp(at)) => Value::Timestamp(shift(at, by)?),
        (Value::Timestamp(at), Subtract, Value::Interval(by)) => Value::Timestamp(shift(at, minus(by))?),
        (Value::TimestampTz(at), Add, Value::Interval(by))
        | (Value::Interval(by), Add, Value::TimestampTz(at)) => Value::TimestampTz(shift(at, by)?),
        (Value::TimestampTz(at), Subtract, Value::Interval(by)) => Value::TimestampTz(shift(at, minus(by))?),
        (Value::Interval(left), Add | Subtract, Value::Interval(right)) => {
            let right = if operator == Subtract { minus(right) } else { right };
            Value::Interval(Interval {
                months: left.months.checked_add(right.months).ok_or_else(range)?,
                days: left.days.checked_add(right.days).ok_or_else(range)?,
                micros: left.micros.checked_add(right.micros).ok_or_else(range)?,
            })
        }
        (Value::Interval(by), Multiply, Value::Double(factor))
        | (Value::Double(factor), Multiply, Value::Interval(by)) => scale(by, factor),
        (Value::Interval(_), Divide, Value::Double(0.0)) => return Err(division_by_zero()),
        (Value::Interval(by), Divide, Value::Double(factor)) => scale(by, 1.0 / factor),
        (left, _, right) => {
            return Err(SqlError::new(
                "42883",
                format!("operator does not exist for {left:?} and {right:?}"),
            ));
        }
    })
}

fn scale(by: Interval, factor: f64) -> Value {
    let months = f64::from(by.months) * factor;
    let days = f64::from(by.days) * factor + months.fract() * 30.0;
    let micros = by.micros as f64 * factor + days.fract() * datetime::DAY as f64;
    Value::Interval(Interval {
        months: months as i32,
        days: days as i32,
        micros: micros.round() as i64,
    })
}
