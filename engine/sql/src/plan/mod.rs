//! Plans of statements over one table, and how they are made from the syntax tree.
//!
//! A plan is valid while its table's descriptor is the one it was made from.

mod path;
mod query;
mod write;

pub(crate) use path::{Path, prefix_range};
pub(crate) use query::{Grouping, OrderItem, SelectPlan, Source};
pub(crate) use write::{Conflict, DeletePlan, InsertPlan, InsertSource, UpdatePlan};

use crate::catalog::Table;
use crate::error::SqlError;
use crate::expr::{Binder, Expr, ScopeColumn, object_name};
use crate::session::ColumnInfo;
use crate::system::SystemViews;
use crate::types::DataType;
use sqlparser::ast;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A planned statement.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Select(SelectPlan),
    Insert(InsertPlan),
    Update(UpdatePlan),
    Delete(DeletePlan),
}

impl Plan {
    /// Columns of the result, if there is one.
    pub(crate) fn columns(&self) -> Option<&[ColumnInfo]> {
        match self {
            Self::Select(plan) => Some(&plan.output.columns),
            Self::Insert(plan) => plan.returning.as_ref().map(|output| output.columns.as_slice()),
            Self::Update(plan) => plan.returning.as_ref().map(|output| output.columns.as_slice()),
            Self::Delete(plan) => plan.returning.as_ref().map(|output| output.columns.as_slice()),
        }
    }
}

/// What a result row is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    pub expressions: Vec<Expr>,
    pub columns: Vec<ColumnInfo>,
}

/// Makes plans.
pub(crate) struct Planner<'a> {
    /// Descriptors of the tables the statement names.
    pub tables: &'a BTreeMap<String, Arc<Table>>,
    pub views: &'a SystemViews,
    /// Types of `$1`..., given or found.
    pub parameters: Vec<DataType>,
}

impl Planner<'_> {
    /// Plans a statement that reads or writes rows.
    pub(crate) fn plan(&mut self, statement: &ast::Statement) -> Result<Plan, SqlError> {
        Ok(match statement {
            ast::Statement::Query(query) => Plan::Select(self.select(query)?),
            ast::Statement::Insert(insert) => Plan::Insert(self.insert(insert)?),
            ast::Statement::Update(update) => Plan::Update(self.update(update)?),
            ast::Statement::Delete(delete) => Plan::Delete(self.delete(delete)?),
            other => return Err(SqlError::unsupported(other)),
        })
    }

    fn table(&self, name: &ast::ObjectName) -> Result<Arc<Table>, SqlError> {
        let name = object_name(name)?;
        self.tables
            .get(&name)
            .cloned()
            .ok_or_else(|| SqlError::undefined_table(&name))
    }

    fn binder<'b>(&'b mut self, scope: &'b [ScopeColumn]) -> Binder<'b> {
        Binder {
            scope,
            parameters: &mut self.parameters,
            grouping: None,
        }
    }

    fn returning(
        &mut self,
        items: Option<&[ast::SelectItem]>,
        scope: &[ScopeColumn],
    ) -> Result<Option<Output>, SqlError> {
        let Some(items) = items else { return Ok(None) };
        let mut binder = self.binder(scope);
        query::project(items, &mut binder).map(Some)
    }
}

/// Columns of a table under a name.
pub(crate) fn scope_of(table: &Table, name: &str) -> Vec<ScopeColumn> {
    let column = |column: &crate::catalog::Column| ScopeColumn {
        table: name.to_owned(),
        name: column.name.clone(),
        data_type: column.data_type,
    };
    table.columns.iter().map(column).collect()
}

/// Names of the tables a statement reads or writes, as far as the keyed path can run it.
pub(crate) fn tables_of(statement: &ast::Statement, names: &mut Vec<String>) -> Result<(), SqlError> {
    match statement {
        ast::Statement::Query(query) => query_tables(query, names),
        ast::Statement::Insert(insert) => {
            if let ast::TableObject::TableName(name) = &insert.table {
                names.push(object_name(name)?);
            }
            insert
                .source
                .as_ref()
                .map_or(Ok(()), |source| query_tables(source, names))
        }
        ast::Statement::Update(update) => factor_tables(&update.table.relation, names),
        ast::Statement::Delete(delete) => {
            let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
            from.iter()
                .try_for_each(|table| factor_tables(&table.relation, names))
        }
        _ => Ok(()),
    }
}

/// Whether a statement writes or locks rows of the tables it names.
pub(crate) fn writes(statement: &ast::Statement) -> bool {
    fn locks(query: &ast::Query) -> bool {
        let inner = matches!(query.body.as_ref(), ast::SetExpr::Query(inner) if locks(inner));
        inner || !query.locks.is_empty()
    }
    match statement {
        ast::Statement::Query(query) => locks(query),
        ast::Statement::Insert(_) | ast::Statement::Update(_) | ast::Statement::Delete(_) => true,
        _ => false,
    }
}

fn query_tables(query: &ast::Query, names: &mut Vec<String>) -> Result<(), SqlError> {
    match query.body.as_ref() {
        ast::SetExpr::Select(select) => select
            .from
            .iter()
            .try_for_each(|table| factor_tables(&table.relation, names)),
        ast::SetExpr::Query(query) => query_tables(query, names),
        _ => Ok(()),
    }
}

fn factor_tables(factor: &ast::TableFactor, names: &mut Vec<String>) -> Result<(), SqlError> {
    if let ast::TableFactor::Table { name, args: None, .. } = factor {
        names.push(object_name(name)?);
    }
    Ok(())
}

pub(crate) use path::Keys;

/// Evaluates a path.
pub(crate) fn keys_of(path: &Path, context: crate::expr::Context) -> Result<Keys, SqlError> {
    path.keys(context)
}
