//! Functions of values.

use super::Context;
use crate::error::SqlError;
use crate::types::{DataType, Value, cast, datetime};
use bigdecimal::{RoundingMode, Signed};

/// A function that is called with evaluated arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Length,
    OctetLength,
    Lower,
    Upper,
    Abs,
    Round,
    Floor,
    Ceil,
    Truncate,
    Power,
    SquareRoot,
    Substring,
    Trim,
    TrimLeft,
    TrimRight,
    Replace,
    Left,
    Right,
    Repeat,
    Position,
    Concat,
    NullIf,
    Greatest,
    Least,
    Extract,
    DateTruncate,
    Sign,
}

/// What a function takes: types its arguments are converted to, the number that must be given, and its result.
pub(crate) struct Signature {
    pub arguments: &'static [DataType],
    pub required: usize,
    pub result: DataType,
}

const TEXT: DataType = DataType::Text;
const INTEGER: DataType = DataType::Integer;
const DOUBLE: DataType = DataType::Double;

impl Function {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "length" | "char_length" | "character_length" => Self::Length,
            "octet_length" => Self::OctetLength,
            "lower" => Self::Lower,
            "upper" => Self::Upper,
            "abs" => Self::Abs,
            "round" => Self::Round,
            "floor" => Self::Floor,
            "ceil" | "ceiling" => Self::Ceil,
            "trunc" => Self::Truncate,
            "power" | "pow" => Self::Power,
            "sqrt" => Self::SquareRoot,
            "substr" | "substring" => Self::Substring,
            "btrim" => Self::Trim,
            "ltrim" => Self::TrimLeft,
            "rtrim" => Self::TrimRight,
            "replace" => Self::Replace,
            "left" => Self::Left,
            "right" => Self::Right,
            "repeat" => Self::Repeat,
            "strpos" => Self::Position,
            "concat" => Self::Concat,
            "nullif" => Self::NullIf,
            "greatest" => Self::Greatest,
            "least" => Self::Least,
            "date_part" => Self::Extract,
            "date_trunc" => Self::DateTruncate,
            "sign" => Self::Sign,
            _ => return None,
        })
    }

    /// `None`: the binder gives all arguments one type.
    pub(crate) fn signature(self) -> Option<Signature> {
        let of = |arguments, required, result| {
            Some(Signature {
                arguments,
                required,
                result,
            })
        };
        match self {
            Self::Length | Self::OctetLength => of(&[TEXT], 1, INTEGER),
            Self::Lower | Self::Upper => of(&[TEXT], 1, TEXT),
            Self::Power => of(&[DOUBLE, DOUBLE], 2, DOUBLE),
            Self::SquareRoot => of(&[DOUBLE], 1, DOUBLE),
            Self::Substring => of(&[TEXT, INTEGER, INTEGER], 2, TEXT),
            Self::Trim | Self::TrimLeft | Self::TrimRight => of(&[TEXT, TEXT], 1, TEXT),
            Self::Replace => of(&[TEXT, TEXT, TEXT], 3, TEXT),
            Self::Left | Self::Right | Self::Repeat => of(&[TEXT, INTEGER], 2, TEXT),
            Self::Position => of(&[TEXT, TEXT], 2, INTEGER),
            _ => None,
        }
    }

    pub(crate) fn call(self, values: &[Value], context: Context) -> Result<Value, SqlError> {
        match self {
            Self::Greatest | Self::Least => {
                let present = values.iter().filter(|value| !value.is_null());
                let chosen = match self {
                    Self::Greatest => present.max_by(|left, right| left.order(right)),
                    _ => present.min_by(|left, right| left.order(right)),
                };
                return Ok(chosen.cloned().unwrap_or(Value::Null));
            }
            Self::NullIf => {
                let same = !values[0].is_null() && values[0].order(&values[1]).is_eq();
                return Ok(if same { Value::Null } else { values[0].clone() });
            }
            Self::Concat => return Ok(Value::Text(values.iter().filter_map(Value::to_text).collect())),
            _ => {}
        }
        if values.iter().any(Value::is_null) {
            return Ok(Value::Null);
        }
        match (self, values) {
            (Self::Abs | Self::Round | Self::Floor | Self::Ceil | Self::Truncate | Self::Sign, _) => {
                self.number(values)
            }
            (Self::Power, [Value::Double(base), Value::Double(power)]) => {
                Ok(Value::Double(base.powf(*power)))
            }
            (Self::SquareRoot, [Value::Double(value)]) if *value < 0.0 => Err(SqlError::new(
                "2201F",
                "cannot take square root of a negative number",
            )),
            (Self::SquareRoot, [Value::Double(value)]) => Ok(Value::Double(value.sqrt())),
            (Self::Extract, [Value::Text(field), value]) => extract(field, value, context),
            (Self::DateTruncate, [Value::Text(field), value]) => truncate(field, value),
            _ => self.text(values),
        }
    }

    fn number(self, values: &[Value]) -> Result<Value, SqlError> {
        let places = match values.get(1) {
            Some(Value::Int4(places)) => i64::from(*places),
            _ => 0,
        };
        let float = |value: f64| match self {
            Self::Abs => value.abs(),
            Self::Round => value.round_ties_even(),
            Self::Floor => value.floor(),
            Self::Ceil => value.ceil(),
            Self::Truncate => value.trunc(),
            _ if value == 0.0 => 0.0,
            _ => value.signum(),
        };
        Ok(match &values[0] {
            Value::Int2(value) if self == Self::Abs => Value::Int2(
                value
                    .checked_abs()
                    .ok_or_else(|| SqlError::out_of_range("smallint"))?,
            ),
            Value::Int4(value) if self == Self::Abs => Value::Int4(
                value
                    .checked_abs()
                    .ok_or_else(|| SqlError::out_of_range("integer"))?,
            ),
            Value::Int8(value) if self == Self::Abs => Value::Int8(
                value
                    .checked_abs()
                    .ok_or_else(|| SqlError::out_of_range("bigint"))?,
            ),
            Value::Real(value) => Value::Real(float(f64::from(*value)) as f32),
            Value::Double(value) => Value::Double(float(*value)),
            Value::Numeric(value) => Value::Numeric(match self {
                Self::Abs => value.abs(),
                Self::Round => value.with_scale_round(places, RoundingMode::HalfUp),
                Self::Floor => value.with_scale_round(0, RoundingMode::Floor),
                Self::Ceil => value.with_scale_round(0, RoundingMode::Ceiling),
                Self::Truncate => value.with_scale_round(places, RoundingMode::Down),
                _ => value.signum(),
            }),
            other => return Err(SqlError::internal(format!("not a number: {other:?}"))),
        })
    }

    fn text(self, values: &[Value]) -> Result<Value, SqlError> {
        let text = |index: usize| match &values[index] {
            Value::Text(text) => text.as_str(),
            _ => "",
        };
        let number = |index: usize| match values[index] {
            Value::Int4(value) => i64::from(value),
            _ => 0,
        };
        let blanks: Vec<char> = values.get(1).map_or(vec![' '], |_| text(1).chars().collect());
        let trimmed = |character: char| blanks.contains(&character);
        let count = |text: &str| text.chars().count() as i64;
        let keep = |skip: i64, take: i64| -> String {
            text(0)
                .chars()
                .skip(skip.max(0) as usize)
                .take(take.max(0) as usize)
                .collect()
        };
        Ok(match self {
            Self::Length => Value::Int4(count(text(0)) as i32),
            Self::OctetLength => Value::Int4(text(0).len() as i32),
            Self::Lower => Value::Text(text(0).to_lowercase()),
            Self::Upper => Value::Text(text(0).to_uppercase()),
            Self::Substring => {
                let start = number(1) - 1;
                let end = if values.len() > 2 {
                    start + number(2)
                } else {
                    i64::MAX
                };
                if end < start {
                    return Err(SqlError::new("22011", "negative substring length not allowed"));
                }
                Value::Text(keep(start, end - start.max(0)))
            }
            Self::Trim => Value::Text(text(0).trim_matches(trimmed).to_owned()),
            Self::TrimLeft => Value::Text(text(0).trim_start_matches(trimmed).to_owned()),
            Self::TrimRight => Value::Text(text(0).trim_end_matches(trimmed).to_owned()),
            Self::Replace if text(1).is_empty() => values[0].clone(),
            Self::Replace => Value::Text(text(0).replace(text(1), text(2))),
            Self::Left if number(1) < 0 => Value::Text(keep(0, count(text(0)) + number(1))),
            Self::Left => Value::Text(keep(0, number(1))),
            Self::Right if number(1) < 0 => Value::Text(keep(-number(1), i64::MAX)),
            Self::Right => Value::Text(keep(count(text(0)) - number(1), number(1))),
            Self::Repeat => {
                let times = number(1).max(0) as usize;
                if text(0).len().saturating_mul(times) > 64 << 20 {
                    return Err(SqlError::new("54000", "requested length too large"));
                }
                Value::Text(text(0).repeat(times))
            }
            Self::Position => {
                let found = text(0).find(text(1));
                Value::Int4(found.map_or(0, |at| count(&text(0)[..at]) as i32 + 1))
            }
            other => return Err(SqlError::internal(format!("{other:?} with wrong arguments"))),
        })
    }
}

fn micros_of(value: &Value) -> Result<i64, SqlError> {
    match cast(value.clone(), DataType::Timestamp, true)? {
        Value::Timestamp(micros) => Ok(micros),
        _ => Err(SqlError::internal("not a timestamp")),
    }
}

fn extract(field: &str, value: &Value, _context: Context) -> Result<Value, SqlError> {
    let unknown = || SqlError::new("22023", format!("unit \"{field}\" not recognized"));
    if let Value::Interval(interval) = value {
        let seconds = interval.micros as f64 / 1e6;
        return Ok(Value::Double(match field {
            "epoch" => {
                f64::from(interval.months) * 2_629_800.0 + f64::from(interval.days) * 86_400.0 + seconds
            }
            "year" => f64::from(interval.months / 12),
            "month" => f64::from(interval.months % 12),
            "day" => f64::from(interval.days),
            "hour" => (interval.micros / 3_600_000_000) as f64,
            "minute" => (interval.micros / 60_000_000 % 60) as f64,
            "second" => (interval.micros % 60_000_000) as f64 / 1e6,
            _ => return Err(unknown()),
        }));
    }
    let micros = match value {
        Value::Time(micros) => *micros,
        other => micros_of(other)?,
    };
    let days = micros.div_euclid(datetime::DAY);
    let time = micros.rem_euclid(datetime::DAY);
    let (year, month, day) = datetime::civil_from_days(days);
    Ok(Value::Double(match field {
        "epoch" => (micros + datetime::UNIX_TO_2000_DAYS * datetime::DAY) as f64 / 1e6,
        "year" => year as f64,
        "quarter" => f64::from((month - 1) / 3 + 1),
        "month" => f64::from(month),
        "day" => f64::from(day),
        "dow" => (days + 6).rem_euclid(7) as f64,
        "isodow" => ((days + 5).rem_euclid(7) + 1) as f64,
        "doy" => (days - datetime::days_from_civil(year, 1, 1) + 1) as f64,
        "hour" => (time / 3_600_000_000) as f64,
        "minute" => (time / 60_000_000 % 60) as f64,
        "second" => (time % 60_000_000) as f64 / 1e6,
        "milliseconds" | "millisecond" => (time % 60_000_000) as f64 / 1e3,
        "microseconds" | "microsecond" => (time % 60_000_000) as f64,
        _ => return Err(unknown()),
    }))
}

fn truncate(field: &str, value: &Value) -> Result<Value, SqlError> {
    let micros = micros_of(value)?;
    let (year, month, _) = datetime::civil_from_days(micros.div_euclid(datetime::DAY));
    let day = |year, month| datetime::days_from_civil(year, month, 1) * datetime::DAY;
    let down = |unit: i64| micros - micros.rem_euclid(unit);
    let truncated = match field {
        "year" => day(year, 1),
        "quarter" => day(year, (month - 1) / 3 * 3 + 1),
        "month" => day(year, month),
        "week" => {
            let days = micros.div_euclid(datetime::DAY);
            (days - (days + 5).rem_euclid(7)) * datetime::DAY
        }
        "day" => down(datetime::DAY),
        "hour" => down(3_600_000_000),
        "minute" => down(60_000_000),
        "second" => down(1_000_000),
        "milliseconds" => down(1000),
        _ => return Err(SqlError::new("22023", format!("unit \"{field}\" not recognized"))),
    };
    Ok(match value {
        Value::TimestampTz(_) => Value::TimestampTz(truncated),
        _ => Value::Timestamp(truncated),
    })
}
