//! `aquifer vg`: the volumes of the group: what they are, adding and growing them, and whether the metadata is sound.
//!
//! Rules: what changes volumes is done by a node, because only nodes write the catalogue: by one that runs, or by this process, which
//! becomes one while nobody runs ([`place`]). The plan is made of what is read, so a plan alone changes nothing.

mod change;
mod check;
mod drain;
mod mirror;
mod place;
mod report;
mod scrub;
mod watch;

pub use report::{GroupReport, LegReport, MoveReport, UpkeepReport, VolumeReport};
pub use scrub::ScrubReport;

use crate::admin::{AdminClient, Locator, Request};
use crate::cluster::InitOptions;
use crate::device;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, table};
use crate::units::show_size;
use serde_json::json;

/// `vg ...`.
#[derive(Debug, clap::Subcommand)]
pub enum VolumeCommand {
    /// Make a volume group; the same as `cluster init`
    Create(Box<InitOptions>),
    /// Add a device to the volume group; nodes may serve meanwhile
    Add(change::AddOptions),
    /// Give a volume the size of its device, or another one
    Resize(change::ResizeOptions),
    /// Take a device out: drain its volume, then forget it
    Remove(drain::RemoveOptions),
    /// Put a new device in the place of one
    Replace(drain::ReplaceOptions),
    /// Move what is on a volume away, or use it again
    Drain(drain::DrainOptions),
    /// Stop using one side of a mirrored volume
    Detach(mirror::DetachOptions),
    /// Let a side of a mirrored volume in again: what it lacks is copied while nodes serve
    Resync(mirror::ResyncOptions),
    /// Name, volumes, what is used
    Status(StatusOptions),
    /// Read everything that has a checksum, say what is wrong, and repair what can be
    Check(check::CheckOptions),
}

/// Which volume group.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusOptions {
    #[command(flatten)]
    locator: Locator,
    #[command(flatten)]
    output: OutputOptions,
}

impl VolumeCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        match self {
            Self::Create(options) => crate::cluster::create(*options).await,
            Self::Add(options) => change::add(options).await,
            Self::Resize(options) => change::resize(options).await,
            Self::Remove(options) => drain::remove(options).await,
            Self::Replace(options) => drain::replace(options).await,
            Self::Drain(options) => drain::drain(options).await,
            Self::Detach(options) => mirror::detach(options).await,
            Self::Resync(options) => mirror::resync(options).await,
            Self::Status(options) => status(options).await,
            Self::Check(options) => check::run(options).await,
        }
    }
}

/// The storage leader, which knows how moves go on; the node that answers, when the leader does not.
async fn connect_to_leader(locator: &Locator) -> Result<AdminClient, Failure> {
    let mut client = locator.connect(None).await?;
    let status = client.status().await?;
    if status.leader == status.node {
        return Ok(client);
    }
    Ok(locator.connect(Some(status.leader)).await.unwrap_or(client))
}

/// The volumes as a node sees them; when none answers and the device is known, as the device says.
async fn look(locator: &Locator) -> Result<GroupReport, Failure> {
    let failure = match connect_to_leader(locator).await {
        Ok(mut client) => return client.typed(&Request::Volumes).await,
        Err(failure) => failure,
    };
    let Some(path) = locator
        .device
        .as_ref()
        .filter(|_| failure.exit == Exit::Unavailable)
    else {
        return Err(failure);
    };
    let group = device::OfflineGroup::open(path).await?;
    Ok(group.report())
}

async fn status(options: StatusOptions) -> Outcome {
    let report = look(&options.locator).await?;
    let degraded = report.degraded();
    let mut object = serde_json::to_value(&report).expect("a report is plain data");
    object["degraded"] = json!(degraded);
    options
        .output
        .emit(object, || text(&report, degraded.as_deref()))?;
    Ok(if degraded.is_some() {
        Exit::Degraded
    } else {
        Exit::Done
    })
}

fn text(report: &GroupReport, degraded: Option<&str>) -> String {
    let mut lines = vec![
        vec!["volume group".into(), report.name.clone()],
        vec!["uuid".into(), report.uuid.clone()],
        vec!["size".into(), show_size(report.size_bytes)],
        vec!["allocation unit".into(), show_size(report.au_bytes)],
        vec!["page".into(), show_size(report.page_bytes.into())],
        vec!["directory slots".into(), report.home_slots.to_string()],
        vec!["used by files".into(), show_size(report.used_bytes)],
        vec!["files".into(), report.files.to_string()],
        vec!["redundancy".into(), report.redundancy.clone()],
    ];
    if report.space != "ok" {
        lines.push(vec!["space".into(), format!("{} <<<<", report.space)]);
    }
    if let Some(why) = degraded {
        lines.push(vec!["degraded".into(), format!("{why} <<<<")]);
    }
    if let Some(moving) = &report.moving {
        lines.push(vec!["draining".into(), drain::progress(moving)]);
    }
    if let Some(upkeep) = &report.upkeep {
        lines.extend(upkeep_lines(upkeep));
    }
    for volume in &report.volumes {
        lines.extend(mirror::lines(volume));
    }
    let row = |volume: &VolumeReport| {
        vec![
            volume.id.to_string(),
            volume.state.clone(),
            show_size(volume.size_bytes),
            show_size(volume.free_bytes),
            volume.failure_group.to_string(),
            volume.path.clone(),
            volume
                .missing
                .as_ref()
                .map_or_else(String::new, |why| format!("{why} <<<<")),
        ]
    };
    let heading = ["volume", "state", "size", "free", "failure group", "device", ""];
    let volumes = table(&heading, report.volumes.iter().map(row).collect());
    format!("{}\n\n{volumes}", table(&["", ""], lines))
}

/// What was done since a node started; what never happened has no line.
fn upkeep_lines(upkeep: &UpkeepReport) -> Vec<Vec<String>> {
    let node = upkeep.node;
    let mut lines = Vec::new();
    if upkeep.discarded_bytes + upkeep.discards_refused > 0 {
        let refused = match upkeep.discards_refused {
            0 => String::new(),
            count => format!(", {count} refused by a device"),
        };
        let text = format!(
            "{} by node {node} since it started{refused}",
            show_size(upkeep.discarded_bytes)
        );
        lines.push(vec!["discarded".into(), text]);
    }
    if upkeep.wrong_reads + upkeep.mended_bytes > 0 {
        let text = format!(
            "{} reads found one side wrong, {} written again, by node {node} since it started",
            upkeep.wrong_reads,
            show_size(upkeep.mended_bytes)
        );
        lines.push(vec!["mended".into(), text]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mended_and_discarded_is_shown_when_there_is_any() {
        let mut report = GroupReport::default();
        let quiet = text(&report, None);
        assert!(
            !quiet.contains("discarded") && !quiet.contains("mended"),
            "{quiet}"
        );
        report.upkeep = Some(UpkeepReport {
            node: 3,
            wrong_reads: 2,
            mended_bytes: 8192,
            discarded_bytes: 4 << 20,
            discards_refused: 1,
        });
        let shown = text(&report, None);
        assert!(
            shown.contains("4.0 MiB by node 3 since it started, 1 refused"),
            "{shown}"
        );
        assert!(
            shown.contains("2 reads found one side wrong, 8.0 KiB written"),
            "{shown}"
        );
    }
}
