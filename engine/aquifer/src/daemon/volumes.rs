//! Commands about volumes, done by a running node.

use super::assemble::Running;
use crate::admin::TwinRequest;
use crate::device::storage_failure;
use crate::failure::Failure;
use crate::volume::{GroupReport, MoveReport, ScrubReport, UpkeepReport};
use aquifer_dss::group::{AddVolumeOptions, Problem, ReplaceLegOptions, SecondDevice, StorageError};
use aquifer_dss_proto::catalog::OperationError;
use std::path::Path;

fn failure(path: &str, error: &StorageError) -> Failure {
    storage_failure(Path::new(path), error)
}

/// The volume group as this node sees it.
pub fn report(running: &Running) -> GroupReport {
    let group = running.group();
    let status = group.volume_status();
    let mut report = group.with_catalog(|catalog| GroupReport::of(group.label(), catalog));
    report.metadata_sides = group.metadata().legs().legs().collect();
    for volume in &mut report.volumes {
        let seen = status.iter().find(|status| status.id == volume.id);
        volume.missing = seen.and_then(|status| status.missing.clone());
        for leg in &mut volume.legs {
            let missing = seen.and_then(|status| status.missing_legs.get(usize::from(leg.leg)));
            leg.problem = missing.and_then(Clone::clone);
            // It has all data; the metadata is copied last.
            if volume.id == 0 && leg.state == "current" && !report.metadata_sides.contains(&leg.leg) {
                leg.state = "resyncing".into();
            }
        }
    }
    for status in group.resync_status() {
        let volumes = report.volumes.iter_mut();
        let mut legs = volumes
            .filter(|volume| volume.id == status.volume)
            .flat_map(|volume| &mut volume.legs);
        if let Some(leg) = legs.find(|leg| leg.leg == status.leg && status.returning) {
            leg.copied_bytes = status.copied;
            leg.bytes_per_second = status.rate;
            leg.seconds_left = status.left.checked_div(status.rate);
            let failed = status
                .problem
                .map(|_| "a device failed; see the log of the storage leader".into());
            leg.problem = leg.problem.take().or(failed);
        }
    }
    report.upkeep = Some(upkeep(running));
    let moves = group.move_status();
    report.moving = (moves.left > 0).then(|| MoveReport {
        left_bytes: moves.left,
        moved_bytes: moves.moved,
        bytes_per_second: moves.rate,
        seconds_left: moves.left.checked_div(moves.rate),
        problem: moves.problem.map(|problem| match problem {
            Problem::NoSpace => "the other volumes have no space".into(),
            Problem::Device => "a device failed; see the log of the storage leader".into(),
        }),
    });
    report
}

fn upkeep(running: &Running) -> UpkeepReport {
    let (mends, discards) = (running.group().mend_counts(), running.group().discard_status());
    UpkeepReport {
        node: running.id().get(),
        wrong_reads: mends.wrong,
        mended_bytes: mends.mended_bytes,
        discarded_bytes: discards.bytes,
        discards_refused: discards.failures,
    }
}

/// Adds a device; the id of its volume.
pub async fn add(
    running: &Running,
    path: &str,
    force: bool,
    failure_group: u8,
    twin: Option<TwinRequest>,
) -> Result<u16, Failure> {
    let options = AddVolumeOptions {
        failure_group,
        force,
        size: None,
        twin: twin.map(|twin| SecondDevice {
            path: twin.path,
            failure_group: twin.failure_group,
        }),
    };
    let added = running.group().add_volume(path, &options).await;
    added.map_err(|error| change_failure(path, &error))
}

/// Puts a device in the place of the side of a mirrored volume that is out; which it is.
pub async fn replace_side(running: &Running, volume: u16, path: &str, force: bool) -> Result<u8, Failure> {
    let options = ReplaceLegOptions {
        failure_group: None,
        force,
    };
    let replaced = running.group().replace_leg(volume, path, &options).await;
    replaced.map_err(|error| change_failure(path, &error))
}

/// What a device was refused for, or the change itself.
fn change_failure(path: &str, error: &StorageError) -> Failure {
    match error {
        StorageError::Invalid(reason) => Failure::refused(reason),
        error if error.is(OperationError::VolumeRaced) => refusal(error),
        error => failure(path, error),
    }
}

/// Gives a volume another size; its units.
pub async fn resize(running: &Running, volume: u16, bytes: Option<u64>) -> Result<u32, Failure> {
    let resized = running.group().resize_volume(volume, bytes).await;
    resized.map_err(|error| refusal(&error))
}

/// Moves the units of a volume away, or uses it again.
pub async fn drain(running: &Running, volume: u16, drain: bool) -> Result<(), Failure> {
    let drained = running.group().drain_volume(volume, drain).await;
    drained.map_err(|error| refusal(&error))
}

/// Takes a drained volume out of the group.
pub async fn remove(running: &Running, volume: u16) -> Result<(), Failure> {
    let removed = running.group().remove_volume(volume).await;
    removed.map_err(|error| refusal(&error))
}

/// Stops using a side of a mirrored volume.
pub async fn detach(running: &Running, volume: u16, leg: u8) -> Result<(), Failure> {
    let detached = running.group().detach_leg(volume, leg).await;
    detached.map_err(|error| refusal(&error))
}

/// Lets the side of a mirrored volume in again that is out; which it is.
pub async fn resync(running: &Running, volume: u16) -> Result<u8, Failure> {
    let returned = running.group().resync_leg(volume).await;
    returned.map_err(|error| refusal(&error))
}

/// How far run `run` of a scrub is; when this node knows another one or none, it begins one.
pub fn scrub(running: &Running, run: u64) -> Result<ScrubReport, Failure> {
    let group = running.group();
    if run == 0 || group.scrub_status().run != run {
        group.scrub().map_err(|error| refusal(&error))?;
    }
    Ok(group.scrub_status().into())
}

/// What the catalogue refuses about volumes is refused for safety, or was typed wrongly.
fn refusal(error: &StorageError) -> Failure {
    let is_mistake = [
        OperationError::NoSuchVolume,
        OperationError::Invalid,
        OperationError::NotMirrored,
    ];
    if matches!(error, StorageError::Invalid(_)) || error.is(OperationError::LastLeg) {
        Failure::refused(error)
    } else if is_mistake.into_iter().any(|mistake| error.is(mistake)) {
        Failure::usage(error)
    } else if error.is(OperationError::VolumeInUse) || error.is(OperationError::VolumeRaced) {
        Failure::refused(error)
    } else {
        failure("the volume group", error)
    }
}
