//! INSERT, UPDATE and DELETE.

use super::path::{self, Path};
use super::{Output, Planner, SelectPlan, scope_of};
use crate::catalog::Table;
use crate::error::SqlError;
use crate::expr::{Expr, ScopeColumn, fold_ident, object_name};
use crate::parse::parse_expression;
use sqlparser::ast;
use std::sync::Arc;

/// Rows to insert.
#[derive(Debug, Clone)]
pub(crate) enum InsertSource {
    /// One expression per target column; `None` is DEFAULT.
    Values(Vec<Vec<Option<Expr>>>),
    Select(Box<SelectPlan>),
}

/// ON CONFLICT. Expressions are over (existing row, proposed row).
#[derive(Debug, Clone)]
pub(crate) enum Conflict {
    Nothing,
    Update {
        assignments: Vec<(usize, Expr)>,
        filter: Option<Expr>,
    },
}

/// A planned INSERT.
#[derive(Debug, Clone)]
pub(crate) struct InsertPlan {
    pub table: Arc<Table>,
    pub targets: Vec<usize>,
    pub source: InsertSource,
    /// Default of each column.
    pub defaults: Vec<Option<Expr>>,
    pub conflict: Option<Conflict>,
    pub returning: Option<Output>,
}

/// A planned UPDATE.
#[derive(Debug, Clone)]
pub(crate) struct UpdatePlan {
    pub table: Arc<Table>,
    pub path: Path,
    pub filter: Option<Expr>,
    pub assignments: Vec<(usize, Expr)>,
    pub changes_key: bool,
    pub returning: Option<Output>,
}

/// A planned DELETE.
#[derive(Debug, Clone)]
pub(crate) struct DeletePlan {
    pub table: Arc<Table>,
    pub path: Path,
    pub filter: Option<Expr>,
    pub returning: Option<Output>,
}

impl Planner<'_> {
    pub(super) fn insert(&mut self, insert: &ast::Insert) -> Result<InsertPlan, SqlError> {
        let ast::TableObject::TableName(name) = &insert.table else {
            return Err(SqlError::unsupported("INSERT into this"));
        };
        let table = self.table(name)?;
        let targets: Vec<usize> = if insert.columns.is_empty() {
            (0..table.columns.len()).collect()
        } else {
            insert
                .columns
                .iter()
                .map(|column| table.column(&object_name(column)?))
                .collect::<Result<_, _>>()?
        };
        let source = match insert.source.as_deref().map(|query| (query, query.body.as_ref())) {
            None => InsertSource::Values(vec![vec![None; targets.len()]]),
            Some((_, ast::SetExpr::Values(values))) => self.insert_values(values, &targets, &table)?,
            Some((query, _)) => InsertSource::Select(Box::new(self.insert_select(query, &targets, &table)?)),
        };
        let targets = match &source {
            InsertSource::Values(rows) if insert.columns.is_empty() => targets[..rows[0].len()].to_vec(),
            InsertSource::Select(plan) if insert.columns.is_empty() => {
                targets[..plan.output.columns.len()].to_vec()
            }
            _ => targets,
        };
        let defaults = self.defaults(&table)?;
        let alias = insert.table_alias.as_ref().map(|alias| fold_ident(&alias.alias));
        let scope = scope_of(&table, &alias.unwrap_or_else(|| table.name.clone()));
        let conflict = match &insert.on {
            None => None,
            Some(ast::OnInsert::OnConflict(conflict)) => Some(self.conflict(conflict, &table, &scope)?),
            Some(_) => return Err(SqlError::syntax("ON DUPLICATE KEY UPDATE is not SQL")),
        };
        let returning = self.returning(insert.returning.as_deref(), &scope)?;
        Ok(InsertPlan {
            table,
            targets,
            source,
            defaults,
            conflict,
            returning,
        })
    }

    /// Bound default expressions of a table's columns.
    pub(crate) fn defaults(&mut self, table: &Table) -> Result<Vec<Option<Expr>>, SqlError> {
        let mut defaults = Vec::with_capacity(table.columns.len());
        for column in &table.columns {
            defaults.push(match &column.default {
                Some(text) => Some(
                    self.binder(&[])
                        .bind_as(&parse_expression(text)?, column.data_type)?,
                ),
                None => None,
            });
        }
        Ok(defaults)
    }

    fn insert_values(
        &mut self,
        values: &ast::Values,
        targets: &[usize],
        table: &Table,
    ) -> Result<InsertSource, SqlError> {
        let mut rows = Vec::with_capacity(values.rows.len());
        let length = values.rows.first().map_or(0, |row| row.content.len());
        for row in &values.rows {
            let row = &row.content;
            if row.len() > targets.len() {
                return Err(SqlError::new(
                    "42601",
                    "INSERT has more expressions than target columns",
                ));
            }
            if row.len() != length {
                return Err(SqlError::new("42601", "VALUES lists must all be the same length"));
            }
            let mut bound = Vec::with_capacity(row.len());
            for (expr, &target) in row.iter().zip(targets) {
                let is_default = matches!(expr, ast::Expr::Identifier(ident)
                    if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"));
                let target = table.columns[target].data_type;
                bound.push(if is_default {
                    None
                } else {
                    Some(self.binder(&[]).bind_as(expr, target)?)
                });
            }
            rows.push(bound);
        }
        if length == 0 {
            return Err(SqlError::syntax("VALUES without values"));
        }
        Ok(InsertSource::Values(rows))
    }

    fn insert_select(
        &mut self,
        query: &ast::Query,
        targets: &[usize],
        table: &Table,
    ) -> Result<SelectPlan, SqlError> {
        let mut plan = self.select(query)?;
        if plan.output.columns.len() > targets.len() {
            return Err(SqlError::new(
                "42601",
                "INSERT has more expressions than target columns",
            ));
        }
        for (index, &target) in targets.iter().take(plan.output.columns.len()).enumerate() {
            let from = plan.output.columns[index].data_type;
            let expr = std::mem::replace(&mut plan.output.expressions[index], Expr::Column(0));
            let target = table.columns[target].data_type;
            plan.output.expressions[index] = self.binder(&[]).coerce((expr, from), target, false)?;
        }
        Ok(plan)
    }

    fn conflict(
        &mut self,
        conflict: &ast::OnConflict,
        table: &Table,
        scope: &[ScopeColumn],
    ) -> Result<Conflict, SqlError> {
        if let Some(ast::ConflictTarget::Columns(columns)) = &conflict.conflict_target {
            let mut named = columns
                .iter()
                .map(|column| table.column(&fold_ident(column)))
                .collect::<Result<Vec<_>, _>>()?;
            let mut key = table.primary_key.clone();
            named.sort_unstable();
            key.sort_unstable();
            if named != key {
                return Err(SqlError::new(
                    "42P10",
                    "there is no unique or exclusion constraint matching the ON CONFLICT specification",
                ));
            }
        }
        let ast::OnConflictAction::DoUpdate(update) = &conflict.action else {
            return Ok(Conflict::Nothing);
        };
        if table.primary_key.is_empty() {
            return Err(SqlError::new("42P10", "the table has no primary key"));
        }
        let mut scope = scope.to_vec();
        scope.extend(scope_of(table, "excluded"));
        let assignments = self.assignments(&update.assignments, table, &scope)?;
        if assignments
            .iter()
            .any(|(column, _)| table.primary_key.contains(column))
        {
            return Err(SqlError::unsupported(
                "ON CONFLICT DO UPDATE of a primary key column",
            ));
        }
        let filter = update
            .selection
            .as_ref()
            .map(|filter| self.binder(&scope).condition(filter))
            .transpose()?;
        Ok(Conflict::Update { assignments, filter })
    }

    fn assignments(
        &mut self,
        assignments: &[ast::Assignment],
        table: &Table,
        scope: &[ScopeColumn],
    ) -> Result<Vec<(usize, Expr)>, SqlError> {
        let mut bound: Vec<(usize, Expr)> = Vec::with_capacity(assignments.len());
        for assignment in assignments {
            let pairs = match (&assignment.target, &assignment.value) {
                (ast::AssignmentTarget::ColumnName(name), value) => vec![(name, value)],
                (ast::AssignmentTarget::Tuple(names), ast::Expr::Tuple(values))
                    if names.len() == values.len() =>
                {
                    names.iter().zip(values).collect()
                }
                _ => return Err(SqlError::unsupported("this assignment")),
            };
            for (name, value) in pairs {
                let column = table.column(&object_name(name)?)?;
                let is_default = matches!(value, ast::Expr::Identifier(ident)
                    if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"));
                let data_type = table.columns[column].data_type;
                let expr = match (is_default, &table.columns[column].default) {
                    (false, _) => self.binder(scope).bind_as(value, data_type)?,
                    (true, Some(text)) => self.binder(&[]).bind_as(&parse_expression(text)?, data_type)?,
                    (true, None) => Expr::Constant(crate::types::Value::Null),
                };
                if bound.iter().any(|(other, _)| *other == column) {
                    let message = format!(
                        "multiple assignments to same column \"{}\"",
                        table.columns[column].name
                    );
                    return Err(SqlError::new("42601", message));
                }
                bound.push((column, expr));
            }
        }
        Ok(bound)
    }

    fn target(&mut self, table: &ast::TableWithJoins) -> Result<(Arc<Table>, Vec<ScopeColumn>), SqlError> {
        let ast::TableFactor::Table { name, alias, .. } = &table.relation else {
            return Err(SqlError::unsupported("a target that is not a table"));
        };
        if !table.joins.is_empty() {
            return Err(SqlError::unsupported("a join in the target"));
        }
        let table = self.table(name)?;
        let name = alias
            .as_ref()
            .map_or_else(|| table.name.clone(), |alias| fold_ident(&alias.name));
        let scope = scope_of(&table, &name);
        Ok((table, scope))
    }

    pub(super) fn update(&mut self, update: &ast::Update) -> Result<UpdatePlan, SqlError> {
        if update.from.is_some() || update.limit.is_some() {
            return Err(SqlError::unsupported("UPDATE with FROM or LIMIT"));
        }
        let (table, scope) = self.target(&update.table)?;
        let assignments = self.assignments(&update.assignments, &table, &scope)?;
        let filter = update
            .selection
            .as_ref()
            .map(|filter| self.binder(&scope).condition(filter))
            .transpose()?;
        let (path, filter) = path::choose(&table, filter);
        let returning = self.returning(update.returning.as_deref(), &scope)?;
        let changes_key = assignments
            .iter()
            .any(|(column, _)| table.primary_key.contains(column));
        Ok(UpdatePlan {
            table,
            path,
            filter,
            assignments,
            changes_key,
            returning,
        })
    }

    pub(super) fn delete(&mut self, delete: &ast::Delete) -> Result<DeletePlan, SqlError> {
        let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
        let ([from], None, None) = (from.as_slice(), &delete.using, &delete.limit) else {
            return Err(SqlError::unsupported(
                "DELETE with USING, LIMIT or several tables",
            ));
        };
        let (table, scope) = self.target(from)?;
        let filter = delete
            .selection
            .as_ref()
            .map(|filter| self.binder(&scope).condition(filter))
            .transpose()?;
        let (path, filter) = path::choose(&table, filter);
        let returning = self.returning(delete.returning.as_deref(), &scope)?;
        Ok(DeletePlan {
            table,
            path,
            filter,
            returning,
        })
    }
}
