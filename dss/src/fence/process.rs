//! Processes by what their slot says: who am I, is it still there, kill it.

use crate::seam::ProcessIdentity;
use aquifer_dss_proto::defect::{Defect, planted};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A victim as found.
pub(super) enum Victim {
    /// No such process any more, or its number belongs to another one by now.
    Gone,
    /// It is there, perhaps as a zombie.
    Running(RunningProcess),
}

/// A process held by its pidfd.
pub(super) struct RunningProcess(OwnedFd);

impl RunningProcess {
    /// Sends SIGKILL; nothing happens when it has ended.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Until it has ended.
    pub async fn ended(self) -> io::Result<()> {
        // SAFETY: the descriptor is open, and owned by the `AsyncFd` from here to its end.
        let descriptor = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let descriptor = descriptor.map_err(io::Error::from)?;
        descriptor.readable().await.map(drop)
    }
}

/// The process of a slot written on this boot, in this PID namespace.
pub(super) fn open_victim(identity: &ProcessIdentity) -> io::Result<Victim> {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else {
        return Ok(Victim::Gone);
    };
    let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(Victim::Gone),
        Err(error) => return Err(error.into()),
    };
    match start_ticks(&format!("/proc/{}/stat", identity.pid)) {
        Ok(ticks) if ticks == identity.start_ticks || planted(Defect::KillWithoutStartTime) => {
            Ok(Victim::Running(RunningProcess(descriptor)))
        }
        Ok(_) => Ok(Victim::Gone),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(Victim::Gone),
        Err(error) => Err(error),
    }
}

/// This process.
pub(super) fn own_identity() -> io::Result<ProcessIdentity> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(ProcessIdentity {
        pid: std::process::id(),
        start_ticks: start_ticks("/proc/self/stat")?,
        pid_namespace: std::fs::metadata("/proc/self/ns/pid")?.ino(),
        boot_id: parse_boot_id(boot.trim()).ok_or_else(|| unexpected("boot_id"))?,
    })
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} in /proc is not as expected"),
    )
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let number = u128::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
    (digits.len() == 32).then_some(number.to_be_bytes())
}

/// Field 22 of a `stat` file. The name of the process, field 2, may hold blanks and parentheses.
fn start_ticks(path: &str) -> io::Result<u64> {
    let stat = std::fs::read_to_string(path)?;
    let rest = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest)
        .ok_or_else(|| unexpected("stat"))?;
    let ticks = rest
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok());
    ticks.ok_or_else(|| unexpected("stat"))
}
