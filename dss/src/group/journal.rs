//! The metadata journal and its checkpoints on volume 0: reading to the end, appending, recycling.
//!
//! Rules: one append at a time, durable before it is applied (DSS-2); a segment is written again only when a durable
//! checkpoint covers everything in it (DSS-6); the checkpoint that is overwritten is the older one.

use super::checkpoint::UnfinishedCheckpoint;
use super::error::StorageError;
use super::metadata_area::{self, CHECKPOINT_ATTEMPTS};
use crate::seam::{BLOCK, BlockDevice, IoBuffer};
use aquifer_dss_proto::Epoch;
use aquifer_dss_proto::catalog::{Catalog, CatalogCut, Record};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::journal::{CheckpointHead, Entry, Tail, encode_entry, sequence_of};
use aquifer_dss_proto::label::Label;
use std::sync::Arc;

/// Where this node is in the journal.
pub(super) struct Journal {
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) label: Label,
    /// The next entry; everything before is in the catalogue.
    pub(super) tail: Tail,
    /// The newest checkpoint that is known: which of the two, and where it ends.
    pub(super) which: usize,
    pub(super) checkpoint: Tail,
    /// The leader's next checkpoint, on its way.
    pub(super) unfinished: Option<UnfinishedCheckpoint>,
}

impl Journal {
    /// Loads the newer checkpoint.
    pub(super) async fn load(
        device: Arc<dyn BlockDevice>,
        label: Label,
    ) -> Result<(Self, Catalog), StorageError> {
        let tail = Tail::first(label.group);
        let mut journal = Self {
            device,
            label,
            tail,
            which: 0,
            checkpoint: tail,
            unfinished: None,
        };
        for _ in 0..CHECKPOINT_ATTEMPTS {
            if let Some(catalog) = journal.load_newest().await? {
                return Ok((journal, catalog));
            }
        }
        Err(StorageError::Damaged("no readable checkpoint".into()))
    }

    async fn heads(&self) -> Result<[Option<CheckpointHead>; 2], StorageError> {
        let heads = metadata_area::read_heads(&*self.device, &self.label).await?;
        Ok(heads.map(Result::ok))
    }

    /// Loads the newest checkpoint that is whole; the tail is then its end.
    async fn load_newest(&mut self) -> Result<Option<Catalog>, StorageError> {
        let heads = self.heads().await?;
        let mut order: Vec<usize> = (0..2).filter(|which| heads[*which].is_some()).collect();
        order.sort_by_key(|which| std::cmp::Reverse(heads[*which].map(|head| head.tail.sequence)));
        for which in order {
            let Some(head) = heads[which] else { continue };
            let body = metadata_area::read_body(&*self.device, &self.label, which, &head);
            if let Ok(catalog) = body.await? {
                (self.tail, self.checkpoint, self.which) = (head.tail, head.tail, which);
                return Ok(Some(catalog));
            }
        }
        Ok(None)
    }

    /// The catalogue of a checkpoint that is past the tail: the journal in between was recycled.
    pub(super) async fn overtaken(&mut self) -> Result<Option<Catalog>, StorageError> {
        let heads = self.heads().await?;
        let newest = heads.iter().flatten().map(|head| head.tail.sequence).max();
        if newest.is_none_or(|sequence| sequence <= self.tail.sequence) {
            return Ok(None);
        }
        let before = (self.tail, self.checkpoint, self.which);
        match self.load_newest().await? {
            Some(catalog) if self.tail.sequence > before.0.sequence => Ok(Some(catalog)),
            _ => {
                (self.tail, self.checkpoint, self.which) = before;
                Ok(None)
            }
        }
    }

    /// Reads the entry that continues `tail`.
    pub(super) async fn read_after(&self, tail: &Tail) -> Result<Option<Entry>, StorageError> {
        metadata_area::read_after(&*self.device, &self.label, tail).await
    }

    /// Refuses a journal with a whole entry past its end: something in between was damaged, and going on would
    /// silently forget what was acknowledged. A cut never leaves this, because entries are flushed one by one.
    pub(super) async fn require_end(&self) -> Result<(), StorageError> {
        let mut offset = 0;
        while offset < self.label.journal_bytes {
            let length = self.label.segment_bytes as usize;
            let bytes = self
                .device
                .read(self.label.journal_offset() + offset, IoBuffer::zeroed(length))
                .await?;
            let found = (0..length)
                .step_by(BLOCK)
                .filter_map(|at| sequence_of(&bytes[at..], self.label.group));
            if let Some(sequence) = found.max().filter(|sequence| *sequence > self.tail.sequence) {
                let end = self.tail.sequence;
                return Err(StorageError::Damaged(format!(
                    "journal entry {end} is unreadable, {sequence} is there"
                )));
            }
            offset += self.label.segment_bytes;
        }
        Ok(())
    }

    /// A leader that takes over looks which checkpoint is the newest that is covered by what was read: it was perhaps written since this
    /// node loaded one, and is not the one to be overwritten. The newest head has a whole body.
    pub(super) async fn find_checkpoint(&mut self) -> Result<(), StorageError> {
        self.unfinished = None;
        if planted(Defect::ForgetNewerCheckpoint) {
            return Ok(());
        }
        let heads = self.heads().await?;
        for (which, head) in heads.iter().enumerate() {
            let Some(head) = head else { continue };
            if head.tail.sequence > self.checkpoint.sequence && head.tail.sequence <= self.tail.sequence {
                (self.which, self.checkpoint) = (which, head.tail);
            }
        }
        Ok(())
    }

    /// Makes writes of others durable, so that what was read stays (HZ-10).
    pub(super) async fn flush(&self) -> Result<(), StorageError> {
        Ok(self.device.flush().await?)
    }

    /// Appends one entry and makes it durable. `catalog` is the state before it, for a checkpoint when the journal
    /// is full. The caller applies the records after this, never before (DSS-2).
    pub(super) async fn append(
        &mut self,
        epoch: Epoch,
        records: &[Record],
        fresh_segment: bool,
        catalog: impl Fn() -> CatalogCut,
    ) -> Result<(), StorageError> {
        let segment = self.label.segment_bytes;
        let next = self.tail.next_segment(segment);
        let fresh = fresh_segment && !planted(Defect::AppendToOldSegment);
        let mut position = if fresh { next } else { self.tail.position };
        let mut encoded = encode_entry(self.label.group, &self.tail, position, epoch, records);
        if encoded.0.len() as u64 > segment - position % segment {
            position = next;
            encoded = encode_entry(self.label.group, &self.tail, position, epoch, records);
        }
        assert!(encoded.0.len() as u64 <= segment, "a batch fits a segment");
        if self.is_full(position) {
            self.end_checkpoint().await?;
        }
        if self.is_full(position) {
            self.begin_checkpoint(&catalog);
            self.end_checkpoint().await?;
        }
        assert!(
            !self.is_full(position),
            "a checkpoint makes room for two segments"
        );
        self.device
            .write(
                metadata_area::physical(&self.label, position),
                IoBuffer::copy_padded(&encoded.0),
            )
            .await?;
        if !planted(Defect::AnswerBeforeJournalFlush) {
            self.device.flush().await?;
        }
        self.tail = encoded.1;
        Ok(())
    }

    /// Whether a write at `position` would overwrite a segment that no checkpoint covers (DSS-6).
    const fn is_full(&self, position: u64) -> bool {
        let segment = self.label.segment_bytes;
        position / segment >= self.checkpoint.position / segment + self.label.journal_bytes / segment
    }

    /// Whether half of the journal is used: time for a checkpoint.
    pub(super) const fn wants_checkpoint(&self) -> bool {
        self.is_full(self.tail.position + self.label.journal_bytes / 2)
    }
}
