//! The cluster's history: one configuration entry of the volume group per view, written by the view's leader.
//!
//! Rules: the key is `history/EPOCH`; epochs have no gaps, so the newest entries are found by counting down, and an
//! epoch whose leader died before it wrote is shown by its absence. Times are wall clock, for people only.

use super::assemble::Running;
use crate::admin::HistoryEntry;
use crate::failure::Failure;
use crate::units::{milliseconds_after, wall_clock};
use std::sync::Arc;
use std::time::Duration;

/// How often the installed view is looked at.
const LOOK: Duration = Duration::from_millis(100);

fn key(epoch: u64) -> String {
    format!("history/{epoch}")
}

/// The newest entries, oldest first.
pub async fn read(running: &Running, limit: usize) -> Result<Vec<HistoryEntry>, Failure> {
    running.catch_up().await?;
    Ok(known(running, limit))
}

/// The newest entries that this node knows without reading, oldest first.
pub fn known(running: &Running, limit: usize) -> Vec<HistoryEntry> {
    let newest = running.status().epoch;
    let mut entries: Vec<HistoryEntry> = (1..=newest)
        .rev()
        .filter_map(|epoch| running.config(&key(epoch)))
        .filter_map(|text| serde_json::from_str(&text).ok())
        .take(limit)
        .collect();
    entries.reverse();
    entries
}

/// Writes an entry for each view that this node leads. Runs for ever.
pub async fn record(running: Arc<Running>) {
    let mut seen = 0;
    let mut members: Vec<u8> = Vec::new();
    loop {
        let status = running.status();
        if status.epoch > seen {
            let now: Vec<u8> = status.nodes.iter().filter(|n| n.member).map(|n| n.id).collect();
            if status.leader == status.node && running.config(&key(status.epoch)).is_none() {
                let entry = entry(&running, status.epoch, &members, &now);
                let text = serde_json::to_string(&entry).expect("an entry has no map with odd keys");
                if let Err(error) = running.set_config(&key(status.epoch), &text).await {
                    tracing::warn!(%error, epoch = status.epoch, "history entry not written");
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            }
            (seen, members) = (status.epoch, now);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn entry(running: &Running, epoch: u64, before: &[u8], now: &[u8]) -> HistoryEntry {
    let reform = running.timeline().filter(|r| r.epoch == epoch);
    let dead = reform.as_ref().map(|r| r.dead.clone()).unwrap_or_default();
    let joined: Vec<u8> = now.iter().copied().filter(|n| !before.contains(n)).collect();
    let left: Vec<u8> = before.iter().copied().filter(|n| !now.contains(n)).collect();
    let (event, nodes, reason) = if !dead.is_empty() {
        ("died", dead, "proven dead by its lock, fenced")
    } else if !left.is_empty() {
        ("left", left, "clean stop")
    } else if before.is_empty() {
        ("formed", now.to_vec(), "first view of this leader")
    } else {
        ("joined", joined, "started")
    };
    let duration_ms = reform
        .filter(|r| r.detected > 0 && r.installed > 0)
        .map(|r| milliseconds_after(r.detected, r.installed));
    HistoryEntry {
        time: wall_clock(),
        epoch,
        actor: running.status().node,
        event: event.into(),
        nodes,
        members: now.to_vec(),
        reason: reason.into(),
        duration_ms,
    }
}
