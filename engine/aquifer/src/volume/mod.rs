//! `aquifer vg`: what the volume group is and whether its metadata is sound.

use crate::cluster::InitOptions;
use crate::device;
use crate::failure::{Exit, Outcome};
use crate::output::{OutputOptions, table};
use crate::units::show_size;
use serde_json::json;
use std::path::PathBuf;

/// `vg ...`.
#[derive(Debug, clap::Subcommand)]
pub enum VolumeCommand {
    /// Make a volume group; the same as `cluster init`
    Create(Box<InitOptions>),
    /// Name, size, what is used
    Status(VolumeOptions),
    /// Read labels, journal and catalogue and say what is wrong with them
    Check(VolumeOptions),
}

/// Which volume group.
#[derive(Clone, Debug, clap::Args)]
pub struct VolumeOptions {
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
    #[command(flatten)]
    output: OutputOptions,
}

impl VolumeCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        match self {
            Self::Create(options) => crate::cluster::create(*options).await,
            Self::Status(options) => status(options).await,
            Self::Check(options) => check(options).await,
        }
    }
}

async fn status(options: VolumeOptions) -> Outcome {
    let group = device::OfflineGroup::open(&options.device).await?;
    let summary = group.summary();
    let object = serde_json::to_value(&summary).expect("a summary is plain data");
    options.output.emit(object, || {
        let lines = vec![
            vec!["volume group".into(), summary.name.clone()],
            vec!["uuid".into(), summary.uuid.clone()],
            vec!["device".into(), summary.device.clone()],
            vec!["size".into(), show_size(summary.size_bytes)],
            vec!["allocation unit".into(), show_size(summary.au_bytes)],
            vec!["page".into(), show_size(summary.page_bytes.into())],
            vec!["directory slots".into(), summary.home_slots.to_string()],
            vec!["used by files".into(), show_size(summary.used_bytes)],
            vec!["files".into(), summary.files.to_string()],
            vec!["redundancy".into(), "external".into()],
        ];
        table(&["", ""], lines)
    })?;
    Ok(Exit::Done)
}

async fn check(options: VolumeOptions) -> Outcome {
    let findings = device::check(&options.device).await?;
    let sound = findings.iter().all(|f| f.ok);
    let object = json!({ "sound": sound, "checks": findings });
    options.output.emit(object, || {
        let rows = findings.iter().map(|f| {
            vec![
                if f.ok { "ok" } else { "WRONG" }.into(),
                f.what.clone(),
                f.detail.clone(),
            ]
        });
        table(&["", "check", "found"], rows.collect())
    })?;
    Ok(if sound { Exit::Done } else { Exit::Failed })
}
