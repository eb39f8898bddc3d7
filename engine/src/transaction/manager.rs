//! The transactions of this node, and what this node knows of others.

use super::cache::FinalCache;
use super::commit::StatusStore;
use super::scn::{CeilingStore, ScnService, Snapshot};
use crate::rpc::{EngineRequest, EngineResponse, Reply, Rpc};
use crate::{Blocked, Error};
use aquifer_buffer_pool::Redo;
use aquifer_buffer_pool_proto::Scn;
use aquifer_dss::seam::Runtime;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, NodeId, NodeSet, View};
use aquifer_engine_proto::{TreeId, TxnId, TxnStatus};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Limits of the transaction manager.
#[derive(Clone, Copy, Debug)]
pub struct TransactionConfig {
    /// Final answers kept, twice at most.
    pub cached_answers: usize,
    /// Longest wait for a row; `None` waits as long as it takes (deadlocks are found all the same).
    pub lock_timeout: Option<Duration>,
    /// How long a wait lasts before, and between, searches for a deadlock.
    pub deadlock_check: Duration,
    /// Sequence numbers left below which a new range is wanted.
    pub low_sequences: u64,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            cached_answers: 1 << 16,
            lock_timeout: Some(Duration::from_secs(10)),
            deadlock_check: Duration::from_millis(100),
            low_sequences: 512,
        }
    }
}

/// A row that a transaction goes on from.
pub(super) type Intent = (TreeId, Vec<u8>);

/// A transaction or sub-transaction that has not been forgotten.
pub(super) struct Entry {
    /// Of a sub-transaction only `Active` (follow the root) and `Aborted` (rolled back alone).
    pub status: TxnStatus,
    /// Itself for a top transaction.
    pub root: TxnId,
    /// Sub-transactions of a top transaction.
    pub children: Vec<TxnId>,
    /// What a top transaction waits for now.
    pub waits_for: Option<TxnId>,
    /// Told when the status is final.
    pub waiters: Vec<oneshot::Sender<()>>,
    /// Rows that a top transaction goes on from (TXN-8).
    pub intents: Vec<Intent>,
    /// The row for whose intents a top transaction waits now.
    pub waits_for_intents: Option<Intent>,
}

pub(super) struct State {
    pub view: Arc<View>,
    pub active: BTreeMap<TxnId, Entry>,
    pub cache: FinalCache,
    sequences: VecDeque<Range<u64>>,
    /// Own sequences from here on have not begun; `None` before the first range.
    to_come: Option<u64>,
    /// Questions to other nodes: one is out per node, the next one gathers.
    questions: BTreeMap<NodeId, Questions>,
}

#[derive(Default)]
struct Questions {
    asking: bool,
    waiting: BTreeMap<TxnId, Vec<oneshot::Sender<TxnStatus>>>,
}

/// What one statement has learned of others' transactions, for its own snapshot: "active" is an answer here, because
/// the snapshot is older than the answer (TXN-2). Cleared whenever a new snapshot is taken.
#[derive(Clone, Debug, Default)]
pub struct Resolutions(BTreeMap<TxnId, TxnStatus>);

impl Resolutions {
    /// Nothing learned.
    pub fn new() -> Self {
        Self::default()
    }

    /// An answer of [`TransactionManager::resolve`]; replaces an earlier one.
    pub fn insert(&mut self, txn: TxnId, status: TxnStatus) {
        self.0.insert(txn, status);
    }

    /// Forgets one answer: the transaction has been waited for.
    pub fn forget(&mut self, txn: TxnId) {
        self.0.remove(&txn);
    }

    /// Forgets everything: a new snapshot is taken.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// One per node.
pub struct TransactionManager {
    pub(super) rt: Arc<dyn Runtime>,
    pub(super) rpc: Arc<Rpc>,
    pub(super) me: NodeId,
    pub(super) config: TransactionConfig,
    pub(super) redo: Arc<dyn Redo>,
    pub(super) store: Arc<dyn StatusStore>,
    pub(super) scns: Arc<ScnService>,
    pub(super) epoch: watch::Sender<Epoch>,
    pub(super) state: Mutex<State>,
}

impl TransactionManager {
    /// A manager without sequence numbers ([`add_sequences`](Self::add_sequences)) and without a view.
    pub fn start(
        rt: Arc<dyn Runtime>,
        rpc: Arc<Rpc>,
        me: NodeId,
        config: TransactionConfig,
        redo: Arc<dyn Redo>,
        store: Arc<dyn StatusStore>,
        ceiling: Arc<dyn CeilingStore>,
    ) -> Arc<Self> {
        let scns = ScnService::start(rt.clone(), rpc.clone(), me, ceiling);
        let state = State {
            view: Arc::new(View::none()),
            active: BTreeMap::new(),
            cache: FinalCache::new(config.cached_answers),
            sequences: VecDeque::new(),
            to_come: None,
            questions: BTreeMap::new(),
        };
        let state = Mutex::new(state);
        Arc::new(Self {
            rt,
            rpc,
            me,
            config,
            redo,
            store,
            scns,
            epoch: watch::Sender::new(Epoch(0)),
            state,
        })
    }

    /// A view is in force: who left is proven dead. Called after `Rpc::install_view` and before the pool serves the view's
    /// epoch (TXN-5). Every waiter looks again. See [`ScnService::install_view`] for `joined` and `highest_ceiling`.
    pub fn install_view(&self, view: Arc<View>, joined: NodeSet, highest_ceiling: Scn) {
        self.state.lock().view = view.clone();
        self.scns.install_view(&view, joined, highest_ceiling);
        self.epoch.send_replace(view.epoch);
    }

    /// The node's SCN service.
    pub const fn scns(&self) -> &Arc<ScnService> {
        &self.scns
    }

    /// A snapshot that covers everything acknowledged anywhere before this call.
    pub async fn snapshot(&self) -> Snapshot {
        self.scns.snapshot().await
    }

    /// Whether a new range of sequence numbers should be taken from the status file's header now.
    pub fn wants_sequences(&self) -> bool {
        let state = self.state.lock();
        state
            .sequences
            .iter()
            .map(|range| range.end - range.start)
            .sum::<u64>()
            < self.config.low_sequences
    }

    /// Sequence numbers that were durably taken for this node and never used.
    pub fn add_sequences(&self, range: Range<u64>) {
        assert!(range.start < range.end, "a range has numbers");
        let mut state = self.state.lock();
        state.to_come.get_or_insert(range.start);
        state.sequences.push_back(range);
    }

    /// Begins a transaction; `None` when there is no sequence number left.
    pub fn begin(&self) -> Option<TxnId> {
        let mut state = self.state.lock();
        let txn = self.next_id(&mut state)?;
        let entry = Entry {
            status: TxnStatus::Active,
            root: txn,
            children: Vec::new(),
            waits_for: None,
            waiters: Vec::new(),
            intents: Vec::new(),
            waits_for_intents: None,
        };
        state.active.insert(txn, entry);
        Some(txn)
    }

    /// Begins a sub-transaction of the top transaction `root`, for what follows a savepoint. `None` as in `begin`.
    pub fn begin_child(&self, root: TxnId) -> Option<TxnId> {
        let mut state = self.state.lock();
        let txn = self.next_id(&mut state)?;
        let parent = state
            .active
            .get_mut(&root)
            .expect("a sub-transaction is begun in an active one");
        assert!(
            parent.status == TxnStatus::Active && parent.root == root,
            "{root} takes no sub-transaction"
        );
        parent.children.push(txn);
        let entry = Entry {
            status: TxnStatus::Active,
            root,
            children: Vec::new(),
            waits_for: None,
            waiters: Vec::new(),
            intents: Vec::new(),
            waits_for_intents: None,
        };
        state.active.insert(txn, entry);
        Some(txn)
    }

    fn next_id(&self, state: &mut State) -> Option<TxnId> {
        let range = state.sequences.front_mut()?;
        let sequence = range.start;
        range.start += 1;
        state.to_come = Some(range.start);
        if range.start == range.end {
            state.sequences.pop_front();
        }
        Some(TxnId::new(self.me, sequence))
    }

    /// Rolls a sub-transaction back alone: what it wrote is as if never written.
    pub fn abort_child(&self, child: TxnId) {
        let mut state = self.state.lock();
        let entry = state
            .active
            .get_mut(&child)
            .expect("a sub-transaction lives until its root ends");
        assert!(
            entry.root != child && entry.status == TxnStatus::Active,
            "{child} is no active sub-transaction"
        );
        entry.status = TxnStatus::Aborted;
        let waiters = std::mem::take(&mut entry.waiters);
        drop(state);
        wake(waiters);
    }

    /// Rolls a transaction back. Nothing is written: without a commit record it is aborted.
    pub fn abort(&self, txn: TxnId) {
        self.finish(txn, TxnStatus::Aborted);
    }

    /// How many top transactions have begun and not ended.
    pub fn active_transactions(&self) -> usize {
        self.state
            .lock()
            .active
            .iter()
            .filter(|(txn, entry)| **txn == entry.root)
            .count()
    }

    /// Publishes the end of a top transaction and of its sub-transactions.
    pub(super) fn finish(&self, txn: TxnId, status: TxnStatus) {
        let mut state = self.state.lock();
        let entry = state.active.remove(&txn).expect("a transaction ends once");
        assert!(entry.root == txn, "{txn} is a sub-transaction");
        assert!(
            entry.status == TxnStatus::Committing || status == TxnStatus::Aborted,
            "{txn} was not published as committing"
        );
        state.cache.insert(txn, status);
        let mut waiters = entry.waiters;
        for child in entry.children {
            let entry = state
                .active
                .remove(&child)
                .expect("children live as long as their root");
            let aborted = entry.status == TxnStatus::Aborted;
            state
                .cache
                .insert(child, if aborted { TxnStatus::Aborted } else { status });
            waiters.extend(entry.waiters);
        }
        drop(state);
        wake(waiters);
    }

    /// The status of a transaction if it is known here and now. `learned` is what the statement found out before.
    pub fn status(&self, txn: TxnId, learned: &Resolutions) -> Result<TxnStatus, Blocked> {
        if let Some(status) = self.local_status(&self.state.lock(), txn) {
            return Ok(status);
        }
        if txn.node().is_none() {
            return Err(Blocked::Failed(Error::State(
                "a row names a transaction of no node",
            )));
        }
        learned.0.get(&txn).copied().ok_or(Blocked::Status(txn))
    }

    pub(super) fn local_status(&self, state: &State, txn: TxnId) -> Option<TxnStatus> {
        if let Some(entry) = state.active.get(&txn) {
            let own = entry.root == txn || entry.status == TxnStatus::Aborted;
            return Some(if own {
                entry.status
            } else {
                state.active[&entry.root].status
            });
        }
        state.cache.get(txn)
    }

    /// Finds the status out: from its node, or from the status pages of a node that is not in the view. The answer goes
    /// into the statement's [`Resolutions`].
    pub async fn resolve(self: &Arc<Self>, txn: TxnId) -> Result<TxnStatus, Error> {
        let node = txn
            .node()
            .ok_or(Error::State("a row names a transaction of no node"))?;
        loop {
            let member = {
                let state = self.state.lock();
                if let Some(status) = self.local_status(&state, txn) {
                    return Ok(status);
                }
                state.view.contains(node)
            };
            if !member || node == self.me {
                return match self.stored_status(txn).await? {
                    TxnStatus::Active => Err(Error::State("a row names a transaction that has not begun")),
                    ended => Ok(ended),
                };
            }
            let mut view = self.epoch.subscribe();
            let answered = self.ask(node, txn);
            tokio::select! {
                biased;
                answer = answered => match answer {
                    Ok(status) => return Ok(status),
                    // The node has left or refused: look again, not at once.
                    Err(_) => self.rt.sleep(Duration::from_millis(5)).await,
                },
                _ = view.changed() => {}
            }
        }
    }

    /// The status as its page has it: final, since whoever ran the transaction has ended it or is proven dead. One of this node that
    /// has not begun is as good as active (TXN-10): only a peer or a damaged row names it, and it may still commit.
    pub(super) async fn stored_status(&self, txn: TxnId) -> Result<TxnStatus, Error> {
        let own = txn.node() == Some(self.me);
        let to_come = self.state.lock().to_come;
        if own && to_come.is_some_and(|to_come| txn.sequence() >= to_come) {
            return Ok(TxnStatus::Active);
        }
        let status = self
            .store
            .read(txn)
            .await?
            .filter(|_| !planted(Defect::UnstampedIsAborted))
            .map_or(TxnStatus::Aborted, TxnStatus::Committed);
        // Before the first range nobody knows what has not begun.
        if !own || to_come.is_some() {
            self.state.lock().cache.insert(txn, status);
        }
        Ok(status)
    }

    /// Adds a question to the next batch for `node`.
    fn ask(self: &Arc<Self>, node: NodeId, txn: TxnId) -> oneshot::Receiver<TxnStatus> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state.lock();
        let questions = state.questions.entry(node).or_default();
        questions.waiting.entry(txn).or_default().push(answer);
        if !std::mem::replace(&mut questions.asking, true) {
            self.rt
                .spawn("status questions", Box::pin(self.clone().run_questions(node)));
        }
        answered
    }

    async fn run_questions(self: Arc<Self>, node: NodeId) {
        loop {
            let batch = {
                let mut state = self.state.lock();
                let questions = state
                    .questions
                    .get_mut(&node)
                    .expect("made by whoever asked first");
                let batch = std::mem::take(&mut questions.waiting);
                questions.asking = !batch.is_empty();
                batch
            };
            if batch.is_empty() {
                return;
            }
            let txns: Vec<_> = batch.keys().copied().collect();
            let answer = self.rpc.call(node, EngineRequest::Status(txns)).await;
            // On any failure the askers' channels close, and they look again.
            let Ok(EngineResponse::Status(answers)) = answer else {
                continue;
            };
            if answers.len() != batch.len() {
                continue;
            }
            let mut state = self.state.lock();
            for ((txn, askers), status) in batch.into_iter().zip(answers) {
                if status.is_final() {
                    state.cache.hear(txn, status);
                }
                for asker in askers {
                    // An asker that has gone needs no answer.
                    let _ = asker.send(status);
                }
            }
        }
    }

    /// Answers the requests of `Service::Engine` that are about time and transactions; the others are given back.
    pub fn handle(self: &Arc<Self>, from: NodeId, request: EngineRequest) -> Result<Reply, EngineRequest> {
        Ok(match request {
            EngineRequest::Scn(fetch) => self.scns.handle(from, fetch),
            EngineRequest::Status(txns) => self.answer_status(txns),
            EngineRequest::Wait(txn) => self.answer_wait(txn, None),
            EngineRequest::WaitIntent(txn, tree, key) => self.answer_wait(txn, Some(&(tree, key))),
            EngineRequest::WaitsFor(txn) => self.answer_waits_for(txn),
            EngineRequest::Intents(tree, key) => {
                Reply::Now(EngineResponse::Intents(self.intents(tree, &key)))
            }
            other => return Err(other),
        })
    }

    fn answer_status(self: &Arc<Self>, txns: Vec<TxnId>) -> Reply {
        let known: Vec<_> = {
            let state = self.state.lock();
            txns.iter().map(|txn| self.local_status(&state, *txn)).collect()
        };
        if txns.iter().any(|txn| txn.node() != Some(self.me)) {
            return Reply::Now(EngineResponse::Refused(
                "asked for another node's transaction".to_owned(),
            ));
        }
        if let Some(all) = known.iter().copied().collect::<Option<Vec<_>>>() {
            return Reply::Now(EngineResponse::Status(all));
        }
        let this = self.clone();
        Reply::Later(Box::pin(async move {
            let mut answers = Vec::with_capacity(txns.len());
            for (txn, known) in txns.into_iter().zip(known) {
                match known {
                    Some(status) => answers.push(status),
                    None => match this.stored_status(txn).await {
                        Ok(status) => answers.push(status),
                        Err(error) => return EngineResponse::Refused(error.to_string()),
                    },
                }
            }
            EngineResponse::Status(answers)
        }))
    }
}

pub(super) fn wake(waiters: Vec<oneshot::Sender<()>>) {
    for waiter in waiters {
        // A waiter that has gone needs no news.
        let _ = waiter.send(());
    }
}
