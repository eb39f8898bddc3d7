//! Durable metadata operations beside what the device can make durable.

use super::pool::Pool;
use crate::bench::figures::ratio;
use crate::failure::Failure;
use serde_json::{Value, json};
use std::time::Duration;

/// Callers at once. As many creates share one flush at best.
pub const CALLERS: usize = 32;

/// Files made, and flushes without anything else to do.
pub struct Metadata {
    creates_per_second: f64,
    flushes_per_second: f64,
}

impl Metadata {
    /// Creates of `CALLERS` tasks, and writes of a block with a flush, in turns.
    pub async fn measure(pool: &Pool, rounds: u32, turn: Duration) -> Result<Self, Failure> {
        let (mut creates, mut flushes) = (super::Work::default(), super::Work::default());
        for round in 0..rounds {
            for second in [false, true] {
                if (round % 2 == 0) == second {
                    creates.add(pool.create_files(round, CALLERS, turn).await?);
                } else {
                    flushes.add(pool.write_and_flush(turn).await?);
                }
            }
        }
        Ok(Self {
            creates_per_second: creates.per_second(),
            flushes_per_second: flushes.per_second(),
        })
    }

    /// Creates over as many as the flushes could carry.
    pub fn over_limit(&self) -> f64 {
        ratio(self.creates_per_second, self.flushes_per_second * CALLERS as f64)
    }

    /// For programs.
    pub fn object(&self) -> Value {
        json!({
            "callers": CALLERS, "creates_per_second": self.creates_per_second.round(),
            "flushes_per_second": self.flushes_per_second.round(), "creates_over_flush_rate_times_callers": self.over_limit(),
        })
    }

    /// For people.
    pub fn line(&self) -> String {
        format!(
            "durable creates, {CALLERS} callers: {:.0}/s; 4 KiB write and flush, alone: {:.0}/s; creates / (flushes x {CALLERS}): {:.2}",
            self.creates_per_second,
            self.flushes_per_second,
            self.over_limit()
        )
    }
}
