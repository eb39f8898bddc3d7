//! Volume groups whose pages, and whose directory, are not of the usual size.

use super::rig::{Cluster, ends, run};
use serde_json::Value;

/// What a reading command says in JSON.
fn told(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["-o", "json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every formatted page of the group's trees, as `inspect page` decodes it. A node takes fresh pages from chunks of 64 of its own, in order.
fn pages_of_trees(device: &str) -> Vec<Value> {
    let mut pages = Vec::new();
    for entry in told(&["fs", "ls", "/tree", "--device", device])["entries"]
        .as_array()
        .unwrap()
    {
        let page = |number: u32| {
            let name = format!("{}:{number}", entry["id"]);
            told(&["inspect", "page", &name, "--device", device])
        };
        let formatted = |page: &Value| page["verdict"] != "NeverFormatted";
        for chunk in 0..2 {
            let numbers = 64 * chunk..64 * (chunk + 1);
            pages.extend(numbers.map(page).take_while(formatted));
        }
    }
    pages
}

/// Rows of 200 bytes at two nodes; one of them dies and comes back.
fn lives_through_a_death(name: &str, page: &str, slots: &str) {
    let mut cluster = Cluster::with(name, &["--page-size", page, "--home-slots", slots]);
    let device = cluster.device();
    let group = told(&["vg", "status", "--device", &device]);
    assert_eq!(group["home_slots"].to_string(), slots);
    cluster.start(&[1, 2]);
    let (one, two) = (cluster.session(1), cluster.session(2));
    one.one("create table t (id int primary key, v text)");
    let text = "x".repeat(200);
    for key in (0..300).step_by(3) {
        one.one(&format!(
            "insert into t values ({key}, '{text}'), ({}, '{text}')",
            key + 1
        ));
        two.one(&format!("insert into t values ({}, '{text}')", key + 2));
    }
    two.one("update t set v = 'by two' where id % 10 = 0");
    cluster.kill(&[2]);
    assert_eq!(one.one("select count(*) from t"), "300");
    assert_eq!(one.one("select count(*) from t where v = 'by two'"), "30");
    cluster.start(&[2]);
    let two = cluster.session(2);
    assert_eq!(two.one("select count(*) from t where v = 'by two'"), "30");
    two.one("delete from t where id < 10");
    assert_eq!(one.one("select count(*) from t"), "290");
    drop((one, two));
    cluster.stop_all();
    let pages = pages_of_trees(&device);
    let of = |page: &Value, kind: &str| page["content"]["kind"] == kind;
    assert!(
        pages.iter().all(|page| page["page_bytes"] == group["page_bytes"]),
        "{page}"
    );
    assert!(
        pages
            .iter()
            .all(|page| page["verdict"].as_str().unwrap().starts_with("Valid")),
        "{page}"
    );
    let leaves: Vec<&Value> = pages.iter().filter(|page| of(page, "leaf")).collect();
    let rows: usize = leaves
        .iter()
        .map(|leaf| leaf["content"]["rows"].as_array().unwrap().len())
        .sum();
    assert!(rows >= 290, "{page}: {rows} rows in {} leaves", leaves.len());
    // Of 270 rows of 240 bytes a leaf has as many as its size says, a third of that at least.
    let bytes = group["page_bytes"].as_u64().unwrap() as usize;
    assert!(
        leaves.len() >= 270 * 240 / bytes && leaves.len() <= 270 * 240 * 3 / bytes + 2,
        "{page}: {} leaves",
        leaves.len()
    );
}

#[test]
fn pages_of_16_kib_live_through_a_death_and_are_decoded() {
    lives_through_a_death("16k", "16K", "16384");
}

#[test]
fn the_smallest_and_the_largest_pages_live_through_a_death_too() {
    lives_through_a_death("4k", "4K", "4096");
    lives_through_a_death("32k", "32K", "65536");
}

#[test]
fn what_is_too_long_for_small_pages_is_refused_by_name() {
    let mut cluster = Cluster::with("small", &["--page-size", "4K"]);
    cluster.buffer = "256K";
    cluster.start(&[1]);
    let session = cluster.session(1);
    session.one("create table t (id int primary key, v text)");
    session.one(&format!("insert into t values (1, '{}')", "x".repeat(900)));
    let (state, message) = session.refused(&format!("insert into t values (2, '{}')", "x".repeat(1500)));
    assert_eq!(state, "54000", "{message}");
    assert!(message.contains("980"), "the limit is not in: {message}");
    assert_eq!(session.one("select count(*) from t"), "1");
    drop(session);
    cluster.stop_all();
}

#[test]
fn other_sizes_and_too_little_memory_for_large_pages_are_refused() {
    let mut cluster = Cluster::with("large", &["--page-size", "32K"]);
    cluster.buffer = "512K";
    for (option, value, word) in [
        ("--page-size", "5K", "a page has 4K, 8K, 16K or 32K"),
        ("--page-size", "64K", "a page has 4K, 8K, 16K or 32K"),
        ("--home-slots", "2048", "the directory has 4096"),
        ("--home-slots", "5000", "the directory has 4096"),
    ] {
        let made = run(&[
            "cluster",
            "init",
            "--vg",
            "x",
            option,
            value,
            &cluster.place.file("other"),
        ]);
        assert_eq!(made.status.code(), Some(2));
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    ends(
        &cluster.start_command(1, "").output().unwrap(),
        2,
        &["--buffer 512.0 KiB", "pages of 32K", "2.0 MiB"],
    );
}
