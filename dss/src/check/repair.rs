//! Writing what a check found to be repairable.

use super::Repair;
use crate::seam::{BLOCK, BlockDevice, DeviceError, IoBuffer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of one write.
const PIECE: usize = 4 << 20;

/// Writes repairs, each durable before the next, so that one that is cut off spoils nothing that another relies on.
/// `devices` are writable, by volume, and no node can run (CHK-3).
pub async fn repair(
    repairs: &[Repair],
    devices: &BTreeMap<u16, Arc<dyn BlockDevice>>,
) -> Result<(), DeviceError> {
    let volumes: BTreeSet<u16> = repairs.iter().map(|repair| repair.volume).collect();
    assert!(
        volumes.iter().all(|volume| devices.contains_key(volume)),
        "who repairs has opened every volume that is written"
    );
    for repair in repairs {
        assert!(
            repair.offset.is_multiple_of(BLOCK as u64),
            "whole blocks are repaired"
        );
        let device = &devices[&repair.volume];
        let mut at = repair.offset;
        for piece in repair.bytes.chunks(PIECE) {
            device.write(at, IoBuffer::copy_padded(piece)).await?;
            at += piece.len() as u64;
        }
        device.flush().await?;
    }
    Ok(())
}
