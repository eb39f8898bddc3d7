//! What a node does beside its work is counted and shown: space that it gave back, and bytes of a side that it wrote again. Space goes back
//! to the file system, also through a loop device.

use super::mirror::ByPath;
use super::rig::{Cluster, LIMIT, Place, run};
use super::volumes::vg;
use aquifer_dss::device::{OpenMode, open_device};
use aquifer_dss::group::GroupImage;
use aquifer_dss_proto::catalog::{Extent, FileKind, Node};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Bytes of a file that comes and goes.
const FILE_BYTES: u64 = 32 << 20;
/// What else may be written for the first time meanwhile: redo, the journal, a checkpoint.
const ELSE_BYTES: u64 = 8 << 20;

/// A block device over a file.
struct Loop(String);

impl Loop {
    fn over(file: &str) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show", file]).output();
        match made {
            Ok(output) if output.status.success() => {
                Some(Self(String::from_utf8(output.stdout).unwrap().trim().into()))
            }
            _ => {
                eprintln!("SKIPPED: no loop device can be made (needs root, losetup and loop devices)");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // While somebody has it open it goes when he closes it.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn image(device: &str) -> GroupImage {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let device = open_device(Path::new(device), OpenMode::Plain).unwrap();
        GroupImage::read(device, &ByPath).await.unwrap()
    })
}

/// Where runs of units are on their device.
fn places(image: &GroupImage, runs: &[Extent]) -> Vec<Range<u64>> {
    let place = |run: &Extent| {
        let begin = image.catalog.offset_of(run);
        begin..begin + u64::from(run.count) * image.catalog.au_bytes()
    };
    runs.iter().map(place).collect()
}

fn is_zero(path: &str, place: &Range<u64>) -> bool {
    let mut bytes = vec![0xAA; (place.end - place.start) as usize];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, place.start)
        .unwrap();
    bytes.iter().all(|byte| *byte == 0)
}

/// What `vg status` says of it, once that is so.
fn until_upkeep(admin: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let status = vg(&["status"], admin);
        if is_so(&status["upkeep"]) {
            return status["upkeep"].clone();
        }
        assert!(begun.elapsed() < LIMIT, "{status:#}");
    }
}

/// Bytes that the file system keeps for a file.
fn kept(path: &str) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// A file comes and goes on the device that the nodes are told of, which is the file `device` or lies over it.
fn space_is_given_back(mut cluster: Cluster) {
    let file = cluster.device();
    let device = cluster.named.clone().unwrap_or_else(|| file.clone());
    cluster.start(&[1]);
    let admin = cluster.place.file("1.admin");
    let aquifer_fs = |arguments: &[&str]| {
        let done = run(&[&["fs"], arguments, &["--admin", &admin]].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{arguments:?}: {said}");
        done.stdout
    };
    assert_eq!(vg(&["status"], &admin)["upkeep"]["discarded_bytes"], 0);
    let outside = cluster.place.file("outside");
    fs::write(&outside, vec![0x5A; FILE_BYTES as usize]).unwrap();
    aquifer_fs(&["cp", &outside, "e2e:/file"]);
    let full = kept(&file);
    let before = image(&device);
    let id = before.catalog.lookup("/file").unwrap();
    let Node::File { extents, .. } = &before.catalog.inode(id).unwrap().node else {
        panic!("it is a file");
    };
    let places = places(&before, extents);
    assert!(places.iter().all(|place| !is_zero(&device, place)));
    aquifer_fs(&["rm", "/file"]);
    let upkeep = until_upkeep(&admin, |upkeep| {
        upkeep["discarded_bytes"].as_u64() >= Some(FILE_BYTES)
    });
    assert_eq!(upkeep["discards_refused"], 0, "{upkeep:#}");
    assert!(
        kept(&file) + FILE_BYTES < full + ELSE_BYTES,
        "{full}, {}",
        kept(&file)
    );
    for place in &places {
        assert!(is_zero(&device, place) && is_zero(&file, place), "{place:?}");
    }
    let counters = cluster.session(1).counters();
    assert!(counters["discard_bytes"] >= FILE_BYTES && counters["discard_failures"] == 0);
    let told = run(&["vg", "status", "--admin", &admin]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("by node 1 since it started"), "{told}");
    // The space is used again: what was written is there, and what was not reads as zeros.
    aquifer_fs(&["cp", &outside, "e2e:/again"]);
    fs::write(&outside, "short").unwrap();
    aquifer_fs(&["cp", &outside, "e2e:/short"]);
    aquifer_fs(&["truncate", "--size", "1M", "/short"]);
    let content = aquifer_fs(&["cat", "/short"]);
    assert!(content.starts_with(b"short") && content[5..].iter().all(|byte| *byte == 0));
    cluster.stop_all();
    let checked = run(&["vg", "check", "--device", &device]);
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}

#[test]
fn the_space_of_a_removed_file_goes_back_to_the_file_system() {
    space_is_given_back(Cluster::new("discard"));
}

#[test]
fn the_space_of_a_removed_file_goes_back_through_a_block_device() {
    let mut cluster = Cluster::new("blkdiscard");
    let Some(device) = Loop::over(&cluster.device()) else {
        return;
    };
    cluster.named = Some(device.0.clone());
    space_is_given_back(cluster);
}

/// Flips a bit in the middle of each page of trees that has something; how many.
pub(super) fn flip_bits(first: &str, side: &str) -> u32 {
    const PAGE: usize = 8192;
    let image = image(first);
    let device = OpenOptions::new().read(true).write(true).open(side).unwrap();
    let (mut page, mut flipped) = (vec![0; PAGE], 0);
    for (_, inode) in image.catalog.inodes() {
        let Node::File {
            kind: FileKind::Tree,
            extents,
            ..
        } = &inode.node
        else {
            continue;
        };
        for at in places(&image, extents)
            .into_iter()
            .flat_map(|place| place.step_by(PAGE))
        {
            device.read_exact_at(&mut page, at).unwrap();
            if page.iter().any(|byte| *byte != 0) {
                device
                    .write_all_at(&[page[PAGE / 2] ^ 4], at + PAGE as u64 / 2)
                    .unwrap();
                flipped += 1;
            }
        }
    }
    device.sync_all().unwrap();
    flipped
}

/// Flips a bit in the middle of a file, on the device at `side`.
pub(super) fn flip_a_byte_of(first: &str, side: &str, path: &str) {
    let image = image(first);
    let file = image.catalog.lookup(path).unwrap();
    let Node::File { extents, .. } = &image.catalog.inode(file).unwrap().node else {
        panic!("it is a file");
    };
    let at = places(&image, extents)[0].start + 4000;
    let device = OpenOptions::new().read(true).write(true).open(side).unwrap();
    let mut byte = [0];
    device.read_exact_at(&mut byte, at).unwrap();
    device.write_all_at(&[byte[0] ^ 4], at).unwrap();
    device.sync_all().unwrap();
}

#[test]
fn what_was_wrong_on_a_side_is_written_again_and_counted() {
    let sides = Place::new("mended-side");
    let side = sides.file("side");
    let mut cluster = Cluster::with("mended", &[&side, "--redundancy", "mirror"]);
    cluster.start(&[1]);
    let session = cluster.session(1);
    session.one("create table t (id int primary key, text text)");
    for id in 0..300 {
        session.one(&format!("insert into t values ({id}, '{}')", "x".repeat(400)));
    }
    cluster.stop_all();
    assert!(flip_bits(&cluster.device(), &side) > 8);
    cluster.start(&[1]);
    let admin = cluster.place.file("1.admin");
    let session = cluster.session(1);
    assert_eq!(session.one("select count(*) from t"), "300");
    let upkeep = until_upkeep(&admin, |upkeep| upkeep["mended_bytes"].as_u64() > Some(0));
    assert!(upkeep["wrong_reads"].as_u64() > Some(0), "{upkeep:#}");
    let counters = session.counters();
    assert!(counters["mirror_bytes_mended"] > 0 && counters["mirror_reads_wrong"] > 0);
    cluster.stop_all();
}
