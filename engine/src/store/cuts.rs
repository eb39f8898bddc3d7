//! The power fails at every write and flush of some write-back batches: each page is whole afterwards, in place or in the
//! double-write area, and not older than what was reported written.

use super::*;
use aquifer_buffer_pool_proto::header::{self, Verdict};
use aquifer_dss::device::{CutPoint, SimDisk, SimDiskOptions};
use aquifer_dss::group::{CreateOptions, GroupOptions};
use aquifer_dss::seam::Runtime as _;
use aquifer_dss::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::defect::fails_with;
use aquifer_dss_proto::{Epoch, NodeId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PAGES: u32 = 4;
const BATCHES: u64 = 3;
const SEEDS: u64 = 6;

async fn open(runtime: &Arc<TestHandle>, disk: &SimDisk) -> Arc<VolumeGroup> {
    let me = NodeId::new(1).unwrap();
    VolumeGroup::open(runtime.clone(), vec![disk.attach(runtime.clone())], me)
        .await
        .unwrap()
}

/// The numbers of the pages: with a stride of 1 a batch is one write in place, otherwise one write for each page, which the device may
/// carry out in any order.
fn numbers(stride: u32) -> impl Iterator<Item = u32> {
    (0..PAGES).map(move |place| place * stride)
}

/// Every page at `psn`, with bytes that differ from one PSN to the next in each sector.
fn images(file: FileId, psn: u64, stride: u32, page_size: PageSize) -> Vec<(PageId, Tail)> {
    let image = |number| {
        let page = PageId { file, number };
        let mut bytes = IoBuffer::zeroed(page_size.bytes());
        bytes[header::HEADER_SIZE..].fill(psn as u8);
        bytes[4] = header::PAGE_VERSION;
        header::set_identity(&mut bytes, page, Psn(psn));
        header::seal(&mut bytes, Epoch(1));
        (page, Arc::new(bytes))
    };
    numbers(stride).map(image).collect()
}

fn small_group(page_size: PageSize) -> GroupOptions {
    GroupOptions {
        au_bytes: 64 << 10,
        journal_bytes: 64 << 10,
        checkpoint_bytes: 32 << 10,
        page_size,
        seed: Some([7; 16]),
        ..GroupOptions::default()
    }
}

/// Writes batches of every `stride`th page until the power fails at `point`; whether it did.
fn cut_at(point: CutPoint, seed: u64, stride: u32, page_size: PageSize) -> bool {
    let runtime = TestRuntime::new(seed);
    runtime.tolerate_aborts();
    let disk = SimDisk::new(SimDiskOptions::new(8 << 20, seed));
    let reported = AtomicU64::new(0);
    let (file, area) = runtime.block_on(async {
        VolumeGroup::format(&*disk.attach(runtime.clone()), &small_group(page_size))
            .await
            .unwrap();
        let group = open(&runtime, &disk).await;
        group.lead(Epoch(1)).await.unwrap();
        let of = |size| CreateOptions {
            size,
            kind: FileKind::Tree,
            exclusive: false,
        };
        let file = group
            .create("/pages", of(page_size.offset(PAGES * stride)))
            .await
            .unwrap();
        let area = group.create("/area", of(DOUBLE_WRITE_BYTES)).await.unwrap();
        let store = GroupStore::new(group);
        store.enable_writes(area);
        disk.cut_at(point);
        let work = async {
            for psn in 1..=BATCHES {
                if store
                    .write_batch(&images(file, psn, stride, page_size))
                    .await
                    .is_err()
                {
                    return;
                }
                reported.store(psn, Ordering::Relaxed);
            }
        };
        let dark = async {
            while disk.has_power() {
                runtime.sleep(Duration::from_micros(5)).await;
            }
        };
        tokio::select! {
            biased;
            () = dark => {}
            () = work => {}
        }
        (file, area)
    });
    let cut = !disk.has_power();
    disk.power_cut();
    runtime.drop_tasks();
    disk.power_on();
    runtime.block_on(async {
        let group = open(&runtime, &disk).await;
        let whole = IoBuffer::zeroed(DOUBLE_WRITE_BYTES as usize);
        let copies = decode_batch(&group.read_at(area, 0, whole).await.unwrap(), page_size);
        let store = GroupStore::new(group);
        for number in numbers(stride) {
            let page = PageId { file, number };
            let psn = match header::verify(&store.read(page).await.unwrap(), page) {
                Verdict::Valid(psn) => psn,
                Verdict::NeverFormatted => Psn(0),
                Verdict::Corrupt => copies.get(&page).expect("a torn page has a whole copy").0,
            };
            let least = reported.load(Ordering::Relaxed);
            assert!(psn >= Psn(least), "{point:?}: {page} is at {psn:?} after {least}");
        }
    });
    cut
}

#[test]
fn a_power_cut_at_any_write_or_flush_loses_no_page() {
    for (seed, stride) in (0..SEEDS).flat_map(|seed| [(seed, 2), (seed, 1)]) {
        let page_size = PageSize::ALL[seed as usize % PageSize::ALL.len()];
        for point in [CutPoint::DuringWrite, CutPoint::DuringFlush, CutPoint::AfterFlush] {
            let mut number = 1;
            while cut_at(point(number), 100 * seed + number, stride, page_size) {
                number += 1;
            }
            assert!(number > BATCHES, "every batch has a write and a flush");
        }
    }
}

#[test]
fn each_missing_rule_of_a_batch_is_seen() {
    for defect in [
        Defect::WriteInPlaceOnly,
        Defect::WriteInPlaceBeforeAreaFlushed,
        Defect::ReportWrittenBeforeFlush,
    ] {
        assert!(
            fails_with(defect, a_power_cut_at_any_write_or_flush_loses_no_page),
            "{defect:?}"
        );
    }
}
