//! Conversion between types, and fitting a value to a column's length, precision and scale.

use super::datetime::DAY;
use super::{DataType, Value, parse_text};
use crate::error::SqlError;
use bigdecimal::{BigDecimal, FromPrimitive, RoundingMode, ToPrimitive};
use std::borrow::Cow;

/// Converts `value` to `target`. An explicit cast cuts text that is too long, an assignment refuses it.
pub fn cast(value: Value, target: DataType, explicit: bool) -> Result<Value, SqlError> {
    let converted = match (value, target) {
        (Value::Null, _) => return Ok(Value::Null),
        (value, DataType::Unknown) => value,
        (Value::Text(text), _) if !target.is_text() => return parse_text(target, &text),
        (value @ Value::Text(_), _) => value,
        (value, DataType::Text | DataType::Varchar(_) | DataType::Char(_)) => {
            let text = match value {
                Value::Boolean(value) => value.to_string(),
                value => value.to_text().expect("NULL was answered above"),
            };
            Value::Text(text)
        }
        (Value::Boolean(value), DataType::Integer) => Value::Int4(i32::from(value)),
        (Value::Int4(value), DataType::Boolean) => Value::Boolean(value != 0),
        (
            value @ (Value::Int2(_)
            | Value::Int4(_)
            | Value::Int8(_)
            | Value::Real(_)
            | Value::Double(_)
            | Value::Numeric(_)),
            _,
        ) => number(value, target)?,
        (value, _) => moment(value, target)?,
    };
    fit(converted, target, explicit)
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int2(value) => Some(i64::from(*value)),
        Value::Int4(value) => Some(i64::from(*value)),
        Value::Int8(value) => Some(*value),
        Value::Real(value) => float_to_integer(f64::from(*value)),
        Value::Double(value) => float_to_integer(*value),
        Value::Numeric(value) => value.with_scale_round(0, RoundingMode::HalfUp).to_i64(),
        _ => None,
    }
}

fn float_to_integer(value: f64) -> Option<i64> {
    let rounded = value.round_ties_even();
    // 2^63 itself is out of range, -2^63 is not.
    (-(2f64.powi(63))..2f64.powi(63))
        .contains(&rounded)
        .then_some(rounded as i64)
}

pub(crate) fn to_double(value: &Value) -> f64 {
    match value {
        Value::Int2(value) => f64::from(*value),
        Value::Int4(value) => f64::from(*value),
        Value::Int8(value) => *value as f64,
        Value::Real(value) => f64::from(*value),
        Value::Double(value) => *value,
        Value::Numeric(value) => value.to_f64().unwrap_or(f64::NAN),
        _ => f64::NAN,
    }
}

fn number(value: Value, target: DataType) -> Result<Value, SqlError> {
    let range = || SqlError::out_of_range(target.name());
    Ok(match target {
        DataType::SmallInt => Value::Int2(
            integer(&value)
                .and_then(|value| value.try_into().ok())
                .ok_or_else(range)?,
        ),
        DataType::Integer => Value::Int4(
            integer(&value)
                .and_then(|value| value.try_into().ok())
                .ok_or_else(range)?,
        ),
        DataType::BigInt => Value::Int8(integer(&value).ok_or_else(range)?),
        DataType::Real => Value::Real(match value {
            Value::Real(value) => value,
            other => to_double(&other) as f32,
        }),
        DataType::Double => Value::Double(to_double(&value)),
        DataType::Numeric(_) => Value::Numeric(match value {
            Value::Numeric(value) => value,
            Value::Int2(value) => value.into(),
            Value::Int4(value) => value.into(),
            Value::Int8(value) => value.into(),
            Value::Real(value) => value.to_string().parse().map_err(|_| range())?,
            other => BigDecimal::from_f64(to_double(&other))
                .map(|value| shorten(&value))
                .ok_or_else(range)?,
        }),
        _ => return Err(cannot(&value, target)),
    })
}

/// A double has 15 significant digits when it becomes a numeric.
fn shorten(value: &BigDecimal) -> BigDecimal {
    value.with_prec(15).normalized()
}

fn moment(value: Value, target: DataType) -> Result<Value, SqlError> {
    Ok(match (value, target) {
        (Value::Boolean(value), DataType::Boolean) => Value::Boolean(value),
        (Value::Date(days), DataType::Timestamp) => Value::Timestamp(i64::from(days) * DAY),
        (Value::Date(days), DataType::TimestampTz) => Value::TimestampTz(i64::from(days) * DAY),
        (Value::Timestamp(micros), DataType::TimestampTz) => Value::TimestampTz(micros),
        (Value::TimestampTz(micros), DataType::Timestamp) => Value::Timestamp(micros),
        (Value::Timestamp(micros) | Value::TimestampTz(micros), DataType::Date) => {
            Value::Date(i32::try_from(micros.div_euclid(DAY)).map_err(|_| SqlError::out_of_range("date"))?)
        }
        (Value::Timestamp(micros) | Value::TimestampTz(micros), DataType::Time) => {
            Value::Time(micros.rem_euclid(DAY))
        }
        (Value::Interval(interval), DataType::Time) => Value::Time(interval.micros.rem_euclid(DAY)),
        (Value::Time(micros), DataType::Interval) => Value::Interval(super::Interval {
            micros,
            ..Default::default()
        }),
        (value @ Value::Date(_), DataType::Date)
        | (value @ Value::Time(_), DataType::Time)
        | (value @ Value::Timestamp(_), DataType::Timestamp)
        | (value @ Value::TimestampTz(_), DataType::TimestampTz)
        | (value @ Value::Interval(_), DataType::Interval)
        | (value @ Value::Uuid(_), DataType::Uuid)
        | (value @ Value::Bytes(_), DataType::Bytea) => value,
        (value, target) => return Err(cannot(&value, target)),
    })
}

fn cannot(value: &Value, target: DataType) -> SqlError {
    let kind = match value {
        Value::Boolean(_) => "boolean",
        Value::Bytes(_) => "bytea",
        Value::Date(_) => "date",
        Value::Time(_) => "time",
        Value::Timestamp(_) => "timestamp",
        Value::TimestampTz(_) => "timestamp with time zone",
        Value::Interval(_) => "interval",
        Value::Uuid(_) => "uuid",
        _ => "this type",
    };
    SqlError::new("42846", format!("cannot cast type {kind} to {}", target.name()))
}

/// Applies length, precision and scale.
pub fn fit(value: Value, target: DataType, explicit: bool) -> Result<Value, SqlError> {
    match (value, target) {
        (Value::Numeric(value), DataType::Numeric(Some((precision, scale)))) => {
            let value = value.with_scale_round(i64::from(scale), RoundingMode::HalfUp);
            if value.digits() > u64::from(precision) {
                let mut error = SqlError::new("22003", "numeric field overflow");
                error.detail = Some(format!(
                    "A field with precision {precision}, scale {scale} cannot hold it."
                ));
                return Err(error);
            }
            Ok(Value::Numeric(value))
        }
        (Value::Text(text), DataType::Varchar(Some(limit))) => Ok(Value::Text(limit_length(
            text,
            limit,
            "character varying",
            explicit,
        )?)),
        (Value::Text(text), DataType::Char(length)) => {
            let mut text = limit_length(text, length, "character", explicit)?;
            let count = text.chars().count();
            text.extend(std::iter::repeat_n(' ', (length as usize).saturating_sub(count)));
            Ok(Value::Text(text))
        }
        (value, _) => Ok(value),
    }
}

fn limit_length(text: String, limit: u32, name: &str, explicit: bool) -> Result<String, SqlError> {
    let limit = limit as usize;
    if text.len() <= limit {
        return Ok(text);
    }
    let Some((at, _)) = text.char_indices().nth(limit) else {
        return Ok(text);
    };
    let rest: Cow<str> = text[at..].into();
    // Blanks beyond the limit are dropped silently, as the standard has it.
    if !explicit && rest.chars().any(|character| character != ' ') {
        return Err(SqlError::new(
            "22001",
            format!("value too long for type {name}({limit})"),
        ));
    }
    let mut text = text;
    text.truncate(at);
    Ok(text)
}
