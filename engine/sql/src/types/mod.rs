//! Types and values: PostgreSQL's names, sizes, text and binary forms.

mod binary;
mod cast;
pub(crate) mod datetime;
mod text;

pub(crate) use binary::{decode_binary, encode_binary};
pub(crate) use cast::cast;
pub(crate) use text::{encode_text, parse_text};

use bigdecimal::BigDecimal;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// The type of a column or expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataType {
    /// Not known yet: an untyped literal or parameter.
    Unknown,
    /// true or false
    Boolean,
    /// 16 bit
    SmallInt,
    /// 32 bit
    Integer,
    /// 64 bit
    BigInt,
    /// 32-bit float
    Real,
    /// 64-bit float
    Double,
    /// Exact decimal, with precision and scale if they are limited.
    Numeric(Option<(u16, u16)>),
    /// Any text.
    Text,
    /// Text of at most so many characters.
    Varchar(Option<u32>),
    /// Text padded with blanks to so many characters.
    Char(u32),
    /// Bytes.
    Bytea,
    /// Day.
    Date,
    /// Time of day.
    Time,
    /// Date and time without zone.
    Timestamp,
    /// Instant.
    TimestampTz,
    /// Months, days and microseconds.
    Interval,
    /// UUID.
    Uuid,
    /// JSON, kept as text.
    Json,
}

impl DataType {
    /// PostgreSQL's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Boolean => "boolean",
            Self::SmallInt => "smallint",
            Self::Integer => "integer",
            Self::BigInt => "bigint",
            Self::Real => "real",
            Self::Double => "double precision",
            Self::Numeric(_) => "numeric",
            Self::Text => "text",
            Self::Varchar(_) => "character varying",
            Self::Char(_) => "character",
            Self::Bytea => "bytea",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::TimestampTz => "timestamp with time zone",
            Self::Interval => "interval",
            Self::Uuid => "uuid",
            Self::Json => "json",
        }
    }

    /// Name with modifiers, as `\d` shows it.
    pub fn full_name(self) -> String {
        match self {
            Self::Numeric(Some((precision, scale))) => format!("numeric({precision},{scale})"),
            Self::Varchar(Some(length)) => format!("character varying({length})"),
            Self::Char(length) => format!("character({length})"),
            Self::Time => "time without time zone".into(),
            Self::Timestamp => "timestamp without time zone".into(),
            other => other.name().into(),
        }
    }

    /// Object id of the type in PostgreSQL's catalogue.
    pub fn oid(self) -> u32 {
        match self {
            Self::Unknown | Self::Text => 25,
            Self::Boolean => 16,
            Self::SmallInt => 21,
            Self::Integer => 23,
            Self::BigInt => 20,
            Self::Real => 700,
            Self::Double => 701,
            Self::Numeric(_) => 1700,
            Self::Varchar(_) => 1043,
            Self::Char(_) => 1042,
            Self::Bytea => 17,
            Self::Date => 1082,
            Self::Time => 1083,
            Self::Timestamp => 1114,
            Self::TimestampTz => 1184,
            Self::Interval => 1186,
            Self::Uuid => 2950,
            Self::Json => 114,
        }
    }

    /// The type of an object id; `None` for types that are not supported.
    pub fn from_oid(oid: u32) -> Option<Self> {
        Some(match oid {
            0 | 705 => Self::Unknown,
            16 => Self::Boolean,
            21 => Self::SmallInt,
            23 => Self::Integer,
            20 | 26 => Self::BigInt,
            700 => Self::Real,
            701 => Self::Double,
            1700 => Self::Numeric(None),
            25 | 19 => Self::Text,
            1043 => Self::Varchar(None),
            1042 => Self::Text,
            17 => Self::Bytea,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            1186 => Self::Interval,
            2950 => Self::Uuid,
            114 | 3802 => Self::Json,
            _ => return None,
        })
    }

    /// Size on the wire, -1 when it varies.
    pub fn size(self) -> i16 {
        match self {
            Self::Boolean => 1,
            Self::SmallInt => 2,
            Self::Integer | Self::Real | Self::Date => 4,
            Self::BigInt | Self::Double | Self::Time | Self::Timestamp | Self::TimestampTz => 8,
            Self::Interval | Self::Uuid => 16,
            _ => -1,
        }
    }

    /// PostgreSQL's type modifier.
    pub fn modifier(self) -> i32 {
        match self {
            Self::Numeric(Some((precision, scale))) => ((i32::from(precision) << 16) | i32::from(scale)) + 4,
            Self::Varchar(Some(length)) | Self::Char(length) => length as i32 + 4,
            _ => -1,
        }
    }

    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Varchar(_) | Self::Char(_))
    }

    /// Rank in the order of implicit numeric promotion.
    pub(crate) fn numeric_rank(self) -> Option<u8> {
        Some(match self {
            Self::SmallInt => 1,
            Self::Integer => 2,
            Self::BigInt => 3,
            Self::Numeric(_) => 4,
            Self::Real => 5,
            Self::Double => 6,
            _ => return None,
        })
    }
}

/// A span of time as PostgreSQL keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    /// Months.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

impl Interval {
    /// For comparison: a month has 30 days, a day 24 hours.
    fn total(self) -> i128 {
        (i128::from(self.months) * 30 + i128::from(self.days)) * i128::from(datetime::DAY)
            + i128::from(self.micros)
    }
}

/// A value. Json is `Text`; dates are days and times microseconds since 2000-01-01.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// boolean
    Boolean(bool),
    /// smallint
    Int2(i16),
    /// integer
    Int4(i32),
    /// bigint
    Int8(i64),
    /// real
    Real(f32),
    /// double precision
    Double(f64),
    /// numeric
    Numeric(BigDecimal),
    /// text, varchar, char, json
    Text(String),
    /// bytea
    Bytes(Vec<u8>),
    /// date
    Date(i32),
    /// time
    Time(i64),
    /// timestamp
    Timestamp(i64),
    /// timestamp with time zone
    TimestampTz(i64),
    /// interval
    Interval(Interval),
    /// uuid
    Uuid([u8; 16]),
}

impl Value {
    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Its text form, `None` for NULL.
    pub fn to_text(&self) -> Option<String> {
        if self.is_null() {
            return None;
        }
        let mut text = String::new();
        encode_text(self, &mut text);
        Some(text)
    }

    /// Order of two values of one type; NULL is last, NaN above all numbers.
    pub fn order(&self, other: &Self) -> Ordering {
        use Value::*;
        match (self, other) {
            (Null, Null) => Ordering::Equal,
            (Null, _) => Ordering::Greater,
            (_, Null) => Ordering::Less,
            (Boolean(a), Boolean(b)) => a.cmp(b),
            (Int2(a), Int2(b)) => a.cmp(b),
            (Int4(a), Int4(b)) | (Date(a), Date(b)) => a.cmp(b),
            (Int8(a), Int8(b))
            | (Time(a), Time(b))
            | (Timestamp(a), Timestamp(b))
            | (TimestampTz(a), TimestampTz(b)) => a.cmp(b),
            (Real(a), Real(b)) => float_order(f64::from(*a), f64::from(*b)),
            (Double(a), Double(b)) => float_order(*a, *b),
            (Numeric(a), Numeric(b)) => a.cmp(b),
            (Text(a), Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Bytes(a), Bytes(b)) => a.cmp(b),
            (Interval(a), Interval(b)) => a.total().cmp(&b.total()),
            (Uuid(a), Uuid(b)) => a.cmp(b),
            (a, b) => unreachable!("the binder gives both sides one type: {a:?} and {b:?}"),
        }
    }
}

fn float_order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
