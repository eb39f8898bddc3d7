//! ALTER TABLE, TRUNCATE and DROP TABLE on one node, beside writers and a long reader on two.

use super::rig::{Cluster, LIMIT, Session};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// An insert that was acknowledged, and when it was asked for and answered.
#[derive(Clone, Copy)]
struct Row {
    id: u64,
    begun: Instant,
    ended: Instant,
}

#[derive(Default)]
struct Load {
    rows: Mutex<Vec<Row>>,
    grown: Condvar,
    over: AtomicBool,
}

impl Load {
    /// Transactions of two inserts until the load is over.
    fn run(&self, writer: u64, sql: SocketAddr) {
        let session = Session::open(sql).unwrap();
        let mut id = writer << 32;
        while !self.over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            session.one(&format!(
                "begin; insert into t values ({id}, {writer}); insert into t values ({}, {writer}); commit",
                id + 1
            ));
            let ended = Instant::now();
            let mut rows = self.rows.lock().unwrap();
            rows.extend([id, id + 1].map(|id| Row { id, begun, ended }));
            id += 2;
            self.grown.notify_all();
        }
    }

    /// Until `more` rows than now are acknowledged; all that are.
    fn wait_for(&self, more: usize) -> Vec<Row> {
        let rows = self.rows.lock().unwrap();
        let enough = rows.len() + more;
        let (rows, limit) = self
            .grown
            .wait_timeout_while(rows, LIMIT, |rows| rows.len() < enough)
            .unwrap();
        assert!(!limit.timed_out(), "nothing is acknowledged any more");
        rows.clone()
    }
}

fn ids(session: &Session) -> BTreeSet<u64> {
    let rows = session.rows("select id from t").unwrap();
    rows.iter().map(|id| id.parse().unwrap()).collect()
}

#[test]
fn a_table_is_rebuilt_and_emptied_beside_writers_and_nothing_is_lost() {
    let mut cluster = Cluster::of("definitions", 2);
    let (one, two) = (cluster.session(1), cluster.session(2));
    one.one("create table t (id bigint, writer bigint)");
    let load = Arc::new(Load::default());
    let writers: Vec<_> = (1..=4u64)
        .map(|writer| {
            let (load, sql) = (load.clone(), cluster.nodes[&(writer as u8 % 2 + 1)].sql);
            std::thread::spawn(move || load.run(writer, sql))
        })
        .collect();
    load.wait_for(200);
    one.one("alter table t add primary key (id)");
    let acknowledged = load.wait_for(100);
    let there = ids(&two);
    for row in &acknowledged {
        assert!(
            there.contains(&row.id),
            "{:#x} was lost when the table was rebuilt",
            row.id
        );
    }
    let begun = Instant::now();
    two.one("truncate t");
    let ended = Instant::now();
    load.wait_for(200);
    load.over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    let there = ids(&one);
    for row in load.rows.lock().unwrap().iter() {
        let (id, found) = (row.id, there.contains(&row.id));
        assert!(
            found || row.begun < ended,
            "{id:#x} was written after the truncation"
        );
        assert!(
            !found || row.ended > begun,
            "{id:#x} was written before the truncation"
        );
    }
    cluster.stop_all();
}

#[test]
fn a_long_read_goes_on_over_a_table_that_is_dropped() {
    let mut cluster = Cluster::of("dropped", 2);
    let (one, two) = (cluster.session(1), cluster.session(2));
    one.one("create table t (id bigint primary key, text text)");
    one.one("insert into t select i, 'row ' || i from generate_series(1, 5000) g(i)");
    two.one("begin isolation level repeatable read");
    assert_eq!(two.one("select count(*) from t"), "5000");
    one.one("drop table t");
    assert_eq!(one.refused("select count(*) from t").0, "42P01");
    // Without older snapshots the tree would be gone after a second.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(two.one("select count(*) from t"), "5000");
    }
    two.one("commit");
    assert_eq!(two.refused("select count(*) from t").0, "42P01");
    one.one("create table t (id bigint primary key)");
    assert_eq!(two.one("select count(*) from t"), "0");
    cluster.stop_all();
}
