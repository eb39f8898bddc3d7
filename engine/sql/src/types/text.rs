//! Text forms in and out.

use super::{DataType, Value, datetime};
use crate::error::SqlError;
use bigdecimal::BigDecimal;
use std::fmt::Write;
use std::str::FromStr;

/// Appends the text form of a value that is not NULL.
pub fn encode_text(value: &Value, out: &mut String) {
    match value {
        Value::Null => {}
        Value::Boolean(value) => out.push(if *value { 't' } else { 'f' }),
        Value::Int2(value) => write_integer(i64::from(*value), out),
        Value::Int4(value) => write_integer(i64::from(*value), out),
        Value::Int8(value) => write_integer(*value, out),
        Value::Real(value) => write_float(
            f64::from(*value),
            || format!("{value:e}"),
            &format!("{value}"),
            6,
            out,
        ),
        Value::Double(value) => write_float(*value, || format!("{value:e}"), &format!("{value}"), 15, out),
        Value::Numeric(value) => out.push_str(&value.to_plain_string()),
        Value::Text(text) => out.push_str(text),
        Value::Bytes(bytes) => {
            out.push_str("\\x");
            for byte in bytes {
                let _ = write!(out, "{byte:02x}");
            }
        }
        Value::Date(days) => datetime::write_date(*days, out),
        Value::Time(micros) => datetime::write_time(*micros, out),
        Value::Timestamp(micros) => datetime::write_timestamp(*micros, false, out),
        Value::TimestampTz(micros) => datetime::write_timestamp(*micros, true, out),
        Value::Interval(interval) => datetime::write_interval(*interval, out),
        Value::Uuid(bytes) => {
            for (index, byte) in bytes.iter().enumerate() {
                if matches!(index, 4 | 6 | 8 | 10) {
                    out.push('-');
                }
                let _ = write!(out, "{byte:02x}");
            }
        }
    }
}

fn write_integer(value: i64, out: &mut String) {
    let _ = write!(out, "{value}");
}

/// Shortest round-trip digits; exponent form below 1e-4 and from 1e`digits` on, as PostgreSQL has it.
fn write_float(value: f64, exponent: impl Fn() -> String, plain: &str, digits: i32, out: &mut String) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 10f64.powi(digits)) {
        let text = exponent();
        let (mantissa, power) = text.split_once('e').expect("the e format has an e");
        let power: i32 = power.parse().expect("an exponent is a number");
        let _ = write!(
            out,
            "{mantissa}e{}{:02}",
            if power < 0 { '-' } else { '+' },
            power.abs()
        );
    } else {
        out.push_str(plain);
    }
}

/// Parses the text form of a type.
pub fn parse_text(data_type: DataType, text: &str) -> Result<Value, SqlError> {
    let wrong = || SqlError::invalid_text(data_type.name(), text);
    let trimmed = text.trim();
    Ok(match data_type {
        DataType::Unknown | DataType::Text => Value::Text(text.to_owned()),
        DataType::Varchar(_) | DataType::Char(_) | DataType::Numeric(_) => {
            let value = match data_type {
                DataType::Numeric(_) => Value::Numeric(BigDecimal::from_str(trimmed).map_err(|_| wrong())?),
                _ => Value::Text(text.to_owned()),
            };
            return super::cast::fit(value, data_type, false);
        }
        DataType::Boolean => match trimmed.to_ascii_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "on" | "1" => Value::Boolean(true),
            "f" | "false" | "n" | "no" | "off" | "0" => Value::Boolean(false),
            _ => return Err(wrong()),
        },
        DataType::SmallInt => Value::Int2(parse_integer(trimmed, "smallint", text)?),
        DataType::Integer => Value::Int4(parse_integer(trimmed, "integer", text)?),
        DataType::BigInt => Value::Int8(parse_integer(trimmed, "bigint", text)?),
        DataType::Real => Value::Real(trimmed.parse().map_err(|_| wrong())?),
        DataType::Double => Value::Double(trimmed.parse().map_err(|_| wrong())?),
        DataType::Bytea => Value::Bytes(parse_bytes(text).ok_or_else(wrong)?),
        DataType::Date => Value::Date(datetime::parse_date(text).ok_or_else(wrong)?),
        DataType::Time => Value::Time(datetime::parse_time(text).ok_or_else(wrong)?),
        DataType::Timestamp => Value::Timestamp(datetime::parse_timestamp(text, false).ok_or_else(wrong)?),
        DataType::TimestampTz => Value::TimestampTz(datetime::parse_timestamp(text, true).ok_or_else(wrong)?),
        DataType::Interval => Value::Interval(datetime::parse_interval(text).ok_or_else(wrong)?),
        DataType::Uuid => Value::Uuid(parse_uuid(trimmed).ok_or_else(wrong)?),
        DataType::Json => {
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|_| wrong())?;
            Value::Text(text.to_owned())
        }
    })
}

fn parse_integer<T: FromStr<Err = std::num::ParseIntError>>(
    trimmed: &str,
    name: &str,
    text: &str,
) -> Result<T, SqlError> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    trimmed.parse::<T>().map_err(|error| match error.kind() {
        PosOverflow | NegOverflow => SqlError::new(
            "22003",
            format!("value \"{text}\" is out of range for type {name}"),
        ),
        _ => SqlError::invalid_text(name, text),
    })
}

fn parse_bytes(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        return parse_hex(hex);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'\\' {
            bytes.push(first);
            rest = tail;
        } else if tail.first() == Some(&b'\\') {
            bytes.push(b'\\');
            rest = &tail[1..];
        } else {
            let octal = std::str::from_utf8(tail.get(..3)?).ok()?;
            bytes.push(u8::from_str_radix(octal, 8).ok()?);
            rest = &tail[3..];
        }
    }
    Some(bytes)
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    digits
        .chunks(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text
        .trim_matches(['{', '}'])
        .chars()
        .filter(|character| *character != '-')
        .collect();
    parse_hex(&digits)?.try_into().ok()
}
