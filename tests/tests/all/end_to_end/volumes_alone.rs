//! Volumes change while no node runs: the command is a node for its own length.

use super::rig::{Cluster, ends, run};
use super::rig::{Process, command};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

/// More than is moved before a signal arrives.
const FILE_BYTES: usize = 96 << 20;

fn vg(cluster: &Cluster, arguments: &[&str]) -> Value {
    let device = cluster.device();
    let output = run(&[&["vg"], arguments, &["--device", &device, "-o", "json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

fn copy(cluster: &Cluster, from: &str, to: &str) {
    let copied = run(&["fs", "cp", from, to, "--device", &cluster.device()]);
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
}

/// A group of two volumes with a file, most of which is on the second; nobody runs.
fn with_a_file(name: &str) -> (Cluster, Vec<u8>) {
    let cluster = Cluster::new(name);
    let second = cluster.place.file("second");
    assert_eq!(
        vg(&cluster, &["add", &second, "--size", "2G", "--yes"])["volume"],
        1
    );
    let bytes: Vec<u8> = (0..FILE_BYTES as u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(cluster.place.file("outside"), &bytes).unwrap();
    copy(&cluster, &cluster.place.file("outside"), "e2e:/file");
    let used = &vg(&cluster, &["status"])["volumes"][1]["used_bytes"];
    assert!(used.as_u64().unwrap() as usize >= FILE_BYTES / 2, "{used}");
    (cluster, bytes)
}

fn assert_sound(cluster: &Cluster, bytes: &[u8]) {
    let out = cluster.place.file("out");
    copy(cluster, "e2e:/file", &out);
    assert!(fs::read(&out).unwrap() == bytes, "the file is what it was");
    fs::remove_file(&out).unwrap();
    assert_eq!(vg(cluster, &["check"])["sound"], true);
}

#[test]
fn volumes_come_and_go_while_no_node_runs() {
    let (mut cluster, bytes) = with_a_file("alone");
    let device = cluster.device();
    let written = || fs::metadata(&device).unwrap().modified().unwrap();
    let before = written();
    let plan = run(&["vg", "remove", "1", "--dry-run", "--device", &device]);
    let said = String::from_utf8_lossy(&plan.stderr).into_owned();
    assert!(
        plan.status.success() && said.contains("this command is node 64 until"),
        "{said}"
    );
    assert_eq!(written(), before, "a plan writes nothing");
    vg(&cluster, &["drain", "1", "--yes"]);
    let status = vg(&cluster, &["status"]);
    assert_eq!(status["volumes"][1]["used_bytes"], 0, "{status:#}");
    vg(&cluster, &["drain", "1", "--undo", "--yes"]);
    fs::OpenOptions::new()
        .write(true)
        .open(cluster.place.file("second"))
        .and_then(|file| file.set_len(3 << 30))
        .unwrap();
    vg(&cluster, &["resize", "1", "--yes"]);
    let third = cluster.place.file("third");
    let replaced = vg(&cluster, &["replace", "1", &third, "--size", "1G", "--yes"]);
    assert_eq!(replaced["by"], 2);
    assert_sound(&cluster, &bytes);
    // The nodes find what was changed without them.
    cluster.start(&[1, 2]);
    let session = cluster.session(2);
    session.one("create table t (id bigint primary key, text text)");
    session.one("insert into t values (1, 'one')");
    cluster.kill(&[1, 2]);
    vg(&cluster, &["remove", "2", "--yes"]);
    fs::remove_file(&third).unwrap();
    cluster.start(&[1]);
    assert_eq!(cluster.session(1).one("select text from t"), "one");
    cluster.stop_all();
    assert_sound(&cluster, &bytes);
}

/// Begins to remove volume 1, and sends a signal as soon as something is being moved; what it said at the end.
fn cut_off(cluster: &Cluster, signal: &str) -> (ExitStatus, Vec<String>) {
    let device = cluster.device();
    let mut remove = command(&["vg", "remove", "1", "--yes", "--device", &device]);
    let mut process = Process(remove.stderr(Stdio::piped()).spawn().unwrap());
    let output = process.0.stderr.take().unwrap();
    let mut lines = BufReader::new(output).lines().map(Result::unwrap);
    let moving = lines.find(|line| line.contains(" left, "));
    assert!(moving.is_some(), "it shows how far it is");
    let pid = process.0.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-s", signal, &pid])
        .status();
    assert!(sent.unwrap().success());
    let rest = lines.collect();
    (process.0.wait().unwrap(), rest)
}

#[test]
fn a_change_that_is_killed_goes_on_in_the_next_life() {
    let (cluster, bytes) = with_a_file("killed");
    let (ended, _) = cut_off(&cluster, "KILL");
    assert_eq!(ended.signal(), Some(9));
    let status = vg(&cluster, &["status"]);
    assert_eq!(status["volumes"][1]["state"], "draining", "{status:#}");
    assert_sound(&cluster, &bytes);
    vg(&cluster, &["remove", "1", "--yes"]);
    assert_eq!(vg(&cluster, &["status"])["volumes"][1], Value::Null);
    assert_sound(&cluster, &bytes);
}

#[test]
fn a_change_that_is_interrupted_goes_on_when_a_node_runs() {
    let (mut cluster, bytes) = with_a_file("interrupted");
    let (ended, said) = cut_off(&cluster, "INT");
    assert_eq!(ended.code(), Some(5), "{said:?}");
    let told = |line: &String| line.starts_with("aquifer: cut short by SIGINT");
    assert!(said.iter().any(told), "{said:?}");
    assert_eq!(vg(&cluster, &["status"])["volumes"][1]["state"], "draining");
    cluster.start(&[1]);
    // Nothing is asked for but to see the end of it.
    vg(&cluster, &["drain", "1", "--yes"]);
    assert_eq!(vg(&cluster, &["status"])["volumes"][1]["used_bytes"], 0);
    cluster.stop_all();
    assert_sound(&cluster, &bytes);
}

#[test]
fn it_is_refused_beside_nodes_that_do_not_answer() {
    let mut cluster = Cluster::of("unheard", 1);
    fs::remove_file(cluster.place.file("1.admin")).unwrap();
    let (device, second) = (cluster.device(), cluster.place.file("second"));
    let refused = run(&["vg", "add", &second, "--yes", "--device", &device]);
    ends(&refused, 6, &["nodes live on", "none answers"]);
    assert!(!std::path::Path::new(&second).exists());
    cluster.kill(&[1]);
    assert_eq!(vg(&cluster, &["add", &second, "--yes"])["volume"], 1);
}
