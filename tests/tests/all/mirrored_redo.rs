//! A redo stream of which one side of a mirror has decayed is read to its end, and both sides are alike afterwards.

use aquifer_buffer_pool::Redo;
use aquifer_buffer_pool_proto::{PageId, Psn, Stamp};
use aquifer_dss::device::{SimDisk, SimDiskOptions};
use aquifer_dss::group::{CreateOptions, GroupOptions, NewDevice, VolumeGroup};
use aquifer_dss::seam::{BlockDevice, Runtime};
use aquifer_dss::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::{Epoch, FileId, Incarnation, NodeId};
use aquifer_engine::wal::{
    GroupFile, RING_OFFSET, RedoConfig, RedoStream, format_stream, read_header, read_stream,
};
use aquifer_engine_proto::RedoRecord;
use std::sync::Arc;
use std::time::Duration;

const BYTES: u64 = 256 << 10;
const GROUPS: u64 = 40;

fn me() -> NodeId {
    NodeId::new(1).unwrap()
}

/// A group of one mirrored volume, and a stream with some groups in it.
async fn stream(runtime: &Arc<TestHandle>, disks: &[SimDisk; 2]) -> (Arc<VolumeGroup>, FileId) {
    let ports: Vec<Arc<dyn BlockDevice>> = disks
        .iter()
        .map(|disk| -> Arc<dyn BlockDevice> { disk.attach(runtime.clone()) })
        .collect();
    let new = [0u8, 1].map(|leg| NewDevice {
        device: &*ports[usize::from(leg)],
        path: "",
        failure_group: leg,
    });
    let options = GroupOptions {
        au_bytes: 64 << 10,
        journal_bytes: 64 << 10,
        checkpoint_bytes: 32 << 10,
        mirror: true,
        seed: Some([7; 16]),
        ..GroupOptions::default()
    };
    VolumeGroup::format_all(&new, &options).await.unwrap();
    let group = VolumeGroup::open(runtime.clone(), ports, me()).await.unwrap();
    group.lead(Epoch(1)).await.unwrap();
    let redo = CreateOptions {
        size: BYTES,
        kind: FileKind::Redo,
        exclusive: true,
    };
    let file = group.create("/redo", redo).await.unwrap();
    let of_group = Arc::new(GroupFile::new(group.clone(), file, BYTES));
    format_stream(&*of_group, me()).await.unwrap();
    let header = read_header(&*of_group, me()).await.unwrap();
    let config = RedoConfig {
        flush_bytes: 9000,
        margin_bytes: 8 << 10,
        recovery_bytes: 24 << 10,
        sample_bytes: 4 << 10,
    };
    let open = RedoStream::open_own(runtime.clone(), of_group, config, header, Incarnation(1));
    let stream = open.await.unwrap();
    for psn in 0..GROUPS {
        let page = PageId {
            file: FileId(9),
            number: 1,
        };
        let record = RedoRecord {
            page,
            prev_psn: Psn(psn),
            operation: vec![psn as u8; 1500],
        };
        let end = stream.append(&[record], Stamp(0)).end;
        stream.wait(end).await;
    }
    (group, file)
}

/// Byte of the devices at which byte `at` of the file is.
fn place(group: &VolumeGroup, file: FileId, at: u64) -> u64 {
    group.with_catalog(|catalog| {
        let inode = catalog.inode(file).unwrap();
        let aquifer_dss_proto::catalog::Node::File { extents, .. } = &inode.node else {
            panic!("it is a file")
        };
        let unit = at / catalog.au_bytes();
        let mut runs = extents.iter();
        let run = runs.find(|run| u64::from(run.unit) <= unit && unit < u64::from(run.unit + run.count));
        let run = run.unwrap();
        catalog.offset_of(run) + at - u64::from(run.unit) * catalog.au_bytes()
    })
}

#[test]
fn redo_that_decayed_on_one_side_is_read_to_its_end() {
    // A copy of the header, and groups at the beginning and in the middle.
    for (seed, at) in [0, 4096, RING_OFFSET + 700, RING_OFFSET + 30_000]
        .into_iter()
        .enumerate()
    {
        for leg in [0, 1] {
            let runtime = TestRuntime::new(seed as u64);
            let disks = [1, 2].map(|number| SimDisk::new(SimDiskOptions::new(9 << 20, number)));
            runtime.block_on(async {
                let (group, file) = stream(&runtime, &disks).await;
                let offset = place(&group, file, at) + 16;
                let byte = disks[leg].peek(offset, 1)[0];
                disks[leg].overwrite(offset, &[byte ^ 0x40]);
                let of_group = GroupFile::new(group.clone(), file, BYTES);
                // Reads take the sides by turns: one more in every other round, and each is read from both.
                for round in 0..6 {
                    if round % 2 == 1 {
                        read_header(&of_group, me()).await.unwrap();
                    }
                    let header = read_header(&of_group, me()).await.unwrap();
                    assert_eq!(header.segments.len(), 1, "an older header was taken");
                    let (_, groups, _) = read_stream(&of_group, me()).await.unwrap();
                    assert_eq!(groups.len() as u64, GROUPS, "byte {at} of leg {leg}");
                }
                let alike = || disks[0].peek(offset - 16, 4096) == disks[1].peek(offset - 16, 4096);
                for _ in 0..1000 {
                    runtime.sleep(Duration::from_millis(1)).await;
                    if alike() {
                        break;
                    }
                }
                assert!(alike(), "byte {at} of leg {leg}");
                assert!(group.mend_counts().mended_bytes >= 4096);
            });
        }
    }
}
