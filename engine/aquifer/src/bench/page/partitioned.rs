//! Each node alone with its own data, four times what its cache holds: how many messages about pages a transaction costs, second by
//! second, while slots of the directory move to the node that uses them (LOC-1).

use super::ends::{End, Ends};
use super::hits::Walk;
use crate::failure::Failure;
use crate::units::Switch;
use aquifer_buffer_pool::{Locality, Mode, PageId};
use aquifer_dss_proto::FileId;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Frames of each cache.
const FRAMES: usize = 512;
/// Pages of each node, in a file of its own.
const PAGES: u32 = 2048;
/// Pages that a transaction takes, at random; it changes every other one.
const ACCESSES: u32 = 4;
/// How long it is counted.
const SECONDS: usize = 5;

/// What came of it.
pub struct Partitioned {
    /// Messages of all nodes per transaction of all nodes, in each second.
    pub per_second: Vec<f64>,
    /// Slots that have moved.
    pub slots_moved: u64,
}

impl Partitioned {
    /// In the last second.
    pub fn last(&self) -> f64 {
        self.per_second.last().copied().unwrap_or_default()
    }

    /// For a person.
    pub fn words(&self) -> String {
        let seconds: Vec<String> = self.per_second.iter().map(ToString::to_string).collect();
        format!(
            "each node alone with its data: {} page messages per transaction of {ACCESSES} page accesses, second by second; {} slots have moved",
            seconds.join(", "),
            self.slots_moved
        )
    }

    /// For `--json`.
    pub fn object(&self) -> Value {
        json!({"per_second": self.per_second, "last_second": self.last(), "slots_moved": self.slots_moved,
            "page_accesses_per_transaction": ACCESSES})
    }
}

/// Runs it on three nodes of its own, which listen in `directory`.
pub async fn measure(directory: &Path, memory: Switch) -> Result<Partitioned, Failure> {
    let ends = Ends::connect(directory, "own", FRAMES, Some(Locality::default()), memory).await?;
    let (ended, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let work = ends
        .all
        .iter()
        .zip(1..)
        .map(|(end, number)| transactions(end, number, &ended, &done));
    let (worked, per_second) = tokio::join!(
        futures_util::future::join_all(work),
        seconds(&ends, &ended, &done)
    );
    worked.into_iter().collect::<Result<(), _>>()?;
    let slots_moved = ends.all.iter().map(|end| end.pool.counters().slots_moved).sum();
    Ok(Partitioned {
        per_second,
        slots_moved,
    })
}

async fn transactions(end: &End, number: u64, ended: &AtomicBool, done: &AtomicU64) -> Result<(), Failure> {
    let mut walk = Walk(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), u64::from(PAGES));
    while !ended.load(Ordering::Relaxed) {
        for access in 0..ACCESSES {
            let page = PageId {
                file: FileId(100 + number),
                number: walk.next(),
            };
            let mode = if access % 2 == 0 {
                Mode::Shared
            } else {
                Mode::Exclusive
            };
            end.take(page, mode).await?;
        }
        done.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn seconds(ends: &Ends, ended: &AtomicBool, done: &AtomicU64) -> Vec<f64> {
    let mut per_second = Vec::new();
    let begun = Instant::now();
    let (mut messages, mut transactions) = (sent(ends), 0);
    for second in 1..=SECONDS {
        let until = begun + Duration::from_secs(1) * second as u32;
        tokio::time::sleep_until(until.into()).await;
        let now = (sent(ends), done.load(Ordering::Relaxed));
        per_second.push(per(now.0 - messages, now.1 - transactions));
        (messages, transactions) = now;
    }
    ended.store(true, Ordering::Relaxed);
    per_second
}

fn sent(ends: &Ends) -> u64 {
    ends.all.iter().map(|end| end.pool.counters().messages).sum()
}

/// To four digits: the figure is wanted small.
fn per(messages: u64, transactions: u64) -> f64 {
    (messages as f64 / transactions.max(1) as f64 * 1e4).round() / 1e4
}
