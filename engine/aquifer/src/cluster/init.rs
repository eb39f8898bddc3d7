//! `cluster init` and `vg create`: a volume group on a blank device.

use crate::confirm::{ChangeOptions, Decision};
use crate::device::{self, Formatted};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::OutputOptions;
use crate::units::{parse_size, show_size};
use aquifer_dss::group::GroupOptions;
use aquifer_dss_proto::{HomeSlots, PageSize};
use serde_json::json;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Options of `cluster init` and `vg create`.
#[derive(Clone, Debug, clap::Args)]
pub struct InitOptions {
    /// Files or block devices that all nodes share; the first has the metadata. One that does not exist is made as a
    /// sparse file.
    #[arg(required = true, value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
    /// Name of the volume group.
    #[arg(long, value_name = "NAME")]
    pub vg: String,
    /// Size of a file that is made.
    #[arg(long, default_value = "4G", value_parser = parse_size)]
    pub size: u64,
    /// Allocation unit, 64K to 64M: small ones for many small files, large ones for few large ones.
    #[arg(long, default_value = "4M", value_parser = parse_size)]
    pub au: u64,
    /// Page: 4K, 8K, 16K or 32K. It cannot be changed later.
    #[arg(long, default_value = "8K", value_name = "SIZE", value_parser = parse_page_size)]
    pub page_size: PageSize,
    /// Slots of the directory, in which nodes answer for pages: a power of two from 4096 to 65536. It cannot be changed later.
    #[arg(long, default_value = "4096", value_name = "N", value_parser = parse_home_slots)]
    pub home_slots: HomeSlots,
    /// Files for whose metadata there shall be room [default: a million; fewer on devices below 3G]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    pub files: Option<u64>,
    /// Who protects the data against the loss of a device. With `mirror` devices come in pairs, each the two sides of a volume.
    #[arg(long, value_enum, default_value_t = Redundancy::External)]
    pub redundancy: Redundancy,
    /// Failure group of each device, in their order: devices of one group fail together, and the two sides of a volume are
    /// of different ones [default: 0,1,0,1... when mirrored, otherwise 0].
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub failure_group: Vec<u8>,
    /// Overwrite a device that is not blank.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub change: ChangeOptions,
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Who keeps a second copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Redundancy {
    /// The device itself: an array, a replicated volume, or nobody.
    External,
    /// This group: everything in files is on two devices.
    Mirror,
}

impl Redundancy {
    const fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Mirror => "mirror",
        }
    }
}

impl InitOptions {
    /// Failure groups of the devices, in their order.
    fn failure_groups(&self) -> Result<Vec<u8>, Failure> {
        let count = self.devices.len();
        let mirror = self.redundancy == Redundancy::Mirror;
        let groups: Vec<u8> = match self.failure_group.len() {
            0 if mirror => (0..count).map(|number| u8::from(number % 2 == 1)).collect(),
            0 => vec![0; count],
            given if given == count => self.failure_group.clone(),
            given => {
                return Err(Failure::usage(format!(
                    "--failure-group names {given} groups for {count} devices: name one for each"
                )));
            }
        };
        if mirror && !count.is_multiple_of(2) {
            return Err(Failure::usage(
                "--redundancy mirror takes devices in pairs: DEVICE-A DEVICE-B, DEVICE-A DEVICE-B...",
            ));
        }
        if mirror && groups.chunks(2).any(|pair| pair[0] == pair[1]) {
            return Err(Failure::usage(
                "the two devices of a mirrored volume must be of different failure groups",
            ));
        }
        Ok(groups)
    }
}

/// What will be done.
struct Plan {
    /// Devices that are made as sparse files.
    creates: Vec<PathBuf>,
    steps: Vec<String>,
}

/// Reads a page size.
fn parse_page_size(text: &str) -> Result<PageSize, String> {
    let bytes = parse_size(text)?;
    let size = usize::try_from(bytes).ok().and_then(PageSize::new);
    size.ok_or_else(|| "a page has 4K, 8K, 16K or 32K".to_owned())
}

/// Reads a number of slots. Fewer than the usual number is for tests: a slot is what moves, and what is rebuilt, at a time.
fn parse_home_slots(text: &str) -> Result<HomeSlots, String> {
    let slots = text.parse().ok().and_then(HomeSlots::new);
    let slots = slots.filter(|slots| *slots >= HomeSlots::USUAL);
    slots.ok_or_else(|| "the directory has 4096, 8192, 16384, 32768 or 65536 slots".to_owned())
}

/// Whether a device has to be made.
fn must_be_made(path: &Path) -> Result<bool, Failure> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(attributes) if attributes.is_file() || attributes.file_type().is_block_device() => Ok(false),
        Ok(_) => Err(Failure::usage(format!(
            "{shown} is neither a file nor a block device"
        ))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Failure::usage(format!("cannot look at {shown}: {e}"))),
    }
}

/// The step of a plan that takes a device, or makes a file of `made` bytes.
pub fn preparation(device: &Path, made: Option<u64>, force: bool) -> String {
    let shown = device.display();
    match made {
        Some(size) => format!("make the sparse file {shown} of {}", show_size(size)),
        None if force => format!("use {shown} as it is; WHAT IS ON IT IS LOST"),
        None => format!("use {shown} as it is, after checking that it is blank"),
    }
}

fn plan(options: &InitOptions) -> Result<Plan, Failure> {
    check_name(&options.vg)?;
    if !options.au.is_power_of_two() || !(64 << 10..=64 << 20).contains(&options.au) {
        return Err(Failure::usage(format!(
            "--au {} must be a power of two from 64K to 64M",
            show_size(options.au)
        )));
    }
    let (mut creates, mut steps) = (Vec::new(), Vec::new());
    for (number, device) in options.devices.iter().enumerate() {
        let shown = device.display();
        if options.devices[..number].contains(device) {
            return Err(Failure::usage(format!("{shown} is named twice")));
        }
        let made = must_be_made(device)?;
        if made {
            creates.push(device.clone());
        }
        steps.push(preparation(device, made.then_some(options.size), options.force));
    }
    steps.extend(pairs(options)?);
    steps.push(format!(
        "write volume group `{}` on {}, allocation unit {}, page {}, {} directory slots, redundancy {}",
        options.vg,
        if options.devices.len() == 1 { "it" } else { "them" },
        show_size(options.au),
        options.page_size,
        options.home_slots.count(),
        options.redundancy.name()
    ));
    Ok(Plan { creates, steps })
}

/// The steps that say which devices are the two sides of a volume.
fn pairs(options: &InitOptions) -> Result<Vec<String>, Failure> {
    let groups = options.failure_groups()?;
    if options.redundancy == Redundancy::External {
        return Ok(Vec::new());
    }
    let devices: Vec<_> = options.devices.iter().zip(groups).collect();
    let pair = |(volume, pair): (usize, &[(&PathBuf, u8)])| {
        format!(
            "volume {volume}: {} (failure group {}) and {} (failure group {}), each with everything; the smaller one counts",
            pair[0].0.display(),
            pair[0].1,
            pair[1].0.display(),
            pair[1].1
        )
    };
    Ok(devices.chunks(2).enumerate().map(pair).collect())
}

fn check_name(name: &str) -> Result<(), Failure> {
    let fits = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits {
        Ok(())
    } else {
        Err(Failure::usage("--vg takes 1 to 63 letters, digits, `-` or `_`"))
    }
}

/// Runs `cluster init`.
pub async fn run(options: InitOptions) -> Outcome {
    let plan = plan(&options)?;
    let shown: Vec<_> = options
        .devices
        .iter()
        .map(|device| device.display().to_string())
        .collect();
    let (first, shown) = (&shown[0], shown.join(", "));
    let title = format!("volume group `{}` on {shown}", options.vg);
    if options.change.decide(&title, &plan.steps)? == Decision::DryRun {
        return Ok(Exit::Done);
    }
    let formatted = initialise_all(&options, &plan.creates).await?;
    let object = json!({
        "vg": options.vg, "uuid": formatted.uuid, "device": options.devices[0], "devices": options.devices,
        "size_bytes": formatted.size, "au_bytes": options.au, "page_bytes": options.page_size.bytes(),
        "home_slots": options.home_slots.count(), "redundancy": options.redundancy.name(),
    });
    options.output.emit(object, || {
        format!(
            "volume group `{}` is ready on {shown} ({})\nnext: aquifer node start --id 1 --device {first} --sql 127.0.0.1:5433 --peer 127.0.0.1:7001",
            options.vg, show_size(formatted.size)
        )
    })?;
    Ok(Exit::Done)
}

fn group_options(options: &InitOptions) -> GroupOptions {
    GroupOptions {
        name: options.vg.clone(),
        au_bytes: options.au,
        page_size: options.page_size,
        home_slots: options.home_slots,
        files: options.files,
        force: options.force,
        mirror: options.redundancy == Redundancy::Mirror,
        ..GroupOptions::default()
    }
}

/// Makes the files of `creates` and the volume group on all devices. Files made here are taken away on failure.
async fn initialise_all(options: &InitOptions, creates: &[PathBuf]) -> Result<Formatted, Failure> {
    let mut made = Vec::new();
    let mut result = Ok(());
    for path in creates {
        result = device::create(path, options.size);
        if result.is_err() {
            break;
        }
        made.push(path);
    }
    let formatted = match result {
        Ok(()) => {
            let groups = options.failure_groups()?;
            device::format(&options.devices, &groups, &group_options(options)).await
        }
        Err(failure) => Err(failure),
    };
    if formatted.is_err() {
        for path in made {
            let _ = std::fs::remove_file(path);
        }
    }
    formatted
}

/// Makes the file when `create` has a size, and the volume group on it. A file made here is taken away on failure.
pub async fn initialise(
    path: &Path,
    options: &GroupOptions,
    create: Option<u64>,
) -> Result<Formatted, Failure> {
    if let Some(size) = create {
        device::create(path, size)?;
    }
    let result = device::format(&[path.to_owned()], &[0], options).await;
    if result.is_err() && create.is_some() {
        let _ = std::fs::remove_file(path);
    }
    result
}
