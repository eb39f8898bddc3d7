//! Binary forms in and out, as PostgreSQL's send and receive functions have them.

use super::{DataType, Interval, Value};
use crate::error::SqlError;
use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::{BigInt, Sign};
use bytes::{BufMut, BytesMut};

/// Appends the binary form of a value that is not NULL.
pub fn encode_binary(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Null => {}
        Value::Boolean(value) => out.put_u8(u8::from(*value)),
        Value::Int2(value) => out.put_i16(*value),
        Value::Int4(value) | Value::Date(value) => out.put_i32(*value),
        Value::Int8(value) | Value::Time(value) | Value::Timestamp(value) | Value::TimestampTz(value) => {
            out.put_i64(*value);
        }
        Value::Real(value) => out.put_f32(*value),
        Value::Double(value) => out.put_f64(*value),
        Value::Numeric(value) => encode_numeric(value, out),
        Value::Text(text) => out.put_slice(text.as_bytes()),
        Value::Bytes(bytes) => out.put_slice(bytes),
        Value::Interval(interval) => {
            out.put_i64(interval.micros);
            out.put_i32(interval.days);
            out.put_i32(interval.months);
        }
        Value::Uuid(bytes) => out.put_slice(bytes),
    }
}

/// Base-10000 digits: count, weight of the first, sign, display scale, digits.
fn encode_numeric(value: &BigDecimal, out: &mut BytesMut) {
    let text = value.to_plain_string();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.as_str()),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let scale = fraction.len();
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let fraction = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let mut weight = (whole.len() / 4) as i16 - 1;
    let digits: Vec<i16> = [whole.as_bytes(), fraction.as_bytes()]
        .concat()
        .chunks(4)
        .map(|group| {
            group
                .iter()
                .fold(0, |sum, digit| sum * 10 + i16::from(digit - b'0'))
        })
        .collect();
    let leading = digits.iter().take_while(|digit| **digit == 0).count();
    let trailing = digits[leading..]
        .iter()
        .rev()
        .take_while(|digit| **digit == 0)
        .count();
    let digits = &digits[leading..digits.len() - trailing];
    weight = if digits.is_empty() {
        0
    } else {
        weight - leading as i16
    };
    out.put_i16(digits.len() as i16);
    out.put_i16(weight);
    out.put_u16(if negative && !digits.is_empty() { 0x4000 } else { 0 });
    out.put_u16(scale as u16);
    for digit in digits {
        out.put_i16(*digit);
    }
}

fn decode_numeric(bytes: &[u8]) -> Option<BigDecimal> {
    let word = |index: usize| {
        bytes
            .get(index * 2..index * 2 + 2)
            .map(|pair| i16::from_be_bytes([pair[0], pair[1]]))
    };
    let (count, weight, sign, scale) = (word(0)?, word(1)?, word(2)? as u16, word(3)?);
    if sign != 0 && sign != 0x4000 {
        return None;
    }
    let mut integer = BigInt::from(0);
    for index in 0..usize::try_from(count).ok()? {
        integer = integer * 10_000 + word(4 + index)?;
    }
    let exponent = 4 * (i64::from(count) - 1 - i64::from(weight));
    if sign == 0x4000 && integer.sign() != Sign::NoSign {
        integer = -integer;
    }
    Some(BigDecimal::new(integer, exponent).with_scale(i64::from(scale)))
}

/// Decodes the binary form of a type.
pub fn decode_binary(data_type: DataType, bytes: &[u8]) -> Result<Value, SqlError> {
    let wrong = || {
        SqlError::new(
            "22P03",
            format!("incorrect binary data format for type {}", data_type.name()),
        )
    };
    let eight = || {
        <[u8; 8]>::try_from(bytes)
            .map(i64::from_be_bytes)
            .map_err(|_| wrong())
    };
    let four = || {
        <[u8; 4]>::try_from(bytes)
            .map(i32::from_be_bytes)
            .map_err(|_| wrong())
    };
    let value = match data_type {
        DataType::Boolean => Value::Boolean(*bytes.first().ok_or_else(wrong)? != 0),
        DataType::SmallInt => Value::Int2(
            <[u8; 2]>::try_from(bytes)
                .map(i16::from_be_bytes)
                .map_err(|_| wrong())?,
        ),
        DataType::Integer => Value::Int4(four()?),
        // An oid arrives as four bytes.
        DataType::BigInt if bytes.len() == 4 => Value::Int8(i64::from(four()?)),
        DataType::BigInt => Value::Int8(eight()?),
        DataType::Real => Value::Real(f32::from_bits(four()? as u32)),
        DataType::Double => Value::Double(f64::from_bits(eight()? as u64)),
        DataType::Numeric(_) => Value::Numeric(decode_numeric(bytes).ok_or_else(wrong)?),
        DataType::Unknown | DataType::Text | DataType::Varchar(_) | DataType::Char(_) | DataType::Json => {
            Value::Text(std::str::from_utf8(bytes).map_err(|_| invalid_utf8())?.to_owned())
        }
        DataType::Bytea => Value::Bytes(bytes.to_vec()),
        DataType::Date => Value::Date(four()?),
        DataType::Time => Value::Time(eight()?),
        DataType::Timestamp => Value::Timestamp(eight()?),
        DataType::TimestampTz => Value::TimestampTz(eight()?),
        DataType::Interval => {
            let part: &[u8; 16] = bytes.try_into().map_err(|_| wrong())?;
            let number = |from: usize| {
                i32::from_be_bytes([part[from], part[from + 1], part[from + 2], part[from + 3]])
            };
            let micros = (i64::from(number(0)) << 32) | i64::from(number(4) as u32);
            Value::Interval(Interval {
                micros,
                days: number(8),
                months: number(12),
            })
        }
        DataType::Uuid => Value::Uuid(bytes.try_into().map_err(|_| wrong())?),
    };
    super::cast::fit(value, data_type, false)
}

pub fn invalid_utf8() -> SqlError {
    SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    #[test]
    fn numeric_round_trips() {
        for text in [
            "0",
            "1.50",
            "-12345678.9",
            "10000",
            "0.00012",
            "-0.5",
            "99999999999999999999.00000001",
        ] {
            let value = BigDecimal::from_str(text).unwrap();
            let mut out = BytesMut::new();
            encode_numeric(&value, &mut out);
            assert_eq!(decode_numeric(&out).unwrap().to_plain_string(), text);
        }
    }
}
