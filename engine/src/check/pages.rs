//! Pages of the engine's files: CRC, identity, and content; and the images of double-write areas, from which a torn page is
//! restored.

use super::{FileOf, files_of};
use crate::store::{DOUBLE_WRITE_BYTES, decode_batch};
use aquifer_buffer_pool_proto::header::{Verdict, verify};
use aquifer_buffer_pool_proto::{PageId, PageSize, Psn};
use aquifer_dss::check::{Pass, READ_AGAIN, Report};
use aquifer_dss::group::GroupImage;
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::catalog::FileKind;
use aquifer_engine_proto::page::audit;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of one read.
const PIECE: u64 = 1 << 20;
/// Damaged pages of a file that are named; the rest is counted.
const NAMED: usize = 16;
const ADVICE: &str = "start the nodes: a page that is damaged on storage is rebuilt from redo when it is needed, where the result is proven to \
     be the newest version; otherwise restore the device from a backup";

type Areas = BTreeMap<PageId, (Psn, Vec<u8>)>;

/// Every page of every file that has pages.
pub(super) struct Pages;

/// The pages of one file.
#[derive(Default)]
struct Found {
    valid: u64,
    unformatted: u64,
    torn: u64,
    damaged: Vec<String>,
}

impl Pass for Pages {
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let areas = areas(image, report).await;
            for file in files_of(image, &[FileKind::Tree, FileKind::Status]) {
                match check_file(image, &file, &areas).await {
                    Ok(found) => found.report(&file, report),
                    Err(trouble) => report.wrong(
                        format!("pages of {}", file.path),
                        trouble,
                        "make the volume readable",
                    ),
                }
            }
        })
    }
}

/// The images of all double-write areas. A batch that is being written, or was torn, has no image that counts.
async fn areas(image: &GroupImage, report: &mut Report) -> Areas {
    let mut areas = Areas::new();
    for file in files_of(image, &[FileKind::DoubleWrite]) {
        let what = format!("double-write area {}", file.path);
        let length = file.size.min(DOUBLE_WRITE_BYTES) as usize;
        match image.read_file(file.id, 0, length).await {
            Ok(bytes) => {
                let images = decode_batch(&bytes, image.label.page_size());
                report.sound(what, format!("{} whole images", images.len()));
                areas.extend(images);
            }
            Err(trouble) => report.wrong(what, trouble, "make the volume readable"),
        }
    }
    areas
}

impl Found {
    fn report(self, file: &FileOf, report: &mut Report) {
        let what = format!("pages of {}", file.path);
        let more = self.damaged.len().saturating_sub(NAMED);
        let mut detail = format!("{} valid, {} never formatted", self.valid, self.unformatted);
        if self.torn > 0 {
            detail += &format!(", {} torn with a whole image in a double-write area", self.torn);
        }
        if self.damaged.is_empty() {
            return report.sound(what, detail);
        }
        let mut named: Vec<String> = self.damaged.into_iter().take(NAMED).collect();
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        report.wrong(what, format!("{detail}; damaged: {}", named.join(", ")), ADVICE);
    }
}

async fn check_file(image: &GroupImage, file: &FileOf, areas: &Areas) -> Result<Found, String> {
    let page_size = image.label.page_size();
    let page_bytes = page_size.bytes() as u64;
    let mut found = Found::default();
    let end = page_size.pages(file.size) * page_bytes;
    let mut offset = 0;
    while offset < end {
        let length = PIECE.min(end - offset);
        let bytes = image.read_file(file.id, offset, length as usize).await?;
        for (index, page) in bytes.chunks_exact(page_bytes as usize).enumerate() {
            let number = (offset / page_bytes) as u32 + index as u32;
            let id = PageId {
                file: file.id,
                number,
            };
            judge(image, id, page, areas, &mut found).await?;
        }
        offset += length;
    }
    Ok(found)
}

async fn judge(
    image: &GroupImage,
    id: PageId,
    page: &[u8],
    areas: &Areas,
    found: &mut Found,
) -> Result<(), String> {
    let mut trouble = trouble_of(page, id);
    let page_size: PageSize = image.label.page_size();
    for _ in 1..READ_AGAIN {
        if !matches!(trouble, Some(Some(_))) {
            break;
        }
        // It may be being written.
        let again = image
            .read_file(id.file, page_size.offset(id.number), page_size.bytes())
            .await?;
        trouble = trouble_of(&again, id);
    }
    match trouble {
        None => found.valid += 1,
        Some(None) => found.unformatted += 1,
        Some(Some(_)) if areas.contains_key(&id) => found.torn += 1,
        Some(Some(text)) => found.damaged.push(format!("{} ({text})", id.number)),
    }
    Ok(())
}

/// `None`: valid. `Some(None)`: never formatted. Otherwise what is wrong.
fn trouble_of(page: &[u8], id: PageId) -> Option<Option<String>> {
    match verify(page, id) {
        Verdict::Valid(_) => audit(page).err().map(|error| Some(error.to_string())),
        Verdict::NeverFormatted => Some(None),
        Verdict::Corrupt => Some(Some("CRC".into())),
    }
}
