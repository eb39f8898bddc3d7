//! File requests that nobody would make, and directories that are larger than an answer.

use super::protocol::{FileInfo, FileRequest, Listing, PAGE};
use super::service::handle;
use crate::failure::Exit;
use aquifer_dss::device::{SimDisk, SimDiskOptions};
use aquifer_dss::group::{CreateOptions, GroupOptions, VolumeGroup};
use aquifer_dss::seam::Runtime;
use aquifer_dss::testing::{TestHandle, TestRuntime, fuzz_rounds};
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::{Epoch, NodeId};
use serde_json::Value;
use std::sync::Arc;

#[test]
fn the_group_name_is_taken_off() {
    assert_eq!(super::inner("main:/a/b"), "/a/b");
    assert_eq!(super::inner("/a:b"), "/a:b");
}

/// A group with one member, which leads.
async fn group(runtime: &Arc<TestHandle>) -> Arc<VolumeGroup> {
    let disk = SimDisk::new(SimDiskOptions::new(32 << 20, 1));
    let options = GroupOptions {
        au_bytes: 8192,
        journal_bytes: 256 << 10,
        checkpoint_bytes: 4 << 20,
        seed: Some([7; 16]),
        ..GroupOptions::default()
    };
    let device = disk.attach(runtime.clone());
    VolumeGroup::format(&*device, &options).await.unwrap();
    let me = NodeId::new(1).unwrap();
    let group = VolumeGroup::open(runtime.clone(), vec![device], me)
        .await
        .unwrap();
    group.set_members([me].into_iter().collect());
    group.lead(Epoch(1)).await.unwrap();
    group
}

async fn said<T: serde::de::DeserializeOwned>(group: &Arc<VolumeGroup>, request: FileRequest) -> T {
    let value: Value = handle(group, request).await.unwrap();
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_large_directory_comes_in_pages() {
    let runtime = TestRuntime::new(1);
    runtime.block_on(async {
        let group = group(&runtime).await;
        let long = "\u{1}".repeat(1024);
        let names: Vec<String> = (0..2 * PAGE)
            .map(|n| format!("{n:06}{}", "x".repeat(249)))
            .collect();
        for name in &names {
            let (target, path) = (long.clone(), format!("/{name}"));
            handle(&group, FileRequest::Symlink { target, path })
                .await
                .unwrap();
        }
        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let path = "/".into();
            let page: Listing = said(&group, FileRequest::List { path, after }).await;
            let bytes = serde_json::to_vec(&page).unwrap().len();
            assert!(page.entries.len() <= PAGE && bytes <= 4 << 20, "{bytes}");
            found.extend(page.entries.into_iter().map(|entry| entry.name));
            pages += 1;
            // What is not there any more is no reason to lose the rest.
            if pages == 1 {
                let path = format!("/{}", names[PAGE - 1]);
                handle(&group, FileRequest::Unlink { path }).await.unwrap();
            }
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!((found, pages), (names, 3));
    });
}

const PATHS: [&str; 16] = [
    "/",
    "/a",
    "/b",
    "/a/c",
    "/a/c/d",
    "/b/e",
    "/link",
    "/engine",
    "/engine/x",
    "",
    "a",
    "//",
    "/..",
    "/a/../b",
    "/a\0b",
    "/é/\u{202e}",
];
const NUMBERS: [u64; 12] = [
    0,
    1,
    4095,
    4096,
    8193,
    70_000,
    1 << 32,
    1 << 53,
    1 << 63,
    (1 << 63) - 1,
    u64::MAX - 4096,
    u64::MAX,
];

/// Draws requests.
struct Draw<'a>(&'a TestHandle);

impl Draw<'_> {
    fn below(&self, limit: u64) -> u64 {
        self.0.random() % limit
    }

    fn flag(&self) -> bool {
        self.below(2) == 0
    }

    fn path(&self) -> String {
        match self.below(40) {
            0 => "/x".repeat(700),
            1 => format!("/{}", "y".repeat(300)),
            _ => PATHS[self.below(PATHS.len() as u64) as usize].into(),
        }
    }

    fn number(&self) -> u64 {
        NUMBERS[self.below(NUMBERS.len() as u64) as usize]
    }

    fn id(&self) -> u64 {
        match self.below(10) {
            0 => self.number(),
            _ => self.below(64),
        }
    }

    fn data(&self) -> String {
        match self.below(10) {
            0 => "no base64".into(),
            _ => super::service::encode(&vec![0x55; self.below(9000) as usize]),
        }
    }

    fn request(&self) -> FileRequest {
        let (path, follow) = (self.path(), self.flag());
        match self.below(16) {
            0 => FileRequest::Stat { path, follow },
            1 => {
                let after = self.path();
                FileRequest::List { path, after }
            }
            2 | 3 => {
                let exclusive = follow;
                FileRequest::Create { path, exclusive }
            }
            4 => {
                let parents = follow;
                FileRequest::MakeDirectory { path, parents }
            }
            5 => {
                let target = self.path();
                FileRequest::Symlink { target, path }
            }
            6 => {
                let existing = self.path();
                FileRequest::Link { existing, path }
            }
            7 => {
                let (from, replace) = (self.path(), follow);
                FileRequest::Move {
                    from,
                    to: path,
                    replace,
                }
            }
            8 => FileRequest::Unlink { path },
            9 => FileRequest::RemoveDirectory { path },
            10 => {
                let size = self.number();
                FileRequest::SetSize { path, size }
            }
            11 => FileRequest::Touch { path },
            12 | 13 => FileRequest::Read {
                id: self.id(),
                offset: self.number(),
                length: self.number(),
            },
            14 => FileRequest::Write {
                id: self.id(),
                offset: self.number(),
                data: self.data(),
            },
            _ => FileRequest::Sync { id: self.id() },
        }
    }
}

#[test]
fn hostile_file_requests_are_refused_and_the_engine_keeps_its_files() {
    for seed in 0..4 * fuzz_rounds() {
        let runtime = TestRuntime::new(seed);
        runtime.block_on(hostile_requests(&runtime, seed));
    }
}

async fn hostile_requests(runtime: &Arc<TestHandle>, seed: u64) {
    let group = group(runtime).await;
    let options = CreateOptions {
        size: 8192,
        kind: FileKind::Tree,
        exclusive: true,
    };
    let engine = group.create("/engine", options).await.unwrap();
    let draw = Draw(runtime);
    let (mut done, mut refused) = (0, 0);
    for _ in 0..600 {
        let request = draw.request();
        let shown = format!("seed {seed}: {request:?}");
        match handle(&group, request).await {
            Ok(answer) => {
                let bytes = serde_json::to_vec(&answer).unwrap().len();
                assert!(bytes < 1 << 20, "{shown}: {bytes}");
                done += 1;
            }
            Err(failure) => {
                // Nothing that a client says is a failure of the device, or of unknown outcome.
                assert!(
                    matches!(failure.exit, Exit::Failed | Exit::Usage | Exit::Refused),
                    "{shown}: {failure}"
                );
                assert!(!failure.message.contains('\n'), "{shown}");
                refused += 1;
            }
        }
    }
    assert!(done > 50 && refused > 50, "seed {seed}: {done} {refused}");
    let path = "/engine".into();
    let info: FileInfo = said(&group, FileRequest::Stat { path, follow: false }).await;
    assert_eq!((info.id, info.size), (engine.0, 8192));
    let bytes = FileRequest::Read {
        id: engine.0,
        offset: 0,
        length: 8192,
    };
    let bytes: super::protocol::Bytes = said(&group, bytes).await;
    assert!(
        super::service::decode(&bytes.data)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
}
