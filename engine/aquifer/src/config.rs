//! Configuration of one node: TOML file, overridden by AQUIFER_* variables, overridden by flags.
//!
//! Rules: an unknown key is an error that names the nearest known one; what all nodes must agree on is on the device
//! and has no key here.

use crate::failure::Failure;
use crate::units::Switch;
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// Keys of the file.
const KEYS: [&str; 9] = [
    "id",
    "device",
    "sql",
    "peer",
    "peer_memory",
    "admin",
    "buffer",
    "log",
    "auth",
];

/// Environment variables with meaning.
pub const VARIABLES: [&str; 13] = [
    "AQUIFER_ADMIN",
    "AQUIFER_AUTH",
    "AQUIFER_BUFFER",
    "AQUIFER_CONFIG",
    "AQUIFER_DEVICE",
    "AQUIFER_ID",
    "AQUIFER_LOG",
    "AQUIFER_LOG_LEVEL",
    "AQUIFER_NODE",
    "AQUIFER_PEER",
    "AQUIFER_PEER_MEMORY",
    "AQUIFER_SQL",
    "AQUIFER_TEMPORARY",
];

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileConfig {
    /// Node id.
    pub id: Option<u8>,
    /// Devices of the volume group.
    pub device: Vec<PathBuf>,
    /// SQL address.
    pub sql: Option<String>,
    /// Address for the other nodes.
    pub peer: Option<String>,
    /// Whether frames go through memory to nodes of the same machine.
    pub peer_memory: Option<Switch>,
    /// Admin address.
    pub admin: Option<String>,
    /// Memory for pages.
    pub buffer: Option<String>,
    /// Log file.
    pub log: Option<PathBuf>,
    /// Authentication of SQL clients.
    pub auth: Option<String>,
}

impl FileConfig {
    /// Reads a file; nothing when there is none to read.
    pub fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::usage(format!("cannot read the configuration {}: {e}", path.display())))?;
        Self::parse(&text).map_err(|why| Failure::usage(format!("{}: {why}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| e.message().to_owned())?;
        let mut config = Self::default();
        for (key, value) in &file {
            let string = || {
                value
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| format!("`{key}` must be a string"))
            };
            match key.as_str() {
                "id" => {
                    let id = value.as_integer().and_then(|i| u8::try_from(i).ok());
                    config.id = Some(id.ok_or("`id` must be a number from 1 to 64")?);
                }
                "device" => config.device = devices(value)?,
                "sql" => config.sql = Some(string()?),
                "peer" => config.peer = Some(string()?),
                "peer_memory" => config.peer_memory = Some(switch(key, &string()?)?),
                "admin" => config.admin = Some(string()?),
                "buffer" => config.buffer = Some(string()?),
                "log" => config.log = Some(string()?.into()),
                "auth" => config.auth = Some(string()?),
                _ => {
                    return Err(format!(
                        "unknown key `{key}`; did you mean `{}`?",
                        nearest(key, &KEYS)
                    ));
                }
            }
        }
        Ok(config)
    }
}

fn switch(key: &str, text: &str) -> Result<Switch, String> {
    Switch::from_str(text, false).map_err(|_| format!("`{key}` must be \"on\" or \"off\""))
}

fn devices(value: &toml::Value) -> Result<Vec<PathBuf>, String> {
    let wrong = || "`device` must be a string or a list of strings".to_owned();
    match value {
        toml::Value::String(one) => Ok(vec![one.into()]),
        toml::Value::Array(many) => many
            .iter()
            .map(|v| v.as_str().map(PathBuf::from).ok_or_else(wrong))
            .collect(),
        _ => Err(wrong()),
    }
}

/// Lines about AQUIFER_* variables that mean nothing, each with the nearest one that does.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    names
        .filter(|n| n.starts_with("AQUIFER_") && !VARIABLES.contains(&n.as_str()))
        .map(|n| {
            format!(
                "warning: unknown variable {n}; did you mean {}?",
                nearest(&n, &VARIABLES)
            )
        })
        .collect()
}

/// The candidate with the smallest edit distance.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> &'a str {
    candidates
        .iter()
        .min_by_key(|c| distance(word, c))
        .expect("there are candidates")
}

/// Levenshtein distance over bytes.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replace = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = FileConfig::parse("bufer = \"1M\"").unwrap_err();
        assert_eq!(error, "unknown key `bufer`; did you mean `buffer`?");
    }

    #[test]
    fn all_keys_are_read() {
        let config = FileConfig::parse(
            "id = 3\ndevice = [\"a\", \"b\"]\nsql = \"h:1\"\npeer = \"h:2\"\nadmin = \"/x\"\nbuffer = \"1M\"\nlog = \"l\"\nauth = \"trust\"",
        )
        .unwrap();
        assert_eq!(config.id, Some(3));
        assert_eq!(config.device.len(), 2);
        assert_eq!(config.log, Some("l".into()));
    }

    #[test]
    fn unknown_variables_are_named() {
        let lines = unknown_variables(
            [
                "AQUIFER_ADMN".to_owned(),
                "AQUIFER_SQL".to_owned(),
                "HOME".to_owned(),
            ]
            .into_iter(),
        );
        assert_eq!(
            lines,
            ["warning: unknown variable AQUIFER_ADMN; did you mean AQUIFER_ADMIN?"]
        );
    }
}
