//! What can be wrong, and which isolation level forbids it.

use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Something a history shows. Names as in Adya (1999) and Elle where they have one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Anomaly {
    /// A read shows a value that nobody appended.
    GarbageRead,
    /// A read shows a value twice.
    DuplicateAppend,
    /// Two reads of a key, neither of which is the beginning of the other.
    IncompatibleOrder,
    /// A read does not show what its own transaction appended before it, or shows what it appends only later.
    Internal,
    /// G1a: a read shows a value of a transaction that was refused.
    AbortedRead,
    /// A committed append went on top of one that was refused.
    DirtyUpdate,
    /// G1b: a read shows a state in the middle of another transaction.
    IntermediateRead,
    /// Two reads of one transaction show two versions.
    NonRepeatableRead,
    /// Two transactions read the same version and both replaced it.
    LostUpdate,
    /// G0: a cycle of writes.
    G0,
    /// G1c: a cycle of writes and reads of what was written.
    G1c,
    /// A cycle with exactly one anti-dependency.
    GSingle,
    /// A cycle with anti-dependencies, no two of them beside each other.
    GNonadjacent,
    /// G2 of items: a cycle with two anti-dependencies beside each other. Reads are by key, so every G2 is of items.
    G2Item,
    /// A cycle of writes and real time.
    G0RealTime,
    /// A cycle of writes, reads and real time.
    G1cRealTime,
    /// A read misses what was acknowledged before its transaction began.
    StaleRead,
    /// As [`GSingle`](Self::GSingle), with real time.
    GSingleRealTime,
    /// As [`GNonadjacent`](Self::GNonadjacent), with real time.
    GNonadjacentRealTime,
    /// As [`G2Item`](Self::G2Item), with real time.
    G2ItemRealTime,
}

impl Anomaly {
    /// Its name, and one line that says what it is.
    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::GarbageRead => ("garbage-read", "a read shows a value that nobody appended"),
            Self::DuplicateAppend => ("duplicate-append", "a read shows a value twice"),
            Self::IncompatibleOrder => (
                "incompatible-order",
                "two reads of a key, neither the beginning of the other",
            ),
            Self::Internal => (
                "internal",
                "a read that contradicts the appends of its own transaction",
            ),
            Self::AbortedRead => ("G1a", "aborted read: a value of a refused transaction"),
            Self::DirtyUpdate => ("dirty-update", "a committed append on top of a refused one"),
            Self::IntermediateRead => ("G1b", "intermediate read: the middle of another transaction"),
            Self::NonRepeatableRead => (
                "non-repeatable-read",
                "two reads of one transaction show two versions",
            ),
            Self::LostUpdate => (
                "lost-update",
                "two transactions read one version and both replaced it",
            ),
            Self::G0 => ("G0", "write cycle"),
            Self::G1c => ("G1c", "circular information flow"),
            Self::GSingle => ("G-single", "a cycle with exactly one anti-dependency"),
            Self::GNonadjacent => ("G-nonadjacent", "a cycle whose anti-dependencies do not meet"),
            Self::G2Item => ("G2-item", "a cycle with anti-dependencies that meet"),
            Self::G0RealTime => ("G0-realtime", "a cycle of writes and real time"),
            Self::G1cRealTime => ("G1c-realtime", "a cycle of writes, reads and real time"),
            Self::StaleRead => (
                "stale-read",
                "a read misses what was acknowledged before its transaction began",
            ),
            Self::GSingleRealTime => (
                "G-single-realtime",
                "a cycle with one anti-dependency and real time",
            ),
            Self::GNonadjacentRealTime => (
                "G-nonadjacent-realtime",
                "a cycle of real time whose anti-dependencies do not meet",
            ),
            Self::G2ItemRealTime => (
                "G2-item-realtime",
                "a cycle of real time with anti-dependencies that meet",
            ),
        }
    }

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        self.texts().0
    }

    /// What it is, in a few words.
    pub const fn meaning(self) -> &'static str {
        self.texts().1
    }

    /// The weakest level that forbids it.
    pub const fn forbidden_by(self) -> Level {
        match self {
            Self::GarbageRead
            | Self::DuplicateAppend
            | Self::IncompatibleOrder
            | Self::Internal
            | Self::AbortedRead
            | Self::DirtyUpdate
            | Self::IntermediateRead
            | Self::G0
            | Self::G1c
            | Self::G0RealTime
            | Self::G1cRealTime => Level::ReadCommitted,
            Self::NonRepeatableRead
            | Self::LostUpdate
            | Self::GSingle
            | Self::GNonadjacent
            | Self::StaleRead
            | Self::GSingleRealTime
            | Self::GNonadjacentRealTime => Level::SnapshotIsolation,
            Self::G2Item | Self::G2ItemRealTime => Level::Serializable,
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Anomaly {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Isolation levels, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Adya's PL-2: no G0, no G1.
    ReadCommitted,
    /// Also no cycle whose anti-dependencies do not meet, and no lost update.
    SnapshotIsolation,
    /// Also no G2.
    Serializable,
}

/// What a history is checked against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Model {
    /// The level.
    pub level: Level,
    /// Whether the order of the transactions must also agree with real time.
    pub real_time: bool,
}

impl Model {
    /// The names of all models.
    pub const NAMES: [&str; 6] = [
        "read-committed",
        "snapshot-isolation",
        "serializable",
        "strict-read-committed",
        "strict-snapshot-isolation",
        "strict-serializable",
    ];

    /// Whether `anomaly` fails it.
    pub fn forbids(self, anomaly: Anomaly) -> bool {
        anomaly.forbidden_by() <= self.level
    }
}

impl FromStr for Model {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (real_time, level) = match name.strip_prefix("strict-").or(name.strip_prefix("strong-")) {
            Some(level) => (true, level),
            None => (false, name),
        };
        let level = match level {
            "read-committed" => Level::ReadCommitted,
            "snapshot-isolation" => Level::SnapshotIsolation,
            "serializable" => Level::Serializable,
            _ => return Err(format!("no model {name}; there are {}", Self::NAMES.join(", "))),
        };
        Ok(Self { level, real_time })
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.real_time { "strict-" } else { "" })?;
        f.write_str(match self.level {
            Level::ReadCommitted => "read-committed",
            Level::SnapshotIsolation => "snapshot-isolation",
            Level::Serializable => "serializable",
        })
    }
}
