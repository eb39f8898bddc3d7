//! `vg detach`, `vg resync` and, of mirrored volumes, `vg replace`: a side goes, and comes back while nodes serve, or another device does.

use super::change::make_and_ask;
use super::place::Place;
use super::watch::{self, Stage};
use super::{LegReport, VolumeReport, connect_to_leader};
use crate::admin::{Locator, Request};
use crate::cluster::preparation;
use crate::confirm::{ChangeOptions, Decision};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::OutputOptions;
use crate::reach::GroupOptions;
use crate::units::show_size;
use serde_json::json;
use std::path::PathBuf;

/// Options of `vg detach`.
#[derive(Clone, Debug, clap::Args)]
pub struct DetachOptions {
    /// Which volume, as `vg status` shows it.
    volume: u16,
    /// Which side of it, 0 or 1.
    side: u8,
    #[command(flatten)]
    group: GroupOptions,
    #[command(flatten)]
    change: ChangeOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Options of `vg resync`.
#[derive(Clone, Debug, clap::Args)]
pub struct ResyncOptions {
    /// Which volume, as `vg status` shows it.
    volume: u16,
    /// Return at once; the storage leader goes on, or the next one.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    group: GroupOptions,
    #[command(flatten)]
    change: ChangeOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// The lines of `vg status` about the sides of a volume.
pub(super) fn lines(volume: &VolumeReport) -> Vec<Vec<String>> {
    let line = |leg: &LegReport| {
        let what = match leg.state.as_str() {
            "current" => String::from("current"),
            "out" => format!("OUT, lacks {} <<<<", show_size(leg.left_bytes)),
            _ => progress(leg),
        };
        let problem = leg.problem.as_ref();
        let problem = problem.map_or_else(String::new, |problem| format!("; {problem} <<<<"));
        vec![
            format!("volume {} side {}", volume.id, leg.leg),
            format!(
                "{}, failure group {}: {what}{problem}",
                if leg.path.is_empty() { "-" } else { &leg.path },
                leg.failure_group
            ),
        ]
    };
    volume.legs.iter().map(line).collect()
}

/// Bytes, rate and time left, for people.
fn progress(leg: &LegReport) -> String {
    let progress = watch::progress(
        leg.left_bytes,
        "copied",
        leg.copied_bytes,
        leg.bytes_per_second,
        leg.seconds_left,
    );
    format!("resyncing, {progress}")
}

async fn find_mirrored(place: &Place, volume: u16) -> Result<VolumeReport, Failure> {
    let (_, found) = place.find(volume).await?;
    if found.legs.is_empty() {
        return Err(Failure::usage(format!("volume {volume} is not mirrored")));
    }
    Ok(found)
}

fn side_that_is_out(volume: &VolumeReport) -> Result<&LegReport, Failure> {
    let leg = volume.legs.iter().find(|leg| leg.state == "out");
    let none = || {
        let id = volume.id;
        Failure::refused(format!("no side of volume {id} is out; see `aquifer vg status`"))
    };
    leg.ok_or_else(none)
}

/// Runs `vg detach`.
pub async fn detach(options: DetachOptions) -> Outcome {
    let (volume, side) = (options.volume, options.side);
    let place = Place::look(&options.group).await?;
    let found = find_mirrored(&place, volume).await?;
    let leg = found.legs.iter().find(|leg| leg.leg == side);
    let leg = leg.ok_or_else(|| Failure::usage("a volume has the sides 0 and 1"))?;
    let steps = place.plan([
        format!("nobody reads or writes {} any more", leg.path),
        "what is written from now on is on the other side alone, and remembered".to_owned(),
    ]);
    let title = format!("detach side {side} of volume {volume}");
    if options.change.decide(&title, &steps)? == Decision::DryRun {
        return Ok(Exit::Done);
    }
    let request = Request::VolumeDetach { volume, leg: side };
    let work = place.run(async |locator| connect_to_leader(locator).await?.typed::<()>(&request).await);
    work.await?;
    let object = json!({ "volume": volume, "side": side, "state": "out" });
    options.output.emit(object, || {
        format!(
            "side {side} of volume {volume} is out\nnext: aquifer vg resync {volume}, when it shall come back"
        )
    })?;
    Ok(Exit::Done)
}

/// Runs `vg resync`.
pub async fn resync(options: ResyncOptions) -> Outcome {
    let volume = options.volume;
    let place = Place::look(&options.group).await?;
    let found = find_mirrored(&place, volume).await?;
    let leg = side_that_is_out(&found)?;
    let steps = place.plan([
        format!("every node opens {}, and writes to it again", leg.path),
        format!(
            "copy {} that it lacks while nodes serve",
            show_size(leg.left_bytes)
        ),
    ]);
    let title = format!("let side {} of volume {volume} in again", leg.leg);
    if options.change.decide(&title, &steps)? == Decision::DryRun {
        return Ok(Exit::Done);
    }
    let work = place.run(async |locator| {
        let mut client = connect_to_leader(locator).await?;
        let side: u8 = client.typed(&Request::VolumeResync { volume }).await?;
        if !options.no_wait {
            wait_until_current(locator, volume, side).await?;
        }
        Ok(side)
    });
    let side = work.await?;
    let state = if options.no_wait { "resyncing" } else { "current" };
    let object = json!({ "volume": volume, "side": side, "state": state });
    options
        .output
        .emit(object, || format!("side {side} of volume {volume} is {state}"))?;
    Ok(Exit::Done)
}

/// A device that shall be a side.
pub(super) struct NewSide {
    pub(super) path: PathBuf,
    /// Of a file that is made.
    pub(super) size: u64,
    pub(super) force: bool,
}

/// Puts a device in the place of the side of a volume that is out: `vg replace` of a mirrored one.
pub(super) async fn replace_side(
    place: &Place,
    found: &VolumeReport,
    new: NewSide,
    change: &ChangeOptions,
    output: &OutputOptions,
) -> Outcome {
    let (volume, leg) = (found.id, side_that_is_out(found)?);
    let shown = new.path.display().to_string();
    let made = (!new.path.exists()).then_some(new.size);
    let steps = place.plan([
        preparation(&new.path, made, new.force),
        format!(
            "write its label, and name it in the catalogue; the device that was at '{}' is refused from then on",
            leg.path
        ),
        format!("copy {} to it while nodes serve", show_size(found.size_bytes)),
    ]);
    let title = format!("put {shown} in the place of side {} of volume {volume}", leg.leg);
    if change.decide(&title, &steps)? == Decision::DryRun {
        return Ok(Exit::Done);
    }
    let request = Request::VolumeReplaceSide {
        volume,
        path: shown.clone(),
        force: new.force,
    };
    let work = place.run(async |locator| {
        let mut client = connect_to_leader(locator).await?;
        let paths = std::slice::from_ref(&new.path);
        let side: u8 = make_and_ask(&mut client, paths, new.size, &request).await?;
        wait_until_current(locator, volume, side).await?;
        Ok(side)
    });
    let side = work.await?;
    let object = json!({ "volume": volume, "side": side, "path": shown, "state": "current" });
    output.emit(object, || {
        format!("{shown} is side {side} of volume {volume}, and current")
    })?;
    Ok(Exit::Done)
}

/// Waits until a side has everything, showing progress.
async fn wait_until_current(locator: &Locator, volume: u16, side: u8) -> Result<(), Failure> {
    watch::until(locator, volume, |_, found| {
        let leg = found.legs.iter().find(|leg| leg.leg == side);
        match leg.map(|leg| (leg.state.as_str(), leg)) {
            Some(("current", _)) => Ok(Stage::Done),
            Some(("resyncing", leg)) => Ok(Stage::Going(Some(progress(leg)))),
            _ => Err(Failure::failed(format!(
                "side {side} of volume {volume} failed again, or was detached; see the log of the storage leader"
            ))),
        }
    })
    .await
}
