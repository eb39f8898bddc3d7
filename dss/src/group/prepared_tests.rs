//! Tests of places for a program's own I/O, and of blocks in several buffers.

use super::file_tests::created;
use super::tests::{Network, connect, formatted, node};
use super::*;
use crate::device::SimDisk;
use crate::seam::{BLOCK, BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, Runtime};
use crate::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::Epoch;
use aquifer_dss_proto::catalog::OperationError;
use std::fs::File as SystemFile;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

const BYTES: u64 = BLOCK as u64;

/// A simulated disk that a program gets a descriptor of; its own I/O is done on the disk then.
struct Described(Arc<dyn BlockDevice>, SystemFile);

impl BlockDevice for Described {
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
        self.0.discard(offset, length)
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.1.as_fd())
    }
}

/// The only node of a group, and its disk.
async fn alone(runtime: &Arc<TestHandle>, disk: &SimDisk) -> Arc<VolumeGroup> {
    let device = Described(
        disk.attach(runtime.clone()),
        SystemFile::open("/dev/null").unwrap(),
    );
    let group = VolumeGroup::open(runtime.clone(), vec![Arc::new(device)], node(1))
        .await
        .unwrap();
    let network = Arc::new(Network::default());
    connect(&network, &group, 1);
    std::mem::forget(network);
    group.set_members([node(1)].into_iter().collect());
    group.lead(Epoch(1)).await.unwrap();
    group
}

fn full(value: u8, blocks: usize) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(blocks * BLOCK);
    buffer.fill(value);
    buffer
}

#[test]
fn what_a_program_writes_itself_is_in_the_file() {
    let runtime = TestRuntime::new(1);
    let disk = formatted(&runtime, 1);
    runtime.block_on(async {
        let group = alone(&runtime, &disk).await;
        let file = group.open_path("/f", created()).await.unwrap();
        file.write_at(0, &[0; BLOCK]).await.unwrap();
        let between = group.open_path("/g", created()).await.unwrap();
        between.write_at(0, &[3; 2 * BLOCK]).await.unwrap();
        let place = file.prepare_write(BYTES, 2 * BLOCK).await.unwrap();
        // The unit has two blocks, and the next one is elsewhere: the run ends there.
        assert_eq!(place.length(), BLOCK);
        let offset = place.place().unwrap().offset;
        assert!(place.place().unwrap().as_raw_fd() >= 0);
        disk.overwrite(offset, &[7; BLOCK]);
        assert_eq!(file.size().unwrap(), BYTES);
        place.finish(BYTES).await.unwrap();
        assert_eq!(file.known_size(), 2 * BYTES, "every node is told");
        let read = file.read_at(0, 3 * BLOCK).await.unwrap();
        assert!(read[..BLOCK].iter().all(|byte| *byte == 0));
        assert!(read.len() == 2 * BLOCK && read[BLOCK..].iter().all(|byte| *byte == 7));
        let found = file.address(BYTES).unwrap();
        assert_eq!((found.place, found.length), (Some((0, offset)), BYTES));
        let place = file.prepare_read(BYTES, BLOCK).await.unwrap();
        assert_eq!(place.place().unwrap().offset, offset);
        place.finish(0).await.unwrap();
        let hole = file.prepare_read(1 << 20, BLOCK).await.unwrap();
        assert!(hole.place().is_none());
        hole.finish(0).await.unwrap();
    });
}

#[test]
fn removed_units_wait_for_a_prepared_place() {
    let runtime = TestRuntime::new(2);
    let disk = formatted(&runtime, 2);
    runtime.block_on(async {
        let group = alone(&runtime, &disk).await;
        let file = group.open_path("/f", created()).await.unwrap();
        file.write_at(0, &[1; 4 * BLOCK]).await.unwrap();
        let place = file.prepare_read(3 * BYTES, BLOCK).await.unwrap();
        file.set_len(0).await.unwrap();
        runtime.sleep(Duration::from_secs(60)).await;
        assert!(group.space().waiting > 0, "the program may still read there");
        place.finish(0).await.unwrap();
        runtime.sleep(Duration::from_secs(60)).await;
        assert_eq!(group.space().waiting, 0);
    });
}

#[test]
fn writes_to_a_prepared_range_wait_and_others_do_not() {
    let runtime = TestRuntime::new(3);
    let disk = formatted(&runtime, 3);
    runtime.block_on(async {
        let group = alone(&runtime, &disk).await;
        let file = group.open_path("/f", created()).await.unwrap();
        let place = file.prepare_write(0, BLOCK).await.unwrap();
        file.write_at(BYTES, b"beside").await.unwrap();
        let (other, (told, mut wait)) = (file.clone(), tokio::sync::oneshot::channel());
        let write = async move {
            other.write_at(0, b"after").await.unwrap();
            told.send(()).unwrap();
        };
        runtime.spawn("write", Box::pin(write));
        runtime.sleep(Duration::from_secs(1)).await;
        assert!(wait.try_recv().is_err(), "the range is the program's");
        disk.overwrite(place.place().unwrap().offset, &[9; BLOCK]);
        place.finish(BYTES).await.unwrap();
        wait.await.unwrap();
        assert_eq!(&*file.read_at(0, 6).await.unwrap(), b"after\x09");
    });
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing_locked() {
    let runtime = TestRuntime::new(4);
    let disk = formatted(&runtime, 4);
    runtime.block_on(async {
        let group = alone(&runtime, &disk).await;
        let file = group.open_path("/f", created()).await.unwrap();
        for (offset, length) in [(1, BLOCK), (0, 100), (0, 0)] {
            for write in [false, true] {
                let refused = match write {
                    false => file.prepare_read(offset, length).await,
                    true => file.prepare_write(offset, length).await,
                };
                assert!(refused.is_err_and(|error| error.is(OperationError::Invalid)));
            }
        }
        for written in [100, 2 * BYTES] {
            let place = file.prepare_write(0, BLOCK).await.unwrap();
            let refused = place.finish(written).await.unwrap_err();
            assert!(refused.is(OperationError::Invalid));
        }
        let place = file.prepare_read(0, BLOCK).await.unwrap();
        assert!(place.finish(BYTES).await.is_err(), "nobody may write there");
        file.set_len(0).await.unwrap();
        assert_eq!(file.size().unwrap(), 0);
    });
}

#[test]
fn blocks_in_several_buffers_go_over_extents_and_holes() {
    let runtime = TestRuntime::new(5);
    let disk = formatted(&runtime, 5);
    runtime.block_on(async {
        let group = alone(&runtime, &disk).await;
        let file = group.open_path("/f", created()).await.unwrap();
        // Another file between two units, so that there are several extents.
        file.write_at(0, &[0; BLOCK]).await.unwrap();
        let between = group.open_path("/g", created()).await.unwrap();
        between.write_at(0, &[3; 12 * BLOCK]).await.unwrap();
        let buffers = vec![full(1, 1), full(2, 3), full(3, 1)];
        let back = file.write_blocks_vectored(BYTES, buffers).await.unwrap();
        assert_eq!(back.iter().map(|buffer| buffer[0]).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(file.size().unwrap(), 6 * BYTES);
        let empty = vec![full(9, 2), full(9, 3), full(9, 4)];
        let (read, inside) = file.read_blocks_vectored(0, empty).await.unwrap();
        assert_eq!(inside, 6 * BLOCK);
        let blocks: Vec<u8> = read
            .iter()
            .flat_map(|buffer| buffer.chunks(BLOCK).map(|block| block[BLOCK - 1]))
            .collect();
        assert_eq!(blocks, [0, 1, 2, 2, 2, 3, 0, 0, 0]);
        let refused = file.read_blocks_vectored(1, vec![full(0, 1)]).await;
        assert!(refused.is_err_and(|error| error.is(OperationError::Invalid)));
        assert!(
            file.write_blocks_vectored(0, Vec::new())
                .await
                .unwrap()
                .is_empty()
        );
        let (_, past) = file
            .read_blocks_vectored(1 << 20, vec![full(0, 1)])
            .await
            .unwrap();
        assert_eq!(past, 0);
    });
}
