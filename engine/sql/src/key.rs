//! Order-preserving encoding of primary key values: comparing the bytes compares the values.

use crate::error::SqlError;
use crate::types::Value;
use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::Sign;

/// Appends a key column. NULL and intervals cannot be keys.
pub fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), SqlError> {
    match value {
        Value::Null => return Err(SqlError::internal("NULL in a key")),
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::Int2(value) => out.extend_from_slice(&((*value as u16) ^ 0x8000).to_be_bytes()),
        Value::Int4(value) | Value::Date(value) => {
            out.extend_from_slice(&((*value as u32) ^ 0x8000_0000).to_be_bytes());
        }
        Value::Int8(value) | Value::Time(value) | Value::Timestamp(value) | Value::TimestampTz(value) => {
            out.extend_from_slice(&((*value as u64) ^ (1 << 63)).to_be_bytes());
        }
        Value::Real(value) => encode_double(f64::from(*value), out),
        Value::Double(value) => encode_double(*value, out),
        Value::Numeric(value) => encode_numeric(value, out),
        Value::Text(text) => encode_bytes(text.as_bytes(), out),
        Value::Bytes(bytes) => encode_bytes(bytes, out),
        Value::Uuid(bytes) => out.extend_from_slice(bytes),
        Value::Interval(_) => return Err(SqlError::unsupported("a primary key column of type interval")),
    }
    Ok(())
}

fn encode_double(value: f64, out: &mut Vec<u8>) {
    // All zeros are one key and all NaNs are one key, above infinity.
    let value = if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN.abs()
    } else {
        value
    };
    let bits = value.to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
    out.extend_from_slice(&ordered.to_be_bytes());
}

/// Zero bytes are escaped, the end is two zero bytes, so that a prefix is smaller than what it begins.
fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// Sign, then exponent of the first digit, then the digits; a negative number has everything after the sign inverted.
fn encode_numeric(value: &BigDecimal, out: &mut Vec<u8>) {
    let (digits, scale) = value.normalized().into_bigint_and_exponent();
    let negative = match digits.sign() {
        Sign::NoSign => return out.push(1),
        Sign::Minus => true,
        Sign::Plus => false,
    };
    out.push(if negative { 0 } else { 2 });
    let digits = digits.magnitude().to_str_radix(10);
    let exponent = digits.len() as i64 - scale;
    let start = out.len();
    out.extend_from_slice(&((exponent as u64) ^ (1 << 63)).to_be_bytes());
    out.extend(digits.bytes());
    out.push(0);
    if negative {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// The smallest key that is greater than every key that begins with `prefix`; `None` when there is none.
pub fn successor(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last != 0xff {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn key(value: Value) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&value, &mut out).unwrap();
        out
    }

    #[test]
    fn order_of_bytes_is_order_of_values() {
        let numbers = [
            "-1000",
            "-12.5",
            "-12.45",
            "-0.001",
            "0",
            "0.0001",
            "0.5",
            "9",
            "10",
            "10.01",
            "123456789012",
        ];
        let keys: Vec<_> = numbers
            .iter()
            .map(|text| key(Value::Numeric(BigDecimal::from_str(text).unwrap())))
            .collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        let doubles = [
            f64::NEG_INFINITY,
            -2.0,
            -1e-9,
            0.0,
            1e-9,
            3.5,
            f64::INFINITY,
            f64::NAN,
        ];
        assert!(
            doubles
                .windows(2)
                .all(|pair| key(Value::Double(pair[0])) < key(Value::Double(pair[1])))
        );
        assert!(key(Value::Int4(-1)) < key(Value::Int4(0)));
        let texts = ["", "a", "a\0", "a\0b", "ab", "b"];
        assert!(
            texts
                .windows(2)
                .all(|pair| key(Value::Text(pair[0].into())) < key(Value::Text(pair[1].into())))
        );
        assert_eq!(successor(vec![1, 0xff]), Some(vec![2]));
    }
}
