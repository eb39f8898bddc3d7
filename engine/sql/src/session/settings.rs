//! Settings of a session: what clients set and ask for.

use crate::store::Isolation;
use std::collections::BTreeMap;

/// Settings with their values; only the isolation level has an effect.
pub(crate) struct Settings {
    values: BTreeMap<String, String>,
}

const DEFAULTS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "on"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0"),
    ("server_version_num", "150000"),
    ("session_authorization", "aquifer"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// Settings that are told at start-up, by the names clients expect.
pub(crate) const REPORTED: &[&str] = &[
    "application_name",
    "client_encoding",
    "DateStyle",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

impl Default for Settings {
    fn default() -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            values: DEFAULTS.iter().map(own).collect(),
        }
    }
}

impl Settings {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(&name.to_lowercase()).map(String::as_str)
    }

    pub(crate) fn set(&mut self, name: &str, value: String) {
        self.values.insert(name.to_lowercase(), value);
    }

    pub(crate) fn reset(&mut self, name: Option<&str>) {
        match name {
            None => *self = Self::default(),
            Some(name) => {
                let name = name.to_lowercase();
                match DEFAULTS.iter().find(|(known, _)| *known == name) {
                    Some((_, value)) => self.set(&name, (*value).to_owned()),
                    None => drop(self.values.remove(&name)),
                }
            }
        }
    }

    pub(crate) fn isolation(&self) -> Isolation {
        match self.get("default_transaction_isolation") {
            Some("repeatable read") => Isolation::Snapshot,
            _ => Isolation::ReadCommitted,
        }
    }
}
