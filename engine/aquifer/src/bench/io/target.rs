//! What is measured on: a plain file, and a loop device where this user may make one.

use crate::bench::place::Scratch;
use crate::failure::Failure;
use crate::output::note;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Space of a device beyond the file: metadata, two checkpoints with room for a million files.
const METADATA: u64 = 512 << 20;

/// A place for a volume group.
pub struct Target {
    /// "file" or "loop".
    pub name: &'static str,
    /// The file or device.
    pub path: PathBuf,
}

/// The scratch devices of this run. Everything goes when this is dropped.
pub struct Targets {
    directory: Scratch,
    list: Vec<Target>,
    looped: Option<PathBuf>,
}

impl Targets {
    /// Devices with space for a file of `size` bytes, in a fresh directory in `parent`.
    pub fn make(parent: Option<&Path>, size: u64) -> Result<Self, Failure> {
        let mut targets = Self {
            directory: Scratch::make(parent, "io")?,
            list: Vec::new(),
            looped: None,
        };
        let file = targets.backing("file.img", size)?;
        targets.list.push(Target {
            name: "file",
            path: file,
        });
        let backing = targets.backing("loop.img", size)?;
        match loop_device(&backing) {
            Ok(path) => {
                targets.looped = Some(path.clone());
                targets.list.push(Target { name: "loop", path });
            }
            Err(why) => note(format!("bench io: SKIPPED the loop device: {why}")),
        }
        Ok(targets)
    }

    fn backing(&self, name: &str, size: u64) -> Result<PathBuf, Failure> {
        let path = self.directory.join(name);
        crate::device::create(&path, size + METADATA)?;
        Ok(path)
    }

    /// Each of them.
    pub fn list(&self) -> &[Target] {
        &self.list
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        if let Some(path) = &self.looped {
            let _ = Command::new("losetup").arg("--detach").arg(path).status();
        }
    }
}

fn loop_device(backing: &Path) -> Result<PathBuf, String> {
    let output = Command::new("losetup")
        .args(["--find", "--show", "--direct-io=on"])
        .arg(backing)
        .output()
        .map_err(|e| format!("losetup: {e}"))?;
    if output.status.success() {
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
