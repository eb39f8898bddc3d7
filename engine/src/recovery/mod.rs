//! Recovery of dead nodes' pages by the leader of a view, while everybody serves.
//!
//! Rules (REC-1 to REC-4 are the plan's, in `aquifer_engine_proto::recovery`):
//! - REC-5 a stream is read only after its node is proven dead and the device was flushed (the view says both), and its end is
//!   sealed before anything is redone from it (HZ-10);
//! - REC-6 every view plans again from what is durable; nothing is carried over from an interrupted recovery;
//! - REC-7 a stream is marked clean only when everything it changed is on storage; until then its node id cannot join.

mod redo_page;

pub(crate) use redo_page::redone;

use crate::node::NodeRedo;
use crate::restore;
use crate::store::GroupStore;
use crate::streams::{redo_path, redo_streams};
use crate::wal::{self, GroupFile, WalError};
use aquifer_buffer_pool::Pool;
use aquifer_buffer_pool_proto::{PageId, Psn, Stamp};
use aquifer_dss::group::{StorageError, VolumeGroup};
use aquifer_dss::seam::{BoxFuture, Runtime};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, NodeId, View};
use aquifer_engine_proto::page::{PageOperation, decode_operation};
use aquifer_engine_proto::recovery::{PlannedRecord, RecoveryPlan};
use aquifer_engine_proto::{RedoRecord, RetentionEntry};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Pages redone at a time.
const PARALLEL_REDO: usize = 16;

/// Why a recovery did not finish. The next view plans again; without a next view it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Shared storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A redo stream cannot be read.
    #[error("redo stream of node {node}: {error}")]
    Stream {
        /// Whose stream.
        node: NodeId,
        /// Why.
        error: WalError,
    },
    /// A record of a stream makes no sense although its checksum is good.
    #[error("redo stream of node {node} holds a record for page {page} that cannot be decoded")]
    Record {
        /// Whose stream.
        node: NodeId,
        /// The page it names.
        page: PageId,
    },
    /// The view changed in the middle.
    #[error("superseded by a newer view")]
    Superseded,
}

/// Asks members for what they changed and do not know to be on storage.
pub trait RetentionSource: Send + Sync + 'static {
    /// The entries of `member`, or `None` when it left the view of `epoch`.
    fn retention(&self, member: NodeId, epoch: Epoch) -> BoxFuture<'_, Option<Vec<RetentionEntry>>>;
}

/// A stream whose changes are not all known on storage and whose writer is dead.
struct DeadStream {
    node: NodeId,
    file: GroupFile,
}

/// What a recovery found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Dead streams read.
    pub streams: Vec<NodeId>,
    /// Pages named by the analysis.
    pub pages: usize,
    /// Records read from dead streams.
    pub records: usize,
}

/// Recovers for one view.
pub struct Recovery {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) group: Arc<VolumeGroup>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) store: Arc<GroupStore>,
    pub(crate) redo: Arc<NodeRedo>,
    pub(crate) peers: Arc<dyn RetentionSource>,
    pub(crate) view: Arc<View>,
}

impl Recovery {
    /// Reads the dead streams, has their pages redone, and returns when every one of them can be read by anybody. The pages
    /// may not be on storage yet: [`clean`](Self::clean) sees to that. `unclean` is told of the streams found.
    pub async fn run(&self, unclean: impl Fn(&[NodeId])) -> Result<RecoveryReport, RecoveryError> {
        let streams = self.dead_streams().await?;
        let nodes: Vec<NodeId> = streams.iter().map(|stream| stream.node).collect();
        unclean(&nodes);
        let mut report = RecoveryReport {
            streams: nodes,
            ..RecoveryReport::default()
        };
        let mut plan = RecoveryPlan::new();
        for stream in &streams {
            report.records += self.read_dead(stream, &mut plan).await?;
        }
        for member in &self.view.members {
            if planted(Defect::RecoverDeadStreamsOnly) {
                break;
            }
            let entries = self.peers.retention(member.node, self.view.epoch).await;
            for entry in entries.ok_or(RecoveryError::Superseded)? {
                plan.add_retention(entry.page, entry.last, member.node);
            }
        }
        report.pages = plan.targets().count();
        self.redo.inherit(inheritance(&streams, &plan));
        self.pool.analysed(plan.targets().collect());
        self.redo_pages(plan).await?;
        Ok(report)
    }

    /// Waits until everything the dead streams changed is on storage, marking each stream clean when it is (REC-7).
    /// `on_clean` is told of each.
    pub async fn clean(
        &self,
        report: &RecoveryReport,
        on_clean: impl Fn(NodeId),
    ) -> Result<(), RecoveryError> {
        let mut left = report.streams.clone();
        while !left.is_empty() {
            let changed = self.redo.changed();
            let mut waiting = Vec::new();
            for node in left {
                let pages = self.redo.outstanding(node, 256);
                if pages.is_empty() || planted(Defect::MarkStreamCleanEarly) {
                    let stat = self.group.stat_path(&redo_path(node)).await?;
                    let file = GroupFile::new(self.group.clone(), stat.id, stat.size);
                    wal::mark_clean(&file, node)
                        .await
                        .map_err(|error| RecoveryError::Stream { node, error })?;
                    tracing::info!(node = node.get(), "redo stream is clean");
                    on_clean(node);
                } else {
                    self.pool.want_flush(&pages);
                    waiting.push(node);
                }
            }
            left = waiting;
            if !left.is_empty() {
                // A notice may say nothing new; it may even be the answer to the wish above, given at once. So there is a rest in any case.
                self.runtime.sleep(Duration::from_millis(1)).await;
                let again = self.runtime.sleep(Duration::from_millis(100));
                futures_util::future::select(std::pin::pin!(changed), again).await;
            }
        }
        Ok(())
    }

    /// Puts whole images of the double-write areas over pages that are torn in place, before nodes that are members again overwrite
    /// their areas. For a first view only, and before its analysis: nobody writes pages then.
    pub async fn restore_torn(&self) -> Result<(), RecoveryError> {
        Ok(restore::restore_torn(&self.group).await?)
    }

    /// Streams that are not clean and whose last life is not a member of the view.
    async fn dead_streams(&self) -> Result<Vec<DeadStream>, RecoveryError> {
        let mut dead = Vec::new();
        for (node, file) in redo_streams(&self.group).await? {
            let header = wal::read_header(&file, node)
                .await
                .map_err(|error| RecoveryError::Stream { node, error })?;
            let last = header.segments.last();
            let alive = last.is_some_and(|last| self.view.incarnation(node) == Some(last.incarnation));
            if !header.clean && !alive {
                dead.push(DeadStream { node, file });
            }
        }
        Ok(dead)
    }

    async fn read_dead(&self, stream: &DeadStream, plan: &mut RecoveryPlan) -> Result<usize, RecoveryError> {
        let node = stream.node;
        let failed = |error| RecoveryError::Stream { node, error };
        let (_, groups, end) = wal::read_stream(&stream.file, node).await.map_err(failed)?;
        let last = groups.last().map_or(Stamp(0), |group| group.stamp.stamp);
        wal::seal(&stream.file, node, end, last).await.map_err(failed)?; // REC-5
        let mut count = 0;
        for group in groups {
            for record in group.records {
                plan.add_dead_record(planned(node, group.stamp.stamp, record)?);
                count += 1;
            }
        }
        tracing::info!(
            node = node.get(),
            records = count,
            end = end.0,
            "redo stream read and sealed"
        );
        Ok(count)
    }
}

fn inheritance(streams: &[DeadStream], plan: &RecoveryPlan) -> BTreeMap<NodeId, BTreeMap<PageId, Psn>> {
    streams
        .iter()
        .map(|stream| (stream.node, plan.contributed_by(stream.node).collect()))
        .collect()
}

/// A record as plans keep it.
pub(crate) fn planned(by: NodeId, stamp: Stamp, record: RedoRecord) -> Result<PlannedRecord, RecoveryError> {
    let page = record.page;
    let decoded =
        decode_operation(&record.operation).map_err(|_| RecoveryError::Record { node: by, page })?;
    Ok(PlannedRecord {
        by,
        stamp,
        base_free: matches!(decoded, PageOperation::Format(_)),
        record,
    })
}
