//! `aquifer fs`: the files of a volume group, read straight from the device.
//!
//! A path may be written `vg:/path`; the name before the colon is only for the reader, the device says which group it is.

use crate::device::{self, FileEntry};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, note, print_bytes, table};
use crate::units::show_size;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Bytes that are read at once.
const CHUNK: u64 = 1 << 20;

/// `fs ...`.
#[derive(Debug, clap::Subcommand)]
pub enum FileCommand {
    /// List a directory
    Ls(PathOptions),
    /// Size and extents of a file
    Stat(PathOptions),
    /// Content of a file on stdout
    Cat(CatOptions),
    /// Copy a file out of the volume group
    Cp(CopyOptions),
}

/// A path and the device.
#[derive(Clone, Debug, clap::Args)]
pub struct PathOptions {
    /// Path in the volume group.
    #[arg(default_value = "/")]
    path: String,
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
    #[command(flatten)]
    output: OutputOptions,
}

/// Options of `fs cat`.
#[derive(Clone, Debug, clap::Args)]
pub struct CatOptions {
    /// Path in the volume group.
    path: String,
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
}

/// Options of `fs cp`.
#[derive(Clone, Debug, clap::Args)]
pub struct CopyOptions {
    /// Path in the volume group.
    from: String,
    /// File outside; must not exist.
    to: PathBuf,
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
}

impl FileCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        match self {
            Self::Ls(options) => ls(options).await,
            Self::Stat(options) => stat(options).await,
            Self::Cat(options) => {
                copy(&options.device, &options.path, print_bytes).await?;
                Ok(Exit::Done)
            }
            Self::Cp(options) => copy_out(options).await,
        }
    }
}

/// The path without the name of its group.
fn inner(path: &str) -> &str {
    match path.split_once(':') {
        Some((group, path)) if !group.contains('/') => path,
        _ => path,
    }
}

async fn ls(options: PathOptions) -> Outcome {
    let group = device::OfflineGroup::open(&options.device).await?;
    let entries = group.list(inner(&options.path))?;
    options.output.emit(json!({ "entries": entries }), || {
        table(&["name", "kind", "id", "size"], entries.iter().map(row).collect())
    })?;
    Ok(Exit::Done)
}

fn row(entry: &FileEntry) -> Vec<String> {
    vec![
        entry.name.clone(),
        entry.kind.clone(),
        entry.id.to_string(),
        show_size(entry.size),
    ]
}

async fn stat(options: PathOptions) -> Outcome {
    let group = device::OfflineGroup::open(&options.device).await?;
    let entry = group.stat(inner(&options.path))?;
    options.output.emit(json!(entry), || {
        let mut lines = vec![
            vec!["name".into(), entry.name.clone()],
            vec!["kind".into(), entry.kind.clone()],
            vec!["id".into(), entry.id.to_string()],
            vec![
                "size".into(),
                format!("{} ({} bytes)", show_size(entry.size), entry.size),
            ],
        ];
        lines.extend(entry.extents.iter().map(|(unit, volume, start, count)| {
            vec![
                "extent".into(),
                format!(
                    "from unit {unit}: volume {volume}, units {start} to {}",
                    start + count - 1
                ),
            ]
        }));
        table(&["", ""], lines)
    })?;
    Ok(Exit::Done)
}

async fn copy_out(options: CopyOptions) -> Outcome {
    let shown = options.to.display().to_string();
    let mut file = std::fs::File::create_new(&options.to)
        .map_err(|e| Failure::usage(format!("cannot make {shown}: {e}")))?;
    let failed = |e: std::io::Error| Failure::failed(format!("writing {shown} failed: {e}"));
    let copied = copy(&options.device, &options.from, |bytes| {
        file.write_all(bytes).map_err(failed)
    })
    .await;
    match copied.and_then(|bytes| file.sync_all().map(|()| bytes).map_err(failed)) {
        Ok(bytes) => {
            note(format!("copied {} to {shown}", show_size(bytes)));
            Ok(Exit::Done)
        }
        Err(failure) => {
            let _ = std::fs::remove_file(&options.to);
            Err(failure)
        }
    }
}

async fn copy(
    device: &std::path::Path,
    path: &str,
    mut sink: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let group = device::OfflineGroup::open(device).await?;
    let entry = group.stat(inner(path))?;
    if entry.kind == "directory" {
        return Err(Failure::usage(format!("{path} is a directory")));
    }
    let mut offset = 0;
    while offset < entry.size {
        let length = CHUNK.min(entry.size - offset);
        let bytes = group.read(&entry, offset, length).await?;
        sink(&bytes)?;
        offset += length;
    }
    Ok(entry.size)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_group_name_is_taken_off() {
        assert_eq!(super::inner("main:/a/b"), "/a/b");
        assert_eq!(super::inner("/a:b"), "/a:b");
    }
}
