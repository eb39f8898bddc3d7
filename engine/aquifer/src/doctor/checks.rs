//! The checks. They only read; the lock check uses a temporary file of its own.

use super::{Check, Level};
use aquifer_dss::net::MEMORY;
use rustix::fs::{Access, Mode, OFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::time::Instant;

/// Longest I/O that the default timing assumes, in milliseconds.
const LONGEST_IO_MS: f64 = 1000.0;
/// Reads of the latency check.
const PROBES: usize = 200;
/// What three nodes take in each other's memory, in bytes, and some more.
const LEAST_PEER_MEMORY: u64 = 8 << 20;

/// All checks, those of the device only when there is one.
pub fn all(device: Option<&Path>) -> Vec<Check> {
    let mut checks = vec![
        kernel(),
        io_uring(),
        clock(),
        locks(),
        memory(),
        huge_pages(),
        peer_memory(),
    ];
    if let Some(path) = device {
        checks.extend(of_device(path));
    }
    checks
}

fn kernel() -> Check {
    let name = rustix::system::uname();
    Check::new(
        "kernel",
        Level::Ok,
        format!(
            "{} {}",
            name.sysname().to_string_lossy(),
            name.release().to_string_lossy()
        ),
    )
}

fn io_uring() -> Check {
    match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .as_deref()
        .map(str::trim)
    {
        Ok("0") => Check::new("io_uring", Level::Ok, "allowed"),
        Ok(_) => Check::new(
            "io_uring",
            Level::Warning,
            "forbidden by kernel.io_uring_disabled: plain reads and writes are used",
        ),
        Err(_) => Check::new(
            "io_uring",
            Level::Warning,
            "this kernel does not say; plain reads and writes are used if it has none",
        ),
    }
}

/// CLOCK_BOOTTIME must move, and never backwards.
fn clock() -> Check {
    let mut steps = Vec::new();
    let mut last = crate::units::boottime();
    for _ in 0..100_000 {
        let now = crate::units::boottime();
        if now < last {
            return Check::new(
                "clock",
                Level::Bad,
                "CLOCK_BOOTTIME went backwards: leases cannot be trusted on this machine",
            );
        }
        if now > last {
            steps.push(now - last);
        }
        last = now;
    }
    match steps.iter().min() {
        Some(step) => Check::new(
            "clock",
            Level::Ok,
            format!("CLOCK_BOOTTIME rises in steps of {step} ns or more"),
        ),
        None => Check::new("clock", Level::Bad, "CLOCK_BOOTTIME stands still"),
    }
}

/// Two open file descriptions of one file must exclude each other: the proof of death rests on it (HZ-17).
fn locks() -> Check {
    let path = std::env::temp_dir().join(format!("aquifer-doctor-{}", std::process::id()));
    let result = lock_twice(&path);
    let _ = std::fs::remove_file(&path);
    match result {
        Ok(true) => Check::new(
            "locks",
            Level::Ok,
            "locks of open file descriptions exclude each other",
        ),
        Ok(false) => Check::new(
            "locks",
            Level::Bad,
            "a second lock of the same file was granted: fencing proves nothing here",
        ),
        Err(e) => Check::new(
            "locks",
            Level::Bad,
            format!("locks of open file descriptions do not work: {e}"),
        ),
    }
}

fn lock_twice(path: &Path) -> std::io::Result<bool> {
    let open = || {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    let (first, second) = (open()?, open()?);
    ofd_lock(&first)?;
    match ofd_lock(&second) {
        Ok(()) => Ok(false),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(true),
        Err(e) => Err(e),
    }
}

fn ofd_lock(file: &std::fs::File) -> std::io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open as long as `file`, and the kernel only reads the structure.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

fn memory() -> Check {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    match available {
        Some(kib) if kib < 512 * 1024 => Check::new(
            "memory",
            Level::Warning,
            format!("{} MiB available: use a small --buffer", kib / 1024),
        ),
        Some(kib) => Check::new("memory", Level::Ok, format!("{} MiB available", kib / 1024)),
        None => Check::new("memory", Level::Warning, "unknown"),
    }
}

/// Nodes of one machine give each other messages through memory.
fn peer_memory() -> Check {
    let name = "peer memory";
    let over_sockets = |why: &str| {
        let what = format!(
            "{why} {MEMORY}: messages between nodes of this machine go over sockets, which is slower"
        );
        Check::new(name, Level::Warning, what)
    };
    if rustix::fs::access(MEMORY, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return over_sockets("no access to");
    }
    match rustix::fs::statvfs(MEMORY) {
        Ok(space) if space.f_bavail * space.f_frsize < LEAST_PEER_MEMORY => {
            over_sockets("too little room in")
        }
        Ok(space) => {
            let free = (space.f_bavail * space.f_frsize) >> 20;
            Check::new(name, Level::Ok, format!("{free} MiB free in {MEMORY}"))
        }
        Err(_) => over_sockets("no figures of"),
    }
}

/// Nodes ask for transparent huge pages for their page memory.
fn huge_pages() -> Check {
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    let given = std::fs::read_to_string(file).unwrap_or_default();
    // The choice that holds is in brackets.
    let chosen = given.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    match chosen.map(|(choice, _)| choice) {
        Some("always" | "madvise") => Check::new("huge pages", Level::Ok, "given to nodes that ask for them"),
        Some(choice) => Check::new(
            "huge pages",
            Level::Warning,
            format!("`{choice}` in {file}: a large --buffer is slower; write `madvise` there"),
        ),
        None => Check::new(
            "huge pages",
            Level::Warning,
            "this kernel gives none: a large --buffer is slower",
        ),
    }
}

fn of_device(path: &Path) -> Vec<Check> {
    let shown = path.display();
    let attributes = match std::fs::metadata(path) {
        Ok(attributes) => attributes,
        Err(e) => return vec![Check::new("device", Level::Bad, format!("{shown}: {e}"))],
    };
    let kind = attributes.file_type();
    let what = match (attributes.is_file(), kind.is_block_device()) {
        (true, _) => "file",
        (_, true) => "block device",
        _ => {
            return vec![Check::new(
                "device",
                Level::Bad,
                format!("{shown} is neither a file nor a block device"),
            )];
        }
    };
    let mut checks = vec![Check::new("device", Level::Ok, format!("{shown} is a {what}"))];
    let direct = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC,
        Mode::empty(),
    );
    match direct {
        Ok(descriptor) => {
            checks.push(Check::new("direct I/O", Level::Ok, "O_DIRECT works"));
            checks.push(alignment(&descriptor));
            checks.push(latency(descriptor));
        }
        Err(e) => checks.push(Check::new(
            "direct I/O",
            Level::Bad,
            format!("O_DIRECT is refused ({e}): put the device on ext4, xfs or a block device"),
        )),
    }
    checks
}

fn alignment(descriptor: &OwnedFd) -> Check {
    let wanted = rustix::fs::StatxFlags::from_bits_retain(0x2000);
    match rustix::fs::statx(descriptor, "", rustix::fs::AtFlags::EMPTY_PATH, wanted) {
        Ok(found) if found.stx_mask & 0x2000 != 0 && found.stx_dio_offset_align > 0 => {
            let (memory, offset) = (found.stx_dio_mem_align, found.stx_dio_offset_align);
            let level = if offset <= 4096 && memory <= 4096 {
                Level::Ok
            } else {
                Level::Bad
            };
            Check::new(
                "alignment",
                level,
                format!("offsets to {offset} bytes, memory to {memory} bytes"),
            )
        }
        _ => Check::new(
            "alignment",
            Level::Warning,
            "the kernel does not say; 4096 bytes are assumed",
        ),
    }
}

/// Reads at random places, against the longest I/O that the leases assume.
fn latency(descriptor: OwnedFd) -> Check {
    let file = std::fs::File::from(descriptor);
    let mut buffer = aquifer_dss::seam::IoBuffer::zeroed(8192);
    let size = file.metadata().map(|m| m.len()).unwrap_or(0).max(1 << 20);
    let mut random = crate::units::boottime() | 1;
    let mut times = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let offset = (random >> 11) % (size / 8192) * 8192;
        let began = Instant::now();
        if let Err(e) = file.read_at(&mut buffer, offset) {
            return Check::new(
                "latency",
                Level::Bad,
                format!("reading 8 KiB at {offset} failed: {e}"),
            );
        }
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let (median, worst) = (times[PROBES / 2], times[PROBES - 1]);
    let level = if worst < LONGEST_IO_MS {
        Level::Ok
    } else {
        Level::Bad
    };
    Check::new(
        "latency",
        level,
        format!(
            "8 KiB read: median {median:.3} ms, worst {worst:.3} ms; leases assume at most {LONGEST_IO_MS} ms"
        ),
    )
}
