//! Errors as a client sees them.

use crate::store::StoreError;

/// An error with its SQLSTATE.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// PostgreSQL's five-character code.
    pub sqlstate: &'static str,
    /// What happened, one line.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// The constraint that was violated.
    pub constraint: Option<String>,
    /// The table it belongs to.
    pub table: Option<String>,
}

impl SqlError {
    /// An error with nothing but code and message.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self {
            sqlstate,
            message: message.into(),
            detail: None,
            constraint: None,
            table: None,
        }
    }

    /// 0A000.
    pub fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new("0A000", format!("{what} is not supported"))
    }

    /// 42601.
    pub fn syntax(message: impl std::fmt::Display) -> Self {
        Self::new("42601", format!("syntax error: {message}"))
    }

    pub(crate) fn out_of_range(type_name: &str) -> Self {
        Self::new("22003", format!("{type_name} out of range"))
    }

    pub(crate) fn invalid_text(type_name: &str, text: &str) -> Self {
        let code = match type_name {
            "date" | "time" | "timestamp" | "timestamp with time zone" | "interval" => "22007",
            _ => "22P02",
        };
        Self::new(
            code,
            format!("invalid input syntax for type {type_name}: \"{text}\""),
        )
    }

    pub(crate) fn undefined_table(name: &str) -> Self {
        Self::new("42P01", format!("relation \"{name}\" does not exist"))
    }

    pub(crate) fn undefined_column(name: &str) -> Self {
        Self::new("42703", format!("column \"{name}\" does not exist"))
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new("XX000", message)
    }
}

impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        Self::new(error.sqlstate(), error.to_string())
    }
}
