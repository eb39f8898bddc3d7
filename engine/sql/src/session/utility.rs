//! Transactions, settings, and the dispatch of everything that is not planned.

use super::{Client, ColumnInfo, Savepoint, Session};
use crate::error::SqlError;
use crate::expr::{fold_ident, object_name};
use crate::parse::Parsed;
use crate::store::{Isolation, Store, StoreTransaction};
use crate::types::{DataType, Value};
use sqlparser::ast;

/// Columns of what a utility statement answers.
pub(super) fn columns(statement: &ast::Statement) -> Option<Vec<ColumnInfo>> {
    match statement {
        ast::Statement::ShowVariable { variable } => Some(vec![ColumnInfo {
            name: variable_name(variable),
            data_type: DataType::Text,
        }]),
        ast::Statement::Explain { .. } => Some(vec![ColumnInfo {
            name: "QUERY PLAN".into(),
            data_type: DataType::Text,
        }]),
        _ => None,
    }
}

fn variable_name(variable: &[ast::Ident]) -> String {
    let words: Vec<_> = variable.iter().map(|ident| ident.value.to_lowercase()).collect();
    match words.join(" ").as_str() {
        "transaction isolation level" => "transaction_isolation".into(),
        "time zone" => "timezone".into(),
        "session authorization" => "session_authorization".into(),
        _ => words.join("."),
    }
}

fn isolation_of(modes: &[ast::TransactionMode]) -> Result<Option<Isolation>, SqlError> {
    use ast::TransactionIsolationLevel as Level;
    let mut isolation = None;
    for mode in modes {
        if let ast::TransactionMode::IsolationLevel(level) = mode {
            isolation = Some(match level {
                Level::ReadUncommitted | Level::ReadCommitted => Isolation::ReadCommitted,
                Level::RepeatableRead | Level::Snapshot => Isolation::Snapshot,
                // Giving less than was asked for would be a lie.
                Level::Serializable => return Err(SqlError::unsupported("isolation level SERIALIZABLE")),
            });
        }
    }
    Ok(isolation)
}

fn isolation_name(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "read committed",
        Isolation::Snapshot => "repeatable read",
    }
}

impl<S: Store> Session<S> {
    /// Runs a statement that is not planned.
    pub(super) async fn utility<C: Client>(
        &mut self,
        parsed: &Parsed,
        describe: bool,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let statement = match parsed {
            Parsed::Ast(statement) => statement,
            other => {
                self.check_not_failed()?;
                client.complete(match other {
                    Parsed::Vacuum if self.open.as_ref().is_some_and(|open| open.block) => {
                        return Err(SqlError::new(
                            "25001",
                            "VACUUM cannot run inside a transaction block",
                        ));
                    }
                    Parsed::Vacuum => "VACUUM",
                    Parsed::Analyze => "ANALYZE",
                    Parsed::Checkpoint => "CHECKPOINT",
                    Parsed::Reset(name) => {
                        self.settings.reset(name.as_deref());
                        "RESET"
                    }
                    Parsed::Unsupported(what) => return Err(SqlError::unsupported(what)),
                    Parsed::Ast(_) => unreachable!("taken above"),
                });
                return Ok(());
            }
        };
        if let Some(tag) = self.transaction_statement(statement, client).await? {
            client.complete(tag);
            return Ok(());
        }
        self.check_not_failed()?;
        match statement.as_ref() {
            ast::Statement::Set(set) => self.set(set).map(|()| client.complete("SET")),
            ast::Statement::ShowVariable { variable } => self.show(variable, describe, client),
            ast::Statement::Discard { .. } => {
                self.settings.reset(None);
                client.complete("DISCARD ALL");
                Ok(())
            }
            ast::Statement::Deallocate { .. } => {
                client.complete("DEALLOCATE");
                Ok(())
            }
            ast::Statement::Copy { .. } => self.copy(statement, client).await,
            other => self.definition(other, client).await,
        }
    }

    fn check_not_failed(&self) -> Result<(), SqlError> {
        if self.open.as_ref().is_some_and(|open| open.failed) {
            Err(super::aborted())
        } else {
            Ok(())
        }
    }

    async fn transaction_statement<C: Client>(
        &mut self,
        statement: &ast::Statement,
        client: &mut C,
    ) -> Result<Option<&'static str>, SqlError> {
        use ast::Statement as St;
        Ok(Some(match statement {
            St::StartTransaction { modes, begin, .. } => {
                self.begin_block(modes, client).await?;
                if *begin { "BEGIN" } else { "START TRANSACTION" }
            }
            St::Commit { chain: false, .. } => {
                self.warn_outside(client);
                if self.commit().await? {
                    "COMMIT"
                } else {
                    "ROLLBACK"
                }
            }
            St::Rollback {
                chain: false,
                savepoint: None,
            } => {
                self.warn_outside(client);
                self.rollback().await?;
                "ROLLBACK"
            }
            St::Commit { .. } | St::Rollback { savepoint: None, .. } => {
                return Err(SqlError::unsupported("AND CHAIN"));
            }
            St::Rollback {
                savepoint: Some(name),
                ..
            } => {
                self.rollback_to(&fold_ident(name)).await?;
                "ROLLBACK"
            }
            St::Savepoint { name } => {
                self.savepoint(fold_ident(name)).await?;
                "SAVEPOINT"
            }
            St::ReleaseSavepoint { name } => {
                self.check_not_failed()?;
                let at = self.find_savepoint(&fold_ident(name))?;
                let open = self.opened();
                let point = open.savepoints[at].point;
                open.savepoints.truncate(at);
                open.transaction
                    .as_mut()
                    .ok_or_else(super::aborted)?
                    .release(point)?;
                "RELEASE"
            }
            _ => return Ok(None),
        }))
    }

    fn warn_outside<C: Client>(&self, client: &mut C) {
        if self.open.as_ref().is_none_or(|open| !open.block) {
            client.warning("25P01", "there is no transaction in progress");
        }
    }

    async fn begin_block<C: Client>(
        &mut self,
        modes: &[ast::TransactionMode],
        client: &mut C,
    ) -> Result<(), SqlError> {
        self.check_not_failed()?;
        let isolation = isolation_of(modes)?;
        if let Some(open) = &mut self.open {
            if open.block {
                client.warning("25001", "there is already a transaction in progress");
            }
            // Statements before it in the same text belong to the block, as in PostgreSQL.
            open.block = true;
            return Ok(());
        }
        let isolation = isolation.unwrap_or_else(|| self.settings.isolation());
        self.begin_with(true, isolation);
        self.settings
            .set("transaction_isolation", isolation_name(isolation).into());
        Ok(())
    }

    async fn savepoint(&mut self, name: String) -> Result<(), SqlError> {
        self.check_not_failed()?;
        if self.open.as_ref().is_none_or(|open| !open.block) {
            return Err(SqlError::new(
                "25P01",
                "SAVEPOINT can only be used in transaction blocks",
            ));
        }
        self.begin_statement().await?;
        let open = self.opened();
        let point = open.transaction.as_mut().ok_or_else(super::aborted)?.savepoint();
        let (created, dropped) = (open.created.len(), open.dropped.len());
        open.savepoints.push(Savepoint {
            name,
            point,
            created,
            dropped,
        });
        Ok(())
    }

    fn find_savepoint(&self, name: &str) -> Result<usize, SqlError> {
        let Some(open) = self.open.as_ref().filter(|open| open.block) else {
            return Err(SqlError::new(
                "25P01",
                "savepoints can only be used in transaction blocks",
            ));
        };
        open.savepoints
            .iter()
            .rposition(|savepoint| savepoint.name == name)
            .ok_or_else(|| SqlError::new("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    async fn rollback_to(&mut self, name: &str) -> Result<(), SqlError> {
        let at = self.find_savepoint(name)?;
        let open = self.opened();
        open.savepoints.truncate(at + 1);
        let (point, created, dropped) = (
            open.savepoints[at].point,
            open.savepoints[at].created,
            open.savepoints[at].dropped,
        );
        open.transaction
            .as_mut()
            .ok_or_else(super::aborted)?
            .rollback_to(point)
            .await?;
        open.failed = false;
        open.dropped.truncate(dropped);
        let gone = open.created.split_off(created);
        Self::drop_trees(&self.server, gone).await;
        Ok(())
    }

    fn set(&mut self, set: &ast::Set) -> Result<(), SqlError> {
        let text = |expr: &ast::Expr| match expr {
            ast::Expr::Value(value) => value
                .value
                .clone()
                .into_string()
                .unwrap_or_else(|| value.value.to_string()),
            ast::Expr::Identifier(ident) => ident.value.clone(),
            other => other.to_string(),
        };
        match set {
            ast::Set::SingleAssignment { variable, values, .. } => {
                let name = object_name(variable)?;
                let value = values.iter().map(text).collect::<Vec<_>>().join(", ");
                self.set_one(&name, value)
            }
            ast::Set::SetTimeZone { value, .. } => self.set_one("timezone", text(value)),
            ast::Set::SetNames { charset_name, .. } => {
                self.set_one("client_encoding", charset_name.value.clone())
            }
            ast::Set::SetTransaction { modes, session, .. } => {
                let Some(isolation) = isolation_of(modes)? else {
                    return Ok(());
                };
                if *session {
                    self.settings
                        .set("default_transaction_isolation", isolation_name(isolation).into());
                    return Ok(());
                }
                match &self.open {
                    Some(open) if open.started => Err(SqlError::new(
                        "25001",
                        "SET TRANSACTION ISOLATION LEVEL must be called before any query",
                    )),
                    Some(open) if open.block => {
                        self.begin_with(true, isolation);
                        self.settings
                            .set("transaction_isolation", isolation_name(isolation).into());
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            ast::Set::SetRole { .. } | ast::Set::SetSessionAuthorization(_) => Ok(()),
            other => Err(SqlError::unsupported(other)),
        }
    }

    fn set_one(&mut self, name: &str, value: String) -> Result<(), SqlError> {
        let name = name.to_lowercase();
        let lower = value.to_lowercase();
        let refuse = |what: &str| {
            Err(SqlError::new(
                "22023",
                format!("invalid value for parameter \"{name}\": \"{what}\""),
            ))
        };
        match name.as_str() {
            "client_encoding"
                if !matches!(
                    lower.as_str(),
                    "utf8" | "utf-8" | "unicode" | "sql_ascii" | "default"
                ) =>
            {
                return refuse(&value);
            }
            "timezone" if !matches!(lower.as_str(), "utc" | "gmt" | "etc/utc" | "default" | "z" | "0") => {
                return Err(SqlError::unsupported(format!("time zone {value}: only UTC")));
            }
            "default_transaction_isolation" | "transaction_isolation" => match lower.as_str() {
                "read committed" | "read uncommitted" => self.settings.set(&name, "read committed".into()),
                "repeatable read" => self.settings.set(&name, lower),
                _ => return Err(SqlError::unsupported(format!("isolation level {value}"))),
            },
            _ if lower == "default" => self.settings.reset(Some(&name)),
            _ => self.settings.set(&name, value),
        }
        Ok(())
    }

    fn show<C: Client>(
        &mut self,
        variable: &[ast::Ident],
        describe: bool,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let name = variable_name(variable);
        let Some(value) = self.settings.get(&name) else {
            let message = format!("unrecognized configuration parameter \"{name}\"");
            return Err(SqlError::new("42704", message));
        };
        if describe {
            client.describe(&[ColumnInfo {
                name,
                data_type: DataType::Text,
            }]);
        }
        client.row(&[Value::Text(value.to_owned())])?;
        client.complete("SHOW");
        Ok(())
    }

    /// A setting's value.
    pub(crate) fn setting(&self, name: &str) -> &str {
        self.settings.get(name).unwrap_or_default()
    }

    /// Takes what a client gave at start-up.
    pub(crate) fn start_setting(&mut self, name: &str, value: &str) {
        if !matches!(name, "user" | "database" | "options" | "replication") {
            // A client that asks for what is not there learns it at its first statement that needs it.
            let _ = self.set_one(name, value.to_owned());
        }
    }
}
