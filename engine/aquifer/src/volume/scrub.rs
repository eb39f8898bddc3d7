//! `vg check --scrub`: the storage leader compares both sides of all mirrored volumes while nodes serve, and heals what a checksum decides.

use super::connect_to_leader;
use super::place::Place;
use super::watch::{Patience, progress};
use crate::admin::{Locator, Request};
use crate::failure::Failure;
use crate::output::note;
use crate::reach::GroupOptions;
use aquifer_dss::check::Report;
use aquifer_dss::group::{Difference, ScrubStatus};
use aquifer_dss_proto::catalog::FileKind;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILES: &str = "restore these files, or compare them with a copy: they have no checksum, and nobody knows which side is right";
const SCRATCH: &str = "nothing has to be done: a node that reads it takes the side that is right, and it is written over as nodes go on";
const ENDED: &str = "mend what it says, and scrub again";

/// Bytes that the sides have differently, and nothing tells which is right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceReport {
    /// Which volume.
    pub volume: u16,
    /// Byte offset on its devices.
    pub offset: u64,
    /// The file that has them.
    pub path: String,
    /// Byte offset in the file.
    pub file_offset: u64,
    /// Whether it is a redo stream or a double-write area: these are written over again and again.
    pub scratch: bool,
}

/// How far a scrub is, or what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Which one; 0 when the node that answers has done none.
    pub run: u64,
    /// Whether it goes on.
    pub running: bool,
    /// Bytes of one side.
    pub total_bytes: u64,
    /// ... that were compared.
    pub compared_bytes: u64,
    /// Of the last seconds.
    pub bytes_per_second: u64,
    /// At that rate.
    pub seconds_left: Option<u64>,
    /// Bytes that were wrong on one side and were written again.
    pub healed_bytes: u64,
    /// Places that differ and stay so.
    pub different: u64,
    /// Some of them.
    pub differences: Vec<DifferenceReport>,
    /// Why it ended early.
    pub problem: Option<String>,
}

impl From<Difference> for DifferenceReport {
    fn from(found: Difference) -> Self {
        Self {
            volume: found.volume,
            offset: found.offset,
            path: found.path,
            file_offset: found.in_file,
            scratch: matches!(found.kind, FileKind::Redo | FileKind::DoubleWrite),
        }
    }
}

impl From<ScrubStatus> for ScrubReport {
    fn from(status: ScrubStatus) -> Self {
        Self {
            run: status.run,
            running: status.running,
            total_bytes: status.total,
            compared_bytes: status.done,
            bytes_per_second: status.rate,
            seconds_left: (status.total - status.done.min(status.total)).checked_div(status.rate),
            healed_bytes: status.mended,
            different: status.different,
            differences: status.differences.into_iter().map(Into::into).collect(),
            problem: status.problem,
        }
    }
}

impl ScrubReport {
    /// Adds what was found to a check.
    pub(super) fn add_to(&self, report: &mut Report) {
        let what = "sides of mirrored volumes, scrubbed";
        let compared = format!(
            "{} bytes compared, {} healed",
            self.compared_bytes, self.healed_bytes
        );
        if let Some(problem) = &self.problem {
            return report.degraded(what, format!("{compared}; ended early: {problem}"), ENDED);
        }
        if self.different == 0 {
            return report.sound(what, compared);
        }
        let named = self.differences.iter().map(|found| {
            let DifferenceReport {
                path,
                file_offset,
                volume,
                offset,
                ..
            } = found;
            format!("{path} at {file_offset} (volume {volume}, byte {offset})")
        });
        let named: Vec<String> = named.collect();
        let detail = format!(
            "{compared}; {} places differ: {}",
            self.different,
            named.join(", ")
        );
        let all_named = self.different == self.differences.len() as u64;
        if all_named && self.differences.iter().all(|found| found.scratch) {
            report.degraded(what, detail, SCRATCH);
        } else {
            report.wrong(what, detail, FILES);
        }
    }
}

/// Has everything compared, showing progress, by a node or as one.
pub(super) async fn scrub(device: &Path) -> Result<ScrubReport, Failure> {
    let place = Place::look(&GroupOptions::on(device.to_owned())).await?;
    place.plan([]).into_iter().for_each(note);
    place.run(async |locator| watch_scrub(locator).await).await
}

/// A new storage leader begins again.
async fn watch_scrub(locator: &Locator) -> Result<ScrubReport, Failure> {
    let (mut run, mut patience) = (0, Patience::default());
    loop {
        match look(locator, run).await {
            Ok(report) if report.run == run && !report.running => return Ok(report),
            Ok(report) => {
                patience.answered();
                if run != 0 && report.run != run {
                    note("another node leads the storage: it compares from the beginning");
                }
                run = report.run;
                let left = report.total_bytes.saturating_sub(report.compared_bytes);
                note(progress(
                    left,
                    "compared",
                    report.compared_bytes,
                    report.bytes_per_second,
                    report.seconds_left,
                ));
            }
            Err(failure) if run == 0 => return Err(failure),
            Err(failure) => patience.lost(&failure)?,
        }
        patience.pause().await;
    }
}

async fn look(locator: &Locator, run: u64) -> Result<ScrubReport, Failure> {
    let mut client = connect_to_leader(locator).await?;
    client.typed(&Request::VolumeScrub { run }).await
}
