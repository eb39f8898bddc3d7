//! Prepared statements: planned once, planned again when a descriptor has changed.

use super::{Client, ColumnInfo, Session};
use crate::catalog::Table;
use crate::error::SqlError;
use crate::parse::{Parsed, parse};
use crate::plan::{Plan, Planner, tables_of, writes};
use crate::store::Store;
use crate::types::{DataType, Value};
use parking_lot::Mutex;
use sqlparser::ast;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A plan and the descriptors it was made from.
pub(crate) struct Planned {
    pub plan: Plan,
    pub parameters: Vec<DataType>,
    tables: BTreeMap<String, Arc<Table>>,
}

/// A statement that was parsed.
pub(crate) struct Prepared {
    /// `None`: the text was empty.
    pub parsed: Option<Parsed>,
    /// Types the client gave its parameters.
    given: Vec<DataType>,
    names: Vec<String>,
    /// Whether it writes or locks rows of the tables it names.
    pub writes: bool,
    planned: Mutex<Option<Arc<Planned>>>,
}

impl Prepared {
    fn new(parsed: Option<Parsed>, given: Vec<DataType>) -> Result<Self, SqlError> {
        let (mut names, mut written) = (Vec::new(), false);
        if let Some(Parsed::Ast(statement)) = &parsed {
            tables_of(statement, &mut names)?;
            written = writes(statement);
        }
        Ok(Self {
            parsed,
            given,
            names,
            writes: written,
            planned: Mutex::new(None),
        })
    }

    /// Types of the parameters, as far as planning has found them.
    pub(crate) fn parameters(&self) -> Vec<DataType> {
        self.planned
            .lock()
            .as_ref()
            .map_or_else(|| self.given.clone(), |planned| planned.parameters.clone())
    }

    /// Columns of the result, if there will be one.
    pub(crate) fn columns(&self) -> Option<Vec<ColumnInfo>> {
        if let Some(planned) = self.planned.lock().as_ref() {
            return planned.plan.columns().map(<[ColumnInfo]>::to_vec);
        }
        match self.parsed.as_ref()? {
            Parsed::Ast(statement) => super::utility::columns(statement),
            _ => None,
        }
    }
}

/// Whether a statement goes through the planner.
pub(super) fn is_planned(statement: &ast::Statement) -> bool {
    use ast::Statement::{Delete, Insert, Query, Update};
    matches!(statement, Query(_) | Insert(_) | Update(_) | Delete(_))
}

impl<S: Store> Session<S> {
    /// Parses one statement and plans it if it can be.
    pub(crate) async fn prepare(
        &mut self,
        text: &str,
        given: Vec<DataType>,
    ) -> Result<Arc<Prepared>, SqlError> {
        let mut parsed = parse(text)?;
        if parsed.len() > 1 {
            return Err(SqlError::new(
                "42601",
                "cannot insert multiple commands into a prepared statement",
            ));
        }
        let prepared = Prepared::new(parsed.pop(), given)?;
        if let Some(Parsed::Ast(statement)) = &prepared.parsed
            && is_planned(statement)
        {
            self.begin_statement().await?;
            self.planned(&prepared, statement, false).await?;
        }
        Ok(Arc::new(prepared))
    }

    /// The plan of a statement, made anew if a table is not what it was. `write`: the tables are to stay what they are now until the
    /// transaction ends (SQL-5).
    pub(super) async fn planned(
        &mut self,
        prepared: &Prepared,
        statement: &ast::Statement,
        write: bool,
    ) -> Result<Arc<Planned>, SqlError> {
        let known = prepared.planned.lock().clone();
        let mut same = known.is_some();
        let mut tables = Vec::with_capacity(prepared.names.len());
        for name in &prepared.names {
            let table = if write {
                self.written_table(name).await?
            } else {
                self.table(name).await?
            };
            same &= match (&table, known.as_ref().and_then(|known| known.tables.get(name))) {
                (Some(now), Some(then)) => Arc::ptr_eq(now, then) || now == then,
                (None, None) => true,
                _ => false,
            };
            tables.push(table);
        }
        if let (true, Some(known)) = (same, known) {
            return Ok(known);
        }
        let tables: BTreeMap<_, _> = prepared
            .names
            .iter()
            .zip(tables)
            .filter_map(|(name, table)| Some((name.clone(), table?)))
            .collect();
        let mut planner = Planner {
            tables: &tables,
            views: &self.server.views,
            parameters: prepared.given.clone(),
        };
        let plan = planner.plan(statement)?;
        // A parameter that nothing settles is text.
        let settle = |data_type| {
            if data_type == DataType::Unknown {
                DataType::Text
            } else {
                data_type
            }
        };
        let parameters = planner.parameters.into_iter().map(settle).collect();
        let planned = Arc::new(Planned {
            plan,
            parameters,
            tables,
        });
        *prepared.planned.lock() = Some(planned.clone());
        Ok(planned)
    }

    /// Runs a prepared statement. `describe`: a result's columns are told first (simple protocol).
    pub(crate) async fn run<C: Client>(
        &mut self,
        prepared: &Prepared,
        parameters: &[Value],
        describe: bool,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let statement = match &prepared.parsed {
            None => {
                client.empty();
                return Ok(());
            }
            Some(Parsed::Ast(statement)) if is_planned(statement) => statement,
            Some(other) => return self.utility(other, describe, client).await,
        };
        self.begin_statement().await?;
        let planned = self.planned(prepared, statement, prepared.writes).await?;
        if parameters.len() < planned.parameters.len() {
            let message = format!(
                "{} parameters are needed, {} were given",
                planned.parameters.len(),
                parameters.len()
            );
            return Err(SqlError::new("08P01", message));
        }
        if describe && let Some(columns) = planned.plan.columns() {
            client.describe(columns);
        }
        let count = self.run_plan(&planned.plan, parameters, client).await?;
        client.complete(&match &planned.plan {
            Plan::Select(_) => format!("SELECT {count}"),
            Plan::Insert(_) => format!("INSERT 0 {count}"),
            Plan::Update(_) => format!("UPDATE {count}"),
            Plan::Delete(_) => format!("DELETE {count}"),
        });
        Ok(())
    }

    /// Runs all statements of a text.
    pub(crate) async fn simple<C: Client>(&mut self, text: &str, client: &mut C) -> Result<(), SqlError> {
        let outcome = self.simple_statements(text, client).await;
        if outcome.is_err() {
            self.fail().await;
        }
        outcome
    }

    async fn simple_statements<C: Client>(&mut self, text: &str, client: &mut C) -> Result<(), SqlError> {
        let statements = parse(text)?;
        if statements.is_empty() {
            client.empty();
            return Ok(());
        }
        for parsed in statements {
            let prepared = Prepared::new(Some(parsed), Vec::new())?;
            self.run(&prepared, &[], true, client).await?;
        }
        self.finish_implicit().await
    }
}
