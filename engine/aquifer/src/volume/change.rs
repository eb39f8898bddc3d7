//! `vg add` and `vg resize`.

use super::connect_to_leader;
use super::place::Place;
use crate::admin::{AdminClient, Request};
use crate::cluster::preparation;
use crate::confirm::{ChangeOptions, Decision};
use crate::device;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::OutputOptions;
use crate::reach::GroupOptions;
use crate::units::{absolute, parse_size, show_size};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Options of `vg add`.
#[derive(Clone, Debug, clap::Args)]
pub struct AddOptions {
    /// File or block device that all nodes share. One that does not exist is made as a sparse file.
    path: PathBuf,
    /// Size of a file that is made.
    #[arg(long, default_value = "4G", value_parser = parse_size)]
    size: u64,
    /// Volumes of one failure group fail together.
    #[arg(long, default_value_t = 0, value_name = "N")]
    failure_group: u8,
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

/// Options of `vg resize`.
#[derive(Clone, Debug, clap::Args)]
pub struct ResizeOptions {
    /// Which volume, as `vg status` shows it.
    volume: u16,
    /// Size in all [default: that of its device]. It shrinks only as far as its last units are free.
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    #[command(flatten)]
    group: GroupOptions,
    #[command(flatten)]
    change: ChangeOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Makes the device when it is not there, and has it added. What was made is taken away when that was refused.
pub(super) async fn add_device(
    client: &mut AdminClient,
    path: &Path,
    size: u64,
    force: bool,
    failure_group: u8,
) -> Result<u16, Failure> {
    let creates = !path.exists();
    if creates {
        device::create(path, size)?;
    }
    let request = Request::VolumeAdd {
        path: path.display().to_string(),
        force,
        failure_group,
    };
    let added: Result<u16, Failure> = client.typed(&request).await;
    let refused = |e: &Failure| !matches!(e.exit, Exit::Unknown | Exit::Unavailable);
    if creates && added.as_ref().is_err_and(refused) {
        // The node refused it, so nobody has it open.
        let _ = std::fs::remove_file(path);
    }
    added
}

/// Runs `vg add`.
pub async fn add(options: AddOptions) -> Outcome {
    let path = absolute(&options.path)?;
    let shown = path.display().to_string();
    let place = Place::look(&options.group).await?;
    let made = (!path.exists()).then_some(options.size);
    let steps = place.plan([
        preparation(&path, made, options.force),
        "write its label, then name it in the catalogue".to_owned(),
        "every node opens it, then files get space on it".to_owned(),
    ]);
    if options
        .change
        .decide(&format!("add {shown} to the volume group"), &steps)?
        == Decision::DryRun
    {
        return Ok(Exit::Done);
    }
    let (size, force) = (options.size, options.force);
    let work = place.run(async |locator| {
        let mut client = connect_to_leader(locator).await?;
        add_device(&mut client, &path, size, force, options.failure_group).await
    });
    let volume = work.await?;
    let object = json!({ "volume": volume, "path": shown });
    options.output.emit(object, || {
        format!("{shown} is volume {volume}\nnext: aquifer vg status")
    })?;
    Ok(Exit::Done)
}

/// Runs `vg resize`.
pub async fn resize(options: ResizeOptions) -> Outcome {
    let place = Place::look(&options.group).await?;
    let size = options
        .size
        .map_or_else(|| "the size of its device".into(), show_size);
    let steps = place.plan([format!("give volume {} {size}", options.volume)]);
    if options.change.decide("resize a volume", &steps)? == Decision::DryRun {
        return Ok(Exit::Done);
    }
    let request = Request::VolumeResize {
        volume: options.volume,
        bytes: options.size,
    };
    let work = place.run(async |locator| connect_to_leader(locator).await?.typed(&request).await);
    let units: u32 = work.await?;
    let object = json!({ "volume": options.volume, "units": units });
    options.output.emit(object, || {
        format!("volume {} has {units} allocation units", options.volume)
    })?;
    Ok(Exit::Done)
}
