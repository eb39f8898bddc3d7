//! `vg check` beside nodes and without them, and what it repairs.

use super::rig::{Cluster, ends, run};
use serde_json::Value;
use std::os::unix::fs::FileExt;

const COPY_B: u64 = 64 << 10;

fn flip(device: &str, offset: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(device)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

fn check(device: &str, more: &[&str]) -> (Option<i32>, Value) {
    let output = run(&[&["vg", "check", "--device", device, "-o", "json"], more].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    (output.status.code(), object)
}

/// What is not as it must be.
fn troubles(object: &Value) -> Vec<String> {
    let checks = object["checks"].as_array().unwrap().iter();
    let wrong = checks.filter(|finding| finding["ok"] == false);
    wrong
        .map(|finding| finding["what"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_group_is_checked_beside_nodes_and_a_label_is_repaired_without_them() {
    let mut cluster = Cluster::of("check", 2);
    let device = cluster.device();
    cluster
        .session(1)
        .one("create table one (id bigint primary key, text text)");
    for key in 0..200 {
        let node = 1 + (key % 2) as u8;
        cluster
            .session(node)
            .one(&format!("insert into one values ({key}, 'text')"));
    }
    let (code, object) = check(&device, &[]);
    assert_eq!((code, troubles(&object)), (Some(0), vec![]), "{object:#}");
    flip(&device, COPY_B + 40);
    let (code, object) = check(&device, &[]);
    assert_eq!(code, Some(3), "{object:#}");
    let busy = run(&["vg", "check", "--repair", "--yes", "--device", &device]);
    ends(&busy, 6, &["is running", "stop it first"]);
    cluster.kill(&[2]);
    cluster.stop_all();
    let (code, object) = check(&device, &["--repair", "--dry-run"]);
    assert_eq!(
        (code, troubles(&object)),
        (Some(3), vec!["label of volume 0, copy 1".to_owned()])
    );
    let (code, object) = check(&device, &["--repair", "--yes"]);
    assert_eq!(
        (code, object["sound"].as_bool()),
        (Some(0), Some(true)),
        "{object:#}"
    );
    assert_eq!(object["repaired"].as_array().unwrap().len(), 1);
    assert_eq!(check(&device, &[]).0, Some(0));
    cluster.start(&[1, 2]);
    let rows = cluster.session(2).rows("select id from one").unwrap();
    assert_eq!(rows.len(), 200);
}

#[test]
fn a_damaged_page_is_named_and_left_alone() {
    let mut cluster = Cluster::of("checkpage", 1);
    let device = cluster.device();
    cluster
        .session(1)
        .one("create table one (id bigint primary key, text text)");
    cluster
        .session(1)
        .one("insert into one values (1, 'needle in page')");
    cluster.stop_all();
    let content = std::fs::read(&device).unwrap();
    // In place, and in the double-write area, from which it would be restored.
    let pages: Vec<usize> = (0..content.len() - 8192)
        .step_by(4096)
        .filter(|at| {
            let page = &content[*at..*at + 8192];
            // A leaf: version 2, kind 1.
            page[4..6] == [2, 1] && page.windows(6).any(|text| text == b"needle")
        })
        .collect();
    assert!(!pages.is_empty(), "the row is on the device");
    pages.iter().for_each(|page| flip(&device, *page as u64 + 8000));
    let before = std::fs::read(&device).unwrap();
    let (code, object) = check(&device, &["--repair", "--yes"]);
    assert_eq!(code, Some(1), "{object:#}");
    let wrong = troubles(&object);
    assert!(
        wrong.len() == 1 && wrong[0].starts_with("pages of "),
        "{object:#}"
    );
    assert!(std::fs::read(&device).unwrap() == before, "nothing is written");
}
