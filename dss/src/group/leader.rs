//! The storage leader: taking over the journal, group commit, and giving removed units back.
//!
//! Rules: everybody who may have written before is fenced when [`VolumeGroup::lead`] is called (HZ-18); one append is
//! in flight at a time and whatever arrives meanwhile goes into the next; an answer leaves after the flush (DSS-2);
//! what was removed is freed when every member of the view read the removal and finished its I/O, and of files that
//! are open somewhere when nobody has them open any more (HZ-7).

use super::error::StorageError;
use super::journal::Journal;
use super::moves::MOVER;
use super::volume_group::{Role, VolumeGroup};
use aquifer_dss_proto::catalog::{Limbo, Operation, Outcome, Record, Removed};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::storage_message::StorageMessage;
use aquifer_dss_proto::{Epoch, FileId, Instant, Member, NodeId, NodeSet};
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How often members that did not answer are asked again to let go of removed units.
const DRAIN_AGAIN: Duration = Duration::from_millis(200);
/// How often it is asked whether removed files are still open, when nothing else waits.
const HELD_AGAIN: Duration = Duration::from_secs(1);
/// Entries of limbo that one record releases, so that it fits a segment of any size.
pub(super) const RELEASED_AT_ONCE: usize = 256;
/// Bytes of a record beyond what its own encoding needs, when a batch is cut.
const BATCH_SLACK: usize = 128;

/// A record that waits to be appended.
pub(super) struct Pending {
    pub(super) record: Record,
    /// Who gets the answer.
    pub(super) from: NodeId,
}

/// Asking members to let go of what was removed up to a journal entry.
struct Drain {
    through: u64,
    waiting: NodeSet,
    /// Removed files that somebody has open.
    held: BTreeSet<FileId>,
    /// What the answers allow to free, once all are there.
    released: Vec<u64>,
    /// When the last answer came.
    ended: Instant,
}

/// What only a leader uses.
#[derive(Default)]
pub(super) struct Leadership {
    queue: Mutex<VecDeque<Pending>>,
    arrived: Notify,
    /// Whether the writing task runs.
    writing: Mutex<bool>,
    members: Mutex<Option<NodeSet>>,
    lives: Mutex<Vec<Member>>,
    drain: Mutex<Option<Drain>>,
}

impl Leadership {
    pub(super) fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Whether this node may ask for something. Before the layers above have named members everybody may.
    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.members.lock().is_none_or(|members| members.contains(node))
    }

    /// The lives of the view.
    pub(super) fn set_lives(&self, members: &[Member]) {
        *self.lives.lock() = members.to_vec();
    }

    /// What this node was to free, as the leader that it was before, is asked about again.
    fn forget_releases(&self) {
        let is_release = |pending: &Pending| matches!(pending.record.operation, Operation::Release { .. });
        self.queue.lock().retain(|pending| !is_release(pending));
        *self.drain.lock() = None;
    }

    pub(super) fn life_of(&self, node: NodeId) -> Option<Member> {
        self.lives.lock().iter().find(|life| life.node == node).copied()
    }

    /// The members of the view; who is gone is fenced and need not let go of anything.
    pub(super) fn set_members(&self, members: NodeSet) {
        *self.members.lock() = Some(members);
        // Start again with the members of now: a member that joined may have read the catalogue before the removal.
        *self.drain.lock() = None;
        self.wake();
    }
}

impl VolumeGroup {
    /// Takes the journal over in `epoch`: reads it to its end and stamps a fresh segment. Called once this node leads
    /// the view and everybody who led before is fenced (HZ-18); again for later views of the same leader.
    pub async fn lead(self: &Arc<Self>, epoch: Epoch) -> Result<(), StorageError> {
        let mut journal = self.journal.lock().await;
        if self.leading().is_none() {
            // Another leader may be discarding what was to be freed here.
            self.discards.forget();
            self.leadership.forget_releases();
            // What the dead left in flight has landed; make it durable before it is read (HZ-10).
            journal.flush().await?;
            self.read_forward(&mut journal).await?;
            while journal.complete().await? {
                self.read_forward(&mut journal).await?;
            }
            journal.require_end().await?;
            journal.find_checkpoint().await?;
        }
        if epoch < journal.tail.epoch {
            let newest = journal.tail.epoch;
            return Err(StorageError::Invalid(format!(
                "epoch {} is over: the journal has {}",
                epoch.0, newest.0
            )));
        }
        let lead = Record {
            origin: None,
            operation: Operation::Lead {
                epoch,
                leader: self.me,
                members: self.lives(),
            },
        };
        let catalog = || self.known.read().catalog.cut();
        journal
            .append(epoch, std::slice::from_ref(&lead), true, catalog)
            .await?;
        self.apply(&journal, &[lead]);
        self.role.send_replace(Role::Leader { epoch });
        drop(journal);
        self.wake(&MOVER);
        // When its entry was applied this node did not lead yet.
        self.legs_changed();
        let starts = !std::mem::replace(&mut *self.leadership.writing.lock(), true);
        if starts {
            let group = self.clone();
            self.runtime.spawn(
                "metadata journal",
                Box::pin(async move { group.write_journal().await }),
            );
        }
        self.leadership.wake();
        Ok(())
    }

    /// The lives of the view; this one alone when nobody named any.
    fn lives(&self) -> Vec<Member> {
        let lives = self.leadership.lives.lock().clone();
        if lives.is_empty() {
            vec![self.writer()]
        } else {
            lives
        }
    }

    pub(super) fn enqueue(&self, pending: Pending) {
        self.leadership.queue.lock().push_back(pending);
        self.leadership.wake();
    }

    /// Applies records that are durable, as the entry before the tail.
    fn apply(&self, journal: &Journal, records: &[Record]) -> Vec<Outcome> {
        let mut known = self.known.write();
        known.applied = journal.tail.sequence - 1;
        let sequence = known.applied;
        let outcomes = records
            .iter()
            .map(|record| known.catalog.apply(sequence, record))
            .collect();
        drop(known);
        self.volumes_changed();
        outcomes
    }

    /// The task that writes while this node leads.
    async fn write_journal(self: Arc<Self>) {
        loop {
            match self.write_batch().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    // What is on the device now is unknown: the next leader finds out (DSS-2).
                    return self
                        .runtime
                        .abort(&format!("the metadata journal cannot be written: {error}"));
                }
            }
            if self.leading().is_none() && self.stop_writing() {
                return;
            }
            let drains = self.drain_step();
            if self.barrier_step() || drains {
                tokio::select! {
                    biased;
                    () = self.leadership.arrived.notified() => {}
                    () = self.runtime.sleep(DRAIN_AGAIN) => {}
                }
            } else {
                self.leadership.arrived.notified().await;
            }
        }
    }

    /// Ends the writing task, unless this node leads again by now. Requests that wait are asked again by their askers.
    fn stop_writing(&self) -> bool {
        let mut writing = self.leadership.writing.lock();
        if self.leading().is_some() {
            return false;
        }
        *writing = false;
        self.discards.forget();
        self.leadership.queue.lock().clear();
        *self.leadership.drain.lock() = None;
        self.barrier.start_again();
        true
    }

    /// Appends what waits as one entry, and writes a piece of a checkpoint. False when there was nothing to do, or this node does not lead.
    async fn write_batch(&self) -> Result<bool, StorageError> {
        let mut journal = self.journal.lock().await;
        let Some(epoch) = self.leading() else {
            return Ok(false);
        };
        let batch = self.take_batch();
        if batch.is_empty() {
            return journal.write_checkpoint_piece().await;
        }
        let records: Vec<Record> = batch.iter().map(|pending| pending.record.clone()).collect();
        journal
            .append(epoch, &records, false, || self.known.read().catalog.cut())
            .await?;
        let outcomes = self.apply(&journal, &records);
        self.discards.look_at(&outcomes);
        let sequence = journal.tail.sequence - 1;
        for (pending, outcome) in batch.iter().zip(outcomes) {
            self.answer(pending, sequence, outcome);
        }
        if journal.wants_checkpoint() {
            journal.begin_checkpoint(|| self.known.read().catalog.cut());
        }
        journal.write_checkpoint_piece().await?;
        Ok(true)
    }

    /// As many of the waiting records as fit a segment. Repetitions of what is done are answered here (DSS-4).
    fn take_batch(&self) -> Vec<Pending> {
        let (mut batch, mut bytes) = (Vec::new(), BATCH_SLACK);
        loop {
            let Some(pending) = self.leadership.queue.lock().pop_front() else {
                return batch;
            };
            let known = self.known.read();
            let done = pending
                .record
                .origin
                .and_then(|origin| known.catalog.known_outcome(&origin));
            if let Some(outcome) = done {
                let applied = known.applied;
                drop(known);
                self.answer(&pending, applied, outcome);
                continue;
            }
            bytes += postcard::to_allocvec(&pending.record).map_or(usize::MAX / 2, |encoded| encoded.len());
            if bytes > self.label.segment_bytes as usize - BATCH_SLACK {
                if batch.is_empty() {
                    // Larger than any segment: no operation with sound names is. It is not done.
                    tracing::warn!(from = %pending.from, "a request is too large and is dropped");
                    continue;
                }
                self.leadership.queue.lock().push_front(pending);
                return batch;
            }
            batch.push(pending);
        }
    }

    fn answer(&self, pending: &Pending, sequence: u64, outcome: Outcome) {
        let Some(origin) = pending.record.origin else {
            return;
        };
        if pending.from == self.me {
            self.requests
                .answer(origin.session, origin.request, (sequence, outcome));
        } else {
            let (session, request) = (origin.session, origin.request);
            self.send(
                pending.from,
                &StorageMessage::Answer {
                    session,
                    request,
                    sequence,
                    outcome,
                },
            );
        }
    }

    /// Whom to ask: the members of the view, or this node when it is alone; `None` before anybody was named.
    pub(super) fn members_to_wait_for(&self) -> Option<NodeSet> {
        let alone = self.transport.lock().is_none();
        let members = *self.leadership.members.lock();
        members.or_else(|| alone.then(|| NodeSet::of(self.me)))
    }

    /// Asks members to let go of what was removed; true when somebody must be asked again later.
    fn drain_step(self: &Arc<Self>) -> bool {
        let Some(members) = self.members_to_wait_for() else {
            return false;
        };
        self.forfeit_of_others(members);
        let newest = self.with_catalog(|catalog| catalog.limbo().next_back().map(|limbo| limbo.sequence));
        let Some(newest) = newest else {
            *self.leadership.drain.lock() = None;
            return false;
        };
        let (through, waiting) = {
            let mut drain = self.leadership.drain.lock();
            let again = drain
                .as_ref()
                .is_none_or(|drain| self.is_time_again(drain, newest));
            if again {
                if planted(Defect::DiscardBeforePassed) {
                    self.discard_before_passed();
                }
                *drain = Some(Drain {
                    through: newest,
                    waiting: members,
                    held: BTreeSet::new(),
                    released: Vec::new(),
                    ended: self.runtime.now(),
                });
            }
            let Some(drain) = drain.as_ref() else { return false };
            (drain.through, drain.waiting)
        };
        for member in waiting.iter() {
            if member == self.me {
                self.receive_drain(member, through);
            } else {
                self.send(member, &StorageMessage::Drain { through });
            }
        }
        // Files that are held are asked for again when it is time.
        true
    }

    /// Whether an earlier question is answered, what it freed is free, and there is something new to ask.
    fn is_time_again(&self, drain: &Drain, newest: u64) -> bool {
        let is_free = |catalog: &aquifer_dss_proto::catalog::Catalog| {
            drain
                .released
                .iter()
                .all(|number| catalog.limbo_entry(*number).is_none())
        };
        drain.waiting.is_empty()
            && self.with_catalog(is_free)
            && (newest > drain.through || self.runtime.now() >= drain.ended + HELD_AGAIN)
    }

    /// What is set aside for nodes that are not in the view is free: they are fenced, or left.
    fn forfeit_of_others(&self, members: NodeSet) {
        let gone = self.with_catalog(|catalog| catalog.claimants());
        for life in gone.into_iter().filter(|life| !members.contains(life.node)) {
            self.enqueue_own(Operation::Forfeit {
                node: life.node,
                session: life.session,
            });
        }
    }

    /// Has a record of the leader itself appended.
    pub(super) fn enqueue_own(&self, operation: Operation) {
        let record = Record {
            origin: None,
            operation,
        };
        self.enqueue(Pending {
            record,
            from: self.me,
        });
    }

    /// Lets go of what was removed up to entry `through`, and says so to the leader, with the removed files that are
    /// open here.
    pub(super) fn receive_drain(self: &Arc<Self>, leader: NodeId, through: u64) {
        let group = self.clone();
        let let_go = async move {
            if group.catch_up_to(through).await.is_err() {
                return; // The leader asks again.
            }
            let removed = group.with_catalog(|catalog| catalog.removed_files(through));
            // The removal is applied here, so none of them is opened any more that is not open now.
            let held = group.open_files.held(&removed);
            let busy = group.with_catalog(|catalog| {
                let limbo = catalog.limbo().filter(|limbo| limbo.sequence <= through);
                let of_units =
                    limbo.filter(|limbo| limbo.what != Removed::File || !held.contains(&limbo.file));
                of_units.map(|limbo| limbo.file).collect::<Vec<_>>()
            });
            group.in_flight.wait_for(Some(&busy)).await;
            if leader == group.me {
                group.member_drained(leader, through, &held);
            } else {
                group.send(leader, &StorageMessage::Drained { through, held });
            }
        };
        self.runtime.spawn("let go of removed files", Box::pin(let_go));
    }

    /// A member let go. After the last one, what nobody has open is free.
    pub(super) fn member_drained(&self, member: NodeId, through: u64, held: &[FileId]) {
        let mut drain = self.leadership.drain.lock();
        let Some(current) = drain.as_mut().filter(|current| current.through == through) else {
            return;
        };
        if !current.waiting.remove(member) {
            return;
        }
        if !planted(Defect::FreeOpenFiles) {
            current.held.extend(held);
        }
        if !current.waiting.is_empty() {
            return;
        }
        let is_free = |limbo: &&Limbo| {
            limbo.sequence <= through && (limbo.what != Removed::File || !current.held.contains(&limbo.file))
        };
        let released: Vec<u64> = self.with_catalog(|catalog| {
            catalog
                .limbo()
                .filter(is_free)
                .map(|limbo| limbo.number)
                .collect()
        });
        current.released = self.discard_and_release(released);
        current.ended = self.runtime.now();
    }
}
