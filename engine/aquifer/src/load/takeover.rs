//! The kill and what the survivors' timelines say about it.
//!
//! Node instants are CLOCK_BOOTTIME, and so is the instant of the kill: on one machine they compare.

use super::local::LocalCluster;
use super::worker::LoadResult;
use crate::admin::{AdminClient, Reform};
use crate::failure::Failure;
use crate::output::note;
use crate::units::{boottime, milliseconds_after};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long the survivors may take until every page is redone.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// A kill that was done, and what the survivors said of it.
pub struct Takeover {
    victim: u8,
    killed_at: u64,
    /// CLOCK_BOOTTIME at which the survivors were asked for the last time; acknowledgements after it say nothing.
    observed_until: u64,
    reforms: Vec<Reform>,
}

/// Milliseconds after the SIGKILL; what was never reached is missing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Timeline {
    /// Who was killed.
    pub victim: u8,
    /// View that the survivors formed.
    pub epoch: u64,
    /// A survivor saw it.
    pub detected_ms: Option<f64>,
    /// Proof that the victim can write no more.
    pub fenced_ms: Option<f64>,
    /// The new view was installed at every survivor.
    pub view_ms: Option<f64>,
    /// First commit acknowledged by a survivor after the installation.
    pub first_commit_ms: Option<f64>,
    /// Every page of the victim is redone.
    pub recovered_ms: Option<f64>,
    /// Longest time without any acknowledged commit on the survivors, around and after the kill.
    pub longest_pause_ms: Option<f64>,
}

impl Timeline {
    /// Whether the take-over came to its end.
    pub fn complete(&self) -> bool {
        [
            self.detected_ms,
            self.fenced_ms,
            self.view_ms,
            self.first_commit_ms,
            self.recovered_ms,
        ]
        .iter()
        .all(Option::is_some)
    }

    /// The line for people.
    pub fn line(&self) -> String {
        let show = |ms: Option<f64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.1}"));
        format!(
            "take-over of node {} in ms after the kill: detected {}, fenced {}, view installed {}, first commit on a survivor {}, redo finished {}, longest pause {}",
            self.victim,
            show(self.detected_ms),
            show(self.fenced_ms),
            show(self.view_ms),
            show(self.first_commit_ms),
            show(self.recovered_ms),
            show(self.longest_pause_ms)
        )
    }
}

impl Takeover {
    /// Kills `victim`.
    pub fn inflict(cluster: &mut LocalCluster, victim: u8) -> Result<Self, Failure> {
        let killed_at = cluster.kill(victim)?;
        note(format!("*** SIGKILL to node {victim}"));
        Ok(Self {
            victim,
            killed_at,
            observed_until: killed_at,
            reforms: Vec::new(),
        })
    }

    /// Waits until the survivors have recovered.
    pub async fn observe(&mut self, cluster: &LocalCluster) -> Result<(), Failure> {
        let mut admins = cluster.admins().await?;
        let deadline = Instant::now() + RECOVERY_LIMIT;
        loop {
            self.reforms = self.ask(&mut admins).await?;
            self.observed_until = boottime();
            let done = self.reforms.len() == admins.len() && self.reforms.iter().any(|r| r.recovered > 0);
            if done || Instant::now() > deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What each survivor says of the reform in which the victim died.
    async fn ask(&self, admins: &mut [(u8, AdminClient)]) -> Result<Vec<Reform>, Failure> {
        let mut reforms = Vec::new();
        for (_, admin) in admins {
            if let Some(reform) = admin.timeline().await?
                && reform.dead.contains(&self.victim)
                && reform.installed >= self.killed_at
            {
                reforms.push(reform);
            }
        }
        Ok(reforms)
    }

    /// The timeline, with what the clients of the load saw.
    pub fn timeline(&self, result: &LoadResult) -> Timeline {
        let reforms = &self.reforms;
        let after = |instant: u64| milliseconds_after(self.killed_at, instant);
        let reached = |pick: fn(&Reform) -> u64| reforms.iter().map(pick).filter(|i| *i > 0);
        let victim_index = usize::from(self.victim) - 1;
        let survivors: Vec<u64> = result
            .acknowledged
            .iter()
            .filter(|a| a.node != victim_index)
            .map(|a| a.at)
            .collect();
        let view = reached(|r| r.installed).max();
        let first = view.and_then(|view| survivors.iter().copied().find(|at| *at >= view));
        Timeline {
            victim: self.victim,
            epoch: reforms.iter().map(|r| r.epoch).max().unwrap_or_default(),
            detected_ms: reached(|r| r.detected).min().map(after),
            fenced_ms: reached(|r| r.fenced).min().map(after),
            view_ms: view.map(after),
            first_commit_ms: first.map(after),
            recovered_ms: reached(|r| r.recovered).max().map(after),
            longest_pause_ms: longest_pause(&survivors, self.killed_at, self.observed_until),
        }
    }
}

/// Longest gap between neighbours that reaches into the time from the kill to `until`.
fn longest_pause(acknowledged_at: &[u64], killed_at: u64, until: u64) -> Option<f64> {
    acknowledged_at
        .windows(2)
        .filter(|pair| pair[1] > killed_at && pair[0] < until)
        .map(|pair| milliseconds_after(pair[0], pair[1]))
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_before_the_kill_do_not_count() {
        let ms = 1_000_000;
        assert_eq!(
            longest_pause(&[0, 500 * ms, 510 * ms, 700 * ms, 990 * ms], 505 * ms, 650 * ms),
            Some(190.0)
        );
        assert_eq!(longest_pause(&[], 1, 2), None);
    }
}
