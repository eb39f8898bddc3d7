//! The cluster's own SQL views: `aquifer.nodes`, `aquifer.history`, `aquifer.counters`, as this node knows them.

use super::assemble::Running;
use super::history;
use aquifer_sql::{DataType, SystemView, Value};
use std::sync::{Arc, Weak};

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn number(number: u64) -> Value {
    Value::Int8(i64::try_from(number).unwrap_or(i64::MAX))
}

fn list(nodes: &[u8]) -> Value {
    Value::Text(nodes.iter().map(u8::to_string).collect::<Vec<_>>().join(","))
}

fn columns(columns: &[(&str, DataType)]) -> Vec<(String, DataType)> {
    columns
        .iter()
        .map(|(name, kind)| ((*name).to_owned(), *kind))
        .collect()
}

/// A view whose rows come from the running node.
fn view(
    name: &str,
    columns: Vec<(String, DataType)>,
    running: &Arc<Running>,
    rows: fn(&Running) -> Vec<Vec<Value>>,
) -> SystemView {
    // Weak: the server that has the view belongs to the node.
    let running: Weak<Running> = Arc::downgrade(running);
    let rows = move |_: &_| {
        running
            .upgrade()
            .map(|running| rows(&running))
            .unwrap_or_default()
    };
    SystemView {
        name: name.into(),
        columns,
        rows: Box::new(rows),
    }
}

/// All of them.
pub fn all(running: &Arc<Running>) -> Vec<SystemView> {
    use DataType::{BigInt, Boolean, Double, Text};
    let nodes = columns(&[
        ("id", BigInt),
        ("state", Text),
        ("incarnation", BigInt),
        ("member", Boolean),
        ("role", Text),
        ("sql", Text),
        ("peer", Text),
        ("homes", BigInt),
        ("installed_epoch", BigInt),
    ]);
    let history = columns(&[
        ("time", Text),
        ("epoch", BigInt),
        ("actor", BigInt),
        ("event", Text),
        ("nodes", Text),
        ("members", Text),
        ("reason", Text),
        ("duration_ms", Double),
    ]);
    vec![
        view("aquifer.nodes", nodes, running, node_rows),
        view("aquifer.history", history, running, history_rows),
        view(
            "aquifer.counters",
            columns(&[("name", Text), ("value", BigInt)]),
            running,
            counter_rows,
        ),
    ]
}

fn node_rows(running: &Running) -> Vec<Vec<Value>> {
    let row = |n: &crate::admin::NodeReport| {
        vec![
            number(n.id.into()),
            text(&n.state),
            number(n.incarnation),
            Value::Boolean(n.member),
            text(&n.role),
            text(&n.sql),
            text(&n.peer),
            number(n.homes as u64),
            number(n.installed_epoch),
        ]
    };
    running.status().nodes.iter().map(row).collect()
}

fn history_rows(running: &Running) -> Vec<Vec<Value>> {
    let row = |e: &crate::admin::HistoryEntry| {
        vec![
            text(&e.time),
            number(e.epoch),
            number(e.actor.into()),
            text(&e.event),
            list(&e.nodes),
            list(&e.members),
            text(&e.reason),
            e.duration_ms.map_or(Value::Null, Value::Double),
        ]
    };
    history::known(running, usize::MAX).iter().map(row).collect()
}

fn counter_rows(running: &Running) -> Vec<Vec<Value>> {
    running
        .counters()
        .values
        .iter()
        .map(|(name, value)| vec![text(name), number(*value)])
        .collect()
}
