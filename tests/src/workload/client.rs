//! Clients: each is connected to one node, and to another when that one is gone.

use super::database::{Database, DatabaseError, TransactionHandle};
use crate::checker::Outcome;
use crate::sim::{Cluster, Life, Random, World};
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

type Session = (Life, Arc<dyn Database>);

/// Which nodes answer clients now, and until when there are clients.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<BTreeMap<NodeId, Session>>,
    until: AtomicU64,
    calls: AtomicU64,
}

impl Sessions {
    /// `life` accepts clients from now on.
    pub fn open(&self, life: Life, database: Arc<dyn Database>) {
        self.open.lock().insert(life.node, (life, database));
    }

    /// Ends the work of clients at virtual time `at`.
    pub fn set_end(&self, at: u64) {
        self.until.store(at, Ordering::Relaxed);
    }

    /// Forgets every database, so that a finished run frees its memory.
    pub fn close(&self) {
        self.open.lock().clear();
    }

    fn ready(&self, world: &World) -> Vec<Session> {
        let mut open = self.open.lock();
        let gone: Vec<_> = {
            let ended = open.iter().filter(|(_, (life, _))| !world.is_alive(*life));
            let nodes: Vec<NodeId> = ended.map(|(node, _)| *node).collect();
            nodes.into_iter().filter_map(|node| open.remove(&node)).collect()
        };
        world.drop_later(gone);
        open.values().cloned().collect()
    }
}

/// The body of a transaction: what it does before it commits.
pub type Body<T> = Box<
    dyn for<'a> FnOnce(
            &'a mut dyn TransactionHandle,
            &'a SharedNote,
        ) -> BoxFuture<'a, Result<T, DatabaseError>>
        + Send,
>;

/// What a body has learned even when its node dies before it answers.
#[derive(Clone, Default)]
pub struct SharedNote(Arc<AtomicU64>);

impl SharedNote {
    /// Notes a number.
    pub fn set(&self, value: u64) {
        self.0.store(value.wrapping_add(1), Ordering::Relaxed);
    }

    /// The number, if there is one.
    pub fn get(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// What became of a transaction.
pub struct Finished<T> {
    /// As the client knows it.
    pub outcome: Outcome,
    /// What the body answered; always there when `outcome` is `Committed`.
    pub value: Option<T>,
    /// What the body had noted.
    pub note: Option<u64>,
    /// The error, when there was one.
    pub error: Option<DatabaseError>,
    /// When it was begun (virtual nanoseconds).
    pub begun: u64,
    /// When its answer was there.
    pub ended: u64,
}

/// One client.
#[derive(Clone)]
pub struct Client {
    cluster: Arc<Cluster>,
    sessions: Arc<Sessions>,
    /// Number of the client, from 0; preparation and final check have their own.
    pub number: u64,
    random: Arc<Mutex<Random>>,
    connected: Arc<Mutex<Option<Life>>>,
}

impl Client {
    /// Client `number` of `cluster`.
    pub fn new(cluster: Arc<Cluster>, sessions: Arc<Sessions>, number: u64) -> Self {
        let random = Random::fork(cluster.world.seed(), &format!("client {number}"));
        Self {
            cluster,
            sessions,
            number,
            random: Arc::new(Mutex::new(random)),
            connected: Arc::default(),
        }
    }

    /// 0 to `limit - 1`.
    pub fn below(&self, limit: u64) -> u64 {
        self.random.lock().below(limit)
    }

    /// True `parts` times in a hundred.
    pub fn percent(&self, parts: u32) -> bool {
        self.random.lock().chance(parts * 10_000)
    }

    /// True `parts` times in a hundred for something that costs as much as `size`: beyond a few hundred it becomes rarer in the same
    /// proportion, so that a long run does not spend its time on it.
    pub fn percent_at(&self, parts: u32, size: usize) -> bool {
        let rarer = (size as u64 / 300).max(1);
        self.random.lock().below(1_000_000 * rarer) < u64::from(parts) * 10_000
    }

    /// Now, in virtual nanoseconds.
    pub fn now(&self) -> u64 {
        self.cluster.world.now()
    }

    /// Whether the clients' time is up.
    pub fn is_over(&self) -> bool {
        self.now() >= self.sessions.until.load(Ordering::Relaxed)
    }

    /// Transactions asked for so far, by all clients.
    pub fn calls(&self) -> u64 {
        self.sessions.calls.load(Ordering::Relaxed)
    }

    /// Waits a little, as a client does between its transactions.
    pub async fn think(&self) {
        let pause = self
            .random
            .lock()
            .duration(Duration::from_micros(100), Duration::from_millis(20));
        self.cluster.world.sleep(pause).await;
    }

    /// Waits before a retry.
    pub async fn back_off(&self) {
        let pause = self
            .random
            .lock()
            .duration(Duration::from_millis(1), Duration::from_millis(100));
        self.cluster.world.sleep(pause).await;
    }

    /// Leaves the node, so that the next transaction goes to any other.
    pub fn disconnect(&self) {
        *self.connected.lock() = None;
    }

    /// Connects to `node` when it is there.
    pub fn connect(&self, node: NodeId) -> bool {
        let ready = self.sessions.ready(&self.cluster.world);
        let life = ready.iter().map(|(life, _)| *life).find(|life| life.node == node);
        *self.connected.lock() = life;
        life.is_some()
    }

    /// The nodes of the cluster.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.cluster.nodes().to_vec()
    }

    async fn session(&self) -> Session {
        loop {
            let ready = self.sessions.ready(&self.cluster.world);
            let connected = *self.connected.lock();
            let stay = !self.percent(10);
            let same = ready.iter().find(|(life, _)| Some(*life) == connected && stay);
            let chosen = same
                .cloned()
                .or_else(|| (!ready.is_empty()).then(|| self.random.lock().pick(&ready).clone()));
            if let Some(session) = chosen {
                *self.connected.lock() = Some(session.0);
                return session;
            }
            self.back_off().await;
        }
    }

    /// Makes a tree, trying until it works.
    pub async fn create_tree(&self) -> Result<u64, String> {
        loop {
            let (life, database) = self.session().await;
            let work = async move { database.create_tree().await };
            match self.cluster.call(life.node, "create-tree", work).await {
                Some(Ok(tree)) => return Ok(tree),
                Some(Err(DatabaseError::Wrong(text))) => return Err(text),
                _ => self.back_off().await,
            }
        }
    }

    /// Gives a tree to some node to remove; if that dies, its space is lost.
    pub async fn retire_tree(&self, tree: u64) {
        let (life, database) = self.session().await;
        let work = async move { database.retire_tree(tree) };
        self.cluster.call(life.node, "retire-tree", work).await;
    }

    /// Runs one transaction at the node this client is connected to, once.
    pub async fn transaction<T: Send + 'static>(&self, one_snapshot: bool, body: Body<T>) -> Finished<T> {
        let (life, database) = self.session().await;
        let committing = Arc::new(AtomicBool::new(false));
        let note = SharedNote::default();
        let begun = self.now();
        self.sessions.calls.fetch_add(1, Ordering::Relaxed);
        let (flag, noted) = (committing.clone(), note.clone());
        let work = async move {
            let mut transaction = database.begin(one_snapshot).await?;
            let value = match body(transaction.as_mut(), &noted).await {
                Ok(value) => value,
                Err(error) => {
                    let _ = transaction.rollback().await;
                    return Err(error);
                }
            };
            flag.store(true, Ordering::Relaxed);
            transaction.commit().await?;
            Ok(value)
        };
        let answer = self.cluster.call(life.node, "session", work).await;
        let ended = self.now();
        let (outcome, value, error) = match answer {
            Some(Ok(value)) => (Outcome::Committed, Some(value), None),
            Some(Err(error)) => {
                let unknown = matches!(error, DatabaseError::Unknown(_));
                (
                    if unknown {
                        Outcome::Unknown
                    } else {
                        Outcome::Aborted
                    },
                    None,
                    Some(error),
                )
            }
            None if committing.load(Ordering::Relaxed) => (Outcome::Unknown, None, None),
            None => (Outcome::Aborted, None, None),
        };
        if let Some(DatabaseError::Wrong(text)) = &error {
            self.cluster
                .world
                .fail(format!("client {} at node {}: {text}", self.number, life.node));
        }
        let fields = [self.number, life.node.get().into(), begun, outcome as u64];
        self.cluster
            .world
            .record("client", fields, error.as_ref().map_or("", error_kind));
        if outcome != Outcome::Committed {
            self.back_off().await;
        }
        Finished {
            outcome,
            value,
            note: note.get(),
            error,
            begun,
            ended,
        }
    }

    /// Runs a transaction that only reads, until it works.
    pub async fn read<T: Send + 'static>(&self, mut body: impl FnMut() -> Body<T>) -> Finished<T> {
        loop {
            let finished = self.transaction(true, body()).await;
            if finished.value.is_some() {
                return finished;
            }
        }
    }
}

fn error_kind(error: &DatabaseError) -> &str {
    match error {
        DatabaseError::Retry(text) | DatabaseError::Unknown(text) | DatabaseError::Wrong(text) => text,
        DatabaseError::Duplicate => "duplicate key",
    }
}
