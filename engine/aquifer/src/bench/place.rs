//! A scratch place for a benchmark: a directory with a fresh device, taken away afterwards.

use crate::cluster::initialise;
use crate::failure::Failure;
use crate::load::{LocalCluster, LocalOptions};
use aquifer_dss::group::GroupOptions;
use std::ops::Deref;
use std::path::{Path, PathBuf};

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
pub struct Scratch(PathBuf);

impl Scratch {
    /// A fresh one for the benchmark `name`, in `parent` or where the system has temporary ones.
    pub fn make(parent: Option<&Path>, name: &str) -> Result<Self, Failure> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let directory =
            std::path::absolute(parent.join(format!("aquifer-bench-{name}-{}", std::process::id())))
                .map_err(Failure::usage)?;
        std::fs::create_dir_all(&directory)
            .map_err(|e| Failure::usage(format!("cannot make {}: {e}", directory.display())))?;
        Ok(Self(directory))
    }
}

impl Deref for Scratch {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where the nodes of a benchmark have their devices and logs.
pub struct Place {
    /// The directory.
    pub directory: Scratch,
    buffer: String,
}

impl PlaceOptions {
    /// Makes the directory.
    pub fn make(&self, name: &str) -> Result<Place, Failure> {
        Ok(Place {
            directory: Scratch::make(self.dir.as_deref(), name)?,
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
            logs: self.directory.to_path_buf(),
            buffer: self.buffer.clone(),
            keep: false,
        };
        LocalCluster::start(options, nodes).await
    }
}
