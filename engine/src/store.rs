//! Pages on shared storage: reads in place, writes through this node's double-write area.
//!
//! The write of a page may tear at 512 bytes. A batch is therefore written to the node's own double-write file first, flushed,
//! then written in place and flushed. Whoever redoes pages of a dead node takes the image of its double-write file as base where
//! the page in place has a bad checksum. The area is not restored as a whole: a page that a dead node was writing
//! had changes that were not on storage, so some stream still names it and it is in the recovery plan.
//!
//! Rules:
//! - STO-1 one batch at a time per node: the area is overwritten only when the previous batch is flushed in place;
//! - STO-2 a batch is reported written only after the flush that follows the writes in place.

use crate::rebuild::Gathered;
use aquifer_buffer_pool::{PageStore, PageStoreError};
use aquifer_buffer_pool_proto::header::{self, Verdict};
use aquifer_buffer_pool_proto::{PageId, PageSize, Psn};
use aquifer_dss::group::{Judge, Quality, StorageError, VolumeGroup};
use aquifer_dss::seam::{BLOCK, BoxFuture, IoBuffer, Tail};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::envelope::crc32c;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tokio::sync::Mutex;

/// Most bytes of images in one double-write batch.
const BATCH_BYTES: usize = 512 << 10;

/// Most pages in one double-write batch: 128 of 4 KiB, 16 of 32.
const fn batch_pages(page_size: PageSize) -> usize {
    BATCH_BYTES / page_size.bytes()
}

/// Pages of which it is remembered that they cannot be rebuilt.
const REFUSED_MAX: usize = 4096;

const MAGIC: u64 = 0x3142_5752_4244_5141; // "AQDBRWB1"
const ENTRY: usize = 24;
const HEADER: usize = BLOCK;

/// Size of a node's double-write file in bytes: a header block and the images.
pub const DOUBLE_WRITE_BYTES: u64 = (HEADER + BATCH_BYTES) as u64;

const _: () = assert!(
    16 + batch_pages(PageSize::LEAST) * ENTRY <= HEADER,
    "the entries fit their block"
);

/// [`PageStore`] over the volume group.
pub struct GroupStore {
    group: Arc<VolumeGroup>,
    double_write: OnceLock<FileId>,
    batch: Mutex<()>,
    /// Pages that could not be rebuilt, and why: what is missing does not come back.
    refused: Mutex<BTreeMap<PageId, String>>,
}

impl GroupStore {
    /// A store that can read; it writes once [`enable_writes`](Self::enable_writes) named its area.
    pub fn new(group: Arc<VolumeGroup>) -> Self {
        Self {
            group,
            double_write: OnceLock::new(),
            batch: Mutex::new(()),
            refused: Mutex::default(),
        }
    }

    /// Names this node's double-write file, of at least [`DOUBLE_WRITE_BYTES`].
    pub fn enable_writes(&self, file: FileId) {
        self.double_write.get_or_init(|| file);
    }

    /// Whether pages may be on their way to storage.
    pub fn can_write(&self) -> bool {
        self.double_write.get().is_some()
    }

    /// Byte offset of a page in its file.
    fn offset(&self, page: PageId) -> u64 {
        self.group.page_size().offset(page.number)
    }

    async fn read_page(&self, page: PageId) -> Result<IoBuffer, PageStoreError> {
        let buffer = IoBuffer::zeroed(self.group.page_size().bytes());
        let is_right = |_: u64, image: &[u8]| matches!(header::verify(image, page), Verdict::Valid(_));
        let chunk = buffer.len();
        let read = self
            .group
            .read_checked(page.file, self.offset(page), buffer, chunk, &is_right);
        read.await.map_err(|error| match error {
            StorageError::NoSuchFile(_) => PageStoreError::Gone(page),
            error => failed(&error),
        })
    }

    /// One at a time: it reads every redo ring.
    async fn rebuild_page(&self, page: PageId) -> Result<IoBuffer, String> {
        let mut refused = self.refused.lock().await;
        if let Some(reason) = refused.get(&page) {
            return Err(reason.clone());
        }
        let rebuilt = match Gathered::of(&self.group, page).await {
            Ok(gathered) => gathered.newest(),
            // Storage may answer the next time.
            Err(reason) => return Err(reason),
        };
        if let Err(reason) = &rebuilt
            && refused.len() < REFUSED_MAX
        {
            refused.insert(page, reason.clone());
        }
        rebuilt
    }

    async fn write_pages(&self, pages: &[(PageId, Tail)]) -> Result<(), PageStoreError> {
        let area = *self.double_write.get().ok_or_else(|| {
            PageStoreError::Failed(
                "no page can be written before this node has its double-write area".to_owned(),
            )
        })?;
        let _one_batch = self.batch.lock().await; // STO-1
        for batch in pages.chunks(batch_pages(self.group.page_size())) {
            self.write_one_batch(area, batch).await.map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    async fn write_one_batch(&self, area: FileId, pages: &[(PageId, Tail)]) -> Result<(), StorageError> {
        if !planted(Defect::WriteInPlaceOnly) {
            let area_bytes = encode_batch(pages, self.group.page_size());
            self.group.write_at(area, 0, area_bytes).await?;
        }
        if !planted(Defect::WriteInPlaceBeforeAreaFlushed) {
            self.group.flush().await?;
        }
        let writes = neighbours(pages)
            .into_iter()
            .map(|(page, images)| self.group.write_at(page.file, self.offset(page), images));
        for result in futures_util::future::join_all(writes).await {
            match result {
                // The file was removed meanwhile: nobody will read the page.
                Ok(_) | Err(StorageError::NoSuchFile(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if planted(Defect::ReportWrittenBeforeFlush) {
            return Ok(());
        }
        self.group.flush().await // STO-2
    }
}

impl PageStore for GroupStore {
    fn read(&self, page: PageId) -> BoxFuture<'_, Result<IoBuffer, PageStoreError>> {
        Box::pin(self.read_page(page))
    }

    fn write_batch<'a>(&'a self, pages: &'a [(PageId, Tail)]) -> BoxFuture<'a, Result<(), PageStoreError>> {
        Box::pin(self.write_pages(pages))
    }

    fn rebuild(&self, page: PageId) -> BoxFuture<'_, Result<IoBuffer, String>> {
        Box::pin(self.rebuild_page(page))
    }
}

/// Pages have checksums.
pub struct PageJudge(pub PageSize);

impl Judge for PageJudge {
    fn chunk(&self, kind: FileKind) -> Option<usize> {
        matches!(kind, FileKind::Tree | FileKind::Status).then(|| self.0.bytes())
    }

    fn judge(&self, file: FileId, offset: u64, bytes: &[u8]) -> Quality {
        let Ok(number) = u32::try_from(offset / self.0.bytes() as u64) else {
            return Quality::Wrong;
        };
        if bytes.len() != self.0.bytes() {
            return Quality::Wrong;
        }
        match header::verify(bytes, PageId { file, number }) {
            Verdict::Valid(_) => Quality::Right,
            Verdict::NeverFormatted => Quality::Unwritten,
            Verdict::Corrupt => Quality::Wrong,
        }
    }
}

/// One write for pages that follow each other, as far as they do so in `pages`: the first page of each, and the images.
fn neighbours(pages: &[(PageId, Tail)]) -> Vec<(PageId, IoBuffer)> {
    let follows = |one: &(PageId, Tail), next: &(PageId, Tail)| {
        one.0.file == next.0.file && one.0.number + 1 == next.0.number
    };
    let joined = |run: &[(PageId, Tail)]| {
        let page_bytes = run[0].1.len();
        let mut images = IoBuffer::zeroed(run.len() * page_bytes);
        for (place, (_, image)) in images.chunks_exact_mut(page_bytes).zip(run) {
            place.copy_from_slice(image);
        }
        (run[0].0, images)
    };
    pages.chunk_by(follows).map(joined).collect()
}

fn failed(error: &StorageError) -> PageStoreError {
    PageStoreError::Failed(error.to_string())
}

/// Header {magic u64, count u32, crc u32 of the entries} and entries {file u64, number u32, crc u32 of the image, psn u64}, then the images.
fn encode_batch(pages: &[(PageId, Tail)], page_size: PageSize) -> IoBuffer {
    let page_bytes = page_size.bytes();
    assert!(
        !pages.is_empty() && pages.len() <= batch_pages(page_size),
        "a batch of {} pages",
        pages.len()
    );
    let mut area = IoBuffer::zeroed(HEADER + pages.len() * page_bytes);
    for (index, (page, image)) in pages.iter().enumerate() {
        let entry = &mut area[16 + index * ENTRY..][..ENTRY];
        entry[..8].copy_from_slice(&page.file.0.to_le_bytes());
        entry[8..12].copy_from_slice(&page.number.to_le_bytes());
        entry[12..16].copy_from_slice(&crc32c(&[image]).to_le_bytes());
        entry[16..24].copy_from_slice(&aquifer_buffer_pool_proto::header::psn(image).0.to_le_bytes());
        area[HEADER + index * page_bytes..][..page_bytes].copy_from_slice(image);
    }
    let entries = crc32c(&[&area[16..16 + pages.len() * ENTRY]]);
    area[..8].copy_from_slice(&MAGIC.to_le_bytes());
    area[8..12].copy_from_slice(&(pages.len() as u32).to_le_bytes());
    area[12..16].copy_from_slice(&entries.to_le_bytes());
    area
}

/// The images of a node's double-write area that are whole, on either leg of a mirrored volume.
pub async fn read_area(
    group: &VolumeGroup,
    area: FileId,
) -> Result<BTreeMap<PageId, (Psn, Vec<u8>)>, StorageError> {
    let (page_size, length) = (group.page_size(), DOUBLE_WRITE_BYTES as usize);
    let bytes = group.read_at(area, 0, IoBuffer::zeroed(length)).await?;
    let mut images = decode_batch(&bytes, page_size);
    if images.len() < u32_at(&bytes, 8) as usize
        && let Some(sides) = group.read_sides(area, 0, length).await?
    {
        for side in sides.bytes() {
            for (page, (psn, image)) in decode_batch(side, page_size) {
                let newer = images.get(&page).is_none_or(|(known, _)| *known < psn);
                if newer {
                    images.insert(page, (psn, image));
                }
            }
        }
    }
    Ok(images)
}

/// The images of a double-write area that are whole, with their PSN. Any bytes are allowed: what does not check is left out.
pub fn decode_batch(area: &[u8], page_size: PageSize) -> BTreeMap<PageId, (Psn, Vec<u8>)> {
    let page_bytes = page_size.bytes();
    let mut images = BTreeMap::new();
    if area.len() < HEADER || area[..8] != MAGIC.to_le_bytes() {
        return images;
    }
    let count = u32_at(area, 8) as usize;
    if count > batch_pages(page_size) || crc32c(&[&area[16..16 + count * ENTRY]]) != u32_at(area, 12) {
        return images;
    }
    for index in 0..count {
        let entry = 16 + index * ENTRY;
        let Some(image) = area.get(HEADER + index * page_bytes..HEADER + (index + 1) * page_bytes) else {
            break;
        };
        if crc32c(&[image]) == u32_at(area, entry + 12) {
            let page = PageId {
                file: FileId(u64_at(area, entry)),
                number: u32_at(area, entry + 8),
            };
            images.insert(page, (Psn(u64_at(area, entry + 16)), image.to_vec()));
        }
    }
    images
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod cuts;

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_BYTES: usize = PageSize::LEAST.bytes();

    fn decode(area: &[u8]) -> BTreeMap<PageId, (Psn, Vec<u8>)> {
        decode_batch(area, PageSize::LEAST)
    }

    fn batch() -> IoBuffer {
        let mut image = IoBuffer::zeroed(PAGE_BYTES);
        image[100] = 42;
        encode_batch(
            &[
                (
                    PageId {
                        file: FileId(3),
                        number: 1,
                    },
                    Arc::new(IoBuffer::copy_padded(&image)),
                ),
                (
                    PageId {
                        file: FileId(4),
                        number: 9,
                    },
                    Arc::new(image),
                ),
            ],
            PageSize::LEAST,
        )
    }

    #[test]
    fn pages_in_a_row_are_one_write() {
        let of = |file, number| {
            let file = FileId(file);
            let mut image = IoBuffer::zeroed(PAGE_BYTES);
            image.fill(number as u8);
            (PageId { file, number }, Arc::new(image))
        };
        let pages = vec![of(1, 4), of(1, 5), of(1, 6), of(1, 8), of(2, 9), of(2, 10)];
        let writes = neighbours(&pages);
        let shape: Vec<_> = writes
            .iter()
            .map(|(page, images)| (page.file.0, page.number, images.len() / PAGE_BYTES))
            .collect();
        assert_eq!(shape, [(1, 4, 3), (1, 8, 1), (2, 9, 2)]);
        let bytes: Vec<u8> = writes[0].1.chunks(PAGE_BYTES).map(|image| image[0]).collect();
        assert_eq!(bytes, [4, 5, 6]);
    }

    #[test]
    fn whole_images_come_back() {
        let images = decode(&batch());
        assert_eq!(images.len(), 2);
        assert_eq!(
            images[&PageId {
                file: FileId(4),
                number: 9
            }]
                .1[100],
            42
        );
    }

    #[test]
    fn a_torn_image_is_left_out_and_garbage_gives_nothing() {
        let mut area = batch();
        area[HEADER + PAGE_BYTES + 1000] ^= 1;
        assert_eq!(decode(&area).len(), 1);
        assert!(decode(&area[..HEADER + 100]).is_empty());
        area[20] ^= 1;
        assert!(decode(&area).is_empty());
        assert!(decode(&[0; 10]).is_empty());
    }
}
