//! A checkpoint of the metadata on its way to the device, piece by piece between the appends of its leader.
//!
//! Rules: it is the state of the moment in which it began, and says so by its tail, so that what is appended meanwhile stays in the journal
//! (DSS-6); its head is written when all of its body is durable, so that the newest head on the device always has a whole body.

use super::error::StorageError;
use super::journal::Journal;
use crate::seam::BLOCK;
use aquifer_dss_proto::catalog::CatalogCut;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::envelope::Crc32c;
use aquifer_dss_proto::journal::{CheckpointHead, Tail, encode_checkpoint_head};

/// Bytes that are written at once, at most: appends wait no longer than for one piece.
const PIECE: usize = 1 << 20;
/// Of so many bytes of the area a piece has one, so that small areas take several pieces too.
const PIECE_PART: u64 = 16;
/// Bytes of an inode in a checkpoint, or so.
const INODE: usize = 64;

/// A checkpoint that is not complete.
pub(super) struct UnfinishedCheckpoint {
    cut: CatalogCut,
    /// The first entry that it does not contain.
    tail: Tail,
    /// Over which of the two it is written.
    which: usize,
    /// Of the body, written and durable or not.
    written: u64,
    /// Of the body, not written.
    bytes: Vec<u8>,
    length: u64,
    crc: Crc32c,
    /// All of the body is encoded.
    whole: bool,
}

impl UnfinishedCheckpoint {
    /// Encodes a piece of the body, or what is left of it.
    fn encode_piece(&mut self, most: usize) {
        while !self.whole && self.bytes.len() < most {
            let before = self.bytes.len();
            self.whole = !self.cut.encode_more(&mut self.bytes, most / INODE);
            self.crc.update(&self.bytes[before..]);
            self.length += (self.bytes.len() - before) as u64;
        }
    }
}

impl Journal {
    /// Which of the two is the newest that is known, and the sequence of the first entry that it does not contain.
    #[cfg(test)]
    pub(super) const fn newest_checkpoint(&self) -> (usize, u64) {
        (self.which, self.checkpoint.sequence)
    }

    /// Begins a checkpoint of `cut`, the state at the tail, over the older one, unless one is on its way.
    pub(super) fn begin_checkpoint(&mut self, cut: impl FnOnce() -> CatalogCut) {
        if self.unfinished.is_some() {
            return;
        }
        let which = 1 - self.which;
        tracing::debug!(sequence = self.tail.sequence, which, "metadata checkpoint");
        self.unfinished = Some(UnfinishedCheckpoint {
            cut: cut(),
            tail: self.tail,
            which,
            written: 0,
            bytes: Vec::new(),
            length: 0,
            crc: Crc32c::default(),
            whole: false,
        });
    }

    /// Writes the next piece of a checkpoint that is on its way; whether there is more.
    pub(super) async fn write_checkpoint_piece(&mut self) -> Result<bool, StorageError> {
        let Some(mut unfinished) = self.unfinished.take() else {
            return Ok(false);
        };
        if unfinished.whole && unfinished.bytes.is_empty() {
            self.finish_checkpoint(&unfinished).await?;
            return Ok(false);
        }
        let most = (self.label.checkpoint_bytes / PIECE_PART).clamp(BLOCK as u64, PIECE as u64);
        unfinished.encode_piece(most as usize);
        if unfinished.length + BLOCK as u64 > self.label.checkpoint_bytes {
            return Err(StorageError::Damaged(
                "the catalogue outgrew its checkpoint".into(),
            ));
        }
        let mut ready = unfinished.bytes.len();
        if !unfinished.whole {
            ready -= ready % BLOCK;
        }
        let body = self.label.checkpoint_offset(unfinished.which) + BLOCK as u64;
        let place = body + unfinished.written;
        self.metadata.write(place, &unfinished.bytes[..ready]).await?;
        unfinished.written += ready as u64;
        unfinished.bytes.drain(..ready);
        self.unfinished = Some(unfinished);
        Ok(true)
    }

    /// Writes what is left of a checkpoint that is on its way.
    pub(super) async fn end_checkpoint(&mut self) -> Result<(), StorageError> {
        while self.write_checkpoint_piece().await? {}
        Ok(())
    }

    async fn finish_checkpoint(&mut self, unfinished: &UnfinishedCheckpoint) -> Result<(), StorageError> {
        let head = CheckpointHead {
            group: self.label.group,
            tail: if planted(Defect::CheckpointClaimsMore) {
                self.tail
            } else {
                unfinished.tail
            },
            length: unfinished.length,
            crc: unfinished.crc.value(),
        };
        self.metadata.flush().await?;
        let offset = self.label.checkpoint_offset(unfinished.which);
        self.metadata
            .write(offset, &encode_checkpoint_head(&head))
            .await?;
        self.metadata.flush().await?;
        (self.which, self.checkpoint) = (unfinished.which, unfinished.tail);
        Ok(())
    }
}
