//! Encoding of a row: count of columns (u16), null bitmap, then the columns that are not NULL. Little-endian; variable lengths are
//! u32-prefixed. A row written before a column was added has fewer columns; the missing ones take the column's default.

use crate::catalog::Column;
use crate::error::SqlError;
use crate::types::{DataType, Interval, Value};
use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::BigInt;

/// Encodes a row.
pub fn encode(values: &[Value]) -> Vec<u8> {
    let bitmap = values.len().div_ceil(8);
    let mut out = Vec::with_capacity(2 + bitmap + values.len() * 8);
    out.extend_from_slice(&(values.len() as u16).to_le_bytes());
    out.resize(2 + bitmap, 0);
    for (index, value) in values.iter().enumerate() {
        if value.is_null() {
            out[2 + index / 8] |= 1 << (index % 8);
        } else {
            encode_value(value, &mut out);
        }
    }
    out
}

fn encode_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::Int2(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Int4(value) | Value::Date(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Int8(value) | Value::Time(value) | Value::Timestamp(value) | Value::TimestampTz(value) => {
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Real(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Numeric(value) => {
            let (digits, scale) = value.as_bigint_and_exponent();
            let digits = digits.to_signed_bytes_le();
            out.extend_from_slice(&(digits.len() as u32 + 4).to_le_bytes());
            out.extend_from_slice(&(scale as i32).to_le_bytes());
            out.extend_from_slice(&digits);
        }
        Value::Text(text) => {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        Value::Bytes(bytes) => {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        Value::Interval(interval) => {
            out.extend_from_slice(&interval.micros.to_le_bytes());
            out.extend_from_slice(&interval.days.to_le_bytes());
            out.extend_from_slice(&interval.months.to_le_bytes());
        }
        Value::Uuid(bytes) => out.extend_from_slice(bytes),
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        self.take(length)
    }
}

/// Decodes a row of these columns into `values`.
pub fn decode(columns: &[Column], bytes: &[u8], values: &mut Vec<Value>) -> Result<(), SqlError> {
    values.clear();
    decode_into(columns, bytes, values)
        .ok_or_else(|| SqlError::new("XX001", "a stored row does not fit the description of its table"))
}

fn decode_into(columns: &[Column], bytes: &[u8], values: &mut Vec<Value>) -> Option<()> {
    let mut reader = Reader(bytes);
    let count = usize::from(u16::from_le_bytes(reader.array()?));
    let bitmap = reader.take(count.div_ceil(8))?;
    values.reserve(columns.len());
    for (index, column) in columns.iter().enumerate() {
        values.push(if index >= count {
            column.missing_value()
        } else if bitmap[index / 8] & (1 << (index % 8)) != 0 {
            Value::Null
        } else {
            decode_value(column.data_type, &mut reader)?
        });
    }
    Some(())
}

fn decode_value(data_type: DataType, reader: &mut Reader) -> Option<Value> {
    Some(match data_type {
        DataType::Boolean => Value::Boolean(reader.array::<1>()?[0] != 0),
        DataType::SmallInt => Value::Int2(i16::from_le_bytes(reader.array()?)),
        DataType::Integer => Value::Int4(i32::from_le_bytes(reader.array()?)),
        DataType::BigInt => Value::Int8(i64::from_le_bytes(reader.array()?)),
        DataType::Real => Value::Real(f32::from_le_bytes(reader.array()?)),
        DataType::Double => Value::Double(f64::from_le_bytes(reader.array()?)),
        DataType::Numeric(_) => {
            let mut inner = Reader(reader.bytes()?);
            let scale = i32::from_le_bytes(inner.array()?);
            Value::Numeric(BigDecimal::new(
                BigInt::from_signed_bytes_le(inner.0),
                i64::from(scale),
            ))
        }
        DataType::Unknown | DataType::Text | DataType::Varchar(_) | DataType::Char(_) | DataType::Json => {
            Value::Text(std::str::from_utf8(reader.bytes()?).ok()?.to_owned())
        }
        DataType::Bytea => Value::Bytes(reader.bytes()?.to_vec()),
        DataType::Date => Value::Date(i32::from_le_bytes(reader.array()?)),
        DataType::Time => Value::Time(i64::from_le_bytes(reader.array()?)),
        DataType::Timestamp => Value::Timestamp(i64::from_le_bytes(reader.array()?)),
        DataType::TimestampTz => Value::TimestampTz(i64::from_le_bytes(reader.array()?)),
        DataType::Interval => Value::Interval(Interval {
            micros: i64::from_le_bytes(reader.array()?),
            days: i32::from_le_bytes(reader.array()?),
            months: i32::from_le_bytes(reader.array()?),
        }),
        DataType::Uuid => Value::Uuid(reader.array()?),
    })
}
