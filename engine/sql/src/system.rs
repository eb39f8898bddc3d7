//! Views that are computed, not stored: the cluster's own (`aquifer.nodes` ...) and the few of PostgreSQL's catalogue that clients ask for.

use crate::catalog::Table;
use crate::types::{DataType, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a view may look at.
#[derive(Debug, Clone, Default)]
pub struct ViewContext {
    /// All tables, by name.
    pub tables: Vec<Arc<Table>>,
}

type Rows = dyn Fn(&ViewContext) -> Vec<Vec<Value>> + Send + Sync;

/// A computed view.
pub struct SystemView {
    /// Name, with schema: `aquifer.nodes`.
    pub name: String,
    /// Columns.
    pub columns: Vec<(String, DataType)>,
    /// Its rows now.
    pub rows: Box<Rows>,
}

impl fmt::Debug for SystemView {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "SystemView({})", self.name)
    }
}

/// The views of a server.
#[derive(Debug, Clone, Default)]
pub struct SystemViews {
    views: BTreeMap<String, Arc<SystemView>>,
}

impl SystemViews {
    /// The views that every server has.
    pub fn standard() -> Self {
        let mut views = Self::default();
        for view in [tables(), columns()] {
            views.add(view);
        }
        views
    }

    /// Adds a view, replacing one of the same name.
    pub fn add(&mut self, view: SystemView) {
        self.views.insert(view.name.clone(), Arc::new(view));
    }

    /// A view by name; a name without schema is looked for in `pg_catalog`.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<SystemView>> {
        self.views
            .get(name)
            .or_else(|| self.views.get(&format!("pg_catalog.{name}")))
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn tables() -> SystemView {
    let columns = ["table_catalog", "table_schema", "table_name", "table_type"];
    SystemView {
        name: "information_schema.tables".into(),
        columns: columns.map(|name| (name.to_owned(), DataType::Text)).to_vec(),
        rows: Box::new(|context| {
            let row = |table: &Arc<Table>| {
                vec![
                    text("aquifer"),
                    text("public"),
                    text(&table.name),
                    text("BASE TABLE"),
                ]
            };
            context.tables.iter().map(row).collect()
        }),
    }
}

fn columns() -> SystemView {
    let mut columns: Vec<_> = ["table_schema", "table_name", "column_name"]
        .map(|name| (name.to_owned(), DataType::Text))
        .to_vec();
    columns.push(("ordinal_position".into(), DataType::Integer));
    columns
        .extend(["column_default", "is_nullable", "data_type"].map(|name| (name.to_owned(), DataType::Text)));
    SystemView {
        name: "information_schema.columns".into(),
        columns,
        rows: Box::new(|context| {
            let mut rows = Vec::new();
            for table in &context.tables {
                for (index, column) in table.columns.iter().enumerate() {
                    rows.push(vec![
                        text("public"),
                        text(&table.name),
                        text(&column.name),
                        Value::Int4(index as i32 + 1),
                        column.default.as_deref().map_or(Value::Null, text),
                        text(if column.not_null { "NO" } else { "YES" }),
                        text(&column.data_type.full_name()),
                    ]);
                }
            }
            rows
        }),
    }
}
