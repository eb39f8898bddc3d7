//! Asking for metadata operations from any node: to the leader, again after a loss or a change of leaders, done once.
//!
//! Rule DSS-4: a request keeps its number until it is answered, and the catalogue keeps its outcome until the asker
//! says that it has it. So a repetition, also to the next leader, is answered and not done again.

use super::error::StorageError;
use super::leader::Pending;
use super::volume_group::{CreateOptions, Role, VolumeGroup};
use crate::seam::Service;
use aquifer_dss_proto::catalog::{Operation, OperationError, Origin, Outcome, Record, Reply};
use aquifer_dss_proto::storage_message::StorageMessage;
use aquifer_dss_proto::{FileId, Incarnation, NodeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long an answer is waited for before the request is sent again.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// How long somebody waits for an answer in all.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long space is waited for that removed files still hold (HZ-7).
const SPACE_RETRIES: u32 = 20;

/// An answer: the outcome, and the journal entry it is in at the latest.
type Answer = (u64, Outcome);

/// Requests of this life of the node.
pub(super) struct Requests {
    session: u64,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    waiting: BTreeMap<u64, Option<oneshot::Sender<Answer>>>,
    /// Newest life of each peer that was heard: older ones are dead and their requests are not done.
    lives: BTreeMap<NodeId, Incarnation>,
}

impl Requests {
    pub(super) fn new(session: u64) -> Self {
        Self {
            session,
            open: Mutex::default(),
        }
    }

    /// This life of the node.
    pub(super) const fn session(&self) -> u64 {
        self.session
    }

    /// Completes a request; a second answer changes nothing.
    pub(super) fn answer(&self, session: u64, request: u64, answer: Answer) {
        if session != self.session {
            return;
        }
        let sender = self.open.lock().waiting.get_mut(&request).and_then(Option::take);
        if let Some(sender) = sender {
            // The asker may have gone: then nobody wants it.
            let _gone = sender.send(answer);
        }
    }

    /// Whether `incarnation` is the newest life of `node` that was heard.
    fn is_current(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let mut open = self.open.lock();
        let newest = open.lives.entry(node).or_insert(incarnation);
        *newest = (*newest).max(incarnation);
        *newest == incarnation
    }
}

/// A request that is open; it is closed when this goes.
struct Ticket<'a> {
    requests: &'a Requests,
    number: u64,
}

impl<'a> Ticket<'a> {
    fn take(requests: &'a Requests) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut open = requests.open.lock();
        open.last += 1;
        let number = open.last;
        open.waiting.insert(number, Some(sender));
        (Self { requests, number }, receiver)
    }

    /// Who asks; every request below the oldest open one has its answer.
    fn origin(&self, node: NodeId, time: u64) -> Origin {
        let open = self.requests.open.lock();
        let settled = open.waiting.keys().next().copied().unwrap_or(self.number);
        Origin {
            node,
            session: self.requests.session,
            request: self.number,
            settled,
            time,
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.requests.open.lock().waiting.remove(&self.number);
    }
}

impl VolumeGroup {
    /// Makes a file of `options.size` bytes, and the directories above it. One of the engine has space for them and
    /// undefined content; another is a hole.
    pub async fn create(&self, path: &str, options: CreateOptions) -> Result<FileId, StorageError> {
        let CreateOptions {
            size,
            kind,
            exclusive,
        } = options;
        let create = Operation::Create {
            path: path.into(),
            size,
            kind,
            exclusive,
        };
        self.file_of(path, self.submit(path, create).await?)
    }

    /// Grows a file of the engine to `size` bytes. Never shrinks; what is new has undefined content.
    pub async fn allocate(&self, file: FileId, size: u64) -> Result<(), StorageError> {
        let done = self.submit("", Operation::Allocate { file, size }).await;
        match done {
            Err(error) if error.is(OperationError::NotFound) => Err(StorageError::NoSuchFile(file)),
            done => done.map(drop),
        }
    }

    /// Removes a file or an empty directory. Its units are reused when every member let go of them (HZ-7).
    pub async fn remove(&self, path: &str) -> Result<(), StorageError> {
        self.submit(path, Operation::Remove { path: path.into() })
            .await
            .map(drop)
    }

    /// Moves a file or directory to a path that is free.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        self.submit(
            from,
            Operation::Rename {
                from: from.into(),
                to: to.into(),
            },
        )
        .await
        .map(drop)
    }

    /// Makes a directory and those above it; fine when it exists.
    pub async fn mkdir(&self, path: &str) -> Result<FileId, StorageError> {
        let made = self
            .submit(path, Operation::MakeDirectory { path: path.into() })
            .await?;
        self.file_of(path, made)
    }

    /// Sets a small cluster-wide value, or takes it away.
    pub async fn set_config(&self, key: &str, value: Option<&str>) -> Result<(), StorageError> {
        let operation = Operation::SetConfig {
            key: key.into(),
            value: value.map(String::from),
        };
        self.submit(key, operation).await.map(drop)
    }

    pub(super) fn file_of(&self, path: &str, reply: Reply) -> Result<FileId, StorageError> {
        match reply {
            Reply::File(file) => Ok(file),
            _ => Err(StorageError::Damaged(format!(
                "the leader named no file for {path}"
            ))),
        }
    }

    /// Has an operation done, wherever the leader is. When it returns, this node's catalogue shows it.
    pub(super) async fn submit(&self, path: &str, operation: Operation) -> Result<Reply, StorageError> {
        let mut retries = 0;
        loop {
            let (sequence, outcome) = self.ask(&operation).await?;
            self.catch_up_to(sequence).await?;
            let waiting =
                self.with_catalog(|catalog| catalog.awaited().is_some() || catalog.limbo().next().is_some());
            if outcome == Err(OperationError::NoSpace) && waiting && retries < SPACE_RETRIES {
                // Removed files still hold space, or a volume is joining: a fresh request, after the members let go.
                retries += 1;
                self.runtime.sleep(Duration::from_millis(50)).await;
                continue;
            }
            return outcome.map_err(|error| StorageError::Operation {
                path: path.into(),
                error,
            });
        }
    }

    /// One request until it is answered.
    async fn ask(&self, operation: &Operation) -> Result<Answer, StorageError> {
        let (ticket, mut receiver) = Ticket::take(&self.requests);
        let deadline = self.runtime.now() + PATIENCE;
        let mut role = self.role.subscribe();
        let time = self.runtime.wall_clock();
        loop {
            let current = *role.borrow_and_update();
            self.send_request(current, ticket.origin(self.me, time), operation);
            tokio::select! {
                biased;
                answer = &mut receiver => return answer.map_err(|_| StorageError::Unavailable),
                _changed = role.changed() => {}
                () = self.runtime.sleep(RETRANSMIT) => {}
            }
            if self.runtime.now() >= deadline {
                return Err(StorageError::Unavailable);
            }
        }
    }

    fn send_request(&self, role: Role, origin: Origin, operation: &Operation) {
        match role {
            Role::Leader { .. } => {
                let record = Record {
                    origin: Some(origin),
                    operation: operation.clone(),
                };
                self.enqueue(Pending {
                    record,
                    from: self.me,
                });
            }
            Role::Follower { leader: Some(leader) } => {
                self.send(
                    leader,
                    &StorageMessage::Request {
                        origin,
                        operation: operation.clone(),
                    },
                );
            }
            Role::Follower { leader: None } => {}
        }
    }

    pub(super) fn send(&self, to: NodeId, message: &StorageMessage) {
        if let Some(transport) = self.transport.lock().clone() {
            transport.send(to, Service::Storage, &message.encode(), None);
        }
    }

    /// A message of `Service::Storage`. Does not block.
    pub fn receive(self: &Arc<Self>, from: NodeId, incarnation: Incarnation, body: &[u8]) {
        let Some(message) = StorageMessage::decode(body) else {
            tracing::warn!(%from, "a storage message cannot be read");
            return;
        };
        if !self.requests.is_current(from, incarnation) {
            return;
        }
        if !self.has_part(from, &message) {
            tracing::debug!(%from, "a storage message of somebody who does not send it");
            return;
        }
        match message {
            StorageMessage::Request { origin, operation } if origin.node == from => {
                self.receive_request(from, origin, operation);
            }
            StorageMessage::Request { origin, .. } => {
                tracing::warn!(%from, claims = %origin.node, "a request in somebody else's name");
            }
            StorageMessage::Answer {
                session,
                request,
                sequence,
                outcome,
            } => {
                self.requests.answer(session, request, (sequence, outcome));
            }
            // The asker hears of the new leader by its view, and asks again then.
            StorageMessage::NotLeader { .. } => {}
            StorageMessage::Drain { through } => self.receive_drain(from, through),
            StorageMessage::Drained { through, held } => self.member_drained(from, through, &held),
            StorageMessage::Barrier { through } => self.receive_barrier(from, through),
            StorageMessage::Passed { through } => self.member_passed(from, through),
            StorageMessage::Mend(mend) => self.mend_later(mend),
            StorageMessage::Wanted { units } => self.heal_first(&units),
        }
    }

    /// DSS-10: members ask the leader, and the leader answers them.
    fn has_part(&self, from: NodeId, message: &StorageMessage) -> bool {
        match message {
            StorageMessage::Request { .. }
            | StorageMessage::Drained { .. }
            | StorageMessage::Mend(_)
            | StorageMessage::Wanted { .. }
            | StorageMessage::Passed { .. } => self.leadership.is_member(from),
            StorageMessage::Answer { .. }
            | StorageMessage::NotLeader { .. }
            | StorageMessage::Drain { .. }
            | StorageMessage::Barrier { .. } => {
                matches!(*self.role.borrow(), Role::Follower { leader } if leader.is_none_or(|leader| leader == from))
            }
        }
    }

    fn receive_request(&self, from: NodeId, origin: Origin, operation: Operation) {
        if self.leading().is_none() {
            let Origin { session, request, .. } = origin;
            self.send(from, &StorageMessage::NotLeader { session, request });
            return;
        }
        // What only a leader may say is refused from outside.
        if operation.is_leaders() {
            return;
        }
        self.enqueue(Pending {
            record: Record {
                origin: Some(origin),
                operation,
            },
            from,
        });
    }
}
