//! `node fence N --confirm`: kills a node of this machine and waits for the proof that it can write no more.

use crate::confirm::{ChangeOptions, Decision};
use crate::device;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::note;
use std::path::PathBuf;

/// Options of `node fence`.
#[derive(Clone, Debug, clap::Args)]
pub struct FenceOptions {
    /// Which node.
    id: u8,
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
    /// Yes, kill it.
    #[arg(long)]
    confirm: bool,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Runs it.
pub async fn run(options: FenceOptions) -> Outcome {
    let id = crate::units::node_id(options.id)?;
    let slots = device::read_slots(&options.device).await?;
    let slot = slots.iter().find(|s| s.id == options.id);
    let slot =
        slot.ok_or_else(|| Failure::usage(format!("node {id} never ran on {}", options.device.display())))?;
    let steps = [
        format!("kill life {} of node {id} with SIGKILL", slot.incarnation),
        "wait until the kernel gives up its lock: then none of its writes is in flight".into(),
        "the members see it and take over its pages".into(),
    ];
    let change = ChangeOptions {
        yes: options.change.yes || options.confirm,
        ..options.change
    };
    if change.decide(&format!("fence node {id}"), &steps)? == Decision::DryRun {
        return Ok(Exit::Done);
    }
    device::fence(&options.device, id).await?;
    note(format!("node {id} is fenced: it can write no more"));
    Ok(Exit::Done)
}
