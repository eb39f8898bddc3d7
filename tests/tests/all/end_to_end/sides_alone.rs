//! Sides of mirrored volumes go, come back and are compared while no node runs: the command is a node for its own length.

use super::mirror::{assert_same, until_side_is};
use super::rig::{Cluster, Place, ends, run};
use super::upkeep::{flip_a_byte_of, flip_bits};
use serde_json::Value;
use std::fs;

/// Bytes of a file that is written while a side is out.
const FILE_BYTES: usize = 24 << 20;

/// A mirrored group on two files; nobody runs.
struct Pair {
    cluster: Cluster,
    second: String,
    _sides: Place,
}

impl Pair {
    fn new(name: &str) -> Self {
        let sides = Place::new(&format!("{name}-side"));
        let second = sides.file("side");
        let cluster = Cluster::with(name, &[&second, "--redundancy", "mirror"]);
        Self {
            cluster,
            second,
            _sides: sides,
        }
    }

    /// `vg ...` on the device, which ends with this code.
    fn vg(&self, code: i32, arguments: &[&str]) -> Value {
        let device = self.cluster.device();
        let output = run(&[&["vg"], arguments, &["--device", &device, "-o", "json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
    }

    fn refused(&self, arguments: &[&str], words: &[&str]) {
        let device = self.cluster.device();
        let output = run(&[&["vg"], arguments, &["--yes", "--device", &device]].concat());
        ends(&output, 6, words);
    }

    /// The state of a side, as the devices say; a side that is out is degraded.
    fn side(&self, side: usize, code: i32) -> Value {
        self.vg(code, &["status"])["volumes"][0]["legs"][side]["state"].clone()
    }

    /// A file in the group, whose bytes are drawn from `seed`.
    fn write(&self, name: &str, seed: u32) {
        let outside = self.cluster.place.file("outside");
        let bytes: Vec<u8> = (0..FILE_BYTES as u32)
            .map(|index| ((index ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        fs::write(&outside, bytes).unwrap();
        let target = format!("e2e:/{name}");
        let copied = run(&["fs", "cp", &outside, &target, "--device", &self.cluster.device()]);
        assert!(
            copied.status.success(),
            "{}",
            String::from_utf8_lossy(&copied.stderr)
        );
    }

    fn assert_same(&self, bytes: usize) {
        let same = assert_same(&self.cluster.device(), &self.second);
        assert!(same >= bytes as u64, "{same}");
    }
}

#[test]
fn a_side_goes_and_comes_back_while_no_node_runs() {
    let mut pair = Pair::new("side-alone");
    pair.write("before", 1);
    let device = pair.cluster.device();
    let written = || fs::metadata(&device).unwrap().modified().unwrap();
    let before = written();
    let plan = run(&["vg", "detach", "0", "1", "--dry-run", "--device", &device]);
    let said = String::from_utf8_lossy(&plan.stderr).into_owned();
    assert!(
        plan.status.success() && said.contains("this command is node 64 until"),
        "{said}"
    );
    assert_eq!(written(), before, "a plan writes nothing");
    assert_eq!(pair.side(1, 0), "current");
    pair.refused(&["resync", "0"], &["no side of volume 0 is out"]);
    assert_eq!(pair.vg(0, &["detach", "0", "1", "--yes"])["state"], "out");
    assert_eq!(pair.side(1, 3), "out");
    pair.refused(&["detach", "0", "0"], &["this one is needed"]);
    let old = fs::metadata(&pair.second).unwrap().modified().unwrap();
    pair.write("after", 2);
    let still = fs::metadata(&pair.second).unwrap().modified().unwrap();
    assert_eq!(still, old, "nobody writes to a side that is out");
    assert_eq!(pair.vg(0, &["resync", "0", "--yes"])["state"], "current");
    assert_eq!(pair.side(1, 0), "current");
    pair.assert_same(2 * FILE_BYTES);
    // The other one too, which has volume 0's first label; and the rest is done by whoever comes next.
    pair.vg(0, &["detach", "0", "0", "--yes"]);
    pair.write("later", 3);
    let begun = pair.vg(0, &["resync", "0", "--no-wait", "--yes"]);
    assert_eq!(
        (&begun["side"], &begun["state"]),
        (&0.into(), &"resyncing".into())
    );
    pair.cluster.start(&[1]);
    let admin = pair.cluster.place.file("1.admin");
    until_first_side_is_current(&admin);
    until_side_is(&admin, "current");
    pair.cluster.stop_all();
    pair.assert_same(3 * FILE_BYTES);
    assert_eq!(pair.vg(0, &["check"])["sound"], true);
}

fn until_first_side_is_current(admin: &str) {
    let begun = std::time::Instant::now();
    loop {
        let status = run(&["vg", "status", "--admin", admin, "-o", "json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if status["volumes"][0]["legs"][0]["state"] == "current" {
            return;
        }
        assert!(begun.elapsed() < super::rig::LIMIT, "{status:#}");
    }
}

#[test]
fn sides_are_compared_and_healed_while_no_node_runs() {
    let mut pair = Pair::new("scrub-alone");
    pair.cluster.start(&[1]);
    let session = pair.cluster.session(1);
    session.one("create table t (id int primary key, text text)");
    for id in 0..200 {
        session.one(&format!("insert into t values ({id}, '{}')", "x".repeat(400)));
    }
    pair.cluster.stop_all();
    pair.write("file", 4);
    let device = pair.cluster.device();
    for side in [device.clone(), pair.second.clone()] {
        assert!(flip_bits(&device, &side) > 4);
        pair.vg(1, &["check"]);
        assert_eq!(pair.vg(0, &["check", "--scrub"])["sound"], true);
        pair.assert_same(FILE_BYTES);
    }
    // What has no checksum is named, and stays as it is.
    flip_a_byte_of(&device, &pair.second, "/file");
    let found = pair.vg(1, &["check", "--scrub"]).to_string();
    assert!(found.contains("/file at "), "{found}");
    pair.cluster.start(&[1]);
    assert_eq!(pair.cluster.session(1).one("select count(*) from t"), "200");
    pair.cluster.stop_all();
}
