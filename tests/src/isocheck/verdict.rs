//! What was found, in words and as JSON.

use super::anomaly::{Anomaly, Model};
use super::graph::Kind;
use super::history::{History, Micro, Transaction};
use super::versions::{Versions, name};
use crate::checker::Outcome;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// Findings of one kind that are told in words; the others are counted.
const TOLD: usize = 3;
/// Values of a list that are shown.
const SHOWN: usize = 6;

/// One step of a cycle: `from` comes before `to`.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) kind: Kind,
    pub(super) key: u32,
    pub(super) first: Option<i64>,
    pub(super) second: Option<i64>,
}

/// One step of an explanation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// ww, wr, rw or realtime; empty where there is no cycle.
    pub kind: &'static str,
    /// What happened.
    pub words: String,
}

/// One anomaly and what shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Which one.
    pub anomaly: Anomaly,
    /// Whether the model forbids it.
    pub forbidden: bool,
    /// Numbers of the transactions, from 0; in the order of the cycle if there is one.
    pub transactions: Vec<u32>,
    /// Why, step by step.
    pub steps: Vec<Step>,
    #[serde(skip)]
    hops: Vec<Hop>,
}

impl Finding {
    pub(super) fn new(anomaly: Anomaly, transactions: Vec<u32>, words: Vec<String>) -> Self {
        let step = |words| Step { kind: "", words };
        Self {
            anomaly,
            forbidden: false,
            transactions,
            steps: words.into_iter().map(step).collect(),
            hops: Vec::new(),
        }
    }

    pub(super) const fn of_cycle(anomaly: Anomaly, transactions: Vec<u32>, hops: Vec<Hop>) -> Self {
        Self {
            anomaly,
            forbidden: false,
            transactions,
            steps: Vec::new(),
            hops,
        }
    }

    fn explain(&mut self, history: &History) {
        for hop in std::mem::take(&mut self.hops) {
            self.steps.push(hop.explain(history));
        }
    }
}

impl Hop {
    fn explain(&self, history: &History) -> Step {
        let (from, to) = (name(self.from), name(self.to));
        let key = history.keys.get(self.key as usize).map_or("", String::as_str);
        let value = |value: Option<i64>| value.map_or_else(String::new, |value| value.to_string());
        let (first, second) = (value(self.first), value(self.second));
        let (kind, words) = match self.kind {
            Kind::Ww => (
                "ww",
                format!("{from} appended {first} to {key}, and {to} appended {second} after it"),
            ),
            Kind::Wr => ("wr", format!("{from} appended {first} to {key}, which {to} read")),
            Kind::Rw => {
                let seen = match self.first {
                    Some(first) => format!("up to {first}"),
                    None => "as empty".to_owned(),
                };
                (
                    "rw",
                    format!("{from} read {key} {seen}, without {second}, which {to} appended"),
                )
            }
            Kind::RealTime => ("realtime", format!("{from} had ended before {to} began")),
        };
        Step { kind, words }
    }
}

/// How many transactions there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// All of them.
    pub transactions: usize,
    /// Acknowledged.
    pub committed: usize,
    /// Refused.
    pub refused: usize,
    /// Unknown, and nobody saw them.
    pub unknown: usize,
    /// Unknown, and somebody saw them: they have committed.
    pub unknown_seen: usize,
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Against what.
    pub model: Model,
    /// Of how many.
    pub counts: Counts,
    /// What was found, forbidden or not; what the model forbids first.
    pub findings: Vec<Finding>,
    /// The transactions that findings speak of, in words.
    described: Vec<(u32, String)>,
}

impl Verdict {
    pub(super) fn new(
        history: &History,
        versions: &Versions,
        model: Model,
        mut findings: Vec<Finding>,
    ) -> Self {
        let mut counts = Counts {
            transactions: history.transactions.len(),
            ..Counts::default()
        };
        for (transaction, committed) in history.transactions.iter().zip(&versions.committed) {
            *match (transaction.outcome, committed) {
                (Outcome::Committed, _) => &mut counts.committed,
                (Outcome::Aborted, _) => &mut counts.refused,
                (Outcome::Unknown, true) => &mut counts.unknown_seen,
                (Outcome::Unknown, false) => &mut counts.unknown,
            } += 1;
        }
        for finding in &mut findings {
            finding.forbidden = model.forbids(finding.anomaly);
            finding.explain(history);
        }
        findings.sort_by_key(|finding| (!finding.forbidden, finding.anomaly));
        let mentioned: BTreeSet<u32> = findings
            .iter()
            .flat_map(|finding| finding.transactions.iter().copied())
            .collect();
        let described = mentioned
            .into_iter()
            .map(|number| (number, describe(history, &history.transactions[number as usize])));
        Self {
            model,
            counts,
            described: described.collect(),
            findings,
        }
    }

    /// Whether the model allows the history.
    pub fn is_valid(&self) -> bool {
        self.findings.iter().all(|finding| !finding.forbidden)
    }

    /// Whether there is such an anomaly, forbidden or not.
    pub fn has(&self, anomaly: Anomaly) -> bool {
        self.findings.iter().any(|finding| finding.anomaly == anomaly)
    }

    /// The whole verdict as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let named = |(number, words): &(u32, String)| (name(*number), words.clone().into());
        let transactions: serde_json::Map<String, serde_json::Value> =
            self.described.iter().map(named).collect();
        let anomalies = self.findings.iter().map(|finding| {
            let names: Vec<String> = finding.transactions.iter().map(|number| name(*number)).collect();
            serde_json::json!({
                "anomaly": finding.anomaly,
                "meaning": finding.anomaly.meaning(),
                "forbidden": finding.forbidden,
                "transactions": names,
                "steps": finding.steps,
            })
        });
        serde_json::json!({
            "valid": self.is_valid(),
            "model": self.model.to_string(),
            "counts": self.counts,
            "anomalies": anomalies.collect::<Vec<_>>(),
            "transactions": transactions,
        })
    }

    fn write_findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.findings.as_slice();
        while let Some(first) = rest.first() {
            let alike = rest
                .iter()
                .take_while(|finding| finding.anomaly == first.anomaly)
                .count();
            let (group, after) = rest.split_at(alike);
            rest = after;
            let allowed = if first.forbidden {
                ""
            } else {
                " (the model allows it)"
            };
            writeln!(f, "\n{}: {}{allowed}", first.anomaly, first.anomaly.meaning())?;
            let mut mentioned = BTreeSet::new();
            for finding in group.iter().take(TOLD) {
                for (index, step) in finding.steps.iter().enumerate() {
                    let mark = if index == 0 { "-" } else { " " };
                    writeln!(f, "  {mark} {}", step.words)?;
                }
                mentioned.extend(finding.transactions.iter().copied());
            }
            if alike > TOLD {
                writeln!(f, "  - and {} more of this kind", alike - TOLD)?;
            }
            for (number, words) in self
                .described
                .iter()
                .filter(|(number, _)| mentioned.contains(number))
            {
                writeln!(f, "    {} is {words}", name(*number))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            transactions,
            committed,
            refused,
            unknown,
            unknown_seen,
        } = self.counts;
        writeln!(
            f,
            "{} {}: {transactions} transactions, {committed} committed, {refused} refused, {} unknown ({unknown_seen} of them seen)",
            if self.is_valid() { "valid for" } else { "not" },
            self.model,
            unknown + unknown_seen,
        )?;
        self.write_findings(f)
    }
}

/// A list for a person: long ones with their end only.
pub(super) fn shortened(list: &[i64]) -> String {
    let hidden = list.len().saturating_sub(SHOWN);
    let shown: Vec<String> = list[hidden..].iter().map(i64::to_string).collect();
    if hidden > 0 {
        format!("[{hidden} more, {}]", shown.join(" "))
    } else {
        format!("[{}]", shown.join(" "))
    }
}

fn describe(history: &History, transaction: &Transaction) -> String {
    let micros = transaction.micros.iter().map(|micro| {
        let key = &history.keys[*micro.key() as usize];
        match micro {
            Micro::Append { value, .. } => format!("append {value} to {key}"),
            Micro::Read { list: Some(list), .. } => format!("read {key} as {}", shortened(list)),
            Micro::Read { list: None, .. } => format!("read {key}"),
        }
    });
    let (first, last) = transaction.lines;
    let lines = if first == last {
        format!("line {first}")
    } else {
        format!("lines {first} and {last}")
    };
    let outcome = match transaction.outcome {
        Outcome::Committed => "committed",
        Outcome::Aborted => "refused",
        Outcome::Unknown => "unknown",
    };
    format!(
        "{lines}, process {}, {outcome}: {}",
        transaction.process,
        micros.collect::<Vec<_>>().join(", ")
    )
}
