//! Room for metadata: as many files as a group was made for are made through the journal, and are there when it is
//! opened again.

use super::tests::{node, open};
use super::*;
use crate::device::{SimDisk, SimDiskOptions};
use crate::seam::BlockDevice;
use crate::testing::TestRuntime;
use aquifer_dss_proto::Epoch;
use futures_util::future::join_all;

/// Files that are made at once.
const CALLERS: u64 = 256;

/// How many files the test makes: a million takes some minutes, so `AQUIFER_METADATA_FILES` says when.
fn files_wanted() -> u64 {
    let set = std::env::var("AQUIFER_METADATA_FILES").ok();
    set.map_or(70_000, |files| {
        files.parse().expect("AQUIFER_METADATA_FILES is a number")
    })
}

#[test]
fn a_group_has_as_many_files_as_it_was_made_for() {
    let (runtime, files) = (TestRuntime::new(5), files_wanted());
    let disk = SimDisk::new(SimDiskOptions::new(2 << 30, 5));
    let device = disk.attach(runtime.clone());
    let options = GroupOptions {
        au_bytes: 64 << 10,
        files: Some(files),
        ..GroupOptions::default()
    };
    let options = options.sized_for(device.geometry().size);
    runtime.block_on(async {
        VolumeGroup::format(&*device, &options).await.unwrap();
        let group = open(&runtime, &disk, 1).await.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        group.set_members(aquifer_dss_proto::NodeSet::of(node(1)));
        let path = |file: u64| format!("/made/{:02}/file-{file:016}", file % 64);
        for first in (0..files).step_by(CALLERS as usize) {
            let batch = first..(first + CALLERS).min(files);
            let made = join_all(batch.map(|file| {
                let group = group.clone();
                async move { group.create(&path(file), CreateOptions::default()).await }
            }));
            made.await
                .into_iter()
                .for_each(|made| assert!(made.is_ok(), "{made:?}"));
        }
        let opened = open(&runtime, &disk, 2).await.unwrap();
        let ours = group.with_catalog(Clone::clone);
        assert!(
            opened.with_catalog(|catalog| *catalog == ours),
            "every file is there again"
        );
        // The root, its directory, and 64 in that.
        assert_eq!(ours.inode_count() as u64, files + 2 + files.min(64));
    });
}

#[test]
fn metadata_of_a_device_follows_its_size_and_what_was_asked_for() {
    let of = |size: u64, files| {
        let options = GroupOptions {
            files,
            ..GroupOptions::default()
        };
        options.sized_for(size).checkpoint_bytes >> 20
    };
    assert_eq!(
        [of(64 << 20, None), of(1 << 30, None), of(2 << 30, None)],
        [8, 64, 128]
    );
    assert_eq!([of(3 << 30, None), of(64 << 40, None)], [192, 192], "a million");
    assert_eq!(
        of(1 << 30, Some(1_000_000)),
        192,
        "whoever wants a million gets it"
    );
    assert_eq!(
        [of(1 << 40, Some(1)), of(1 << 40, Some(u64::MAX))],
        [8, 4096],
        "within what a checkpoint can be"
    );
}
