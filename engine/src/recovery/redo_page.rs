//! Redo of single pages: the best base there is, then the records of all streams in PSN order.

use super::{PARALLEL_REDO, Recovery, RecoveryError, planned};
use crate::rebuild::Gathered;
use crate::restore::{TornGuard, newest_images};
use crate::streams::redo_streams;
use crate::wal;
use aquifer_buffer_pool::{PageStore, PageStoreError, RedoTask};
use aquifer_buffer_pool_proto::header::{self, Verdict};
use aquifer_buffer_pool_proto::{ImageInfo, PageId, Psn};
use aquifer_dss::seam::IoBuffer;
use aquifer_engine_proto::page::{self, Redone};
use aquifer_engine_proto::recovery::{PlannedRecord, RecoveryPlan};
use tokio::sync::Mutex;

/// The plan, with what was read later because a chain had a gap.
struct Sources {
    plan: RecoveryPlan,
    living_read: bool,
}

impl Recovery {
    /// Redoes every page that a home asks for, until all homes are satisfied.
    pub(super) async fn redo_pages(&self, plan: RecoveryPlan) -> Result<(), RecoveryError> {
        let guard = newest_images(&self.group).await?;
        let sources = Mutex::new(Sources {
            plan,
            living_read: false,
        });
        let workers = (0..PARALLEL_REDO).map(|_| async {
            while let Some(task) = self.pool.next_redo().await {
                self.redo_page(task, &sources, &guard).await;
            }
        });
        futures_util::future::join_all(workers).await;
        Ok(())
    }

    async fn redo_page(&self, task: RedoTask, sources: &Mutex<Sources>, guard: &TornGuard) {
        match self.rebuild(&task, sources, guard).await {
            Ok(Rebuilt::OnStorage(psn)) => {
                self.redo.on_storage(task.page, psn);
                self.pool.redo_current(task);
            }
            Ok(Rebuilt::Image(image, info)) => self.pool.redone(task, image, info).await,
            Err(reason) => {
                tracing::error!(page = %task.page, reason, "page cannot be redone; statements that need it will fail");
                self.pool.redo_failed(task, &reason);
            }
        }
    }

    async fn rebuild(
        &self,
        task: &RedoTask,
        sources: &Mutex<Sources>,
        guard: &TornGuard,
    ) -> Result<Rebuilt, String> {
        let Some((stored, stored_psn)) = self.stored_base(task.page, guard).await? else {
            return Ok(Rebuilt::OnStorage(Psn(u64::MAX)));
        };
        if let StoredBase::InPlace(_) = &stored
            && stored_psn >= task.target
        {
            return Ok(Rebuilt::OnStorage(stored_psn));
        }
        let mut base = stored.into_image();
        let mut base_psn = stored_psn;
        if let Some((image, info)) = &task.base
            && info.psn > base_psn
        {
            base.copy_from_slice(image);
            base_psn = info.psn;
        }
        let mut sources = sources.lock().await;
        if sources.plan.chain(task.page, base_psn).is_err() && !sources.living_read {
            self.read_living(&mut sources.plan)
                .await
                .map_err(|e| e.to_string())?;
            sources.living_read = true;
        }
        let contributors = sources.plan.contributors(task.page);
        let image = match sources.plan.chain(task.page, base_psn) {
            Ok(chain) => redone(base, &chain)?,
            // The base is damaged, and older than what the streams keep: the target is proof of what is put together.
            Err(gap) => {
                let gathered = Gathered::of(&self.group, task.page).await?;
                let rebuilt = gathered.at(task.target);
                rebuilt.map_err(|refused| format!("{gap}; {refused}"))?
            }
        };
        let psn = header::psn(&image);
        if psn != task.target.max(base_psn) {
            return Err(format!("redo ends at PSN {} instead of {}", psn.0, task.target.0)); // REC-3
        }
        let info = ImageInfo {
            psn,
            dirty: true,
            contributors,
            flush_wanted: true,
        };
        Ok(Rebuilt::Image(image, info))
    }

    /// What storage has of the page; where it is torn, what the dead node's double-write area has.
    /// `None` when its file was removed: no redo is needed for it.
    async fn stored_base(&self, id: PageId, guard: &TornGuard) -> Result<Option<(StoredBase, Psn)>, String> {
        let nothing = || IoBuffer::zeroed(self.group.page_size().bytes());
        let image = match self.store.read(id).await {
            Err(PageStoreError::Gone(_)) => return Ok(None),
            read => read.map_err(|e| e.to_string())?,
        };
        Ok(Some(match header::verify(&image, id) {
            Verdict::Valid(psn) => (StoredBase::InPlace(image), psn),
            Verdict::NeverFormatted => (StoredBase::Other(nothing()), Psn(0)),
            Verdict::Corrupt => match guard.get(&id) {
                Some((psn, whole)) => (StoredBase::Other(IoBuffer::copy_padded(whole)), *psn),
                // Only a base-free record can bring it back; the chain tells.
                None => (StoredBase::Other(nothing()), Psn(0)),
            },
        }))
    }

    /// Adds the redo of living members to the plan: a page may have been changed by them before the dead node had it.
    /// What left a living node is durable in its stream (DIR-3), so reading the stream on storage is enough.
    async fn read_living(&self, plan: &mut RecoveryPlan) -> Result<(), RecoveryError> {
        for (node, file) in redo_streams(&self.group).await? {
            if !self.view.contains(node) {
                continue;
            }
            let (_, groups, _) = wal::read_stream(&file, node)
                .await
                .map_err(|error| RecoveryError::Stream { node, error })?;
            for group in groups {
                for record in group.records {
                    plan.add_live_record(planned(node, group.stamp.stamp, record)?);
                }
            }
        }
        Ok(())
    }
}

/// The image that a chain of records leads to.
pub(crate) fn redone(mut image: IoBuffer, chain: &[&PlannedRecord]) -> Result<IoBuffer, String> {
    for planned in chain {
        let PlannedRecord { record, stamp, .. } = planned;
        match page::redo(&mut image, record, *stamp).map_err(|e| e.to_string())? {
            Redone::Applied => {}
            other => return Err(format!("the record at PSN {} is {other:?}", record.prev_psn.0)),
        }
    }
    Ok(image)
}

enum Rebuilt {
    OnStorage(Psn),
    Image(IoBuffer, ImageInfo),
}

enum StoredBase {
    /// The page in place is whole.
    InPlace(IoBuffer),
    /// Zeros, or an image from elsewhere: storage is behind it.
    Other(IoBuffer),
}

impl StoredBase {
    fn into_image(self) -> IoBuffer {
        match self {
            Self::InPlace(image) | Self::Other(image) => image,
        }
    }
}
