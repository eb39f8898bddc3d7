//! Real processes: this test binary runs itself again as the victim.

use super::*;
use crate::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::defect::fails_with;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

const VICTIM: &str = "AQUIFER_FENCE_VICTIM";

pub(super) fn open(path: &str) -> Arc<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    Arc::new(options.open(path).unwrap())
}

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Not a test: the victim holds the lock of node 3 and writes for ever, through the same description.
#[test]
fn victim() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let file = open(&path);
    assert!(lock::take(file.as_fd(), slot_offset(node(3))).unwrap());
    let identity = own_identity().unwrap();
    println!("\nheld {} {}", identity.pid, identity.start_ticks);
    let buffer = crate::seam::IoBuffer::zeroed(1 << 20);
    for round in 0u64.. {
        file.write_all_at(&buffer, (1 + round % 4) << 20).unwrap();
    }
}

struct Rig {
    path: String,
    child: Child,
    identity: ProcessIdentity,
}

impl Rig {
    fn new(name: &str) -> Self {
        let directory = std::env::var("CARGO_TARGET_TMPDIR").unwrap_or_else(|_| "/var/tmp".to_owned());
        static RIGS: AtomicU64 = AtomicU64::new(0);
        let number = RIGS.fetch_add(1, Ordering::Relaxed);
        let path = format!("{directory}/aquifer-fence-{}-{number}-{name}", std::process::id());
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["fence::tests::victim", "--exact", "--nocapture"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines
            .map(|line| line.unwrap())
            .find(|line| line.starts_with("held "))
            .unwrap();
        let mut fields = line.split(' ').skip(1).map(|field| field.parse::<u64>().unwrap());
        let (pid, start_ticks) = (fields.next().unwrap() as u32, fields.next().unwrap());
        let identity = ProcessIdentity {
            pid,
            start_ticks,
            ..own_identity().unwrap()
        };
        Self {
            path,
            child,
            identity,
        }
    }

    fn fencer(&self) -> (LocalFencer, Instant) {
        let runtime = Arc::new(TokioRuntime::current());
        let deadline = runtime.now() + Duration::from_secs(10);
        (
            LocalFencer::new(runtime, vec![open(&self.path)]).unwrap(),
            deadline,
        )
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

#[tokio::test]
async fn a_writing_process_is_killed_and_its_lock_is_free_afterwards() {
    let rig = Rig::new("kill");
    let (fencer, deadline) = rig.fencer();
    assert!(matches!(fencer.hold(node(3)), Err(FenceError::SlotBusy(_))));
    assert_eq!(fencer.observe(node(3), Incarnation(1)).unwrap(), LockState::Held);
    fencer
        .fence(node(3), Incarnation(1), rig.identity.clone(), deadline)
        .await
        .unwrap();
    assert_eq!(fencer.observe(node(3), Incarnation(1)).unwrap(), LockState::Free);
    fencer
        .fence(node(3), Incarnation(1), rig.identity.clone(), deadline)
        .await
        .unwrap();
    fencer.hold(node(3)).unwrap();
}

#[tokio::test]
async fn a_stopped_process_holds_its_lock_and_can_be_fenced() {
    let rig = Rig::new("stop");
    let (fencer, deadline) = rig.fencer();
    let pid = rustix::process::Pid::from_raw(rig.identity.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    assert_eq!(fencer.observe(node(3), Incarnation(1)).unwrap(), LockState::Held);
    fencer
        .fence(node(3), Incarnation(1), rig.identity.clone(), deadline)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_never_seen_held_or_is_another_process_is_neither_proof_nor_killed() {
    let mut rig = Rig::new("proof");
    let (fencer, deadline) = rig.fencer();
    let elsewhere = ProcessIdentity {
        boot_id: [7; 16],
        ..rig.identity.clone()
    };
    let result = fencer
        .fence(node(3), Incarnation(1), elsewhere.clone(), deadline)
        .await;
    assert!(matches!(result, Err(FenceError::NoProof(_))), "{result:?}");
    let soon = fencer.runtime.now() + Duration::from_millis(20);
    assert_eq!(fencer.observe(node(3), Incarnation(1)).unwrap(), LockState::Held);
    let result = fencer.fence(node(3), Incarnation(1), elsewhere, soon).await;
    assert!(matches!(result, Err(FenceError::StillAlive(_))), "{result:?}");
    let reused = ProcessIdentity {
        start_ticks: 1,
        ..rig.identity.clone()
    };
    let later = fencer.runtime.now() + Duration::from_millis(300);
    let result = fencer.fence(node(3), Incarnation(1), reused, later).await;
    assert!(
        matches!(result, Err(FenceError::StillAlive(_))),
        "not killed, and the lock is held: {result:?}"
    );
    assert!(
        rig.child.try_wait().unwrap().is_none(),
        "another process is not killed"
    );
    let myself = fencer.identity();
    let result = fencer.fence(node(3), Incarnation(1), myself, soon).await;
    assert!(matches!(result, Err(FenceError::System { .. })), "{result:?}");
}

/// A volume that the victim did not lock, or that is another inode here, is as good as never seen.
#[tokio::test]
async fn a_lock_held_on_one_of_two_volumes_is_not_seen_held() {
    let rig = Rig::new("volumes");
    let second = format!("{}-second", rig.path);
    File::create(&second).unwrap().set_len(8 << 20).unwrap();
    let runtime = Arc::new(TokioRuntime::current());
    let deadline = runtime.now() + Duration::from_secs(10);
    let fencer = LocalFencer::new(runtime, vec![open(&rig.path), open(&second)]).unwrap();
    let seen = fencer.observe(node(3), Incarnation(1));
    std::fs::remove_file(&second).unwrap();
    assert!(matches!(seen, Err(FenceError::System { .. })), "{seen:?}");
    let elsewhere = ProcessIdentity {
        boot_id: [7; 16],
        ..rig.identity.clone()
    };
    let result = fencer.fence(node(3), Incarnation(1), elsewhere, deadline).await;
    assert!(matches!(result, Err(FenceError::NoProof(_))), "{result:?}");
}

#[test]
fn each_rule_of_the_fence_is_missed_when_it_is_gone() {
    let proof: fn() = what_was_never_seen_held_or_is_another_process_is_neither_proof_nor_killed;
    assert!(fails_with(Defect::TrustLockNeverSeenHeld, proof));
    assert!(fails_with(Defect::KillWithoutStartTime, proof));
    let volumes = a_lock_held_on_one_of_two_volumes_is_not_seen_held;
    assert!(fails_with(Defect::TrustLockOfOneVolume, volumes));
}
