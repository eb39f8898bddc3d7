//! A side of a mirrored volume answers with EIO under load, comes back, and is copied to; the storage leader is killed in the middle of that.
//!
//! The side is a zram device: with no memory allowed to it, every write of new bytes really fails with EIO, and what it has stays. That needs
//! root and the module; without them the test is skipped, loudly.

use super::rig::{Cluster, LIMIT, run};
use super::volumes::{Load, assert_all_there, insert};
use aquifer_dss::device::{OpenMode, open_device};
use aquifer_dss::group::GroupImage;
use aquifer_dss::seam::{BlockDevice, BoxFuture, DeviceError, VolumeOpener};
use aquifer_dss_proto::catalog::Node;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

const GIB: u64 = 1 << 30;
/// Bytes of a file that is written while the side is out, so that there is something to copy.
const BIG: usize = 128 << 20;

/// A block device in memory whose writes can be made to fail.
struct Zram {
    number: String,
}

impl Zram {
    fn new() -> Option<Self> {
        let control = "/sys/class/zram-control";
        let Ok(number) = fs::read_to_string(format!("{control}/hot_add")) else {
            eprintln!("SKIPPED: no zram device can be made (needs root and the kernel module zram)");
            return None;
        };
        let zram = Self {
            number: number.trim().into(),
        };
        zram.set("disksize", &GIB.to_string());
        Some(zram)
    }

    fn set(&self, key: &str, value: &str) {
        fs::write(format!("/sys/block/zram{}/{key}", self.number), value).unwrap();
    }

    fn path(&self) -> String {
        format!("/dev/zram{}", self.number)
    }

    fn fail(&self) {
        self.set("mem_limit", "4096");
    }

    fn mend(&self) {
        self.set("mem_limit", "0");
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        // Somebody has it open still when the test fails: then it stays.
        let _ = fs::write("/sys/class/zram-control/hot_remove", &self.number);
    }
}

/// `vg status` of whoever answers there, also when the group is degraded.
fn status(admin: &str) -> Option<Value> {
    let output = run(&["vg", "status", "--admin", admin, "-o", "json"]);
    serde_json::from_slice(&output.stdout).ok()
}

pub(super) fn side_is(admin: &str, state: &str) -> bool {
    let state_of = |status: Value| {
        status["volumes"][0]["legs"][1]["state"]
            .as_str()
            .map(String::from)
    };
    status(admin).and_then(state_of).as_deref() == Some(state)
}

pub(super) fn until_side_is(admin: &str, state: &str) {
    let begun = Instant::now();
    while !side_is(admin, state) {
        assert!(begun.elapsed() < LIMIT, "it is not {state}: {:#?}", status(admin));
    }
}

fn must(arguments: &[&str]) -> Value {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// The storage leader, and the other one of two nodes.
fn leader(cluster: &Cluster) -> (u8, u8) {
    let admin = cluster.place.file("1.admin");
    let status = must(&["cluster", "status", "--admin", &admin, "-o", "json"]);
    let leader = status["leader"].as_u64().unwrap() as u8;
    (leader, 3 - leader)
}

pub(super) struct ByPath;

impl VolumeOpener for ByPath {
    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, DeviceError>> {
        Box::pin(async move {
            let device: Arc<dyn BlockDevice> = open_device(Path::new(path), OpenMode::Plain)?;
            Ok(device)
        })
    }
    fn close(&self, _: &str) {}
}

/// Every unit of every file is on both devices, byte for byte; how many bytes that are.
pub(super) fn assert_same(first: &str, second: &str) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let image = runtime.block_on(async {
        let device = open_device(Path::new(first), OpenMode::Plain).unwrap();
        GroupImage::read(device, &ByPath).await.unwrap()
    });
    let devices = [first, second].map(|path| fs::File::open(path).unwrap());
    let (au_bytes, mut compared) = (image.catalog.au_bytes(), 0);
    let mut both = [vec![0; au_bytes as usize], vec![0; au_bytes as usize]];
    for (file, inode) in image.catalog.inodes() {
        let Node::File { extents, .. } = &inode.node else {
            continue;
        };
        for run in extents {
            for unit in 0..u64::from(run.count) {
                let offset = image.catalog.offset_of(run) + unit * au_bytes;
                for (device, bytes) in devices.iter().zip(&mut both) {
                    device.read_exact_at(bytes, offset).unwrap();
                }
                assert!(both[0] == both[1], "the sides differ at {offset}, in {file:?}");
                compared += au_bytes;
            }
        }
    }
    compared
}

#[test]
fn a_side_that_answers_with_eio_is_left_behind_and_comes_back_through_a_kill() {
    let Some(zram) = Zram::new() else { return };
    let mut cluster = Cluster::with("mirror", &["--redundancy", "mirror", &zram.path()]);
    cluster.start(&[1, 2]);
    let admin = cluster.place.file("1.admin");
    assert!(side_is(&admin, "current"), "{:#?}", status(&admin));
    let load = Arc::new(Load::default());
    cluster
        .session(1)
        .one("create table one (id bigint primary key, text text)");
    let writers = vec![
        insert(cluster.session(1), "one", 1, &load),
        insert(cluster.session(2), "one", 1 << 32, &load),
    ];
    load.done.wait_for(20);
    zram.fail();
    until_side_is(&admin, "out");
    // Nobody noticed.
    load.done.wait_for(40);
    let big = cluster.place.file("big");
    let bytes: Vec<u8> = (0..BIG as u64 / 8)
        .flat_map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
        .collect();
    fs::write(&big, bytes).unwrap();
    must(&["fs", "cp", &big, "e2e:/big", "--device", &cluster.device()]);
    load.stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert!(side_is(&admin, "out"));
    zram.mend();
    let (leads, other) = leader(&cluster);
    let admin = cluster.place.file(&format!("{other}.admin"));
    must(&["vg", "resync", "0", "--no-wait", "--yes", "--admin", &admin]);
    assert!(side_is(&admin, "resyncing"), "{:#?}", status(&admin));
    cluster.kill(&[leads]);
    until_side_is(&admin, "current");
    assert_all_there(&cluster.session(other), &load, &["one"]);
    cluster.start(&[leads]);
    let copied = cluster.place.file("copied");
    must(&["fs", "cp", "e2e:/big", &copied, "--device", &cluster.device()]);
    assert!(fs::read(&big).unwrap() == fs::read(&copied).unwrap());
    let device = cluster.device();
    let scrubbed = must(&["vg", "check", "--scrub", "--device", &device, "-o", "json"]);
    assert_eq!(scrubbed["sound"], true, "{scrubbed:#}");
    cluster.stop_all();
    must(&["vg", "check", "--device", &device]);
    assert!(assert_same(&device, &zram.path()) > BIG as u64);
    // A bit that decays on either side is found, and right again, while a node serves.
    decayed_pages_are_healed(&mut cluster, &zram, &load);
}

/// Flips a bit in a page of the table on each side by turns.
fn decayed_pages_are_healed(cluster: &mut Cluster, zram: &Zram, load: &Load) {
    for path in [cluster.device(), zram.path()] {
        flip_a_bit(&cluster.device(), &path);
        let device = cluster.device();
        let found = run(&["vg", "check", "--device", &device]);
        assert_eq!(
            found.status.code(),
            Some(1),
            "{}",
            String::from_utf8_lossy(&found.stdout)
        );
        cluster.start(&[1]);
        let scrubbed = must(&["vg", "check", "--scrub", "--device", &device, "-o", "json"]);
        assert_eq!(scrubbed["sound"], true, "{scrubbed:#}");
        assert_all_there(&cluster.session(1), load, &["one"]);
        cluster.stop_all();
        assert_same(&device, &zram.path());
    }
}

/// In the middle of the last page of a tree, on the device at `path`.
fn flip_a_bit(first: &str, path: &str) {
    use aquifer_dss_proto::catalog::FileKind;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let image = runtime.block_on(async {
        let device = open_device(Path::new(first), OpenMode::Plain).unwrap();
        GroupImage::read(device, &ByPath).await.unwrap()
    });
    let mut largest = None;
    for (_, inode) in image.catalog.inodes() {
        if let Node::File {
            kind: FileKind::Tree,
            extents,
            ..
        } = &inode.node
            && let Some(run) = extents.first()
        {
            largest = Some(image.catalog.offset_of(run));
        }
    }
    let offset = largest.unwrap() + 4000;
    let device = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    device.read_exact_at(&mut byte, offset).unwrap();
    device.write_all_at(&[byte[0] ^ 4], offset).unwrap();
    device.sync_all().unwrap();
}
