//! `vg drain`, `vg remove` and `vg replace`: what is on a volume moves to the others; nodes may serve meanwhile.

use super::change::NewDevices;
use super::mirror::{NewSide, replace_side};
use super::place::Place;
use super::watch::{self, Stage};
use super::{GroupReport, MoveReport, VolumeReport, connect_to_leader};
use crate::admin::{Locator, Request};
use crate::confirm::{ChangeOptions, Decision};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::OutputOptions;
use crate::reach::GroupOptions;
use crate::units::{absolute, parse_size, show_size};
use serde_json::json;
use std::path::PathBuf;

/// Options of `vg drain`.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainOptions {
    /// Which volume, as `vg status` shows it.
    volume: u16,
    /// Use it again instead.
    #[arg(long)]
    undo: bool,
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

/// Options of `vg remove`.
#[derive(Clone, Debug, clap::Args)]
pub struct RemoveOptions {
    /// Which volume, as `vg status` shows it.
    volume: u16,
    #[command(flatten)]
    group: GroupOptions,
    #[command(flatten)]
    change: ChangeOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Options of `vg replace`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplaceOptions {
    /// Which volume goes, as `vg status` shows it.
    volume: u16,
    /// The device that comes; of a mirrored volume in the place of the side that is out. One that does not exist is made as a sparse file.
    path: PathBuf,
    /// Size of a file that is made.
    #[arg(long, default_value = "4G", value_parser = parse_size)]
    size: u64,
    /// Overwrite a device that is not blank.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    group: GroupOptions,
    #[command(flatten)]
    change: ChangeOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Bytes, rate and time left, for people.
pub(super) fn progress(moving: &MoveReport) -> String {
    if let Some(problem) = &moving.problem {
        return format!("{} left; {problem} <<<<", show_size(moving.left_bytes));
    }
    watch::progress(
        moving.left_bytes,
        "moved",
        moving.moved_bytes,
        moving.bytes_per_second,
        moving.seconds_left,
    )
}

/// Refuses at once what would never end.
fn require_space(report: &GroupReport, volume: &VolumeReport, coming: u64) -> Result<(), Failure> {
    let others = report
        .volumes
        .iter()
        .filter(|other| other.id != volume.id && other.state == "active");
    let free: u64 = others.map(|other| other.free_bytes).sum::<u64>() + coming;
    if free >= volume.used_bytes {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{} are used on volume {} and the others have {} free: add a volume first",
        show_size(volume.used_bytes),
        volume.id,
        show_size(free)
    )))
}

fn require_removable(volume: u16) -> Result<(), Failure> {
    if volume == 0 {
        return Err(Failure::refused(
            "volume 0 has the metadata of the group and stays; `vg drain 0` moves the files off it",
        ));
    }
    Ok(())
}

async fn set_drain(locator: &Locator, volume: u16, drain: bool) -> Result<(), Failure> {
    let mut client = locator.connect(None).await?;
    client.typed(&Request::VolumeDrain { volume, drain }).await
}

/// Waits until nothing is on the volume, showing progress.
async fn wait_until_drained(locator: &Locator, volume: u16) -> Result<(), Failure> {
    watch::until(locator, volume, |report, found| {
        if found.state != "draining" {
            return Err(Failure::failed(format!(
                "volume {volume} is {} again: somebody stopped this",
                found.state
            )));
        }
        Ok(match found.used_bytes {
            0 => Stage::Done,
            _ => Stage::Going(report.moving.as_ref().map(progress)),
        })
    })
    .await
}

async fn forget(locator: &Locator, volume: u16) -> Result<(), Failure> {
    let mut client = connect_to_leader(locator).await?;
    client.typed(&Request::VolumeRemove { volume }).await
}

async fn drain_and_forget(locator: &Locator, volume: u16) -> Result<(), Failure> {
    set_drain(locator, volume, true).await?;
    wait_until_drained(locator, volume).await?;
    forget(locator, volume).await
}

/// Runs `vg drain`.
pub async fn drain(options: DrainOptions) -> Outcome {
    let volume = options.volume;
    let place = Place::look(&options.group).await?;
    let (report, found) = place.find(volume).await?;
    let step = if options.undo {
        format!("use volume {volume} again; what has moved stays where it is")
    } else {
        require_space(&report, &found, 0)?;
        format!(
            "move {} from volume {volume} to the others while nodes serve",
            show_size(found.used_bytes)
        )
    };
    if options
        .change
        .decide(&format!("volume {volume} ({})", found.path), &place.plan([step]))?
        == Decision::DryRun
    {
        return Ok(Exit::Done);
    }
    let work = place.run(async |locator| {
        set_drain(locator, volume, !options.undo).await?;
        if !options.undo && !options.no_wait {
            wait_until_drained(locator, volume).await?;
        }
        Ok(())
    });
    work.await?;
    let state = if options.undo { "active" } else { "draining" };
    options
        .output
        .emit(json!({ "volume": volume, "state": state }), || {
            format!("volume {volume} is {state}")
        })?;
    Ok(Exit::Done)
}

/// Runs `vg remove`.
pub async fn remove(options: RemoveOptions) -> Outcome {
    let volume = options.volume;
    require_removable(volume)?;
    let place = Place::look(&options.group).await?;
    let (report, found) = place.find(volume).await?;
    require_space(&report, &found, 0)?;
    let steps = place.plan([
        format!(
            "move {} from it to the others while nodes serve",
            show_size(found.used_bytes)
        ),
        "take it out of the catalogue; its id is never used again".to_owned(),
        format!("erase its label on {}", found.path),
    ]);
    if options
        .change
        .decide(&format!("remove volume {volume} ({})", found.path), &steps)?
        == Decision::DryRun
    {
        return Ok(Exit::Done);
    }
    place
        .run(async |locator| drain_and_forget(locator, volume).await)
        .await?;
    let object = json!({ "volume": volume, "path": found.path });
    options.output.emit(object, || {
        format!(
            "volume {volume} is gone; {} is free for something else",
            found.path
        )
    })?;
    Ok(Exit::Done)
}

/// Runs `vg replace`.
pub async fn replace(options: ReplaceOptions) -> Outcome {
    let volume = options.volume;
    let place = Place::look(&options.group).await?;
    let (report, found) = place.find(volume).await?;
    let path = absolute(&options.path)?;
    if !found.legs.is_empty() {
        let (size, force) = (options.size, options.force);
        let new = NewSide { path, size, force };
        return replace_side(&place, &found, new, &options.change, &options.output).await;
    }
    require_removable(volume)?;
    let size = std::fs::metadata(&path).map_or(options.size, |_| found.size_bytes);
    require_space(&report, &found, size)?;
    let new = NewDevices {
        paths: vec![path],
        failure_groups: vec![found.failure_group],
        size: options.size,
        force: options.force,
    };
    let steps = place.plan([
        format!("add {} to the volume group", new.paths[0].display()),
        format!(
            "move {} from volume {volume} to the others while nodes serve",
            show_size(found.used_bytes)
        ),
        format!(
            "take volume {volume} out of the catalogue and erase its label on {}",
            found.path
        ),
    ]);
    if options
        .change
        .decide(&format!("replace volume {volume} ({})", found.path), &steps)?
        == Decision::DryRun
    {
        return Ok(Exit::Done);
    }
    let work = place.run(async |locator| {
        let added = new.add(&mut connect_to_leader(locator).await?).await?;
        drain_and_forget(locator, volume).await?;
        Ok(added)
    });
    let added = work.await?;
    let object = json!({ "volume": volume, "path": found.path, "by": added });
    options.output.emit(object, || {
        format!("volume {volume} is gone, volume {added} is in its place")
    })?;
    Ok(Exit::Done)
}
