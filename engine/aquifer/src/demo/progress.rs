//! One line per second on stderr: commits of each node, page transfers of all.

use crate::admin::AdminClient;
use crate::failure::Failure;
use crate::load::LocalCluster;
use crate::output::note;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The board of a running load, and the counters of its nodes.
pub struct Progress {
    board: Arc<crate::load::Board>,
    admins: Vec<(u8, Option<AdminClient>)>,
    commits: Vec<u64>,
    /// Last known transfers of each node: a dead node's stay counted.
    transfers: BTreeMap<u8, u64>,
    before_load: u64,
    last: Instant,
    began: Instant,
}

impl Progress {
    /// Connects to the admin channels.
    pub async fn new(cluster: &LocalCluster, board: Arc<crate::load::Board>) -> Result<Self, Failure> {
        let admins = cluster
            .admins()
            .await?
            .into_iter()
            .map(|(id, client)| (id, Some(client)))
            .collect::<Vec<_>>();
        let mut progress = Self {
            board,
            commits: vec![0; admins.len()],
            admins,
            transfers: BTreeMap::new(),
            before_load: 0,
            last: Instant::now(),
            began: Instant::now(),
        };
        progress.read_transfers().await;
        progress.before_load = progress.transfers.values().sum();
        Ok(progress)
    }

    /// Pages that went from memory to memory since the load began.
    pub fn page_transfers(&self) -> u64 {
        self.transfers
            .values()
            .sum::<u64>()
            .saturating_sub(self.before_load)
    }

    async fn read_transfers(&mut self) {
        for (id, slot) in &mut self.admins {
            let Some(client) = slot else { continue };
            match client.counters().await {
                Ok(counters) => {
                    self.transfers.insert(*id, counters.get("transfers_in"));
                }
                Err(_) => *slot = None,
            }
        }
    }

    /// Prints a line each second until `end`.
    pub async fn run_until(&mut self, end: Instant) {
        while Instant::now() < end {
            let next = end.min(self.last + Duration::from_secs(1)).max(Instant::now());
            tokio::time::sleep_until(next.into()).await;
            if self.last.elapsed() >= Duration::from_millis(500) {
                self.line().await;
            }
        }
        self.read_transfers().await;
    }

    async fn line(&mut self) {
        let before: u64 = self.transfers.values().sum();
        self.read_transfers().await;
        let seconds = self.last.elapsed().as_secs_f64();
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds).round();
        let mut text = format!("{:>5.1} s  commits/s", self.began.elapsed().as_secs_f64());
        let mut total = 0.0;
        for (index, (id, client)) in self.admins.iter().enumerate() {
            let now = self.board.commits(index);
            let per_second = rate(now, self.commits[index]);
            self.commits[index] = now;
            total += per_second;
            let mark = if client.is_none() { " (dead)" } else { "" };
            text.push_str(&format!("  node {id}{mark}: {per_second}"));
        }
        let transfers: u64 = self.transfers.values().sum();
        note(format!(
            "{text}  all: {total}  page transfers/s: {}",
            rate(transfers, before)
        ));
        self.last = Instant::now();
    }
}
