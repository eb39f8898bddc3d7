//! A scratch place for a benchmark: a directory with a fresh device, taken away afterwards.

use crate::cluster::initialise;
use crate::failure::Failure;
use crate::load::{LocalCluster, LocalOptions};
use aquifer_dss::group::GroupOptions;
use std::path::PathBuf;

/// Where a benchmark runs.
#[derive(Clone, Debug, clap::Args)]
pub struct PlaceOptions {
    /// Directory for the scratch device and logs [default: a temporary one].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Memory for pages of each node.
    #[arg(long, default_value = "128M")]
    buffer: String,
}

/// A directory of this run. Everything in it goes when this is dropped.
pub struct Place {
    /// The directory.
    pub directory: PathBuf,
    buffer: String,
}

impl PlaceOptions {
    /// Makes the directory.
    pub fn make(&self, name: &str) -> Result<Place, Failure> {
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let directory =
            std::path::absolute(parent.join(format!("aquifer-bench-{name}-{}", std::process::id())))
                .map_err(Failure::usage)?;
        std::fs::create_dir_all(&directory)
            .map_err(|e| Failure::usage(format!("cannot make {}: {e}", directory.display())))?;
        Ok(Place {
            directory,
            buffer: self.buffer.clone(),
        })
    }
}

impl Place {
    /// A cluster of `nodes` nodes on a fresh device.
    pub async fn cluster(&self, nodes: u8) -> Result<LocalCluster, Failure> {
        let device = self.directory.join(format!("device-{nodes}.img"));
        let group = GroupOptions {
            name: "bench".to_owned(),
            ..GroupOptions::default()
        };
        initialise(&device, &group, Some(8 << 30)).await?;
        let options = LocalOptions {
            device,
            logs: self.directory.clone(),
            buffer: self.buffer.clone(),
            keep: false,
        };
        LocalCluster::start(options, nodes).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
