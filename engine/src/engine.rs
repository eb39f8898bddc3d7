//! What the parts of an engine share, and the loop that turns `Blocked` into waiting.
//!
//! Rules:
//! - ENG-1 nobody waits for a row while holding a page;
//! - ENG-2 no result leaves while the lease is not valid (HZ-14);
//! - ENG-3 a step that writes begins only when the redo ring has room;
//! - ENG-4 a scan reads ahead of itself (`session/ahead.rs`).

use crate::copies::Kept;
use crate::mtr::{Appended, RedoSink};
use crate::node::{NodeRedo, Reform};
use crate::space::FileSizes;
use crate::transaction::{Resolutions, TransactionManager};
use crate::tree::{ROOT, Tree};
use crate::waits::{WaitCause, Waits};
use crate::{Blocked, Error};
use aquifer_buffer_pool::{Hold, Pool, PoolError};
use aquifer_buffer_pool_proto::{Lsn, Mode, PageId, Psn, Stamp};
use aquifer_dss::group::VolumeGroup;
use aquifer_dss::seam::Runtime;
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_engine_proto::page::{PageKind, kind_of};
use aquifer_engine_proto::{RedoRecord, TreeId, TxnId};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, watch};

/// Says whether a result may leave now.
pub type LeaseCheck = Box<dyn Fn() -> bool + Send + Sync>;

/// Transactions over the shared pages, at one node. Made by [`Node`](crate::node::Node); serves once the node has its redo stream.
pub struct Engine {
    pub(crate) me: NodeId,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) group: Arc<VolumeGroup>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) redo: Arc<NodeRedo>,
    pub(crate) txns: Arc<TransactionManager>,
    pub(crate) sizes: Arc<FileSizes>,
    pub(crate) lease: LeaseCheck,
    pub(crate) catalog: OnceLock<TreeId>,
    pub(crate) serving: watch::Sender<bool>,
    /// Somebody should take sequence numbers.
    pub(crate) want_sequences: Notify,
    /// Counts the ranges taken.
    pub(crate) sequences_taken: watch::Sender<u64>,
    /// The last view change.
    pub(crate) reform: Mutex<Reform>,
    pub(crate) waits: Waits,
    /// Trees of one page, when their root was last acquired here.
    pub(crate) small: SmallTrees,
    pub(crate) kept: Kept,
}

/// The parts of a node that its engine works with.
pub(crate) struct EngineParts {
    pub runtime: Arc<dyn Runtime>,
    pub group: Arc<VolumeGroup>,
    pub pool: Arc<Pool>,
    pub redo: Arc<NodeRedo>,
    pub txns: Arc<TransactionManager>,
    pub lease: LeaseCheck,
}

/// Who runs a step: waits are charged to it, and what it learned of other transactions is kept here.
pub(crate) struct Runner<'a> {
    /// The top transaction, if it has an id.
    pub txn: Option<TxnId>,
    /// Answers of this statement.
    pub learned: &'a mut Resolutions,
}

impl Engine {
    /// An engine that does not serve yet.
    pub(crate) fn new(me: NodeId, parts: EngineParts) -> Arc<Self> {
        let EngineParts {
            runtime,
            group,
            pool,
            redo,
            txns,
            lease,
        } = parts;
        Arc::new(Self {
            me,
            runtime,
            group,
            pool,
            redo,
            txns,
            sizes: Arc::new(FileSizes::default()),
            lease,
            catalog: OnceLock::new(),
            serving: watch::Sender::new(false),
            want_sequences: Notify::new(),
            sequences_taken: watch::Sender::new(0),
            reform: Mutex::default(),
            waits: Waits::default(),
            small: SmallTrees::default(),
            kept: Kept::default(),
        })
    }

    /// This node.
    pub const fn node(&self) -> NodeId {
        self.me
    }

    /// The tree that the SQL layer keeps its tables in.
    pub fn catalog_tree(&self) -> TreeId {
        *self
            .catalog
            .get()
            .expect("an engine is handed out when its node serves")
    }

    /// What sessions waited for.
    pub const fn waits(&self) -> &Waits {
        &self.waits
    }

    /// Waits for `work` and charges the time to `cause`.
    pub(crate) async fn charge<T>(&self, cause: WaitCause, work: impl Future<Output = T>) -> T {
        let begun = self.runtime.now();
        let done = work.await;
        self.waits.add(cause, begun, self.runtime.now());
        done
    }

    /// Whether statements are served.
    pub fn is_serving(&self) -> bool {
        *self.serving.borrow()
    }

    /// Makes an empty tree in a file of its own. Not undone by a rollback: a tree that no committed row names is dropped by its maker.
    pub async fn create_tree(&self) -> Result<TreeId, Error> {
        self.check()?;
        // The name is unique and says who made it; nobody looks it up.
        let name = format!("/tree/{}-{:016x}", self.me, self.runtime.random());
        let tree = self.sizes.create(&self.group, &name, FileKind::Tree).await?;
        self.format_tree(tree).await?;
        Ok(tree)
    }

    /// Formats the first pages of a tree whose file exists, unless that was done.
    pub(crate) async fn format_tree(&self, tree: TreeId) -> Result<(), Error> {
        let mut learned = Resolutions::new();
        let mut runner = Runner {
            txn: None,
            learned: &mut learned,
        };
        let end = self.run(&mut runner, true, |_| self.tree(tree).create()).await?;
        self.durable(end).await;
        Ok(())
    }

    /// Removes a tree and its file. Nobody may use it any more.
    pub async fn drop_tree(&self, tree: TreeId) -> Result<(), Error> {
        self.check()?;
        self.sizes.remove(&self.group, tree).await
    }

    /// Removes a tree that a committed transaction gave up, once no snapshot of the cluster is left that may read it (TXN-9). Returns at
    /// once. If this node ends before, the file stays and only its space is lost: no descriptor names it.
    pub fn retire_tree(self: &Arc<Self>, tree: TreeId) {
        let this = self.clone();
        let work = async move {
            // At or above the commit, which was acknowledged before this call.
            let given_up = this.txns.snapshot().await.scn();
            if !planted(Defect::RemoveTreeAtOnce) {
                this.txns.scns().horizon_at(given_up).await;
            }
            if let Err(error) = this.sizes.remove(&this.group, tree).await {
                tracing::warn!(%error, tree = tree.0.0, "the tree of a dropped table could not be removed");
            }
        };
        self.runtime.spawn("retired tree", Box::pin(work));
    }

    pub(crate) fn tree(&self, id: TreeId) -> Tree<'_, Pool> {
        Tree::new(&*self.pool, self, &*self.sizes, id, self.me)
    }

    /// Waits until redo up to `end` is durable.
    pub(crate) async fn durable(&self, end: Option<Lsn>) {
        if let Some(end) = end {
            aquifer_buffer_pool::Redo::wait(&*self.redo, end).await;
        }
    }

    /// Whether this node may answer now.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.is_serving() {
            return Err(Error::Unavailable(
                "it is starting or stopping; try another node".to_owned(),
            ));
        }
        if !(self.lease)() && !planted(Defect::AnswerWithoutLease) {
            return Err(Error::Unavailable(
                "its lease is not renewed; storage may be slow or gone".to_owned(),
            )); // ENG-2
        }
        Ok(())
    }

    /// Runs a step again and again, each time waiting for exactly what it lacked.
    pub(crate) async fn run<T>(
        &self,
        runner: &mut Runner<'_>,
        writes: bool,
        mut step: impl FnMut(&Resolutions) -> Result<T, Blocked>,
    ) -> Result<T, Error> {
        let mut holds: Vec<Hold> = Vec::new();
        loop {
            if writes {
                self.room(&mut holds).await?;
            }
            match step(runner.learned) {
                Ok(done) => return Ok(done),
                Err(blocked) => {
                    let blocked = if writes {
                        self.small.stronger(blocked)
                    } else {
                        blocked
                    };
                    self.wait(blocked, runner, &mut holds).await?;
                }
            }
        }
    }

    /// Waits for what a step lacked.
    pub(crate) async fn wait(
        &self,
        blocked: Blocked,
        runner: &mut Runner<'_>,
        holds: &mut Vec<Hold>,
    ) -> Result<(), Error> {
        let cause = WaitCause::of(&blocked);
        let work = self.unblock(blocked, runner, holds);
        match cause {
            Some(cause) => self.charge(cause, work).await,
            None => work.await,
        }
    }

    /// Asks for more sequence numbers when they run low.
    pub(crate) fn refill_sequences(&self) {
        if self.txns.wants_sequences() {
            self.want_sequences.notify_one();
        }
    }

    /// Waits until more sequence numbers were taken, or could not be.
    pub(crate) async fn wait_sequences(&self) {
        let mut taken = self.sequences_taken.subscribe();
        self.want_sequences.notify_one();
        // An engine that goes away wakes nobody; its callers go with it.
        let _ = self.charge(WaitCause::Space, taken.changed()).await;
    }

    async fn room(&self, holds: &mut Vec<Hold>) -> Result<(), Error> {
        let Some(stream) = self.redo.stream() else {
            return Err(Error::Unavailable("its redo stream is not open yet".to_owned()));
        };
        if !stream.has_room() {
            holds.clear();
            self.charge(WaitCause::Space, stream.wait_room()).await; // ENG-3
        }
        Ok(())
    }

    /// A step found no sense in a page. If it was taken for one that was never formatted, its bytes on storage are damaged.
    async fn doubt(&self, page: PageId, holds: &mut Vec<Hold>) -> Result<(), Error> {
        let formatted = self.pool.read(page).is_ok_and(|guard| guard.psn() > Psn(0));
        holds.clear();
        let again = !formatted && self.pool.doubt(page).await.map_err(|_| Error::Corrupt(page))?;
        if again { Ok(()) } else { Err(Error::Corrupt(page)) }
    }

    async fn possess(&self, page: PageId, mode: Mode, holds: &mut Vec<Hold>) -> Result<(), Error> {
        // A page held Shared is not kept from the others while Exclusive is asked for: two nodes would wait for each other.
        holds.retain(|hold| hold.page() != page);
        let hold = self.pool.acquire(page, mode).await.map_err(|error| match error {
            PoolError::Corrupt(page) => Error::Corrupt(page),
            PoolError::Gone(_) => Error::NoSuchTree,
            other => Error::Unavailable(other.to_string()),
        })?;
        holds.push(hold);
        self.small.note(&self.pool, page);
        Ok(())
    }

    async fn unblock(
        &self,
        blocked: Blocked,
        runner: &mut Runner<'_>,
        holds: &mut Vec<Hold>,
    ) -> Result<(), Error> {
        match blocked {
            Blocked::Page(page, mode) => self.possess(page, mode, holds).await?,
            Blocked::Leaf(page) => self.possess(page, Mode::Shared, holds).await?,
            Blocked::Transaction(holder) => {
                holds.clear(); // ENG-1
                self.txns.wait_for(runner.txn, holder).await?;
                runner.learned.forget(holder);
            }
            Blocked::Status(txn) => {
                let status = self.txns.resolve(txn).await?;
                runner.learned.insert(txn, status);
            }
            Blocked::Space(tree) => {
                holds.clear();
                self.sizes.grow(&self.group, tree).await?;
            }
            Blocked::Corrupt(page) => self.doubt(page, holds).await?,
            Blocked::Failed(error) => return Err(error),
        }
        Ok(())
    }
}

/// The root of a small tree is the leaf that a writer wants: asking for it Shared first, to see that, would cost a second
/// conversion each time. What was last seen is a hint; a root that has grown since is asked for Exclusive once in vain.
#[derive(Default)]
pub(crate) struct SmallTrees(RwLock<BTreeSet<PageId>>);

impl SmallTrees {
    /// What a writer should ask for instead.
    fn stronger(&self, blocked: Blocked) -> Blocked {
        match self.root(&blocked) {
            Some(page) => Blocked::Page(page, Mode::Exclusive),
            None => blocked,
        }
    }

    /// The page, if a reader lacks the root of a small tree.
    pub(crate) fn root(&self, blocked: &Blocked) -> Option<PageId> {
        match blocked {
            Blocked::Page(page, Mode::Shared) if page.number == ROOT && self.0.read().contains(page) => {
                Some(*page)
            }
            _ => None,
        }
    }

    /// The page was just acquired.
    fn note(&self, pool: &Pool, page: PageId) {
        if page.number != ROOT {
            return;
        }
        let Ok(guard) = pool.read(page) else { return };
        let small = matches!(kind_of(guard.bytes()), Ok(Some(PageKind::Leaf)));
        drop(guard);
        if small != self.0.read().contains(&page) {
            let mut all = self.0.write();
            if small {
                all.insert(page)
            } else {
                all.remove(&page)
            };
        }
    }
}

impl RedoSink for Engine {
    fn append(&self, records: &[RedoRecord], pages: Stamp) -> Appended {
        self.redo
            .stream()
            .expect("a step that writes ran only with an open stream")
            .append(records, pages)
    }
}
