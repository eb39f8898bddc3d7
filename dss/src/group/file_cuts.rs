//! Power cuts at every write and flush of workloads on files: what is there afterwards is what was acknowledged, or
//! what the step in progress would have made of it; and never a byte that nobody wrote into that file.

use super::file_tests::{created, soil};
use super::tests::{formatted, open};
use super::*;
use crate::device::{CutPoint, SimDisk};
use crate::seam::Runtime;
use crate::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::Epoch;
use aquifer_dss_proto::catalog::{NewNode, Node};
use aquifer_dss_proto::defect::{Defect, fails_with};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One acknowledged step. Bytes are the step's own number, so that it is seen who wrote them.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Path, offset, length; durable with its size when it returns.
    Write(&'static str, usize, usize),
    Append(&'static str, usize),
    SetLen(&'static str, usize),
    Punch(&'static str, usize, usize),
    Allocate(&'static str, usize),
    Make(&'static str),
    Directory(&'static str),
    Symlink(&'static str),
    Link(&'static str, &'static str),
    Move(&'static str, &'static str),
    Unlink(&'static str),
    RemoveDirectory(&'static str),
    /// So many small entries that the journal wraps and checkpoints are written.
    Churn,
    /// Waits until removed units are free again.
    Settle,
}

use Step::{
    Allocate, Append, Churn, Directory, Link, Make, Move, Punch, RemoveDirectory, SetLen, Settle, Symlink,
    Unlink, Write,
};

/// Space for a file is 8 KiB a unit.
const WORKLOADS: [&[Step]; 20] = [
    &[Write("/f", 0, 100)],
    &[Write("/f", 5000, 9000), Write("/f", 100, 7000)],
    &[Write("/f", 0, 20_000), Write("/f", 10_000, 20_000)],
    &[Write("/f", 40_000, 10), Write("/f", 0, 10)],
    &[
        Write("/f", 0, 8192),
        Write("/f", 8192, 8192),
        Write("/f", 16_384, 1),
    ],
    &[Write("/f", 0, 8000), SetLen("/f", 100), SetLen("/f", 8000)],
    &[
        Write("/f", 0, 30_000),
        SetLen("/f", 9000),
        Settle,
        Write("/g", 0, 20_000),
    ],
    &[
        Write("/f", 0, 30_000),
        SetLen("/f", 0),
        Settle,
        Write("/f", 50, 9000),
    ],
    &[Append("/f", 700), Append("/f", 9000), Append("/f", 1)],
    &[
        Write("/f", 0, 30_000),
        Punch("/f", 3000, 20_000),
        Settle,
        Write("/g", 0, 9000),
    ],
    &[Allocate("/f", 20_000), Write("/f", 10_000, 100)],
    &[
        Write("/old", 0, 9000),
        Unlink("/old"),
        Settle,
        Write("/new", 4000, 100),
    ],
    &[
        Write("/a", 0, 100),
        Write("/b", 0, 200),
        Move("/b", "/a"),
        Settle,
        Write("/c", 0, 300),
    ],
    &[
        Directory("/d"),
        Write("/d/f", 0, 10),
        Directory("/e"),
        Move("/d", "/e"),
        Make("/e/g"),
    ],
    &[
        Write("/f", 0, 10),
        Link("/f", "/g"),
        Unlink("/f"),
        Write("/g", 5, 10),
    ],
    &[
        Directory("/d"),
        Symlink("/d/l"),
        Unlink("/d/l"),
        RemoveDirectory("/d"),
    ],
    &[
        Write("/f.tmp", 0, 5000),
        Move("/f.tmp", "/f"),
        Write("/f.tmp", 0, 6000),
        Move("/f.tmp", "/f"),
    ],
    &[Write("/f", 0, 9000), Churn, SetLen("/f", 10), Churn],
    &[
        Make("/a"),
        Make("/b"),
        Unlink("/a"),
        Move("/b", "/a"),
        Link("/a", "/b"),
        Unlink("/a"),
    ],
    &[
        Write("/f", 0, 9000),
        SetLen("/f", 4097),
        Append("/f", 5000),
        Punch("/f", 0, 8192),
    ],
];

/// What the paths lead to: a file's number, or `None` for what is no file.
#[derive(Clone, Default, PartialEq, Debug)]
struct Model {
    names: BTreeMap<String, Option<usize>>,
    files: Vec<Vec<u8>>,
}

impl Model {
    fn bytes(&mut self, path: &str) -> &mut Vec<u8> {
        let number = match self.names.get(path) {
            Some(number) => number.expect("a file"),
            None => {
                self.files.push(Vec::new());
                self.names.insert(path.into(), Some(self.files.len() - 1));
                self.files.len() - 1
            }
        };
        &mut self.files[number]
    }

    fn apply(&mut self, step: Step, value: u8) {
        match step {
            Write(path, offset, length) => {
                let bytes = self.bytes(path);
                bytes.resize(bytes.len().max(offset + length), 0);
                bytes[offset..offset + length].fill(value);
            }
            Append(path, length) => {
                let bytes = self.bytes(path);
                bytes.resize(bytes.len() + length, value);
            }
            SetLen(path, size) => self.bytes(path).resize(size, 0),
            Punch(path, offset, length) => {
                let bytes = self.bytes(path);
                let end = (offset + length).min(bytes.len());
                bytes[offset..end].fill(0);
            }
            Allocate(path, size) => {
                let bytes = self.bytes(path);
                bytes.resize(bytes.len().max(size), 0);
            }
            Make(path) => drop(self.bytes(path).len()),
            Directory(path) | Symlink(path) => drop(self.names.insert(path.into(), None)),
            Link(from, to) => drop(self.names.insert(to.into(), self.names[from])),
            Move(from, to) => {
                let inner = format!("{from}/");
                let below: Vec<String> = self
                    .names
                    .keys()
                    .filter(|path| path.starts_with(&inner))
                    .cloned()
                    .collect();
                for path in below {
                    let what = self.names.remove(&path).unwrap();
                    self.names.insert(format!("{to}/{}", &path[inner.len()..]), what);
                }
                let what = self.names.remove(from).unwrap();
                self.names.insert(to.into(), what);
            }
            Unlink(path) | RemoveDirectory(path) => drop(self.names.remove(path)),
            Churn | Settle => {}
        }
    }
}

/// Does a step, and returns when it is acknowledged.
async fn perform(
    runtime: &TestHandle,
    group: &Arc<VolumeGroup>,
    step: Step,
    value: u8,
) -> Result<(), StorageError> {
    let owner = OpenOptions::default().owner;
    match step {
        Write(path, offset, length) => {
            let file = group.open_path(path, created()).await?;
            file.write_at(offset as u64, &vec![value; length]).await?;
            file.sync().await
        }
        Append(path, length) => {
            let file = group.open_path(path, created()).await?;
            file.append(&vec![value; length]).await?;
            file.sync().await
        }
        SetLen(path, size) => group.open_path(path, created()).await?.set_len(size as u64).await,
        Punch(path, offset, length) => {
            let file = group.open_path(path, created()).await?;
            file.punch(offset as u64, length as u64).await?;
            file.sync().await
        }
        Allocate(path, size) => {
            let file = group.open_path(path, created()).await?;
            file.allocate(0, size as u64, false).await?;
            file.sync().await
        }
        Make(path) => group
            .make(group.entry(path).await?, NewNode::File, owner, true)
            .await
            .map(drop),
        Directory(path) => {
            let made = group.make(group.entry(path).await?, NewNode::Directory, owner, true);
            made.await.map(drop)
        }
        Symlink(path) => {
            let link = NewNode::Symlink {
                target: "/somewhere".into(),
            };
            group
                .make(group.entry(path).await?, link, owner, true)
                .await
                .map(drop)
        }
        Link(from, to) => {
            let file = group.lookup(from).await?.expect("made before");
            group.link(file, group.entry(to).await?).await
        }
        Move(from, to) => {
            group
                .move_entry(group.entry(from).await?, group.entry(to).await?, true)
                .await
        }
        Unlink(path) => group.unlink(group.entry(path).await?).await,
        RemoveDirectory(path) => group.remove_directory(group.entry(path).await?).await,
        Churn => {
            for number in 0..20 {
                group.set_config("churn", Some(&number.to_string())).await?;
            }
            Ok(())
        }
        Settle => {
            while group.space().waiting > 0 {
                runtime.sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        }
    }
}

/// What is acknowledged, and what it becomes with the step in progress.
#[derive(Clone, Default)]
struct Told {
    before: Model,
    after: Model,
}

async fn run(
    runtime: Arc<TestHandle>,
    group: Arc<VolumeGroup>,
    steps: &'static [Step],
    told: Arc<Mutex<Told>>,
) -> Result<(), StorageError> {
    for (step, value) in steps.iter().zip(1..) {
        told.lock().after.apply(*step, value);
        perform(&runtime, &group, *step, value).await?;
        let mut told = told.lock();
        told.before = told.after.clone();
    }
    Ok(())
}

/// Runs a workload with a cut, reopens, and judges. True when the workload came to its end before the cut.
fn cut(steps: &'static [Step], seed: u64, point: CutPoint) -> bool {
    let runtime = TestRuntime::new(seed);
    let disk = formatted(&runtime, seed);
    let told = Arc::new(Mutex::new(Told::default()));
    let group = runtime.block_on(async {
        let group = open(&runtime, &disk, 1).await.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        group
    });
    soil(&disk, &group);
    disk.cut_at(point);
    runtime.tolerate_aborts();
    let (done, all) = tokio::sync::oneshot::channel();
    let work = run(runtime.clone(), group, steps, told.clone());
    runtime.spawn("workload", Box::pin(async move { drop(done.send(work.await)) }));
    let (watch, clock) = (disk.clone(), runtime.clone());
    let finished = runtime.block_on(async move {
        tokio::select! {
            biased;
            result = all => result.is_ok_and(|result| result.is_ok()),
            () = async { while watch.has_power() { clock.sleep(Duration::from_micros(10)).await } } => false,
        }
    });
    runtime.drop_tasks();
    disk.power_cut();
    disk.power_on();
    let told = told.lock().clone();
    runtime.block_on(judge(
        &runtime,
        &disk,
        &told,
        &format!("{steps:?} {point:?} seed {seed}"),
    ));
    finished
}

async fn judge(runtime: &Arc<TestHandle>, disk: &SimDisk, told: &Told, what: &str) {
    let group = open(runtime, disk, 3).await.expect("a cut group opens");
    group.lead(Epoch(9)).await.expect("a cut group can be led");
    let found = listing(&group);
    let names = |model: &Model| {
        let names = model.names.iter();
        names
            .map(|(path, what)| (path.clone(), what.is_some()))
            .collect::<BTreeMap<_, _>>()
    };
    // A file that a step makes before it writes may be there without its content.
    let is_before = found == names(&told.before);
    assert!(is_before || found == names(&told.after), "{what}: {found:?}");
    let mut judged = Vec::new();
    for path in found
        .iter()
        .filter(|(_, is_file)| **is_file)
        .map(|(path, _)| path)
    {
        let of = |model: &Model| {
            let number = model.names.get(path).copied().flatten();
            number
                .map(|number| model.files[number].clone())
                .unwrap_or_default()
        };
        let (mut before, after) = (of(&told.before), of(&told.after));
        if !is_before && !told.before.names.contains_key(path) {
            // Another name of what was there, or nothing yet.
            let number = told.after.names[path].expect("a file");
            before = told.before.files.get(number).cloned().unwrap_or_default();
        }
        // Judging changes the file: once for all its names.
        let file = group.lookup(path).await.unwrap();
        if judged.contains(&file) {
            continue;
        }
        judged.push(file);
        judge_bytes(&group, path, &before, &after, what).await;
    }
    let copy = aquifer_dss_proto::catalog::Catalog::decode(&group.with_catalog(|catalog| catalog.encode()));
    assert!(
        group.with_catalog(|catalog| copy.as_ref() == Ok(catalog)),
        "{what}: units have one owner each"
    );
}

/// Every byte is of before or after; and when the file grows there is nothing but zeros, or what was being written.
async fn judge_bytes(group: &Arc<VolumeGroup>, path: &str, before: &[u8], after: &[u8], what: &str) {
    let file = group.open_path(path, OpenOptions::default()).await.unwrap();
    let size = file.size().unwrap() as usize;
    assert!(
        size == before.len() || size == after.len(),
        "{what}: {path} has {size} bytes"
    );
    let grown = before.len().max(after.len()) + 20_000;
    file.set_len(grown as u64).await.unwrap();
    let read = file.read_at(0, grown).await.unwrap();
    assert_eq!(read.len(), grown);
    let at = |bytes: &[u8], index: usize| bytes.get(index).copied().unwrap_or(0);
    for (index, byte) in read.iter().enumerate() {
        let old = if index < size { at(before, index) } else { 0 };
        // A write past the end that was not acknowledged may be found there.
        let new = if index < size || after.len() > before.len() {
            at(after, index)
        } else {
            0
        };
        assert!(
            *byte == old || *byte == new,
            "{what}: byte {index} of {path} is {byte}, size {size}"
        );
    }
}

/// Every path, and whether it is a file.
fn listing(group: &VolumeGroup) -> BTreeMap<String, bool> {
    group.with_catalog(|catalog| {
        let mut found = BTreeMap::new();
        for (_, inode) in catalog.inodes() {
            for entry in &inode.names {
                let above = catalog.path(entry.directory).unwrap();
                let path = format!("{}/{}", above.trim_end_matches('/'), entry.name);
                found.insert(path, matches!(inode.node, Node::File { .. }));
            }
        }
        found
    })
}

fn cut_everywhere(point: fn(u64) -> CutPoint, workloads: &[&'static [Step]]) {
    let mut runs = 0;
    for (workload, steps) in workloads.iter().enumerate() {
        let mut number = 1;
        while !cut(steps, 1000 * workload as u64 + number, point(number)) {
            number += 1;
        }
        runs += number;
    }
    println!("{runs} runs");
}

#[test]
fn files_survive_a_cut_at_any_write() {
    cut_everywhere(CutPoint::DuringWrite, &WORKLOADS);
}

#[test]
fn files_survive_a_cut_at_any_flush() {
    cut_everywhere(CutPoint::DuringFlush, &WORKLOADS);
}

#[test]
fn files_survive_a_cut_after_any_flush() {
    cut_everywhere(CutPoint::AfterFlush, &WORKLOADS);
}

#[test]
fn each_rule_of_units_is_missed_when_it_is_gone() {
    fn writes() {
        cut_everywhere(CutPoint::DuringWrite, &WORKLOADS[..8]);
    }
    for defect in [
        Defect::AttachUnzeroed,
        Defect::AttachBeforeFlush,
        Defect::GrowOverTail,
    ] {
        assert!(fails_with(defect, writes), "{}", defect.name());
    }
}
