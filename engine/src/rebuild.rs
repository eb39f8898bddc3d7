//! Rebuilding of a page whose bytes on storage are damaged: gathers what storage still has of its past, and makes its newest version
//! of that if it is proven to be the newest (RBD-1 and RBD-2 in `aquifer_engine_proto::rebuild`).
//!
//! Rule RBD-3: whoever asks knows that nobody else has the page or is writing it: a home granted it from storage, or its redo is
//! being recovered. So all its redo is durable, and none is added meanwhile.

use crate::recovery::{planned, redone};
use crate::store::read_area;
use crate::streams::{double_write_areas, redo_streams};
use crate::wal::read_page_history;
use aquifer_buffer_pool_proto::header::{self, Verdict};
use aquifer_buffer_pool_proto::{PageId, PageSize, Psn};
use aquifer_dss::group::VolumeGroup;
use aquifer_dss::seam::IoBuffer;
use aquifer_dss_proto::NodeId;
use aquifer_engine_proto::rebuild::{PageHistory, Rebuilt};
use std::sync::Arc;

/// What storage still has of the past of a page.
pub struct Gathered {
    page: PageId,
    page_size: PageSize,
    history: PageHistory,
    /// The newest whole image, and the node in whose area it is.
    image: Option<(NodeId, Vec<u8>)>,
}

impl Gathered {
    /// Reads the double-write areas and the redo streams of all nodes, dead or living.
    pub async fn of(group: &Arc<VolumeGroup>, page: PageId) -> Result<Self, String> {
        let mut gathered = Self {
            page,
            page_size: group.page_size(),
            history: PageHistory::new(),
            image: None,
        };
        gathered.read_areas(group).await?;
        for (node, file) in redo_streams(group).await.map_err(|e| e.to_string())? {
            let (records, reach) = read_page_history(&file, node, page)
                .await
                .map_err(|error| format!("redo of node {node}: {error}"))?;
            for (stamp, record) in records {
                let record = planned(node, stamp, record).map_err(|e| e.to_string())?;
                gathered.history.add_record(record);
            }
            gathered.history.add_stream(node, reach);
        }
        Ok(gathered)
    }

    async fn read_areas(&mut self, group: &VolumeGroup) -> Result<(), String> {
        for (node, file) in double_write_areas(group).await.map_err(|e| e.to_string())? {
            let mut images = read_area(group, file).await.map_err(|e| e.to_string())?;
            let Some((_, image)) = images.remove(&self.page) else {
                continue;
            };
            if let Verdict::Valid(psn) = header::verify(&image, self.page)
                && self.history.add_image(psn, header::stamp(&image))
            {
                self.image = Some((node, image));
            }
        }
        Ok(())
    }

    /// The newest version, when it is proven to be that.
    pub fn newest(&self) -> Result<IoBuffer, String> {
        self.make(&self.history.newest().map_err(|refused| refused.to_string())?)
    }

    /// The version at `target`, which recovery knows to be the newest.
    pub fn at(&self, target: Psn) -> Result<IoBuffer, String> {
        self.make(&self.history.at(target).map_err(|refused| refused.to_string())?)
    }

    fn make(&self, rebuilt: &Rebuilt<'_>) -> Result<IoBuffer, String> {
        let Self {
            page,
            page_size,
            image,
            ..
        } = self;
        let (bytes, base) = match (rebuilt.base, image) {
            (Some(psn), Some((node, image))) => {
                let base = format!(
                    "the image at PSN {} in the double-write area of node {node}",
                    psn.0
                );
                (IoBuffer::copy_padded(image), base)
            }
            _ => (
                IoBuffer::zeroed(page_size.bytes()),
                "its format record".to_owned(),
            ),
        };
        let bytes = redone(bytes, &rebuilt.records)?;
        if header::psn(&bytes) != rebuilt.psn || header::page_id(&bytes) != *page {
            return Err(format!("redo does not lead to PSN {}", rebuilt.psn.0));
        }
        tracing::warn!(
            file = page.file.0,
            page = page.number,
            base,
            records = rebuilt.records.len(),
            psn = rebuilt.psn.0,
            "damaged page rebuilt"
        );
        Ok(bytes)
    }
}
