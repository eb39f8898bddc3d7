//! Histories as bytes: JSON lines and EDN, in the fields that Jepsen uses.
//!
//! One operation is a map with `process` (a number; any other process, as the nemesis, is passed over), `type` (`invoke`,
//! `ok`, `fail` or `info`), `value` (also `transaction` or `txn`: a list of `["append", key, value]` and `["r", key, list or null]`), and, if
//! it likes, `time` and `index`. Keys are numbers, strings or keywords; values are integers.

use super::edn::Reader;
use super::history::{Event, Kind, Micro};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::io::{self, Write};

/// Input that is no history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadInput {
    /// Where, from 1.
    pub line: usize,
    /// Why.
    pub what: String,
}

impl BadInput {
    pub(super) fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for BadInput {}

/// How a history is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// JSON when it begins as an object of JSON does, EDN otherwise.
    #[default]
    Auto,
    /// One object a line.
    Json,
    /// Maps one after another, or one vector of maps.
    Edn,
}

/// What both notations have in common.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Nil,
    Integer(i64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
    /// Anything that has no place in an operation.
    Other(String),
}

/// Reads the events of a history in their order.
pub fn read_events(bytes: &[u8], format: Format) -> Result<Vec<Event>, BadInput> {
    let json = match format {
        Format::Json => true,
        Format::Edn => false,
        Format::Auto => looks_like_json(bytes),
    };
    if json { read_json(bytes) } else { read_edn(bytes) }
}

fn looks_like_json(bytes: &[u8]) -> bool {
    let mut visible = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    visible.next() == Some(&b'{') && matches!(visible.next(), Some(b'"' | b'}'))
}

fn read_json(bytes: &[u8]) -> Result<Vec<Event>, BadInput> {
    let mut events = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value: Value =
            serde_json::from_slice(line).map_err(|error| BadInput::new(number, error.to_string()))?;
        events.extend(event_of(value, number)?);
    }
    Ok(events)
}

fn read_edn(bytes: &[u8]) -> Result<Vec<Event>, BadInput> {
    let mut reader = Reader::new(bytes);
    let mut events = Vec::new();
    let inside = reader.enter_list()?;
    let mut closed = !inside;
    loop {
        if inside && !closed {
            closed = reader.leave_list()?;
        }
        let Some((line, value)) = reader.next_value()? else {
            break;
        };
        if inside && closed {
            return Err(BadInput::new(line, "something follows the vector of operations"));
        }
        events.extend(event_of(value, line)?);
    }
    if !closed {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        return Err(BadInput::new(lines, "the vector of operations does not end"));
    }
    Ok(events)
}

/// The event that `value` is, unless it is of somebody who is no client.
fn event_of(value: Value, line: usize) -> Result<Option<Event>, BadInput> {
    let Value::Map(pairs) = value else {
        return Err(BadInput::new(line, "an operation is a map"));
    };
    let (mut process, mut kind, mut micros, mut time) = (None, None, Value::Nil, None);
    for (key, value) in pairs {
        let Value::Text(key) = key else { continue };
        match key.as_str() {
            "process" => process = Some(value),
            "type" => kind = Some(value),
            "value" | "transaction" | "txn" => micros = value,
            "time" => time = Some(value),
            _ => {}
        }
    }
    let process = match process {
        Some(Value::Integer(process)) => process,
        Some(Value::Text(_)) => return Ok(None),
        _ => return Err(BadInput::new(line, "an operation has no process")),
    };
    let kind = match kind {
        Some(Value::Text(kind)) => kind_of(&kind, line)?,
        _ => return Err(BadInput::new(line, "an operation has no type")),
    };
    let micros = match micros {
        Value::Nil if kind != Kind::Ok => Vec::new(),
        Value::List(micros) => {
            let read = micros.into_iter().map(|micro| micro_of(micro, line));
            read.collect::<Result<_, _>>()?
        }
        _ => return Err(BadInput::new(line, "a transaction is a list of operations")),
    };
    let time = match time {
        Some(Value::Integer(time)) => u64::try_from(time).ok(),
        _ => None,
    };
    Ok(Some(Event {
        process,
        kind,
        time,
        micros,
        line,
    }))
}

fn kind_of(kind: &str, line: usize) -> Result<Kind, BadInput> {
    Ok(match kind {
        "invoke" => Kind::Invoke,
        "ok" => Kind::Ok,
        "fail" => Kind::Fail,
        "info" => Kind::Info,
        _ => {
            let text = format!("type {kind:?} is none of invoke, ok, fail and info");
            return Err(BadInput::new(line, text));
        }
    })
}

fn micro_of(micro: Value, line: usize) -> Result<Micro, BadInput> {
    let wrong = |what: String| Err(BadInput::new(line, what));
    let parts = match micro {
        Value::List(parts) => <[Value; 3]>::try_from(parts).ok(),
        _ => None,
    };
    let Some([function, key, argument]) = parts else {
        return wrong("an operation of a transaction is a list of function, key and value".to_owned());
    };
    let key = match key {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text,
        other => return wrong(format!("{other:?} is no key")),
    };
    match (function, argument) {
        (Value::Text(name), Value::Integer(value)) if name == "append" => Ok(Micro::Append { key, value }),
        (Value::Text(name), other) if name == "append" => {
            wrong(format!("an integer is appended, not {other:?}"))
        }
        (Value::Text(name), Value::Nil) if name == "r" => Ok(Micro::Read { key, list: None }),
        (Value::Text(name), Value::List(values)) if name == "r" => {
            let mut list = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    Value::Integer(value) => list.push(value),
                    other => return wrong(format!("a list has integers, not {other:?}")),
                }
            }
            Ok(Micro::Read {
                key,
                list: Some(list),
            })
        }
        (Value::Text(name), _) if name == "r" => wrong("a read answers a list or nothing".to_owned()),
        (other, _) => wrong(format!("the functions are append and r, not {other:?}")),
    }
}

/// Writes events as JSON lines.
pub fn write_events(events: &[Event], mut to: impl Write) -> io::Result<()> {
    for event in events {
        let micros: Vec<serde_json::Value> = event
            .micros
            .iter()
            .map(|micro| match micro {
                Micro::Append { key, value } => serde_json::json!(["append", key, value]),
                Micro::Read { key, list } => serde_json::json!(["r", key, list]),
            })
            .collect();
        let kind = match event.kind {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        };
        let mut line = serde_json::json!({ "process": event.process, "type": kind, "value": micros });
        if let Some(time) = event.time {
            line["time"] = time.into();
        }
        writeln!(to, "{line}")?;
    }
    to.flush()
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Other(value.to_string()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::Other(value.to_string()), Value::Integer))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Other(value.to_string()))
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((key, value)) = map.next_entry::<Value, Value>()? {
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(A::Error::custom(format!("the field {key:?} is there twice")));
            }
            pairs.push((key, value));
        }
        Ok(Value::Map(pairs))
    }
}
