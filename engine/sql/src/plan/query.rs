//! SELECT over one table, a system view, a series or nothing.

use super::path::{self, Path};
use super::{Output, Planner, scope_of};
use crate::catalog::Table;
use crate::error::SqlError;
use crate::expr::{Aggregate, Binder, Expr, ScopeColumn, object_name};
use crate::session::ColumnInfo;
use crate::system::SystemView;
use crate::types::DataType;
use sqlparser::ast;
use std::sync::Arc;

/// Where rows come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// One row without columns.
    Nothing,
    Table {
        table: Arc<Table>,
        path: Path,
    },
    View(Arc<SystemView>),
    /// VALUES
    Rows(Vec<Vec<Expr>>),
    /// generate_series(start, stop, step)
    Series(Box<[Expr; 3]>),
}

/// GROUP BY and aggregates.
#[derive(Debug, Clone)]
pub(crate) struct Grouping {
    pub keys: Vec<Expr>,
    pub aggregates: Vec<Aggregate>,
    pub having: Option<Expr>,
}

/// One expression of ORDER BY.
#[derive(Debug, Clone)]
pub(crate) struct OrderItem {
    pub expr: Expr,
    pub descending: bool,
    pub nulls_first: bool,
}

/// A planned SELECT.
#[derive(Debug, Clone)]
pub(crate) struct SelectPlan {
    pub source: Source,
    pub filter: Option<Expr>,
    pub grouping: Option<Grouping>,
    pub output: Output,
    pub distinct: bool,
    /// Empty when the key's order is the order asked for.
    pub order: Vec<OrderItem>,
    pub reverse: bool,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    pub for_update: bool,
}

/// Binds a select list.
pub(super) fn project(items: &[ast::SelectItem], binder: &mut Binder) -> Result<Output, SqlError> {
    let mut output = Output::default();
    let scope = binder.scope;
    let all = |output: &mut Output, table: Option<String>| {
        for (index, column) in scope.iter().enumerate() {
            if table.as_ref().is_none_or(|table| column.table == *table) && column.table != "excluded" {
                output.expressions.push(Expr::Column(index));
                output.columns.push(ColumnInfo {
                    name: column.name.clone(),
                    data_type: column.data_type,
                });
            }
        }
    };
    for item in items {
        let (expr, alias) = match item {
            ast::SelectItem::Wildcard(_) if binder.grouping.is_none() => {
                all(&mut output, None);
                continue;
            }
            ast::SelectItem::QualifiedWildcard(ast::SelectItemQualifiedWildcardKind::ObjectName(name), _)
                if binder.grouping.is_none() =>
            {
                all(&mut output, Some(object_name(name)?));
                continue;
            }
            ast::SelectItem::UnnamedExpr(expr) => (expr, None),
            ast::SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.value.clone())),
            other => return Err(SqlError::unsupported(format!("{other} here"))),
        };
        let (bound, data_type) = binder.bind(expr)?;
        // What stayed untyped is text.
        let bound = if data_type == DataType::Unknown {
            binder.coerce((bound, data_type), DataType::Text, true)?
        } else {
            bound
        };
        let data_type = if data_type == DataType::Unknown {
            DataType::Text
        } else {
            data_type
        };
        output.expressions.push(bound);
        output.columns.push(ColumnInfo {
            name: alias.unwrap_or_else(|| name_of(expr)),
            data_type,
        });
    }
    Ok(output)
}

/// The name PostgreSQL gives a column of this expression.
fn name_of(expr: &ast::Expr) -> String {
    match expr {
        ast::Expr::Identifier(ident) => crate::expr::fold_ident(ident),
        ast::Expr::CompoundIdentifier(parts) => parts.last().map(crate::expr::fold_ident).unwrap_or_default(),
        ast::Expr::Function(function) => {
            let name = object_name(&function.name).unwrap_or_default();
            name.rsplit('.').next().unwrap_or_default().to_owned()
        }
        ast::Expr::Cast { expr, data_type, .. } => match name_of(expr).as_str() {
            "?column?" => data_type.to_string().to_lowercase(),
            name => name.to_owned(),
        },
        ast::Expr::Nested(expr) => name_of(expr),
        ast::Expr::Case { .. } => "case".into(),
        ast::Expr::Extract { .. } => "extract".into(),
        _ => "?column?".into(),
    }
}

fn aggregates_in(select: &ast::Select, groups: &[ast::Expr]) -> bool {
    let names = [
        "count",
        "sum",
        "min",
        "max",
        "avg",
        "every",
        "bool_and",
        "bool_or",
        "string_agg",
    ];
    let has = |text: &str| {
        let text = text.to_lowercase();
        names.iter().any(|name| text.contains(&format!("{name}(")))
    };
    !groups.is_empty()
        || select.having.is_some()
        || select.projection.iter().any(|item| has(&item.to_string()))
}

impl Planner<'_> {
    /// Plans a query.
    pub(crate) fn select(&mut self, query: &ast::Query) -> Result<SelectPlan, SqlError> {
        if query.with.is_some() {
            return Err(SqlError::unsupported("WITH"));
        }
        let select = match query.body.as_ref() {
            ast::SetExpr::Select(select) => select,
            ast::SetExpr::Values(values) => return self.values(query, values),
            ast::SetExpr::Query(inner) if query.order_by.is_none() && query.limit_clause.is_none() => {
                return self.select(inner);
            }
            _ => return Err(SqlError::unsupported("a set operation")),
        };
        let (source, scope) = self.source(&select.from)?;
        let filter = select
            .selection
            .as_ref()
            .map(|filter| self.binder(&scope).condition(filter))
            .transpose()?;
        let (source, filter) = match source {
            Source::Table { table, .. } => {
                let (path, filter) = path::choose(&table, filter);
                (Source::Table { table, path }, filter)
            }
            other => (other, filter),
        };
        let groups = match &select.group_by {
            ast::GroupByExpr::Expressions(groups, modifiers) if modifiers.is_empty() => groups.clone(),
            _ => return Err(SqlError::unsupported("this GROUP BY")),
        };
        let mut plan = SelectPlan {
            source,
            filter,
            grouping: None,
            output: Output::default(),
            distinct: match &select.distinct {
                None | Some(ast::Distinct::All) => false,
                Some(ast::Distinct::Distinct) => true,
                Some(ast::Distinct::On(_)) => return Err(SqlError::unsupported("DISTINCT ON")),
            },
            order: Vec::new(),
            reverse: false,
            limit: None,
            offset: None,
            for_update: !query.locks.is_empty(),
        };
        if aggregates_in(select, &groups) {
            self.grouped(&mut plan, query, select, &groups, &scope)?;
        } else {
            let mut binder = self.binder(&scope);
            plan.output = project(&select.projection, &mut binder)?;
            plan.order = order(query, &select.projection, &plan.output, &mut binder)?;
        }
        if plan.for_update && (plan.grouping.is_some() || plan.distinct) {
            return Err(SqlError::unsupported(
                "FOR UPDATE with DISTINCT, GROUP BY or aggregates",
            ));
        }
        use_key_order(&mut plan);
        self.limits(query, &mut plan)?;
        Ok(plan)
    }

    fn grouped(
        &mut self,
        plan: &mut SelectPlan,
        query: &ast::Query,
        select: &ast::Select,
        groups: &[ast::Expr],
        scope: &[ScopeColumn],
    ) -> Result<(), SqlError> {
        let mut keys = Vec::new();
        let mut named = Vec::new();
        for group in groups {
            let group = resolve(group, &select.projection);
            let (expr, data_type) = self.binder(scope).bind(&group)?;
            keys.push(expr);
            named.push((group, data_type));
        }
        let mut aggregates = Vec::new();
        let mut binder = Binder {
            scope,
            parameters: &mut self.parameters,
            grouping: Some((&named, &mut aggregates)),
        };
        plan.output = project(&select.projection, &mut binder)?;
        let having = select
            .having
            .as_ref()
            .map(|having| binder.condition(having))
            .transpose()?;
        plan.order = order(query, &select.projection, &plan.output, &mut binder)?;
        plan.grouping = Some(Grouping {
            keys,
            aggregates,
            having,
        });
        Ok(())
    }

    fn limits(&mut self, query: &ast::Query, plan: &mut SelectPlan) -> Result<(), SqlError> {
        let (limit, offset) = match &query.limit_clause {
            None => (None, None),
            Some(ast::LimitClause::LimitOffset { limit, offset, .. }) => {
                (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
            }
            Some(ast::LimitClause::OffsetCommaLimit { .. }) => {
                return Err(SqlError::syntax("LIMIT #,# is not SQL"));
            }
        };
        let limit = limit.or(query.fetch.as_ref().and_then(|fetch| fetch.quantity.as_ref()));
        let mut binder = self.binder(&[]);
        plan.limit = limit
            .map(|expr| binder.bind_as(expr, DataType::BigInt))
            .transpose()?;
        plan.offset = offset
            .map(|expr| binder.bind_as(expr, DataType::BigInt))
            .transpose()?;
        Ok(())
    }

    fn values(&mut self, query: &ast::Query, values: &ast::Values) -> Result<SelectPlan, SqlError> {
        let mut rows = Vec::new();
        let mut types: Vec<DataType> = Vec::new();
        for row in &values.rows {
            let bound = row
                .content
                .iter()
                .map(|expr| self.binder(&[]).bind(expr))
                .collect::<Result<Vec<_>, _>>()?;
            if types.is_empty() {
                types = bound.iter().map(|(_, data_type)| *data_type).collect();
            }
            rows.push(bound);
        }
        types
            .iter_mut()
            .filter(|data_type| **data_type == DataType::Unknown)
            .for_each(|slot| *slot = DataType::Text);
        let mut coerced = Vec::new();
        for row in rows {
            if row.len() != types.len() {
                return Err(SqlError::new("42601", "VALUES lists must all be the same length"));
            }
            let row = row
                .into_iter()
                .zip(&types)
                .map(|(bound, target)| self.binder(&[]).coerce(bound, *target, false));
            coerced.push(row.collect::<Result<Vec<_>, _>>()?);
        }
        let columns = types.iter().enumerate();
        let columns = columns.map(|(index, data_type)| ColumnInfo {
            name: format!("column{}", index + 1),
            data_type: *data_type,
        });
        let mut plan = SelectPlan {
            source: Source::Rows(coerced),
            filter: None,
            grouping: None,
            output: Output {
                expressions: (0..types.len()).map(Expr::Column).collect(),
                columns: columns.collect(),
            },
            distinct: false,
            order: Vec::new(),
            reverse: false,
            limit: None,
            offset: None,
            for_update: false,
        };
        plan.order = order(query, &[], &plan.output, &mut self.binder(&[]))?;
        self.limits(query, &mut plan)?;
        Ok(plan)
    }

    fn source(&mut self, from: &[ast::TableWithJoins]) -> Result<(Source, Vec<ScopeColumn>), SqlError> {
        let [table] = from else {
            if from.is_empty() {
                return Ok((Source::Nothing, Vec::new()));
            }
            return Err(SqlError::unsupported("a join"));
        };
        if !table.joins.is_empty() {
            return Err(SqlError::unsupported("a join"));
        }
        let ast::TableFactor::Table {
            name, alias, args, ..
        } = &table.relation
        else {
            return Err(SqlError::unsupported("a subquery in FROM"));
        };
        let table_name = object_name(name)?;
        let alias_name = alias.as_ref().map(|alias| crate::expr::fold_ident(&alias.name));
        let scope_name = alias_name.clone().unwrap_or_else(|| table_name.clone());
        if let Some(args) = args {
            return self.series(&table_name, args, alias.as_ref());
        }
        if let Some(table) = self.tables.get(&table_name) {
            let scope = scope_of(table, &scope_name);
            let path = Path::Range {
                equal: Vec::new(),
                lower: None,
                upper: None,
            };
            return Ok((
                Source::Table {
                    table: table.clone(),
                    path,
                },
                scope,
            ));
        }
        let view = self
            .views
            .find(&table_name)
            .ok_or_else(|| SqlError::undefined_table(&table_name))?;
        let scope_name = scope_name.rsplit('.').next().unwrap_or_default();
        let column = |(name, data_type): &(String, DataType)| ScopeColumn {
            table: scope_name.to_owned(),
            name: name.clone(),
            data_type: *data_type,
        };
        Ok((
            Source::View(view.clone()),
            view.columns.iter().map(column).collect(),
        ))
    }

    fn series(
        &mut self,
        name: &str,
        args: &ast::TableFunctionArgs,
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Source, Vec<ScopeColumn>), SqlError> {
        if name != "generate_series" {
            return Err(SqlError::new(
                "42883",
                format!("function {name}() does not exist"),
            ));
        }
        let mut bounds = Vec::new();
        for argument in &args.args {
            match argument {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => {
                    bounds.push(self.binder(&[]).bind_as(expr, DataType::BigInt)?);
                }
                other => return Err(SqlError::unsupported(other)),
            }
        }
        if bounds.len() == 2 {
            bounds.push(Expr::Constant(crate::types::Value::Int8(1)));
        }
        let bounds: Box<[Expr; 3]> = Box::new(
            bounds
                .try_into()
                .map_err(|_| SqlError::new("42883", "generate_series takes two or three arguments"))?,
        );
        let table = alias.map_or_else(|| name.to_owned(), |alias| crate::expr::fold_ident(&alias.name));
        let column = alias
            .and_then(|alias| alias.columns.first())
            .map(|column| crate::expr::fold_ident(&column.name));
        let name = column.unwrap_or_else(|| table.clone());
        Ok((
            Source::Series(bounds),
            vec![ScopeColumn {
                table,
                name,
                data_type: DataType::BigInt,
            }],
        ))
    }
}

/// Position or alias in the select list, else the expression itself.
fn resolve(expr: &ast::Expr, projection: &[ast::SelectItem]) -> ast::Expr {
    let item = match expr {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Number(text, _) => text.parse::<usize>().ok().and_then(|at| projection.get(at.wrapping_sub(1))),
            _ => None,
        },
        ast::Expr::Identifier(name) => projection.iter().find(
            |item| matches!(item, ast::SelectItem::ExprWithAlias { alias, .. } if crate::expr::fold_ident(alias) == crate::expr::fold_ident(name)),
        ),
        _ => None,
    };
    match item {
        Some(ast::SelectItem::UnnamedExpr(expr) | ast::SelectItem::ExprWithAlias { expr, .. }) => {
            expr.clone()
        }
        _ => expr.clone(),
    }
}

fn order(
    query: &ast::Query,
    projection: &[ast::SelectItem],
    output: &Output,
    binder: &mut Binder,
) -> Result<Vec<OrderItem>, SqlError> {
    let Some(order_by) = &query.order_by else {
        return Ok(Vec::new());
    };
    let ast::OrderByKind::Expressions(items) = &order_by.kind else {
        return Err(SqlError::unsupported("ORDER BY ALL"));
    };
    let mut order = Vec::new();
    for item in items {
        let position = match &item.expr {
            ast::Expr::Value(value) => match &value.value {
                ast::Value::Number(text, _) => text.parse::<usize>().ok(),
                _ => None,
            },
            _ => None,
        };
        let expr = match position {
            Some(position) => output
                .expressions
                .get(position.wrapping_sub(1))
                .cloned()
                .ok_or_else(|| {
                    SqlError::new(
                        "42P10",
                        format!("ORDER BY position {position} is not in select list"),
                    )
                })?,
            None => binder.bind(&resolve(&item.expr, projection))?.0,
        };
        let descending = item.options.asc == Some(false);
        order.push(OrderItem {
            expr,
            descending,
            nulls_first: item.options.nulls_first.unwrap_or(descending),
        });
    }
    Ok(order)
}

/// Drops ORDER BY when it is the order of the key (or its reverse) that the path gives anyway.
fn use_key_order(plan: &mut SelectPlan) {
    let Source::Table { table, path } = &plan.source else {
        return;
    };
    if plan.grouping.is_some() || plan.order.is_empty() || plan.distinct {
        return;
    }
    // Columns that are given by equality do not disturb the order.
    let (fixed, ranged) = match path {
        Path::Point(_) => (table.primary_key.len(), true),
        Path::Points(_) => (0, false),
        Path::Range { equal, .. } => (equal.len(), true),
    };
    let descending = plan.order[0].descending;
    let mut keys = table.primary_key[fixed..].iter();
    let follows = plan.order.iter().all(|item| match item.expr {
        Expr::Column(index) if table.primary_key[..fixed].contains(&index) => true,
        Expr::Column(index) => item.descending == descending && keys.next() == Some(&index),
        _ => false,
    });
    if follows && (ranged || !descending) {
        plan.order.clear();
        plan.reverse = descending;
    }
}
