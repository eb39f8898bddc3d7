//! Finding a volume, and waiting for what the storage leader does with it.

use super::{GroupReport, VolumeReport, connect_to_leader};
use crate::admin::{Locator, Request};
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::units::show_size;
use std::time::Duration;

/// How often the progress is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// No node may answer for so long, while views change, before the command gives up watching.
const LOOKS_IN_VAIN: u32 = 60;

/// The group as its storage leader sees it.
pub(super) async fn report(locator: &Locator) -> Result<GroupReport, Failure> {
    connect_to_leader(locator).await?.typed(&Request::Volumes).await
}

/// The group as its storage leader sees it, and one of its volumes.
async fn find(locator: &Locator, volume: u16) -> Result<(GroupReport, VolumeReport), Failure> {
    let report = report(locator).await?;
    let found = volume_of(&report, volume)?;
    Ok((report, found))
}

/// A volume of a group.
pub(super) fn volume_of(report: &GroupReport, volume: u16) -> Result<VolumeReport, Failure> {
    let found = report.volumes.iter().find(|found| found.id == volume).cloned();
    found.ok_or_else(|| Failure::usage(format!("there is no volume {volume}; see `aquifer vg status`")))
}

/// How far something is.
pub(super) enum Stage {
    /// At its end.
    Done,
    /// Not there yet; a line about it.
    Going(Option<String>),
}

/// Looks again and again at what a node says, also while views change and none answers.
#[derive(Default)]
pub(super) struct Patience {
    in_vain: u32,
}

impl Patience {
    /// A node answered.
    pub(super) fn answered(&mut self) {
        self.in_vain = 0;
    }

    /// None did; an error when that is so for too long.
    pub(super) fn lost(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.in_vain += 1;
        if self.in_vain < LOOKS_IN_VAIN {
            return Ok(());
        }
        let lost = format!("no node answers any more: {failure}");
        Err(Failure::new(Exit::Unknown, lost))
    }

    /// Until the next look.
    pub(super) async fn pause(&self) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until `judge` calls a volume done, showing progress.
pub(super) async fn until(
    locator: &Locator,
    volume: u16,
    judge: impl Fn(&GroupReport, &VolumeReport) -> Result<Stage, Failure>,
) -> Result<(), Failure> {
    let mut patience = Patience::default();
    loop {
        match find(locator, volume).await {
            Ok((report, found)) => {
                patience.answered();
                match judge(&report, &found)? {
                    Stage::Done => return Ok(()),
                    Stage::Going(line) => line.into_iter().for_each(note),
                }
            }
            Err(failure) if failure.exit == Exit::Usage => return Err(failure),
            Err(failure) => patience.lost(&failure)?,
        }
        patience.pause().await;
    }
}

/// Bytes that are left, `verb` (moved, copied), the rate and the time left, for people.
pub(super) fn progress(left: u64, verb: &str, done: u64, rate: u64, seconds_left: Option<u64>) -> String {
    let time = seconds_left.map_or_else(|| "not known yet".into(), |seconds| format!("{seconds} s"));
    format!(
        "{} left, {} {verb}, {}/s, time left {time}",
        show_size(left),
        show_size(done),
        show_size(rate)
    )
}
