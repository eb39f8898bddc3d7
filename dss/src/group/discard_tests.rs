//! Tests of discards on a simulated disk, on which what is discarded is garbage after a while.

use super::file_tests::{created, pair};
use super::tests::{formatted, node, open};
use super::*;
use crate::device::SimDisk;
use crate::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, Runtime};
use crate::testing::TestRuntime;
use aquifer_dss_proto::Epoch;
use aquifer_dss_proto::catalog::Extent;
use aquifer_dss_proto::defect::{Defect, fails_with};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const UNIT: usize = 8192;

/// A file of `units`, full of one value; its extents.
async fn filled(group: &Arc<VolumeGroup>, path: &str, units: usize, value: u8) -> Vec<Extent> {
    let file = group.open_path(path, created()).await.unwrap();
    file.write_at(0, &vec![value; units * UNIT]).await.unwrap();
    file.close().await.unwrap();
    group.give_kept_back().await.unwrap();
    group.stat_path(path).await.unwrap().extents
}

/// The bytes of `value` at these places.
fn found(disk: &SimDisk, group: &VolumeGroup, runs: &[Extent], value: u8) -> usize {
    let bytes = runs.iter().flat_map(|run| {
        let offset = group.with_catalog(|catalog| catalog.offset_of(run));
        disk.peek(offset, run.count as usize * UNIT)
    });
    bytes.filter(|byte| *byte == value).count()
}

async fn is_whole(group: &Arc<VolumeGroup>, path: &str, units: usize, value: u8) {
    let file = group.open_path(path, OpenOptions::default()).await.unwrap();
    let bytes = file.read_at(0, units * UNIT).await.unwrap();
    assert!(
        bytes.len() == units * UNIT && bytes.iter().all(|byte| *byte == value),
        "{path}"
    );
}

#[test]
fn what_is_free_was_discarded_unless_that_is_off() {
    let runtime = TestRuntime::new(1);
    let disk = formatted(&runtime, 1);
    runtime.block_on(async {
        let group = open(&runtime, &disk, 1).await.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        let runs = filled(&group, "/f", 9, 1).await;
        group.remove("/f").await.unwrap();
        runtime.sleep(Duration::from_secs(3)).await;
        assert_eq!(group.space().free, group.space().units);
        assert_eq!(found(&disk, &group, &runs, 1), 0);
        assert_eq!(group.discard_status().bytes, 9 * UNIT as u64);
        // A part of a file that stays.
        let runs = filled(&group, "/cut", 9, 2).await;
        let file = group.open_path("/cut", OpenOptions::default()).await.unwrap();
        file.set_len(UNIT as u64).await.unwrap();
        runtime.sleep(Duration::from_secs(3)).await;
        assert_eq!(found(&disk, &group, &runs, 2), UNIT);
        file.close().await.unwrap();
        group.set_config(DISCARD_KEY, Some("off")).await.unwrap();
        let runs = filled(&group, "/kept", 9, 3).await;
        group.remove("/kept").await.unwrap();
        runtime.sleep(Duration::from_secs(3)).await;
        assert_eq!(found(&disk, &group, &runs, 3), 9 * UNIT);
        assert_eq!(group.discard_status().bytes, 17 * UNIT as u64);
    });
}

fn open_elsewhere() {
    let runtime = TestRuntime::new(2);
    let disk = formatted(&runtime, 2);
    runtime.block_on(async {
        let groups = pair(&runtime, &disk).await;
        filled(&groups[0], "/f", 9, 1).await;
        let held = groups[1].open_path("/f", OpenOptions::default()).await.unwrap();
        let entry = groups[0].entry("/f").await.unwrap();
        groups[0].unlink(entry).await.unwrap();
        runtime.sleep(Duration::from_secs(3)).await;
        let bytes = held.read_at(0, 9 * UNIT).await.unwrap();
        assert!(bytes.iter().all(|byte| *byte == 1), "it is open at node 2");
        held.close().await.unwrap();
        runtime.sleep(Duration::from_secs(3)).await;
        assert_eq!(groups[0].discard_status().bytes, 9 * UNIT as u64);
    });
}

#[test]
fn units_that_somebody_may_use_are_not_discarded() {
    open_elsewhere();
    assert!(fails_with(Defect::DiscardBeforePassed, open_elsewhere));
}

/// Files that take the units of what was removed as soon as they are free.
fn removed_and_written() {
    let runtime = TestRuntime::new(3);
    let disk = formatted(&runtime, 3);
    runtime.block_on(async {
        let group = open(&runtime, &disk, 1).await.unwrap();
        group.lead(Epoch(1)).await.unwrap();
        let units = group.space().units as usize;
        filled(&group, "/old", units / 2, 1).await;
        filled(&group, "/other", units * 3 / 8, 2).await;
        group.remove("/old").await.unwrap();
        let new = group.open_path("/new", created()).await.unwrap();
        // There is no space until the discard is over.
        while new.write_at(0, &vec![3; units / 2 * UNIT]).await.is_err() {
            runtime.sleep(Duration::from_micros(100)).await;
        }
        runtime.sleep(Duration::from_secs(1)).await;
        assert!(group.discard_status().bytes > 0);
        is_whole(&group, "/new", units / 2, 3).await;
    });
}

#[test]
fn nobody_is_given_a_unit_that_is_being_discarded() {
    removed_and_written();
    assert!(fails_with(Defect::AllocateBesideDiscard, removed_and_written));
}

/// A leader is deposed in the middle of its discards; the next one gives the units to others.
fn deposed_at(delay: Duration) {
    let runtime = TestRuntime::new(4);
    let disk = formatted(&runtime, 4);
    runtime.block_on(async {
        let groups = pair(&runtime, &disk).await;
        let units = groups[0].space().units as usize;
        for (path, value) in [("/a", 1), ("/b", 2), ("/c", 3), ("/d", 4)] {
            filled(&groups[0], path, units / 5, value).await;
        }
        for path in ["/a", "/b", "/c", "/d"] {
            groups[0].remove(path).await.unwrap();
        }
        runtime.sleep(delay).await;
        groups[0].follow(Epoch(2), node(2));
        groups[1].lead(Epoch(2)).await.unwrap();
        let before = groups[0].discard_status().bytes;
        while groups[1].space().free < (units * 4 / 5) as u64 {
            runtime.sleep(Duration::from_micros(50)).await;
        }
        filled(&groups[1], "/new", units * 3 / 5, 9).await;
        runtime.sleep(Duration::from_secs(3)).await;
        is_whole(&groups[1], "/new", units * 3 / 5, 9).await;
        assert!(groups[0].discard_status().bytes <= before + UNIT as u64 * 64);
        assert_eq!(groups[1].space().waiting, 0);
    });
}

fn deposed() {
    for delay in 1..30 {
        deposed_at(Duration::from_micros(delay * 700));
    }
}

#[test]
fn a_change_of_leaders_loses_nothing_but_discards() {
    deposed();
    assert!(fails_with(Defect::DiscardAsDeposed, deposed));
}

/// A disk that cannot discard, and how often it was asked.
struct Keeps(Arc<dyn BlockDevice>, AtomicU64);

impl BlockDevice for Keeps {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        self.0.read(offset, buffer)
    }
    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        self.0.write(offset, buffer)
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.0.flush()
    }
    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let error = DeviceError::Io {
            operation: "discard",
            offset,
            length: length as usize,
            errno: libc::EOPNOTSUPP,
            message: "not supported".into(),
        };
        Box::pin(async move { Err(error) })
    }
}

#[test]
fn a_device_that_cannot_discard_is_asked_once() {
    let runtime = TestRuntime::new(5);
    let disk = formatted(&runtime, 5);
    runtime.block_on(async {
        let device = Arc::new(Keeps(disk.attach(runtime.clone()), AtomicU64::new(0)));
        let group = VolumeGroup::open(runtime.clone(), vec![device.clone()], node(1))
            .await
            .unwrap();
        group.lead(Epoch(1)).await.unwrap();
        for _ in 0..3 {
            filled(&group, "/f", 90, 1).await;
            group.remove("/f").await.unwrap();
            runtime.sleep(Duration::from_secs(3)).await;
            assert_eq!(group.space().free, group.space().units);
        }
        assert_eq!(device.1.load(Ordering::Relaxed), 1);
        let status = group.discard_status();
        assert_eq!((status.bytes, status.failures), (0, 1));
    });
}
