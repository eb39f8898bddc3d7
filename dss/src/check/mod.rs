//! Checking a volume group: everything that is on its devices is read, decoded and compared.
//!
//! Rules:
//! - CHK-1 a check writes nothing and takes no lock, so it runs beside nodes; what changes while it is read is read again
//!   before it is called wrong;
//! - CHK-2 a repair writes only what can be proven from what is good: bytes at a place whose old content is of no
//!   use. Everything else says what to do instead;
//! - CHK-3 repairs are written while no node can run: the lock of every slot is held.
//!
//! A check is a list of passes. Each reads an image of the group and reports; layers above add their own.

mod control;
mod metadata;
mod mirrors;
mod repair;
#[cfg(test)]
mod tests;

pub use repair::repair;

use crate::group::GroupImage;
use crate::seam::BoxFuture;
use std::sync::Arc;

/// How often something is read again that may be changing, before it is called wrong.
pub const READ_AGAIN: usize = 20;

/// Bytes that are right, for a place that has wrong ones.
#[derive(Clone, PartialEq, Eq)]
pub struct Repair {
    /// Which volume.
    pub volume: u16,
    /// Byte offset there.
    pub offset: u64,
    /// Whole blocks.
    pub bytes: Vec<u8>,
    /// What is done, for the plan.
    pub plan: String,
}

impl std::fmt::Debug for Repair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repair({})", self.plan)
    }
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Sound,
    /// Not as it must be, and can be written again from what is good.
    Repairable(Repair),
    /// Known to the nodes, which live with it: a copy is missing. What can be done about it.
    Degraded {
        /// One line.
        advice: String,
    },
    /// Wrong; what can be done about it.
    Wrong {
        /// One line.
        advice: String,
    },
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub what: String,
    /// What was found, for people.
    pub detail: String,
    /// Whether it is right.
    pub verdict: Verdict,
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of the passes.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Something is as it must be.
    pub fn sound(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.add(what, detail, Verdict::Sound);
    }

    /// Something can be written again from what is good.
    pub fn repairable(&mut self, what: impl Into<String>, detail: impl Into<String>, repair: Repair) {
        self.add(what, detail, Verdict::Repairable(repair));
    }

    /// Something is wrong.
    pub fn wrong(&mut self, what: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) {
        let advice = advice.into();
        self.add(what, detail, Verdict::Wrong { advice });
    }

    /// A copy is missing, and the nodes know it.
    pub fn degraded(
        &mut self,
        what: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let advice = advice.into();
        self.add(what, detail, Verdict::Degraded { advice });
    }

    fn add(&mut self, what: impl Into<String>, detail: impl Into<String>, verdict: Verdict) {
        self.findings.push(Finding {
            what: what.into(),
            detail: detail.into(),
            verdict,
        });
    }

    /// What a repair would write.
    pub fn repairs(&self) -> impl Iterator<Item = &Repair> {
        self.findings.iter().filter_map(|finding| match &finding.verdict {
            Verdict::Repairable(repair) => Some(repair),
            _ => None,
        })
    }

    /// What is wrong and cannot be repaired.
    pub fn wrongs(&self) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter();
        findings.filter(|finding| matches!(finding.verdict, Verdict::Wrong { .. }))
    }

    /// Whether everything is as it must be.
    pub fn is_sound(&self) -> bool {
        let mut verdicts = self.findings.iter().map(|finding| &finding.verdict);
        verdicts.all(|verdict| *verdict == Verdict::Sound)
    }
}

/// One part of a check.
pub trait Pass: Send + Sync {
    /// Reads what it is about and reports.
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()>;
}

/// The passes over what storage keeps: labels, control blocks, checkpoints, journal, catalogue.
pub fn storage_passes() -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(metadata::Labels),
        Box::new(control::Control),
        Box::new(metadata::Checkpoints),
        Box::new(metadata::Journal),
        Box::new(metadata::Catalogue),
        Box::new(mirrors::Mirrors),
    ]
}

/// Runs passes over an image.
pub async fn check(image: &Arc<GroupImage>, passes: &[Box<dyn Pass>]) -> Report {
    let mut report = Report::default();
    for pass in passes {
        pass.run(image, &mut report).await;
    }
    report
}
