//! Volumes come and go under load, and nothing acknowledged is lost.

use super::rig::{Acknowledged, Cluster, Session, ends, run};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Keys that are acknowledged, and when to stop.
#[derive(Default)]
pub(super) struct Load {
    pub(super) done: Acknowledged,
    pub(super) stop: AtomicBool,
}

/// Inserts one key after another into a table until it is told to stop.
pub(super) fn insert(session: Session, table: &'static str, first: u64, load: &Arc<Load>) -> JoinHandle<()> {
    let load = load.clone();
    std::thread::spawn(move || {
        for key in first.. {
            if load.stop.load(Ordering::Relaxed) {
                return;
            }
            session.one(&format!("insert into {table} values ({key}, 'some text')"));
            load.done.add(key);
        }
    })
}

pub(super) fn vg(arguments: &[&str], admin: &str) -> Value {
    let mut all = vec!["vg"];
    all.extend(arguments);
    all.extend(["--admin", admin, "-o", "json"]);
    let output = run(&all);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

fn keys_of(session: &Session, tables: &[&str]) -> std::collections::BTreeSet<u64> {
    let rows = tables
        .iter()
        .flat_map(|table| session.rows(&format!("select id from {table}")).unwrap());
    rows.map(|row| row.parse().unwrap()).collect()
}

pub(super) fn assert_all_there(session: &Session, load: &Load, tables: &[&str]) {
    let there = keys_of(session, tables);
    let missing: Vec<u64> = load
        .done
        .keys
        .lock()
        .unwrap()
        .iter()
        .copied()
        .filter(|key| !there.contains(key))
        .collect();
    assert!(missing.is_empty(), "acknowledged and not there: {missing:?}");
}

#[test]
fn a_volume_comes_and_goes_under_load() {
    let mut cluster = Cluster::of("volumes", 2);
    let (admin, second) = (cluster.place.file("1.admin"), cluster.place.file("second"));
    let load = Arc::new(Load::default());
    cluster
        .session(1)
        .one("create table one (id bigint primary key, text text)");
    let mut writers = vec![insert(cluster.session(1), "one", 1, &load)];
    load.done.wait_for(20);
    assert_eq!(
        vg(&["add", &second, "--size", "2G", "--yes"], &admin)["volume"],
        1
    );
    // The emptier volume gets the new table.
    cluster
        .session(2)
        .one("create table two (id bigint primary key, text text)");
    writers.push(insert(cluster.session(2), "two", 1 << 32, &load));
    load.done.wait_for(20);
    let status = vg(&["status"], &admin);
    assert!(
        status["volumes"][1]["used_bytes"].as_u64().unwrap() > 0,
        "{status:#}"
    );
    // Everything off volume 0, then everything off volume 1: redo streams and what is being written move too.
    vg(&["drain", "0", "--yes"], &admin);
    assert_eq!(vg(&["status"], &admin)["volumes"][0]["used_bytes"], 0);
    load.done.wait_for(20);
    let busy = run(&["vg", "remove", "1", "--yes", "--admin", &admin]);
    ends(&busy, 6, &["add a volume first"]);
    vg(&["drain", "0", "--undo", "--yes"], &admin);
    vg(&["remove", "1", "--yes"], &admin);
    load.done.wait_for(20);
    load.stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    std::fs::remove_file(&second).unwrap();
    cluster.kill(&[2]);
    assert_all_there(&cluster.session(1), &load, &["one", "two"]);
    cluster.kill(&[1]);
    cluster.start(&[1, 2]);
    assert_all_there(&cluster.session(2), &load, &["one", "two"]);
    cluster.stop_all();
    let checked = run(&["vg", "check", "--device", &cluster.device()]);
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}

#[test]
fn a_node_names_the_volume_that_it_misses() {
    let mut cluster = Cluster::of("missing", 1);
    let (admin, second) = (cluster.place.file("1.admin"), cluster.place.file("second"));
    vg(&["add", &second, "--size", "1G", "--yes"], &admin);
    let taken = run(&["vg", "add", &second, "--yes", "--admin", &admin]);
    ends(&taken, 1, &["already exists"]);
    cluster.stop_all();
    let elsewhere = cluster.place.file("elsewhere");
    std::fs::rename(&second, &elsewhere).unwrap();
    let refused = cluster.start_command(1, "b").output().unwrap();
    ends(&refused, 4, &["volume 1", "cannot be used"]);
    // The label says which volume it is, wherever the device is.
    let mut moved = cluster.start_command(1, "c");
    moved.args(["--device", &elsewhere, "--detach"]);
    let started = moved.output().unwrap();
    assert!(
        started.status.success(),
        "{}",
        String::from_utf8_lossy(&started.stderr)
    );
    let admin = cluster.place.file("1c.admin");
    assert_eq!(vg(&["status"], &admin)["volumes"][1]["missing"], Value::Null);
    let stopped = run(&["node", "stop", "1", "--yes", "--admin", &admin]);
    assert!(stopped.status.success());
}
