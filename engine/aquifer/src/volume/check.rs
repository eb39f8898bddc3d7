//! `vg check`: everything that is on the devices of the group, read, decoded and compared; and what can be written again from
//! what is good.
//!
//! Exit codes: 0 all is as it must be, 3 a copy is missing or what is wrong can be repaired, 1 something is wrong that cannot.

use super::scrub::scrub;
use crate::confirm::{ChangeOptions, Decision};
use crate::device::{HeldDevices, OfflineGroup};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, table};
use aquifer_dss::check::{Finding, Repair, Report, Verdict, check, repair};
use aquifer_engine::check::all_passes;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Options of `vg check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckOptions {
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
    /// Write again what can be proven from what is good. No node may run
    #[arg(long)]
    repair: bool,
    /// First have the storage leader compare both sides of mirrored volumes, and heal what a checksum decides. Nodes may serve meanwhile
    #[arg(long, conflicts_with = "repair")]
    scrub: bool,
    #[command(flatten)]
    change: ChangeOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Runs it.
pub async fn run(options: CheckOptions) -> Outcome {
    if !options.repair {
        let scrubbed = match options.scrub {
            true => Some(scrub(&options.device).await?),
            false => None,
        };
        let mut report = look(&options.device).await?;
        if let Some(scrubbed) = &scrubbed {
            scrubbed.add_to(&mut report);
        }
        return emit(&options, &report, &[]);
    }
    // Before anything is read: what is found stays true until it is written.
    let held = HeldDevices::hold(&options.device).await?;
    let report = look(&options.device).await?;
    let repairs: Vec<Repair> = report.repairs().cloned().collect();
    if repairs.is_empty() {
        return emit(&options, &report, &[]);
    }
    let steps: Vec<String> = repairs.iter().map(|repair| repair.plan.clone()).collect();
    let title = format!("repair the volume group on {}", options.device.display());
    if options.change.decide(&title, &steps)? == Decision::DryRun {
        return emit(&options, &report, &[]);
    }
    repair(&repairs, &held.devices)
        .await
        .map_err(|error| Failure::failed(format!("{}: {error}", options.device.display())))?;
    let report = look(&options.device).await?;
    emit(&options, &report, &steps)
}

/// How often the group is read before something is called wrong: nodes that run write while it is read.
const ATTEMPTS: usize = 3;

async fn look(path: &Path) -> Result<Report, Failure> {
    let mut report = Report::default();
    for _ in 0..ATTEMPTS {
        let group = OfflineGroup::open(path).await?;
        report = check(&group.image, &all_passes()).await;
        if report.is_sound() {
            break;
        }
    }
    Ok(report)
}

fn emit(options: &CheckOptions, report: &Report, repaired: &[String]) -> Outcome {
    let object = json!({
        "sound": report.is_sound(),
        "checks": report.findings.iter().map(object_of).collect::<Vec<_>>(),
        "repairs": report.repairs().map(|repair| &repair.plan).collect::<Vec<_>>(),
        "repaired": repaired,
    });
    options.output.emit(object, || text(options, report))?;
    Ok(if report.is_sound() {
        Exit::Done
    } else if report.wrongs().next().is_some() {
        Exit::Failed
    } else {
        Exit::Degraded
    })
}

fn object_of(finding: &Finding) -> Value {
    let next = match &finding.verdict {
        Verdict::Sound => None,
        Verdict::Repairable(repair) => Some(&repair.plan),
        Verdict::Degraded { advice } | Verdict::Wrong { advice } => Some(advice),
    };
    json!({
        "what": finding.what, "ok": finding.verdict == Verdict::Sound, "detail": finding.detail,
        "repairable": matches!(finding.verdict, Verdict::Repairable(_)), "next": next,
    })
}

fn text(options: &CheckOptions, report: &Report) -> String {
    let row = |finding: &Finding| {
        let word = match finding.verdict {
            Verdict::Sound => "ok",
            Verdict::Repairable(_) => "REPAIRABLE",
            Verdict::Degraded { .. } => "DEGRADED",
            Verdict::Wrong { .. } => "WRONG",
        };
        vec![word.into(), finding.what.clone(), finding.detail.clone()]
    };
    let mut text = table(&["", "check", "found"], report.findings.iter().map(row).collect());
    for finding in &report.findings {
        if let Verdict::Degraded { advice } | Verdict::Wrong { advice } = &finding.verdict {
            text += &format!("\n{}: {advice}", finding.what);
        }
    }
    if report.repairs().next().is_some() {
        let device = options.device.display();
        text += &format!(
            "\nnext: aquifer vg check --repair --device {device}   (with the nodes stopped; --dry-run shows what it would do)"
        );
    }
    text
}
