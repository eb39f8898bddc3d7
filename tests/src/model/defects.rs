//! What catches the planted defects of the page protocol: a trace, the model, or a seeded walk.

use super::cluster::Log;
use super::{Outcome, configurations, explore, trace, walk};
use crate::sim::panics;
use aquifer_dss_proto::defect::{Defect, plant};
use std::panic::catch_unwind;
use std::path::Path;

/// The defects of the page protocol, and the configuration of the model that catches each; none where the model cannot.
pub const PAGE_DEFECTS: &[(Defect, Option<&str>)] = &[
    (Defect::ObeyStaleInvalidate, Some("copies")),
    (Defect::ObeyStaleTransfer, Some("copies")),
    (Defect::ObeyStaleRestore, Some("restore")),
    (Defect::ObeyStaleCleaned, None),
    (Defect::GrantTwice, Some("transfer")),
    (Defect::NextBeforeGrant, Some("chain")),
    (Defect::DoneProvesNothing, Some("chain")),
    (Defect::SkipInvalidation, Some("transfer")),
    (Defect::EndWithoutDone, Some("transfer")),
    (Defect::SendDoneOnce, Some("loss")),
    (Defect::UpgradeFromStorage, Some("transfer")),
    (Defect::AcceptOldEpoch, Some("join")),
    (Defect::ForgetRetained, Some("join")),
    (Defect::TrustRetained, Some("retained")),
    (Defect::RetainNothing, Some("loss")),
    (Defect::EvictWithoutRelease, Some("release")),
    (Defect::AcquireBeforeReleaseAck, Some("release")),
    (Defect::ReleaseBeforeDone, Some("release")),
    (Defect::RebuildWithoutOne, Some("death")),
    (Defect::SkipContributors, Some("notices")),
    (Defect::EveryHeirInherits, Some("heirs")),
    (Defect::OpenFrozen, Some("death")),
    (Defect::ForgetTarget, Some("death")),
    (Defect::CopyAfterGivingUp, Some("copies of images")),
    (Defect::TakeEarlierCopy, Some("copies of images")),
    (Defect::CopyAcrossView, Some("copies of images and a death")),
    (Defect::StartWhileMoving, Some("moves")),
    (Defect::ReleaseWhileMoving, Some("moves")),
    (Defect::ObeyEarlierVersion, Some("moves and loss")),
    (Defect::ForgetConversionCounter, Some("moves and copies")),
    (Defect::KeepMovedSlots, Some("moves and death")),
];

/// Whether this is a defect of the page protocol.
pub fn hunted(defect: Defect) -> bool {
    PAGE_DEFECTS.iter().any(|(known, _)| *known == defect)
}

/// What catches a defect.
pub struct Hunt {
    /// A trace that fails.
    pub trace: Option<String>,
    /// A configuration, the states until then, and the property that fails.
    pub model: Option<(&'static str, usize, &'static str)>,
    /// The first seed of a walk that fails.
    pub walk: Option<u64>,
}

/// Plants a defect in the traces, the model, and walks of that many seeds.
pub fn hunt(defect: Defect, seeds: u64) -> Hunt {
    panics::capture();
    plant(Some(defect));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../buffer-pool/proto/tests/data");
    let failures = trace::run_directory(&directory, false);
    let name = |line: &String| {
        let path = line.split(": ").next().unwrap_or_default();
        Path::new(path)
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    };
    let trace = failures.first().and_then(name);
    let walk = (1..=seeds).find(|seed| catch_unwind(|| walk::run(*seed, 1500, Log(None))).is_err());
    plant(None);
    panics::release();
    drop(panics::last());
    Hunt {
        trace,
        model: caught_by_model(defect),
        walk,
    }
}

fn caught_by_model(defect: Defect) -> Option<(&'static str, usize, &'static str)> {
    let (_, name) = PAGE_DEFECTS.iter().find(|(known, _)| *known == defect)?;
    let chosen = configurations().into_iter().find(|c| Some(c.name) == *name)?;
    let mut model = chosen.model;
    model.defect = Some(defect);
    let Outcome { states, failure, .. } = explore(model, 1, None);
    failure.map(|(property, _)| (chosen.name, states, property))
}
