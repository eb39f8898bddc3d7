//! List-append transactions through SQL on three nodes, one of which is killed: what all clients were told is snapshot
//! isolation in real time.
//!
//! A list is one text, `,1,2,3`, and an append is an update of its row: so every append takes the row lock and replaces a
//! version, which is what snapshot isolation is about. (A row for each value would never conflict.)

use super::rig::{Cluster, LIMIT, Session};
use aquifer_tests::isocheck::{Event, Kind, Micro, write_events};
use aquifer_tests::sim::Random;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Appends asked for until another list takes the place of a list.
const LONGEST: u64 = 40;
/// Lists made at the beginning; not all are used.
const LISTS: u64 = 400;

#[derive(Default)]
struct Records {
    events: Vec<Event>,
    acknowledged: usize,
    appends: u64,
}

#[derive(Default)]
struct Load {
    records: Mutex<Records>,
    grown: Condvar,
    over: AtomicBool,
}

impl Load {
    fn record(&self, process: i64, kind: Kind, micros: Vec<Micro>) {
        let mut records = self.records.lock().unwrap();
        let line = records.events.len() + 1;
        records.acknowledged += usize::from(kind == Kind::Ok);
        records.events.push(Event {
            process,
            kind,
            time: None,
            micros,
            line,
        });
        self.grown.notify_all();
    }

    /// Until `more` transactions than now are acknowledged.
    fn wait_for(&self, more: usize) {
        let records = self.records.lock().unwrap();
        let enough = records.acknowledged + more;
        let (_records, limit) = self
            .grown
            .wait_timeout_while(records, LIMIT, |records| records.acknowledged < enough)
            .unwrap();
        assert!(!limit.timed_out(), "nothing is acknowledged any more");
    }

    /// Reads and appends on the four lists that are in use now.
    fn draw(&self, random: &mut Random) -> Vec<Micro> {
        let count = random.between(1, 4);
        let mut draw = || {
            let mut records = self.records.lock().unwrap();
            let list = (records.appends / LONGEST * 4 + random.below(4)) % LISTS;
            let key = list.to_string();
            if random.below(2) == 0 {
                return Micro::Read { key, list: None };
            }
            records.appends += 1;
            let value = records.appends as i64;
            Micro::Append { key, value }
        };
        (0..count).map(|_| draw()).collect()
    }

    /// Transactions at one node until the load is over or the node is gone.
    fn run(&self, process: i64, sql: SocketAddr) {
        let session = Session::open(sql).unwrap();
        let mut random = Random::fork(7, &format!("client {process}"));
        while !self.over.load(Ordering::Relaxed) {
            if !self.transact(process, &session, self.draw(&mut random)) {
                return;
            }
        }
    }

    /// One transaction; false when the node is gone.
    fn transact(&self, process: i64, session: &Session, mut micros: Vec<Micro>) -> bool {
        self.record(process, Kind::Invoke, micros.clone());
        if let Err(error) = run_micros(session, &mut micros) {
            // Commit was not asked for, so it never happens.
            self.record(process, Kind::Fail, Vec::new());
            return error.as_db_error().is_some() && session.rows("rollback").is_ok();
        }
        let Err(error) = session.rows("commit") else {
            self.record(process, Kind::Ok, micros);
            return true;
        };
        let refused = error
            .as_db_error()
            .is_some_and(|error| error.code().code() == "40001");
        self.record(process, if refused { Kind::Fail } else { Kind::Info }, micros);
        error.as_db_error().is_some()
    }
}

fn run_micros(session: &Session, micros: &mut [Micro]) -> Result<(), tokio_postgres::Error> {
    session.rows("begin isolation level repeatable read")?;
    for micro in micros {
        match micro {
            Micro::Append { key, value } => {
                session.rows(&format!(
                    "update lists set items = items || ',{value}' where id = {key}"
                ))?;
            }
            Micro::Read { key, list } => {
                let rows = session.rows(&format!("select items from lists where id = {key}"))?;
                let items = rows[0].split(',').skip(1);
                *list = Some(items.map(|item| item.parse().unwrap()).collect());
            }
        }
    }
    Ok(())
}

/// Every list that was used, read at a node after everything else.
fn read_everything(load: &Load, process: i64, session: &Session) {
    let used = load.records.lock().unwrap().appends / LONGEST * 4 + 4;
    let lists: Vec<u64> = (0..used.min(LISTS)).collect();
    for lists in lists.chunks(8) {
        let read = |list: &u64| Micro::Read {
            key: list.to_string(),
            list: None,
        };
        assert!(
            load.transact(process, session, lists.iter().map(read).collect()),
            "a node that lives answers"
        );
    }
}

#[test]
fn a_history_over_a_kill_is_snapshot_isolation_in_real_time() {
    let mut cluster = Cluster::of("isolation", 3);
    let session = cluster.session(1);
    session.one("create table lists (id bigint primary key, items text)");
    let rows: Vec<String> = (0..LISTS).map(|list| format!("({list}, '')")).collect();
    session.one(&format!("insert into lists values {}", rows.join(", ")));
    let load = Arc::new(Load::default());
    let start = |process: i64, id: u8| {
        let (load, sql) = (load.clone(), cluster.nodes[&id].sql);
        std::thread::spawn(move || load.run(process, sql))
    };
    let clients: Vec<_> = (0..6)
        .map(|process| start(process, process as u8 % 3 + 1))
        .collect();
    load.wait_for(300);
    cluster.kill(&[3]);
    load.wait_for(300);
    load.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    for id in [1, 2] {
        read_everything(&load, 10 + i64::from(id), &cluster.session(id));
    }
    let path = cluster.place.file("history.jsonl");
    let events = std::mem::take(&mut load.records.lock().unwrap().events);
    write_events(&events, std::fs::File::create(&path).unwrap()).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_isocheck"))
        .args(["--model", "snapshot-isolation", "--real-time", &path])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
    cluster.stop_all();
}
