//! CREATE, DROP, TRUNCATE and ALTER TABLE.
//!
//! A descriptor is written in the client's transaction. A tree is made outside of it and removed again when the transaction does not
//! commit; a tree that goes is removed after the commit, when no snapshot is left that reads it. Two definitions of one table at a time
//! are kept apart by the lock on its descriptor. Writers of rows do not lock it: they have an intent on it, and a definition, once it has
//! the lock, waits for the transactions that have one (SQL-5).

use super::{Client, Session};
use crate::catalog::{Column, Table};
use crate::error::SqlError;
use crate::exec::Cursor;
use crate::expr::{fold_ident, object_name, type_of};
use crate::plan::{Keys, Planner};
use crate::row;
use crate::store::{Store, StoreError, StoreTransaction};
use crate::types::{DataType, Value};
use sqlparser::ast;
use std::collections::BTreeMap;
use std::ops::Bound;

impl<S: Store> Session<S> {
    pub(super) async fn definition<C: Client>(
        &mut self,
        statement: &ast::Statement,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let tag = match statement {
            ast::Statement::CreateTable(create) => {
                self.begin_statement().await?;
                self.create_table(create, client).await?;
                "CREATE TABLE"
            }
            ast::Statement::Drop {
                object_type: ast::ObjectType::Table,
                if_exists,
                names,
                ..
            } => {
                self.begin_statement().await?;
                for name in names {
                    self.drop_table(&object_name(name)?, *if_exists, client).await?;
                }
                "DROP TABLE"
            }
            ast::Statement::Truncate(truncate) => {
                self.begin_statement().await?;
                for target in &truncate.table_names {
                    self.truncate(&object_name(&target.name)?).await?;
                }
                "TRUNCATE TABLE"
            }
            ast::Statement::AlterTable(alter) => {
                self.begin_statement().await?;
                self.alter_table(alter, client).await?;
                "ALTER TABLE"
            }
            ast::Statement::CreateSchema {
                schema_name,
                if_not_exists: true,
                ..
            } if schema_name.to_string() == "public" => "CREATE SCHEMA",
            other => {
                let text = other.to_string();
                let words: Vec<_> = text.split_whitespace().take(2).collect();
                return Err(SqlError::unsupported(words.join(" ")));
            }
        };
        client.complete(tag);
        Ok(())
    }

    async fn create_table<C: Client>(
        &mut self,
        create: &ast::CreateTable,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let name = object_name(&create.name)?;
        if name.contains('.') {
            return Err(SqlError::new(
                "3F000",
                format!("schema of \"{name}\" does not exist"),
            ));
        }
        if create.query.is_some()
            || create.temporary
            || create.partition_by.is_some()
            || create.inherits.is_some()
        {
            return Err(SqlError::unsupported(
                "CREATE TABLE with AS, TEMPORARY, PARTITION BY or INHERITS",
            ));
        }
        if self.table(&name).await?.is_some() {
            let message = format!("relation \"{name}\" already exists");
            if create.if_not_exists {
                client.warning("42P07", &format!("{message}, skipping"));
                return Ok(());
            }
            return Err(SqlError::new("42P07", message));
        }
        let mut table = describe(&name, create)?;
        // Defaults must bind now, not at the first INSERT.
        let tables = BTreeMap::new();
        Planner {
            tables: &tables,
            views: &self.server.views,
            parameters: Vec::new(),
        }
        .defaults(&table)?;
        table.tree = self.new_tree().await?;
        table.id = table.tree;
        let catalog = self.server.store.catalog_tree();
        let outcome = self
            .transaction()?
            .insert(catalog, &Table::key_of(&name), table.encode())
            .await;
        outcome.map_err(|error| match error {
            StoreError::DuplicateKey => SqlError::new("42P07", format!("relation \"{name}\" already exists")),
            other => other.into(),
        })
    }

    async fn new_tree(&mut self) -> Result<u64, SqlError> {
        let tree = self.server.store.create_tree().await?;
        self.opened().created.push(tree);
        Ok(tree.0.0)
    }

    /// A table whose descriptor this transaction has locked, and whose rows nobody else writes until it ends (SQL-5).
    async fn locked(&mut self, name: &str) -> Result<Option<Table>, SqlError> {
        let catalog = self.server.store.catalog_tree();
        let key = Table::key_of(name);
        let transaction = self.transaction()?;
        let bytes = transaction.get_for_update(catalog, &key).await?;
        if bytes.is_some() {
            transaction.wait_for_intents(catalog, &key).await?;
        }
        bytes.map(|bytes| Table::decode(&bytes)).transpose()
    }

    async fn write_descriptor(&mut self, table: &Table) -> Result<(), SqlError> {
        let catalog = self.server.store.catalog_tree();
        if self
            .transaction()?
            .update(catalog, &Table::key_of(&table.name), table.encode())
            .await?
        {
            return Ok(());
        }
        Err(SqlError::undefined_table(&table.name))
    }

    async fn drop_table<C: Client>(
        &mut self,
        name: &str,
        if_exists: bool,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let Some(table) = self.locked(name).await? else {
            if if_exists {
                client.warning("00000", &format!("table \"{name}\" does not exist, skipping"));
                return Ok(());
            }
            return Err(SqlError::new("42P01", format!("table \"{name}\" does not exist")));
        };
        let catalog = self.server.store.catalog_tree();
        self.transaction()?.delete(catalog, &Table::key_of(name)).await?;
        self.opened().dropped.push(table.tree());
        Ok(())
    }

    async fn truncate(&mut self, name: &str) -> Result<(), SqlError> {
        let mut table = self
            .locked(name)
            .await?
            .ok_or_else(|| SqlError::undefined_table(name))?;
        let old = table.tree();
        table.tree = self.new_tree().await?;
        self.write_descriptor(&table).await?;
        self.opened().dropped.push(old);
        Ok(())
    }

    async fn alter_table<C: Client>(
        &mut self,
        alter: &ast::AlterTable,
        client: &mut C,
    ) -> Result<(), SqlError> {
        let name = object_name(&alter.name)?;
        let Some(mut table) = self.locked(&name).await? else {
            if alter.if_exists {
                client.warning("00000", &format!("relation \"{name}\" does not exist, skipping"));
                return Ok(());
            }
            return Err(SqlError::undefined_table(&name));
        };
        for operation in &alter.operations {
            match operation {
                ast::AlterTableOperation::AddConstraint {
                    constraint: ast::TableConstraint::PrimaryKey(constraint),
                    ..
                } => self.add_primary_key(&mut table, constraint).await?,
                ast::AlterTableOperation::AddColumn {
                    if_not_exists,
                    column_def,
                    ..
                } => {
                    add_column(&mut table, column_def, *if_not_exists)?;
                }
                ast::AlterTableOperation::OwnerTo { .. } => {}
                other => return Err(SqlError::unsupported(format!("ALTER TABLE {other}"))),
            }
        }
        self.write_descriptor(&table).await
    }

    /// Rebuilds the table in a new tree whose keys are the primary key.
    async fn add_primary_key(
        &mut self,
        table: &mut Table,
        constraint: &ast::PrimaryKeyConstraint,
    ) -> Result<(), SqlError> {
        if !table.primary_key.is_empty() {
            let message = format!(
                "multiple primary keys for table \"{}\" are not allowed",
                table.name
            );
            return Err(SqlError::new("42P16", message));
        }
        let old = table.tree();
        set_primary_key(table, constraint)?;
        table.tree = self.new_tree().await?;
        let mut cursor = Cursor::new(old, Keys::Range((Bound::Unbounded, Bound::Unbounded)), false);
        let mut values = Vec::new();
        loop {
            let pairs = cursor.next(self.transaction()?).await?;
            if pairs.is_empty() {
                break;
            }
            for (_, value) in pairs {
                row::decode(&table.columns, &value, &mut values)?;
                table.check(&values)?;
                let key = table.row_key(&values)?;
                match self.transaction()?.insert(table.tree(), &key, value).await {
                    Ok(()) => {}
                    Err(StoreError::DuplicateKey) => return Err(table.duplicate(&values)),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.opened().dropped.push(old);
        Ok(())
    }
}

/// Adds a column that old rows have not: they show its default if that is a constant, else NULL.
fn add_column(table: &mut Table, definition: &ast::ColumnDef, if_not_exists: bool) -> Result<(), SqlError> {
    let (mut column, is_key) = column(definition)?;
    if table.columns.iter().any(|other| other.name == column.name) {
        if if_not_exists {
            return Ok(());
        }
        let message = format!(
            "column \"{}\" of relation \"{}\" already exists",
            column.name, table.name
        );
        return Err(SqlError::new("42701", message));
    }
    if is_key || column.sequence {
        return Err(SqlError::unsupported("ADD COLUMN with PRIMARY KEY or a sequence"));
    }
    if let Some(default) = &column.default {
        let tables = BTreeMap::new();
        let views = crate::system::SystemViews::default();
        let mut planner = Planner {
            tables: &tables,
            views: &views,
            parameters: Vec::new(),
        };
        let probe = Table {
            columns: vec![column.clone()],
            ..table.clone()
        };
        let bound = planner.defaults(&probe)?.remove(0);
        let Some(crate::expr::Expr::Constant(value)) = bound else {
            return Err(SqlError::unsupported(format!(
                "ADD COLUMN with the default {default}, which is no constant,"
            )));
        };
        column.missing = value.to_text();
    }
    if column.not_null && column.missing.is_none() {
        return Err(SqlError::unsupported(
            "ADD COLUMN with NOT NULL and without a default",
        ));
    }
    table.columns.push(column);
    Ok(())
}

fn describe(name: &str, create: &ast::CreateTable) -> Result<Table, SqlError> {
    let mut table = Table {
        id: 0,
        name: name.to_owned(),
        columns: Vec::new(),
        primary_key: Vec::new(),
        constraint: format!("{name}_pkey"),
        tree: 0,
        options: options(&create.table_options),
    };
    for definition in &create.columns {
        let (column, is_key) = column(definition)?;
        if table.columns.iter().any(|other| other.name == column.name) {
            return Err(SqlError::new(
                "42701",
                format!("column \"{}\" specified more than once", column.name),
            ));
        }
        if is_key {
            table.primary_key.push(table.columns.len());
        }
        table.columns.push(column);
    }
    if table.primary_key.len() > 1 {
        return Err(SqlError::new(
            "42P16",
            format!("multiple primary keys for table \"{name}\" are not allowed"),
        ));
    }
    for constraint in &create.constraints {
        match constraint {
            ast::TableConstraint::PrimaryKey(key) if table.primary_key.is_empty() => {
                set_primary_key(&mut table, key)?
            }
            other => return Err(SqlError::unsupported(format!("constraint {other}"))),
        }
    }
    check_key(&mut table)?;
    Ok(table)
}

fn options(options: &ast::CreateTableOptions) -> Vec<(String, String)> {
    let (ast::CreateTableOptions::With(list) | ast::CreateTableOptions::Plain(list)) = options else {
        return Vec::new();
    };
    let pair = |option: &ast::SqlOption| match option {
        ast::SqlOption::KeyValue { key, value } => Some((fold_ident(key), value.to_string())),
        _ => None,
    };
    list.iter().filter_map(pair).collect()
}

fn set_primary_key(table: &mut Table, constraint: &ast::PrimaryKeyConstraint) -> Result<(), SqlError> {
    for column in &constraint.columns {
        let ast::Expr::Identifier(name) = &column.column.expr else {
            return Err(SqlError::unsupported("an expression in a primary key"));
        };
        let at = table.column(&fold_ident(name))?;
        if table.primary_key.contains(&at) {
            return Err(SqlError::new(
                "42701",
                format!("column \"{name}\" appears twice in primary key constraint"),
            ));
        }
        table.primary_key.push(at);
    }
    if let Some(name) = &constraint.name {
        table.constraint = fold_ident(name);
    }
    check_key(table)
}

fn check_key(table: &mut Table) -> Result<(), SqlError> {
    for &at in &table.primary_key {
        let column = &mut table.columns[at];
        column.not_null = true;
        if matches!(column.data_type, DataType::Interval | DataType::Json) {
            return Err(SqlError::unsupported(format!(
                "a primary key column of type {}",
                column.data_type.name()
            )));
        }
    }
    Ok(())
}

/// A column, and whether it says PRIMARY KEY.
fn column(definition: &ast::ColumnDef) -> Result<(Column, bool), SqlError> {
    let (data_type, sequence) = match &definition.data_type {
        ast::DataType::Custom(name, _) => match object_name(name)?.as_str() {
            "serial" | "serial4" => (DataType::Integer, true),
            "bigserial" | "serial8" => (DataType::BigInt, true),
            "smallserial" | "serial2" => (DataType::SmallInt, true),
            _ => (type_of(&definition.data_type)?, false),
        },
        other => (type_of(other)?, false),
    };
    let mut column = Column {
        name: fold_ident(&definition.name),
        data_type,
        not_null: sequence,
        default: None,
        sequence,
        missing: None,
    };
    let mut is_key = false;
    for option in &definition.options {
        match &option.option {
            ast::ColumnOption::Null => {}
            ast::ColumnOption::NotNull => column.not_null = true,
            ast::ColumnOption::Default(expr) => column.default = Some(expr.to_string()),
            ast::ColumnOption::PrimaryKey(_) => is_key = true,
            ast::ColumnOption::Collation(_) => {}
            ast::ColumnOption::Generated {
                generation_expr: None,
                ..
            } => {
                column.sequence = true;
                column.not_null = true;
            }
            other => return Err(SqlError::unsupported(format!("column option {other}"))),
        }
    }
    if let Some(Value::Null) = column
        .default
        .as_deref()
        .filter(|text| text.eq_ignore_ascii_case("null"))
        .map(|_| Value::Null)
    {
        column.default = None;
    }
    Ok((column, is_key))
}
