//! The metadata journal and its checkpoints on volume 0: reading to the end, appending, recycling.
//!
//! Rules: one append at a time, durable before it is applied (DSS-2); a segment is written again only when a durable
//! checkpoint covers everything in it (DSS-6); the checkpoint that is overwritten is the older one.
//!
//! Where both legs of volume 0 count:
//! - META-3 an entry is believed when both legs have it, or when another one follows it: what one of two has alone may never have been
//!   acknowledged, and be gone with that leg. A leader that takes over puts it on the other one first. The entry that names a device of
//!   volume 0 is followed by another one before that device counts: so who has it not open reads that far on the other leg;
//! - META-4 the checkpoint that a leader does not overwrite is one that both have.

use super::checkpoint::UnfinishedCheckpoint;
use super::error::StorageError;
use super::metadata_area::{self, CHECKPOINT_ATTEMPTS};
use super::metadata_devices::MetadataDevices;
use crate::seam::{BLOCK, BlockDevice, IoBuffer};
use aquifer_dss_proto::Epoch;
use aquifer_dss_proto::catalog::{Catalog, CatalogCut, Record};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::journal::{CheckpointHead, Entry, Tail, encode_entry, sequence_of};
use aquifer_dss_proto::label::Label;
use aquifer_dss_proto::membership::MetadataLegs;
use std::sync::Arc;

/// Where this node is in the journal.
pub(super) struct Journal {
    pub(super) metadata: Arc<MetadataDevices>,
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
        metadata: Arc<MetadataDevices>,
        label: Label,
    ) -> Result<(Self, Catalog), StorageError> {
        let tail = Tail::first(label.group);
        let mut journal = Self {
            metadata,
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

    /// The heads of both checkpoints, on each leg that counts.
    async fn heads(&self) -> Result<Vec<(u8, [Option<CheckpointHead>; 2])>, StorageError> {
        let read = |device: Arc<dyn BlockDevice>| async move {
            let heads = metadata_area::read_heads(&*device, &self.label).await?;
            Ok(heads.map(Result::ok))
        };
        self.metadata.each(read).await
    }

    /// Loads the newest checkpoint that is whole; the tail is then its end.
    async fn load_newest(&mut self) -> Result<Option<Catalog>, StorageError> {
        let heads = self.heads().await?;
        let places = heads.iter().flat_map(|(leg, heads)| {
            let heads = heads.iter().enumerate();
            heads.filter_map(move |(which, head)| Some((*leg, which, (*head)?)))
        });
        let mut places: Vec<(u8, usize, CheckpointHead)> = places.collect();
        places.sort_by_key(|(_, _, head)| std::cmp::Reverse(head.tail.sequence));
        for (leg, which, head) in places {
            let device = self.metadata.device(leg)?;
            if let Ok(catalog) = metadata_area::read_body(&*device, &self.label, which, &head).await? {
                (self.tail, self.checkpoint, self.which) = (head.tail, head.tail, which);
                return Ok(Some(catalog));
            }
        }
        Ok(None)
    }

    /// The catalogue of a checkpoint that is past the tail: the journal in between was recycled.
    pub(super) async fn overtaken(&mut self) -> Result<Option<Catalog>, StorageError> {
        let heads = self.heads().await?;
        let heads = heads.iter().flat_map(|(_, heads)| heads.iter().flatten());
        let newest = heads.map(|head| head.tail.sequence).max();
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

    /// What each leg that counts has behind `tail`.
    async fn entries_after(&self, tail: &Tail) -> Result<Vec<(u8, Option<Entry>)>, StorageError> {
        let read = |device: Arc<dyn BlockDevice>| async move {
            metadata_area::read_after(&*device, &self.label, tail).await
        };
        self.metadata.each(read).await
    }

    /// Reads the entry that continues `tail` (META-3).
    pub(super) async fn read_after(&self, tail: &Tail) -> Result<Option<Entry>, StorageError> {
        let mut found = self.entries_after(tail).await?;
        let Some((_, last)) = found.pop() else {
            return Ok(None);
        };
        let alone = match (last, found.pop()) {
            (last, None) if self.metadata.legs() != MetadataLegs::Both => return Ok(last),
            (None, None) => return Ok(None),
            (Some(one), None) => one,
            (Some(one), Some((_, Some(other)))) if one.after == other.after => return Ok(Some(one)),
            (Some(one), Some((_, None))) | (None, Some((_, Some(one)))) => one,
            (_, Some(_)) => return Ok(None),
        };
        if planted(Defect::BelieveOneLeg) {
            return Ok(Some(alone));
        }
        let next = self.entries_after(&alone.after).await?;
        Ok(next.iter().any(|(_, next)| next.is_some()).then_some(alone))
    }

    /// A leader that takes over has on both legs what one alone has behind the tail; whether there was something (META-3).
    pub(super) async fn complete(&self) -> Result<bool, StorageError> {
        let found = self.entries_after(&self.tail).await?;
        let [(_, first), (_, second)] = &found[..] else {
            return Ok(false);
        };
        let (to, entry) = match (first, second) {
            (Some(first), Some(second)) if first.after == second.after => return Ok(false),
            // Both are halves: the later leader has seen the end of the other one.
            (Some(first), Some(second)) if first.epoch > second.epoch => (1, first),
            (_, Some(second)) => (0, second),
            (Some(first), None) => (1, first),
            (None, None) => return Ok(false),
        };
        let next = self.tail.next_segment(self.label.segment_bytes);
        let (position, end) = match entry.after.position > next {
            true => (next, entry.after.position),
            false => (self.tail.position, entry.after.position),
        };
        tracing::info!(
            to,
            sequence = entry.sequence,
            "a journal entry is put on the other side"
        );
        let bytes = IoBuffer::zeroed((end - position) as usize);
        let offset = metadata_area::physical(&self.label, position);
        let source = self.metadata.device(1 - to)?;
        let bytes = source.read(offset, bytes).await?;
        self.metadata.write(offset, &bytes).await?;
        self.metadata.flush().await?;
        Ok(true)
    }

    /// Refuses a journal with a whole entry past its end: something in between was damaged, and going on would
    /// silently forget what was acknowledged. A cut never leaves this, because entries are flushed one by one.
    pub(super) async fn require_end(&self) -> Result<(), StorageError> {
        let newest = |device| self.newest_entry(device);
        let legs = self.metadata.each(newest).await?;
        let newest = legs.into_iter().filter_map(|(_, sequence)| sequence).max();
        let end = self.tail.sequence;
        match newest.filter(|sequence| *sequence > end) {
            None => Ok(()),
            Some(sequence) => Err(StorageError::Damaged(format!(
                "journal entry {end} is unreadable, {sequence} is there"
            ))),
        }
    }

    /// The highest sequence of a whole entry anywhere in the journal.
    async fn newest_entry(&self, device: Arc<dyn BlockDevice>) -> Result<Option<u64>, StorageError> {
        let (mut newest, mut offset) = (None, 0);
        while offset < self.label.journal_bytes {
            let length = self.label.segment_bytes as usize;
            let bytes = device
                .read(self.label.journal_offset() + offset, IoBuffer::zeroed(length))
                .await?;
            let found = (0..length)
                .step_by(BLOCK)
                .filter_map(|at| sequence_of(&bytes[at..], self.label.group));
            newest = newest.max(found.max());
            offset += self.label.segment_bytes;
        }
        Ok(newest)
    }

    /// A leader that takes over looks which checkpoint is the newest that is covered by what was read: it was perhaps written since this
    /// node loaded one, and is not the one to be overwritten. The newest head has a whole body.
    pub(super) async fn find_checkpoint(&mut self) -> Result<(), StorageError> {
        self.unfinished = None;
        if planted(Defect::ForgetNewerCheckpoint) {
            return Ok(());
        }
        let legs = self.heads().await?;
        let common = |which: usize| {
            let head = legs.first()?.1[which]?;
            let all = legs.iter().all(|(_, heads)| heads[which] == Some(head));
            (all && head.tail.sequence <= self.tail.sequence).then_some((which, head.tail))
        };
        let newest = (0..2).filter_map(common).max_by_key(|(_, tail)| tail.sequence);
        if let Some((which, tail)) = newest {
            (self.which, self.checkpoint) = (which, tail);
        }
        Ok(())
    }

    /// Makes writes of others durable, so that what was read stays (HZ-10).
    pub(super) async fn flush(&self) -> Result<(), StorageError> {
        Ok(self.metadata.flush().await?)
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
        let offset = metadata_area::physical(&self.label, position);
        self.metadata.write(offset, &encoded.0).await?;
        if !planted(Defect::AnswerBeforeJournalFlush) {
            self.metadata.flush().await?;
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
