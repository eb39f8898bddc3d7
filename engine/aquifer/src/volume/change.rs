//! `vg add` and `vg resize`.

use super::connect_to_leader;
use super::place::Place;
use crate::admin::{AdminClient, Request, TwinRequest};
use crate::cluster::preparation;
use crate::confirm::{ChangeOptions, Decision};
use crate::device;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::OutputOptions;
use crate::reach::GroupOptions;
use crate::units::{absolute, parse_size, show_size};
use serde_json::json;
use std::path::PathBuf;

/// Options of `vg add`.
#[derive(Clone, Debug, clap::Args)]
pub struct AddOptions {
    /// File or block device that all nodes share; two with --mirror. One that does not exist is made as a sparse file.
    #[arg(required = true, num_args = 1..=2, value_name = "DEVICE")]
    paths: Vec<PathBuf>,
    /// Size of a file that is made.
    #[arg(long, default_value = "4G", value_parser = parse_size)]
    size: u64,
    /// Volumes of one failure group fail together: one for each device [default: 0, and 1 for the second]
    #[arg(long, value_delimiter = ',', value_name = "N")]
    failure_group: Vec<u8>,
    /// A volume of two sides, of a mirrored group: what is in files there is on both devices
    #[arg(long)]
    mirror: bool,
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

/// Makes devices that are not there, and asks for something about them. What was made is taken away when that was refused.
pub(super) async fn make_and_ask<T: serde::de::DeserializeOwned>(
    client: &mut AdminClient,
    paths: &[PathBuf],
    size: u64,
    request: &Request,
) -> Result<T, Failure> {
    let mut made = Vec::new();
    let take_away = |made: &[&PathBuf]| made.iter().for_each(|path| drop(std::fs::remove_file(path)));
    for path in paths.iter().filter(|path| !path.exists()) {
        device::create(path, size).inspect_err(|_| take_away(&made))?;
        made.push(path);
    }
    let done: Result<T, Failure> = client.typed(request).await;
    let refused = |e: &Failure| !matches!(e.exit, Exit::Unknown | Exit::Unavailable);
    if done.as_ref().is_err_and(refused) {
        // The node refused it, so nobody has it open.
        take_away(&made);
    }
    done
}

/// Devices that become a volume: one, or the two sides of a mirrored one.
pub(super) struct NewDevices {
    pub(super) paths: Vec<PathBuf>,
    pub(super) failure_groups: Vec<u8>,
    pub(super) size: u64,
    pub(super) force: bool,
}

impl NewDevices {
    fn of(options: &AddOptions) -> Result<Self, Failure> {
        let paths: Vec<PathBuf> = options
            .paths
            .iter()
            .map(|path| absolute(path))
            .collect::<Result<_, _>>()?;
        match (paths.len(), options.mirror) {
            (1, true) => return Err(Failure::usage("--mirror takes two devices, one for each side")),
            (2, false) => {
                return Err(Failure::usage(
                    "two devices are the sides of a mirrored volume: say --mirror, or add them one by one",
                ));
            }
            (2, true) if paths[0] == paths[1] => {
                return Err(Failure::usage(format!("{} is named twice", paths[0].display())));
            }
            _ => {}
        }
        let failure_groups = match options.failure_group.len() {
            0 => (0..).take(paths.len()).collect(),
            given if given == paths.len() => options.failure_group.clone(),
            _ => return Err(Failure::usage("--failure-group names one group for each device")),
        };
        Ok(Self {
            paths,
            failure_groups,
            size: options.size,
            force: options.force,
        })
    }

    fn shown(&self) -> String {
        let shown: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        shown.join(" and ")
    }

    fn preparation(&self) -> String {
        let made = |path: &PathBuf| (!path.exists()).then_some(self.size);
        let steps: Vec<String> = self
            .paths
            .iter()
            .map(|path| preparation(path, made(path), self.force))
            .collect();
        steps.join("; ")
    }

    /// Has them added.
    pub(super) async fn add(&self, client: &mut AdminClient) -> Result<u16, Failure> {
        let device = |number: usize| {
            let path = self.paths.get(number)?.display().to_string();
            Some((path, *self.failure_groups.get(number)?))
        };
        let (path, failure_group) = device(0).expect("a volume has a device");
        let request = Request::VolumeAdd {
            path,
            force: self.force,
            failure_group,
            twin: device(1).map(|(path, failure_group)| TwinRequest { path, failure_group }),
        };
        make_and_ask(client, &self.paths, self.size, &request).await
    }
}

/// Runs `vg add`.
pub async fn add(options: AddOptions) -> Outcome {
    let new = NewDevices::of(&options)?;
    let shown = new.shown();
    let place = Place::look(&options.group).await?;
    let steps = place.plan([
        new.preparation(),
        "write the label, then name the volume in the catalogue".to_owned(),
        "every node opens it, then files get space on it".to_owned(),
    ]);
    if options
        .change
        .decide(&format!("add {shown} to the volume group"), &steps)?
        == Decision::DryRun
    {
        return Ok(Exit::Done);
    }
    let work = place.run(async |locator| new.add(&mut connect_to_leader(locator).await?).await);
    let volume = work.await?;
    let object = json!({ "volume": volume, "path": new.paths[0].display().to_string() });
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
