//! Moving units of files from volumes that are drained, by the storage leader, while everybody reads and writes.
//!
//! The states and rules of a move are in the catalogue (`dss/proto/src/catalog/moves.rs`, MOV-n). Here is the leader's
//! task: begin, wait for the barrier, copy, make the copy durable, end. A new leader goes on with what the catalogue says: the
//! one before is fenced, so it copies no more, and a copy that was not ended is made again.

use super::error::StorageError;
use super::volume_group::{Role, VolumeGroup};
use super::worker::Worker;
use aquifer_dss_proto::catalog::{Extent, Move, MoveState, Operation, OperationError};
use aquifer_dss_proto::{FileId, Instant};
use parking_lot::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Configuration key: bytes that are copied in a second at most.
pub const MOVE_RATE_KEY: &str = "volumes.move_bytes_per_second";
/// ... when nothing is configured.
const MOVE_RATE: u64 = 256 << 20;
/// Bytes of a move, when units are smaller: writers of these wait while they are copied.
const MOVE_BYTES: u64 = 4 << 20;
/// Units of a move at most.
const MOVE_UNITS: u64 = 4;
/// Bytes that are copied at a time.
const COPY_BYTES: u64 = 1 << 20;
/// How often the mover looks whether the journal has what it waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long until a move that failed, or found no space, is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// The rate that is shown is that of this time.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// What the leader knows of its moves.
#[derive(Default)]
pub(super) struct Mover {
    running: AtomicBool,
    progress: Mutex<Progress>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) moved: u64,
    /// Where the window of the rate began, and how much was moved then.
    window: Option<(Instant, u64)>,
    pub(super) before: u64,
    pub(super) problem: Option<Problem>,
}

/// Why units stay where they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The other volumes have no space.
    NoSpace,
    /// A device failed.
    Device,
}

/// How far draining is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveStatus {
    /// Bytes that are still on volumes that are drained.
    pub left: u64,
    /// Bytes that this node moved, as the storage leader.
    pub moved: u64,
    /// Bytes in a second, of the last seconds; 0 at nodes that do not lead.
    pub rate: u64,
    /// Why it does not go on.
    pub problem: Option<Problem>,
}

impl Progress {
    pub(super) fn add(&mut self, now: Instant, bytes: u64) {
        self.moved += bytes;
        match self.window {
            Some((begun, moved)) if now < begun + RATE_WINDOW => {
                self.before = rate(self.moved - moved, begun, now);
            }
            _ => self.window = Some((now, self.moved)),
        }
    }
}

fn rate(bytes: u64, from: Instant, to: Instant) -> u64 {
    let nanoseconds = u128::from(to.0.saturating_sub(from.0).max(1));
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

/// What the leader does next.
enum Step {
    Copy(Move),
    Begin(FileId, Extent),
    /// The journal has to go on first.
    Wait,
    /// There is nothing to move.
    Done,
}

/// Runs when there is something to move; where it looks for the next unit goes from step to step.
pub(super) static MOVER: Worker<FileId> = Worker {
    name: "move units",
    running: |group| &group.mover.running,
    is_needed: |group| {
        group.with_catalog(|catalog| catalog.units_to_move() > 0 || catalog.moves().next().is_some())
    },
    step: |group, cursor| Box::pin(group.move_step(cursor)),
};

impl VolumeGroup {
    fn next_step(&self, cursor: FileId) -> Step {
        self.with_catalog(|catalog| {
            let copying = catalog.moves().find(|unit| unit.state == MoveState::Copying);
            if let Some(unit) = copying {
                return Step::Copy(*unit);
            }
            let freezing = |unit: &Move| matches!(unit.state, MoveState::Freezing { .. });
            if catalog.moves().any(freezing) {
                return Step::Wait;
            }
            let most = (MOVE_BYTES / catalog.au_bytes()).clamp(1, MOVE_UNITS);
            match catalog.next_to_move(cursor, most as u32) {
                Some((file, from)) => Step::Begin(file, from),
                None if catalog.units_to_move() > 0 || catalog.moves().next().is_some() => Step::Wait,
                None => Step::Done,
            }
        })
    }

    /// One step; false when there is none, or this node does not lead.
    async fn move_step(&self, cursor: &mut FileId) -> bool {
        if self.leading().is_none() {
            return false;
        }
        match self.next_step(*cursor) {
            Step::Done => return false,
            Step::Wait => self.runtime.sleep(LOOK_AGAIN).await,
            Step::Begin(file, from) => {
                *cursor = file;
                self.begin_move(file, from).await;
            }
            Step::Copy(unit) => self.finish_move(&unit).await,
        }
        true
    }

    /// Has a record of the leader appended; fails when this node leads no more.
    pub(super) async fn append_as_leader(&self, operation: Operation) -> Result<(), StorageError> {
        let mut role = self.role.subscribe();
        tokio::select! {
            biased;
            done = self.submit("move", operation) => done.map(drop),
            _ = role.wait_for(|role| !matches!(role, Role::Leader { .. })) => Err(StorageError::Unavailable),
        }
    }

    async fn begin_move(&self, file: FileId, from: Extent) {
        let Err(error) = self.append_as_leader(Operation::BeginMove { file, from }).await else {
            self.mover.progress.lock().problem = None;
            return;
        };
        if error.is(OperationError::NotFound) {
            return; // The file changed meanwhile.
        }
        tracing::warn!(%error, "a volume cannot be drained yet");
        self.mover.progress.lock().problem = Some(Problem::NoSpace);
        self.runtime.sleep(TRY_AGAIN).await;
    }

    /// Copies units that nobody writes to, and gives them to the file.
    async fn finish_move(&self, unit: &Move) {
        let number = unit.number;
        let begun = self.runtime.now();
        let copied = self.copy_units(unit.file, &unit.from, &unit.to).await;
        if self.leading().is_none() {
            return;
        }
        match copied {
            Ok(bytes) => {
                let ended = self.append_as_leader(Operation::EndMove { number }).await;
                if ended.is_ok() {
                    self.mover.progress.lock().add(self.runtime.now(), bytes);
                    self.rest(begun, bytes).await;
                }
            }
            Err(error) => {
                tracing::error!(%error, file = unit.file.0, from = ?unit.from, "units cannot be moved; it is tried again");
                self.mover.progress.lock().problem = Some(Problem::Device);
                // Whether it was done is seen in the catalogue.
                let _done = self.append_as_leader(Operation::CancelMove { number }).await;
                self.runtime.sleep(TRY_AGAIN).await;
            }
        }
    }

    /// Keeps to the rate, while nobody waits for the units that were moved.
    pub(super) async fn rest(&self, begun: Instant, bytes: u64) {
        let configured = self.with_catalog(|catalog| {
            let value = catalog.config(MOVE_RATE_KEY);
            value.and_then(|value| value.parse().ok())
        });
        let rate: u64 = configured.unwrap_or(MOVE_RATE).max(1);
        self.pace(begun, bytes, rate).await;
    }

    /// Waits until `bytes` since `begun` are no more than `rate` in a second.
    pub(super) async fn pace(&self, begun: Instant, bytes: u64, rate: u64) {
        let earliest = begun + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        if self.runtime.now() < earliest {
            self.runtime.sleep_until(earliest).await;
        }
    }

    async fn copy_units(&self, file: FileId, from: &Extent, to: &Extent) -> Result<u64, StorageError> {
        let (au_bytes, source_offset, target_offset) =
            self.with_catalog(|catalog| (catalog.au_bytes(), catalog.offset_of(from), catalog.offset_of(to)));
        let bytes = u64::from(from.count) * au_bytes;
        let mut done = 0;
        while done < bytes {
            let length = COPY_BYTES.min(bytes - done);
            let in_file = u64::from(from.unit) * au_bytes + done;
            let buffer = self
                .read_place_judged(file, in_file, from.volume, source_offset + done, length as usize)
                .await?;
            self.write_fresh(to.volume, target_offset + done, buffer).await?;
            done += length;
        }
        self.flush_volume(to.volume).await?;
        Ok(bytes)
    }

    /// How far draining is.
    pub fn move_status(&self) -> MoveStatus {
        let left = self.with_catalog(|catalog| catalog.units_to_move() * catalog.au_bytes());
        let progress = *self.mover.progress.lock();
        MoveStatus {
            left,
            moved: progress.moved,
            rate: if self.leading().is_some() {
                progress.before
            } else {
                0
            },
            problem: progress.problem.filter(|_| left > 0),
        }
    }
}
