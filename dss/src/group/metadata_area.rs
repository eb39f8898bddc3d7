//! Reading the metadata area of volume 0: checkpoints and journal entries. For nodes, and for those who are none.

use super::error::StorageError;
use crate::seam::{BLOCK, BlockDevice, IoBuffer};
use aquifer_dss_proto::catalog::Catalog;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::envelope::EnvelopeError;
use aquifer_dss_proto::journal::{
    CheckpointHead, Entry, Tail, decode_checkpoint_body, decode_checkpoint_head, decode_entry, expected_bytes,
};
use aquifer_dss_proto::label::Label;

/// Bytes of one read.
const PIECE: usize = 4 << 20;
/// A leader may write over the older checkpoint while it is read: then the other one is the newer by now.
pub(super) const CHECKPOINT_ATTEMPTS: usize = 8;

/// The heads of both checkpoints.
pub(super) async fn read_heads(
    device: &dyn BlockDevice,
    label: &Label,
) -> Result<[Result<CheckpointHead, EnvelopeError>; 2], StorageError> {
    let mut heads = [Err(EnvelopeError::Absent), Err(EnvelopeError::Absent)];
    for (which, head) in heads.iter_mut().enumerate() {
        let block = device
            .read(label.checkpoint_offset(which), IoBuffer::zeroed(BLOCK))
            .await?;
        *head = decode_checkpoint_head(&block, label.group, label.checkpoint_bytes);
    }
    Ok(heads)
}

/// What the checkpoint with this head has.
pub(super) async fn read_body(
    device: &dyn BlockDevice,
    label: &Label,
    which: usize,
    head: &CheckpointHead,
) -> Result<Result<Catalog, EnvelopeError>, StorageError> {
    let offset = label.checkpoint_offset(which) + BLOCK as u64;
    // Not more than the label says that there is: the head was checked against that.
    let length = (head.length as usize).max(1).next_multiple_of(BLOCK);
    let mut body = Vec::with_capacity(length);
    while body.len() < length {
        let piece = IoBuffer::zeroed(PIECE.min(length - body.len()));
        body.extend_from_slice(&device.read(offset + body.len() as u64, piece).await?);
    }
    Ok(decode_checkpoint_body(head, &body))
}

/// Device offset of a position in the journal.
pub(super) fn physical(label: &Label, position: u64) -> u64 {
    label.journal_offset() + position % label.journal_bytes
}

/// The entry that continues `tail`: where the last one ended, or at the next segment when the writer went there. When
/// both are there the later epoch is right: the other is a deposed leader's (HZ-18).
pub(super) async fn read_after(
    device: &dyn BlockDevice,
    label: &Label,
    tail: &Tail,
) -> Result<Option<Entry>, StorageError> {
    let near = read_entry(device, label, tail, tail.position).await?;
    let next = tail.next_segment(label.segment_bytes);
    let far = read_entry(device, label, tail, next).await?;
    Ok(match (near, far) {
        (Some(near), Some(far)) => {
            let is_deposed = far.epoch > near.epoch && !planted(Defect::FollowDeposedLeader);
            Some(if is_deposed { far } else { near })
        }
        (near, far) => near.or(far),
    })
}

async fn read_entry(
    device: &dyn BlockDevice,
    label: &Label,
    tail: &Tail,
    position: u64,
) -> Result<Option<Entry>, StorageError> {
    let left = label.segment_bytes - position % label.segment_bytes;
    let offset = physical(label, position);
    let mut bytes = device.read(offset, IoBuffer::zeroed(BLOCK)).await?;
    let Some(length) = expected_bytes(&bytes, label.group, tail, position, left) else {
        return Ok(None);
    };
    if length > bytes.len() {
        bytes = device.read(offset, IoBuffer::zeroed(length)).await?;
    }
    Ok(decode_entry(&bytes, label.group, tail, position))
}
