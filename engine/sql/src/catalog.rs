//! Descriptors of tables: rows of the catalogue tree, keyed by name, JSON so that a person can read them.

use crate::error::SqlError;
use crate::types::{DataType, Value, parse_text};
use aquifer_dss_proto::FileId;
use aquifer_engine_proto::TreeId;
use serde::{Deserialize, Serialize};

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// SQL text of the default expression.
    pub default: Option<String>,
    /// Whether the default comes from a counter of the table (serial, identity).
    pub sequence: bool,
    /// Text form of the value of rows that were written before the column was added.
    pub missing: Option<String>,
}

impl Column {
    /// What a row without this column has.
    pub(crate) fn missing_value(&self) -> Value {
        self.missing.as_deref().map_or(Value::Null, |text| {
            parse_text(self.data_type, text).unwrap_or(Value::Null)
        })
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Number of the table: the file of its first tree, never reused.
    pub id: u64,
    /// Its name, without schema: there is one, `public`.
    pub name: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Positions of the primary key columns; empty: rows have a hidden number as key.
    pub primary_key: Vec<usize>,
    /// Name of the primary key constraint.
    pub constraint: String,
    /// File of the tree that keeps the rows.
    pub tree: u64,
    /// Storage options, as given; they have no effect.
    pub options: Vec<(String, String)>,
}

/// Begin of the keys of descriptors in the catalogue tree.
pub const TABLE_PREFIX: &[u8] = b"table/";

impl Table {
    /// The tree that keeps the rows.
    pub fn tree(&self) -> TreeId {
        TreeId(FileId(self.tree))
    }

    /// Position of a column.
    pub fn column(&self, name: &str) -> Result<usize, SqlError> {
        self.columns
            .iter()
            .position(|column| column.name == name)
            .ok_or_else(|| {
                let message = format!("column \"{name}\" of relation \"{}\" does not exist", self.name);
                SqlError::new("42703", message)
            })
    }

    /// Key of a descriptor.
    pub fn key_of(name: &str) -> Vec<u8> {
        [TABLE_PREFIX, name.as_bytes()].concat()
    }

    /// Stored form.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, SqlError> {
        serde_json::from_slice(bytes)
            .map_err(|error| SqlError::new("XX001", format!("a table descriptor cannot be read: {error}")))
    }

    /// Object id for clients.
    pub fn oid(&self) -> u32 {
        16_384 + (self.id as u32 & 0x3fff_ffff)
    }

    /// Key of a row.
    pub(crate) fn row_key(&self, values: &[Value]) -> Result<Vec<u8>, SqlError> {
        let mut key = Vec::with_capacity(self.primary_key.len() * 8);
        for &index in &self.primary_key {
            crate::key::encode(&values[index], &mut key)?;
        }
        Ok(key)
    }

    /// 23505 for this row.
    pub(crate) fn duplicate(&self, values: &[Value]) -> SqlError {
        let text = |index: &usize| values[*index].to_text().unwrap_or_default();
        let names: Vec<_> = self
            .primary_key
            .iter()
            .map(|index| self.columns[*index].name.as_str())
            .collect();
        let keys: Vec<_> = self.primary_key.iter().map(text).collect();
        SqlError {
            detail: Some(format!(
                "Key ({})=({}) already exists.",
                names.join(", "),
                keys.join(", ")
            )),
            constraint: Some(self.constraint.clone()),
            table: Some(self.name.clone()),
            ..SqlError::new(
                "23505",
                format!(
                    "duplicate key value violates unique constraint \"{}\"",
                    self.constraint
                ),
            )
        }
    }

    /// Checks NOT NULL.
    pub(crate) fn check(&self, values: &[Value]) -> Result<(), SqlError> {
        for (column, value) in self.columns.iter().zip(values) {
            if column.not_null && value.is_null() {
                let message = format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    column.name, self.name
                );
                return Err(SqlError {
                    table: Some(self.name.clone()),
                    ..SqlError::new("23502", message)
                });
            }
        }
        Ok(())
    }
}
