//! Mirrored volumes come and go under load, and a device takes the place of a side that is lost for good.

use super::mirror::{assert_same, side_is, until_side_is};
use super::rig::{Cluster, LIMIT, Place, ends, run};
use super::volumes::{Load, assert_all_there, insert, vg};
use serde_json::Value;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

fn mirrored(name: &str, sides: &Place) -> (Cluster, String) {
    let side = sides.file("side");
    let cluster = Cluster::with(name, &[&side, "--redundancy", "mirror"]);
    (cluster, side)
}

fn assert_sound(cluster: &Cluster) {
    let checked = run(&["vg", "check", "--device", &cluster.device()]);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
}

#[test]
fn a_mirrored_volume_comes_and_goes_under_load() {
    let sides = Place::new("pairs-sides");
    let (mut cluster, _) = mirrored("pairs", &sides);
    cluster.start(&[1, 2]);
    let (admin, c, d) = (cluster.place.file("1.admin"), sides.file("c"), sides.file("d"));
    let load = Arc::new(Load::default());
    let create = |name: &str| format!("create table {name} (id bigint primary key, text text)");
    cluster.session(1).one(&create("one"));
    let mut writers = vec![insert(cluster.session(1), "one", 1, &load)];
    load.done.wait_for(10);
    let add = ["vg", "add", "--size", "2G", "--yes", "--admin", &admin];
    ends(&run(&[&add[..], &[&c]].concat()), 6, &["two sides"]);
    ends(&run(&[&add[..], &[&c, &d]].concat()), 2, &["--mirror"]);
    assert!(!fs::exists(&c).unwrap(), "what was refused leaves nothing");
    let added = vg(&["add", "--mirror", &c, &d, "--size", "2G", "--yes"], &admin);
    assert_eq!(added["volume"], 1, "{added:#}");
    // The emptier volume gets the new table.
    cluster.session(2).one(&create("two"));
    writers.push(insert(cluster.session(2), "two", 1 << 32, &load));
    load.done.wait_for(20);
    let status = vg(&["status"], &admin);
    let pair = &status["volumes"][1];
    assert!(pair["used_bytes"].as_u64().unwrap() > 0, "{status:#}");
    assert_eq!(pair["legs"][1]["path"], Value::from(d.clone()));
    load.stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    // It is found again, by its paths.
    cluster.kill(&[1, 2]);
    cluster.start(&[1, 2]);
    assert_all_there(&cluster.session(1), &load, &["one", "two"]);
    load.stop.store(false, Ordering::Relaxed);
    let writers = vec![
        insert(cluster.session(1), "one", 1 << 40, &load),
        insert(cluster.session(2), "two", 1 << 41, &load),
    ];
    vg(&["remove", "1", "--yes"], &admin);
    load.stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    for path in [&c, &d] {
        fs::remove_file(path).unwrap();
    }
    cluster.stop_all();
    cluster.start(&[1]);
    assert_all_there(&cluster.session(1), &load, &["one", "two"]);
    cluster.stop_all();
    assert_sound(&cluster);
}

#[test]
fn a_blank_device_takes_the_place_of_a_side_and_the_old_one_never_comes_back() {
    let sides = Place::new("replaced-sides");
    let (mut cluster, old) = mirrored("replaced", &sides);
    let (admin, new) = (cluster.place.file("1.admin"), sides.file("new"));
    cluster.start(&[1, 2]);
    let load = Arc::new(Load::default());
    cluster
        .session(1)
        .one("create table one (id bigint primary key, text text)");
    let writers = vec![
        insert(cluster.session(1), "one", 1, &load),
        insert(cluster.session(2), "one", 1 << 32, &load),
    ];
    load.done.wait_for(10);
    let replace = [
        "vg", "replace", "0", &new, "--size", "1G", "--yes", "--admin", &admin,
    ];
    ends(&run(&replace), 6, &["no side of volume 0 is out"]);
    vg(&["detach", "0", "1", "--yes"], &admin);
    load.done.wait_for(20);
    let replaced = vg(&["replace", "0", &new, "--size", "1G", "--yes"], &admin);
    assert_eq!(
        (&replaced["side"], &replaced["state"]),
        (&1.into(), &"current".into())
    );
    load.done.wait_for(30);
    load.stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    cluster.stop_all();
    assert_same(&cluster.device(), &new);
    // Under its old path nobody looks, and who names it is told why.
    let named = cluster
        .start_command(1, "b")
        .args(["--device", &old])
        .output()
        .unwrap();
    ends(&named, 6, &["does not name it"]);
    // Under the path of the new one it is refused, and what it lacks is read from the other side.
    let aside = sides.file("aside");
    fs::rename(&new, &aside).unwrap();
    fs::rename(&old, &new).unwrap();
    let alone = cluster.start_command(1, "c").output().unwrap();
    ends(&alone, 6, &["side 1 of volume 0", "may be old"]);
    cluster.flags = vec!["--lost-side".into(), "1".into()];
    cluster.start(&[1]);
    cluster.flags.clear();
    assert_all_there(&cluster.session(1), &load, &["one"]);
    until_side_is(&admin, "out");
    let refused = run(&["vg", "resync", "0", "--yes", "--admin", &admin]);
    ends(&refused, 6, &["refused"]);
    fs::rename(&aside, &new).unwrap();
    vg(&["resync", "0", "--yes"], &admin);
    assert!(side_is(&admin, "current"));
    cluster.stop_all();
    assert_same(&cluster.device(), &new);
    assert_sound(&cluster);
}

/// Which sides of volume 0 have the metadata, as a node says.
fn until_metadata_is_on(admin: &str, sides: &[u8]) {
    let begun = Instant::now();
    loop {
        let status = run(&["vg", "status", "--admin", admin, "-o", "json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if status["metadata_sides"] == Value::from(sides.to_vec()) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "not on {sides:?}: {status:#}");
    }
}

#[test]
fn either_side_of_the_first_volume_may_go_and_an_old_one_is_not_believed() {
    let sides = Place::new("either-sides");
    let (mut cluster, side) = mirrored("either", &sides);
    let (admin, first, aside) = (
        cluster.place.file("1.admin"),
        cluster.device(),
        sides.file("aside"),
    );
    cluster.start(&[1, 2]);
    until_metadata_is_on(&admin, &[0, 1]);
    let load = Arc::new(Load::default());
    cluster
        .session(1)
        .one("create table one (id bigint primary key, text text)");
    let writers = vec![
        insert(cluster.session(1), "one", 1, &load),
        insert(cluster.session(2), "one", 1 << 32, &load),
    ];
    load.done.wait_for(10);
    vg(&["detach", "0", "0", "--yes"], &admin);
    until_metadata_is_on(&admin, &[1]);
    load.done.wait_for(30);
    load.stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    // The first device is gone, and everybody with it.
    cluster.kill(&[1, 2]);
    fs::rename(&first, &aside).unwrap();
    cluster.named = Some(side.clone());
    cluster.start(&[1, 2]);
    assert_all_there(&cluster.session(2), &load, &["one"]);
    cluster.stop_all();
    // It is back, and the other one is gone: what it has is old.
    fs::rename(&aside, &first).unwrap();
    let hidden = sides.file("hidden");
    fs::rename(&side, &hidden).unwrap();
    cluster.named = None;
    let old = cluster.start_command(1, "b").output().unwrap();
    ends(&old, 6, &["side 1 of volume 0", "may be old"]);
    // With both there it does not matter which one is named.
    fs::rename(&hidden, &side).unwrap();
    cluster.start(&[1, 2]);
    assert_all_there(&cluster.session(1), &load, &["one"]);
    vg(&["resync", "0", "--yes"], &admin);
    until_metadata_is_on(&admin, &[0, 1]);
    cluster.stop_all();
    assert_same(&first, &side);
    // And now that one is lost.
    fs::remove_file(&side).unwrap();
    cluster.flags = vec!["--lost-side".into(), "1".into()];
    cluster.start(&[1]);
    assert_all_there(&cluster.session(1), &load, &["one"]);
    until_metadata_is_on(&admin, &[0]);
    cluster.stop_all();
}
