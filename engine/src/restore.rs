//! Torn pages at the start of a cluster: whole images of the double-write areas are put over them.
//!
//! Rules:
//! - RST-1 of the images of a page in all areas the newest is taken, whoever is a member: what is torn is the last write, and whoever
//!   made that may be dead still. An older image would be a whole page, and nobody would look for the newer one any more.
//! - RST-2 an image that is older than what the page's header says is not put over it: a page that was being written has the PSN of
//!   that write or of the one before. Such a page is damaged, not torn, and is rebuilt from redo or refused.

use crate::store::read_area;
use crate::streams::double_write_areas;
use aquifer_buffer_pool_proto::header::{self, Verdict};
use aquifer_buffer_pool_proto::{PageId, Psn};
use aquifer_dss::group::{StorageError, VolumeGroup};
use aquifer_dss::seam::IoBuffer;
use std::collections::BTreeMap;

/// Images of the nodes' double-write areas, the newest of each page.
pub type TornGuard = BTreeMap<PageId, (Psn, Vec<u8>)>;

/// The newest image of each page in any area: a leader writes what it redid for others while its own stream is clean.
pub async fn newest_images(group: &VolumeGroup) -> Result<TornGuard, StorageError> {
    let mut newest = TornGuard::new();
    for (_, area) in double_write_areas(group).await? {
        for (page, (psn, image)) in read_area(group, area).await? {
            let newer = newest.get(&page).is_none_or(|(known, _)| *known < psn);
            if newer {
                newest.insert(page, (psn, image));
            }
        }
    }
    Ok(newest)
}

/// Puts the images over pages that are torn in place. Nobody may be writing pages: one that is being written looks torn.
pub async fn restore_torn(group: &VolumeGroup) -> Result<(), StorageError> {
    for (page, (psn, image)) in newest_images(group).await? {
        restore_page(group, page, psn, &image).await?;
    }
    group.flush().await
}

async fn restore_page(group: &VolumeGroup, page: PageId, psn: Psn, image: &[u8]) -> Result<(), StorageError> {
    let page_size = group.page_size();
    let offset = page_size.offset(page.number);
    let (chunk, buffer) = (page_size.bytes(), IoBuffer::zeroed(page_size.bytes()));
    let is_right = |_: u64, image: &[u8]| matches!(header::verify(image, page), Verdict::Valid(_));
    let read = group.read_checked(page.file, offset, buffer, chunk, &is_right);
    let in_place = match read.await {
        Err(StorageError::NoSuchFile(_)) => return Ok(()),
        read => read?,
    };
    if header::verify(&in_place, page) != Verdict::Corrupt {
        return Ok(());
    }
    if header::page_id(&in_place) == page && header::psn(&in_place) > psn {
        tracing::warn!(%page, psn = psn.0, "a damaged page is newer than its image in the double-write areas");
        return Ok(());
    }
    tracing::info!(%page, psn = psn.0, "torn page restored from the double-write area");
    let written = group.write_at(page.file, offset, IoBuffer::copy_padded(image));
    written.await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DOUBLE_WRITE_BYTES, GroupStore};
    use crate::streams::double_write_path;
    use aquifer_buffer_pool::PageStore;
    use aquifer_dss::device::{SimDisk, SimDiskOptions};
    use aquifer_dss::group::{CreateOptions, GroupOptions};
    use aquifer_dss::testing::TestRuntime;
    use aquifer_dss_proto::catalog::FileKind;
    use aquifer_dss_proto::{Epoch, FileId, NodeId, PageSize};
    use std::sync::Arc;

    const SIZE: PageSize = PageSize::USUAL;

    fn image(page: PageId, psn: u64) -> IoBuffer {
        let mut bytes = IoBuffer::zeroed(SIZE.bytes());
        bytes[header::HEADER_SIZE..].fill(psn as u8);
        bytes[4] = header::PAGE_VERSION;
        header::set_identity(&mut bytes, page, Psn(psn));
        header::seal(&mut bytes, Epoch(1));
        bytes
    }

    async fn create(group: &VolumeGroup, path: &str, size: u64, kind: FileKind) -> FileId {
        let options = CreateOptions {
            size,
            kind,
            exclusive: false,
        };
        group.create(path, options).await.unwrap()
    }

    /// What is in place after a start, when nodes wrote the page at `written`, one after another, and `damage` came then.
    fn restored(written: &[(u8, u64)], damage: impl Fn(&mut [u8])) -> Verdict {
        let runtime = TestRuntime::new(1);
        let disk = SimDisk::new(SimDiskOptions::new(32 << 20, 1));
        let options = GroupOptions {
            au_bytes: 64 << 10,
            journal_bytes: 64 << 10,
            checkpoint_bytes: 32 << 10,
            ..GroupOptions::default()
        };
        runtime.block_on(async {
            VolumeGroup::format(&*disk.attach(runtime.clone()), &options)
                .await
                .unwrap();
            let me = NodeId::new(1).unwrap();
            let group = VolumeGroup::open(runtime.clone(), vec![disk.attach(runtime.clone())], me);
            let group = group.await.unwrap();
            group.lead(Epoch(1)).await.unwrap();
            let file = create(&group, "/pages", SIZE.bytes() as u64, FileKind::Tree).await;
            let page = PageId { file, number: 0 };
            group.mkdir("/doublewrite").await.unwrap();
            for (node, psn) in written {
                let path = double_write_path(NodeId::new(*node).unwrap());
                let area = create(&group, &path, DOUBLE_WRITE_BYTES, FileKind::DoubleWrite).await;
                let store = GroupStore::new(group.clone());
                store.enable_writes(area);
                let tail: Arc<IoBuffer> = Arc::new(image(page, *psn));
                store.write_batch(&[(page, tail)]).await.unwrap();
            }
            let store = GroupStore::new(group.clone());
            let mut bytes = store.read(page).await.unwrap();
            damage(&mut bytes);
            group.write_at(file, 0, bytes).await.unwrap();
            restore_torn(&group).await.unwrap();
            header::verify(&store.read(page).await.unwrap(), page)
        })
    }

    /// The second half of the page did not arrive.
    fn tear(bytes: &mut [u8]) {
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
    }

    #[test]
    fn the_newest_image_of_all_nodes_is_put_over_a_torn_page() {
        assert_eq!(restored(&[(1, 138), (2, 566)], tear), Verdict::Valid(Psn(566)));
        assert_eq!(restored(&[(2, 138), (1, 566)], tear), Verdict::Valid(Psn(566)));
        assert_eq!(restored(&[(1, 138)], |_| {}), Verdict::Valid(Psn(138)));
    }

    #[test]
    fn a_damaged_page_does_not_become_an_old_one() {
        let newer = |bytes: &mut [u8]| {
            let id = header::page_id(bytes);
            header::set_identity(bytes, id, Psn(600));
        };
        assert_eq!(restored(&[(1, 138), (2, 566)], newer), Verdict::Corrupt);
    }
}
