//! The verdict of a demo and its figures.

use crate::load::{Audit, LoadResult, Timeline};
use crate::output::{Colour, paint};
use serde_json::{Value, json};
use std::time::Duration;

/// All that was seen.
pub struct Report {
    /// Nodes at the start.
    pub nodes: u8,
    /// Time of the load.
    pub elapsed: Duration,
    /// What the clients know.
    pub result: LoadResult,
    /// What each surviving node answers, by node.
    pub audits: Vec<(u8, Audit)>,
    /// Pages from memory to memory during the load.
    pub page_transfers: u64,
    /// The take-over, when a node was killed.
    pub takeover: Option<Timeline>,
    /// Nodes that ended by themselves.
    pub fallen: Vec<u8>,
    /// Nodes that did not stop cleanly.
    pub unclean: Vec<u8>,
    /// First unexpected error of a client.
    pub trouble: Option<String>,
    /// Whether a node was killed.
    pub killed: bool,
}

impl Report {
    /// What is wrong; empty on a pass.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (node, audit) in self.audits.iter().filter(|(_, a)| !a.passes()) {
            faults.push(format!(
                "node {node}: lost {}, duplicated {}, altered {}, phantom {}, wrong balances {}, sums {}",
                audit.lost,
                audit.duplicated,
                audit.altered,
                audit.phantom,
                audit.wrong_balances,
                if audit.sums_agree { "agree" } else { "differ" }
            ));
        }
        if self.audits.is_empty() {
            faults.push("no node was left for the audit".into());
        }
        if self.result.acknowledged.is_empty() {
            let why = self.trouble.as_deref().unwrap_or("no error was seen");
            faults.push(format!("no transfer was acknowledged: {why}"));
        }
        if !self.fallen.is_empty() {
            faults.push(format!("nodes ended by themselves: {:?}", self.fallen));
        }
        if self.takeover.as_ref().is_some_and(|t| !t.complete()) {
            faults.push("the take-over did not come to its end".into());
        }
        faults
    }

    /// Whether nothing is wrong.
    pub fn passes(&self) -> bool {
        self.faults().is_empty()
    }

    fn worst(&self, pick: fn(&Audit) -> u64) -> u64 {
        self.audits.iter().map(|(_, a)| pick(a)).max().unwrap_or_default()
    }

    fn commits_per_second(&self) -> f64 {
        (self.result.acknowledged.len() as f64 / self.elapsed.as_secs_f64() * 10.0).round() / 10.0
    }

    fn verdict(&self) -> &'static str {
        if self.passes() { "pass" } else { "fail" }
    }

    fn balance_ok(&self) -> bool {
        !self.audits.is_empty() && self.audits.iter().all(|(_, a)| a.balance_ok())
    }

    /// The answer for programs.
    pub fn object(&self) -> Value {
        let acknowledged_by: Vec<u64> = (0..usize::from(self.nodes))
            .map(|node| self.result.acknowledged.iter().filter(|a| a.node == node).count() as u64)
            .collect();
        json!({
            "verdict": self.verdict(), "faults": self.faults(), "nodes": self.nodes, "seconds": self.elapsed.as_secs_f64(),
            "acknowledged": self.result.acknowledged.len(), "acknowledged_by_node": acknowledged_by,
            "unknown": self.result.unknown.len(), "unknown_applied": self.worst(|a| a.unknown_applied),
            "retried": self.result.retried,
            "lost": self.worst(|a| a.lost), "duplicated": self.worst(|a| a.duplicated),
            "altered": self.worst(|a| a.altered), "phantom": self.worst(|a| a.phantom),
            "balance_ok": self.balance_ok(), "audited_by": self.audits.iter().map(|(n, _)| n).collect::<Vec<_>>(),
            "commits_per_second": self.commits_per_second(), "page_transfers": self.page_transfers,
            "takeover": self.takeover, "first_client_error": self.trouble,
            "stopped_uncleanly": self.unclean,
        })
    }

    /// The answer for people.
    pub fn text(&self) -> String {
        let colour = if self.passes() { Colour::Green } else { Colour::Red };
        let mut lines = vec![format!(
            "{}: {} transfers acknowledged by {} nodes in {:.1} s, {} lost, {} duplicated, balances {}",
            paint(colour, &self.verdict().to_uppercase()),
            self.result.acknowledged.len(),
            self.nodes,
            self.elapsed.as_secs_f64(),
            self.worst(|a| a.lost),
            self.worst(|a| a.duplicated),
            if self.balance_ok() {
                "add up"
            } else {
                "DO NOT ADD UP"
            }
        )];
        lines.extend(self.faults().into_iter().map(|fault| format!("  wrong: {fault}")));
        lines.push(format!(
            "  {} commits/s, {} page transfers, {} outcomes unknown ({} of them applied), {} attempts made again",
            self.commits_per_second(), self.page_transfers, self.result.unknown.len(),
            self.worst(|a| a.unknown_applied), self.result.retried
        ));
        if let Some(takeover) = &self.takeover {
            lines.push(format!("  {}", takeover.line()));
        }
        if let Some(trouble) = self.trouble.as_ref().filter(|_| !self.killed || !self.passes()) {
            lines.push(format!("  first client error: {trouble}"));
        }
        if !self.unclean.is_empty() {
            lines.push(format!(
                "  warning: nodes {:?} did not stop cleanly",
                self.unclean
            ));
        }
        lines.join("\n")
    }
}
