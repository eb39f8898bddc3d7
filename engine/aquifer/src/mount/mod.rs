//! `aquifer fs mount`: a POSIX mount of a volume group, by a process that is a member of the cluster.
//!
//! Rules:
//! - MNT-1 close-to-open between mounts: what was closed or synced on one is seen by whoever opens, looks up or stats
//!   afterwards on another: each path is looked up anew. Of a file that is open the kernel keeps size and times for a second, so
//!   that `fstat` and `lseek` of a program that has it open may be a second behind another node; cached pages of a file go when it
//!   is opened and the catalogue says that somebody else changed it;
//! - MNT-2 writes go to the device before they return (the kernel's write-back cache would keep sizes and times of
//!   its own, against MNT-1); they are durable after fsync;
//! - MNT-3 a file that is removed while it is open lives on, also when it is open on another node only;
//! - MNT-4 locks (flock, fcntl) are the kernel's of this mount: they do not reach other nodes;
//! - MNT-5 the engine's files are seen and can be read, and nobody changes them here.

mod attributes;
mod cache;
mod filesystem;
mod handles;

use crate::daemon::{self, NodeSettings};
use crate::failure::{Failure, Outcome};
use crate::units::{Address, absolute, node_id, parse_size};
use aquifer_dss::group::VolumeGroup;
use filesystem::PoolFilesystem;
use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Threads that answer the kernel: so many operations are on their way at once.
const THREADS: usize = 16;

/// Options of `fs mount`.
#[derive(Clone, Debug, clap::Args)]
pub struct MountOptions {
    /// Name of the volume group.
    vg: String,
    /// Directory to mount on.
    directory: PathBuf,
    /// Number of this node, 1 to 64.
    #[arg(long, env = "AQUIFER_ID", value_name = "N")]
    id: u8,
    /// Device of the volume group.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: PathBuf,
    /// Where the other nodes connect: HOST:PORT or unix:PATH [default: a socket beside the admin socket].
    #[arg(long, env = "AQUIFER_PEER", value_name = "ADDR")]
    peer: Option<String>,
    /// Socket for admin commands, in a directory that only this user can enter.
    #[arg(long, env = "AQUIFER_ADMIN", value_name = "PATH")]
    admin: Option<PathBuf>,
    /// Memory for pages of the database, which a mount hardly uses.
    #[arg(long, default_value = "8M", value_parser = parse_size)]
    buffer: u64,
    /// Append the log to this file instead of stderr.
    #[arg(long, env = "AQUIFER_LOG", value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Runs it until it is unmounted or stopped.
pub async fn run(options: MountOptions) -> Outcome {
    daemon::logging(options.log.as_deref())?;
    let id = node_id(options.id)?;
    let device = absolute(&options.device)?;
    let admin = match &options.admin {
        Some(path) => absolute(path)?,
        None => aquifer_member::default_admin(id.get(), &device),
    };
    let peer = match &options.peer {
        Some(text) => crate::node::peer_address(text)?,
        None => Address::Unix(admin.with_extension("peer")),
    };
    let directory = absolute(&options.directory)?;
    clear_dead_mount(&directory)?;
    let settings = NodeSettings {
        id,
        devices: vec![device],
        sql: None,
        peer,
        peer_memory: true,
        lost_side: None,
        admin,
        buffer: options.buffer,
        log: options.log,
        mount: Some((options.vg, directory)),
    };
    daemon::run(settings).await
}

/// Takes a mount away whose process is gone; refuses what is no directory.
fn clear_dead_mount(directory: &Path) -> Result<(), Failure> {
    let shown = directory.display();
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage(format!("{shown} is not a directory"))),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            rustix::mount::unmount(directory, rustix::mount::UnmountFlags::DETACH).map_err(|e| {
                Failure::failed(format!(
                    "cannot take the dead mount {shown} away: {e}; try `umount -l {shown}`"
                ))
            })
        }
        Err(e) => Err(Failure::usage(format!("cannot look at {shown}: {e}"))),
    }
}

/// A mounted directory.
pub struct Mounted {
    directory: PathBuf,
    unmounter: SessionUnmounter,
    ended: oneshot::Receiver<()>,
}

impl Mounted {
    /// Mounts `group`, which must be called `vg`.
    pub fn start(group: &Arc<VolumeGroup>, vg: &str, directory: &Path) -> Result<Self, Failure> {
        let failed =
            |e: std::io::Error| Failure::unavailable(format!("cannot mount on {}: {e}", directory.display()));
        let name = &group.label().name;
        if name != vg {
            return Err(Failure::usage(format!(
                "the device has volume group `{name}`, not `{vg}`"
            )));
        }
        let seen = Arc::new(cache::Seen::default());
        let filesystem = PoolFilesystem::new(group.clone(), seen.clone(), tokio::runtime::Handle::current());
        let mut session = Session::new(filesystem, directory, &config(name)).map_err(failed)?;
        let notifier = session.notifier();
        seen.follow(move |file| {
            // The kernel may have forgotten the file by itself: then there is nothing to drop.
            if let Err(error) = notifier.inval_inode(fuser::INodeNo(file.0), 0, 0) {
                tracing::debug!(%error, file = file.0, "the kernel keeps its pages of a file");
            }
        });
        let unmounter = session.unmount_callable();
        let (done, ended) = oneshot::channel();
        let run = move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "the mount ended");
            }
            // Nobody waits when the node stops first.
            let _gone = done.send(());
        };
        std::thread::Builder::new()
            .name("mount".into())
            .spawn(run)
            .map_err(failed)?;
        Ok(Self {
            directory: directory.to_owned(),
            unmounter,
            ended,
        })
    }

    /// Returns when somebody unmounted the directory.
    pub async fn ended(&mut self) {
        // The other end goes with the session.
        let _ended = (&mut self.ended).await;
    }

    /// Unmounts the directory, also while programs use it: their next calls fail.
    pub async fn end(mut self) {
        let unmounted = tokio::task::spawn_blocking(move || {
            if let Err(error) = self.unmounter.unmount() {
                tracing::warn!(%error, "the directory is in use: it is detached");
                let detached = rustix::mount::unmount(&self.directory, rustix::mount::UnmountFlags::DETACH);
                if let Err(error) = detached {
                    tracing::warn!(%error, "the directory stays mounted");
                }
            }
        });
        if unmounted.await.is_err() {
            tracing::error!("unmounting panicked");
        }
    }
}

fn config(name: &str) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(name.to_owned()),
        MountOption::Subtype("aquifer".into()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
    ];
    // Other users' programs only when root mounts: who else does, would need a line in /etc/fuse.conf.
    config.acl = if rustix::process::geteuid().is_root() {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}
