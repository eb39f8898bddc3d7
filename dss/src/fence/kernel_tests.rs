//! What the kernel does with writes in flight when a node is killed (HZ-17): the whole fence rests on it.
//!
//! The victim is this test binary again: it holds the lock of its slot through the same open file description as its
//! io_uring, as a node does, and keeps many large writes in flight. It is killed; from the moment its lock is seen free no
//! write of it may reach the device. On a loop device of its own the test also asks the kernel what is in flight at that
//! moment: nothing. The counter-test takes the lock through a description of its own, and there writes are in flight when the
//! lock is free.

use super::tests::open;
use super::*;
use crate::device::{OpenMode, open_device};
use crate::seam::{BlockDevice, IoBuffer};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant as Clock;

const VICTIM: &str = "AQUIFER_FENCE_RING_VICTIM";
const SHARED: &str = "AQUIFER_FENCE_SHARED_DESCRIPTION";

/// Writes in flight, and the bytes of each.
const WRITERS: u64 = 64;
const WRITE: usize = 256 << 10;
/// Where they go: behind the slots.
const AREA: u64 = 8 << 20;
const SIZE: u64 = AREA + WRITERS * WRITE as u64;

fn node() -> NodeId {
    NodeId::new(3).expect("3 is a node")
}

fn place(writer: u64) -> u64 {
    AREA + writer * WRITE as u64
}

/// Not a test: the victim.
#[test]
fn ring_victim() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let device = open_device(path.as_ref(), OpenMode::Uring).unwrap();
        let another = open(&path);
        let taken = if std::env::var(SHARED).is_ok() {
            lock::take(device.descriptor(), slot_offset(node()))
        } else {
            lock::take(another.as_fd(), slot_offset(node()))
        };
        assert!(taken.unwrap());
        println!("\nheld");
        for writer in 0..WRITERS {
            let device = device.clone();
            tokio::spawn(async move {
                let mut buffer = IoBuffer::zeroed(WRITE);
                for round in 1u64.. {
                    buffer.fill((round % 250) as u8 + 1);
                    buffer = device.write(place(writer), buffer).await.unwrap();
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

/// The victim, killed and reaped when this goes.
struct Victim(Child);

impl Victim {
    fn start(path: &str, shared: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["fence::kernel_tests::ring_victim", "--exact", "--nocapture"])
            .env(VICTIM, path)
            .stdout(Stdio::piped());
        if shared {
            command.env(SHARED, "1");
        }
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let held = lines.map_while(Result::ok).any(|line| line == "held");
        assert!(held, "the victim took its lock");
        Self(child)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_area(file: &File) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(WRITERS as usize * WRITE);
    file.read_exact_at(&mut buffer, AREA).unwrap();
    buffer
}

/// Requests that the kernel has in flight on a loop device of the test's own.
fn in_flight(path: &str) -> u64 {
    let Some(name) = path.strip_prefix("/dev/loop") else {
        return 0;
    };
    let text = std::fs::read_to_string(format!("/sys/block/loop{name}/inflight")).unwrap();
    text.split_whitespace()
        .map(|count| count.parse::<u64>().unwrap())
        .sum()
}

/// One kill, `after_us` microseconds after the writes have begun. Whether a write landed behind the lock's end.
fn kill_once(path: &str, shared: bool, after_us: u64) -> bool {
    let file = open(path);
    file.write_all_at(&IoBuffer::zeroed(WRITERS as usize * WRITE), AREA)
        .unwrap();
    let mut victim = Victim::start(path, shared);
    let mut block = IoBuffer::zeroed(4096);
    while block[0] == 0 {
        file.read_exact_at(&mut block, place(WRITERS - 1)).unwrap();
    }
    let kill_at = Clock::now() + Duration::from_micros(after_us);
    while Clock::now() < kill_at {
        std::hint::spin_loop();
    }
    victim.0.kill().unwrap();
    while lock::look(file.as_fd(), slot_offset(node())).unwrap() == LockState::Held {
        std::hint::spin_loop();
    }
    let mut late = in_flight(path) > 0;
    let first = read_area(&file);
    late |= first[..] != read_area(&file)[..];
    let mut ours = IoBuffer::zeroed(WRITERS as usize * WRITE);
    ours.fill(0xEE);
    file.write_all_at(&ours, AREA).unwrap();
    for _ in 0..4 {
        late |= ours[..] != read_area(&file)[..];
    }
    // The end of the process comes after its descriptors: nothing of it is left now.
    victim.0.wait().unwrap();
    late | (ours[..] != read_area(&file)[..])
}

/// A file of the right size, removed when this goes.
struct Backing(String);

impl Backing {
    fn new(name: &str) -> Self {
        let directory = std::env::var("CARGO_TARGET_TMPDIR").unwrap_or_else(|_| "/var/tmp".to_owned());
        let path = format!("{directory}/aquifer-kernel-{}-{name}", std::process::id());
        let file = File::create(&path).unwrap();
        // Written, not sparse: a write that has to allocate is not in flight, it waits in the file system.
        file.write_all_at(&vec![0; SIZE as usize], 0).unwrap();
        file.sync_all().unwrap();
        Self(path)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A loop device over a file, detached when this goes; `None` where this user may not make one.
struct Loop(String);

impl Loop {
    fn over(backing: &Backing) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on", &backing.0])
            .output()
            .ok()?;
        let device = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !device.is_empty()).then_some(Self(device))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// Whether a ring can be had here at all; without one nodes use threads, and those end with the process.
fn has_ring(path: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { open_device(path.as_ref(), OpenMode::Uring).is_ok() })
}

fn nothing_lands_late(path: &str) {
    if !has_ring(path) {
        println!("no io_uring here");
        return;
    }
    for round in 0..12 {
        assert!(
            !kill_once(path, true, round * 331),
            "round {round}: a write landed on {path} after the lock was free"
        );
    }
}

#[test]
fn no_write_of_a_killed_ring_reaches_a_file_once_its_lock_is_free() {
    nothing_lands_late(&Backing::new("file").0);
}

#[test]
fn no_write_of_a_killed_ring_reaches_a_loop_device_once_its_lock_is_free() {
    let backing = Backing::new("loop");
    match Loop::over(&backing) {
        Some(device) => nothing_lands_late(&device.0),
        None => println!("no loop device can be made by this user"),
    }
}

#[test]
fn a_lock_through_another_description_is_free_while_writes_still_land() {
    let backing = Backing::new("other");
    let Some(device) = Loop::over(&backing).filter(|device| has_ring(&device.0)) else {
        println!("no loop device can be made by this user, or no io_uring here");
        return;
    };
    let late = (0..60).any(|round| kill_once(&device.0, false, round * 97));
    assert!(late, "the test sees what it is there to see");
}
