//! Workers: one connection each, one transfer at a time, on to another node when theirs is gone.

use super::bank::{Random, Scale, Transfer, describe};
use crate::failure::Failure;
use crate::units::boottime;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, Statement};

/// A statement that takes longer counts as a lost connection.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);
/// Between attempts to connect, and after a conflict.
const BACKOFF: Duration = Duration::from_millis(5);

/// What the load is.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Connections to each node.
    pub clients: usize,
    /// Rows.
    pub scale: Scale,
}

/// What everybody can see while the load runs.
#[derive(Debug)]
pub struct Board {
    stop: AtomicBool,
    /// Acknowledged transfers by the node that acknowledged.
    commits: Vec<AtomicU64>,
    /// Attempts that the server rolled back and that were made again.
    retried: AtomicU64,
    /// The first unexpected error.
    trouble: OnceLock<String>,
}

impl Board {
    /// Commits so far at node number `index` (from 0).
    pub fn commits(&self, index: usize) -> u64 {
        self.commits[index].load(Ordering::Relaxed)
    }

    /// The first unexpected error.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// An acknowledged transfer: by which node (index) and when (CLOCK_BOOTTIME, ns).
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// What.
    pub transfer: Transfer,
    /// Index of the node.
    pub node: usize,
    /// When the answer was here.
    pub at: u64,
}

/// What came of the load.
#[derive(Debug, Default)]
pub struct LoadResult {
    /// Transfers with a positive answer.
    pub acknowledged: Vec<Acknowledged>,
    /// Transfers whose commit was under way when the connection was lost.
    pub unknown: Vec<Transfer>,
    /// Attempts that were rolled back and made again.
    pub retried: u64,
}

/// A running load.
pub struct Load {
    /// What everybody can see.
    pub board: Arc<Board>,
    workers: Vec<JoinHandle<LoadResult>>,
}

impl Load {
    /// Starts `clients` workers for each node.
    pub fn start(nodes: &[SocketAddr], options: LoadOptions) -> Self {
        let board = Arc::new(Board {
            stop: AtomicBool::new(false),
            commits: nodes.iter().map(|_| AtomicU64::new(0)).collect(),
            retried: AtomicU64::new(0),
            trouble: OnceLock::new(),
        });
        let workers = (0..nodes.len() * options.clients).map(|number| {
            let worker = Worker {
                number,
                home: number % nodes.len(),
                nodes: nodes.to_vec(),
                scale: options.scale,
                board: Arc::clone(&board),
                result: LoadResult::default(),
            };
            tokio::spawn(worker.run())
        });
        Self {
            workers: workers.collect(),
            board,
        }
    }

    /// Lets every worker end its transfer and collects what they know.
    pub async fn finish(self) -> Result<LoadResult, Failure> {
        self.board.stop.store(true, Ordering::Relaxed);
        let mut all = LoadResult {
            retried: self.board.retried.load(Ordering::Relaxed),
            ..LoadResult::default()
        };
        for worker in self.workers {
            let result = worker
                .await
                .map_err(|e| Failure::failed(format!("a worker of the load failed: {e}")))?;
            all.acknowledged.extend(result.acknowledged);
            all.unknown.extend(result.unknown);
        }
        all.acknowledged.sort_by_key(|a| a.at);
        Ok(all)
    }
}

/// Connects as `aquifer` to database `aquifer`, with the connection driven by a task.
pub async fn connect(address: SocketAddr) -> Result<Client, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let mut config = tokio_postgres::Config::new();
    config
        .user("aquifer")
        .dbname("aquifer")
        .application_name("aquifer load");
    let (client, connection) = config
        .connect_raw(stream, NoTls)
        .await
        .map_err(|e| describe(&e))?;
    tokio::spawn(async move {
        // The client sees the same error at its next request.
        let _ = connection.await;
    });
    Ok(client)
}

/// A connection with its statements.
struct Session {
    client: Client,
    node: usize,
    account: Statement,
    teller: Statement,
    branch: Statement,
    history: Statement,
}

impl Session {
    async fn open(node: usize, address: SocketAddr) -> Result<Self, String> {
        let open = async {
            let client = connect(address).await?;
            let update = |table: &str| format!("UPDATE {table} SET balance = balance + $1 WHERE id = $2");
            let text = |e: tokio_postgres::Error| describe(&e);
            let account = client.prepare(&update("accounts")).await.map_err(text)?;
            let teller = client.prepare(&update("tellers")).await.map_err(text)?;
            let branch = client.prepare(&update("branches")).await.map_err(text)?;
            let insert =
                "INSERT INTO history (id, account, teller, branch, delta) VALUES ($1, $2, $3, $4, $5)";
            let history = client.prepare(insert).await.map_err(text)?;
            Ok(Self {
                client,
                node,
                account,
                teller,
                branch,
                history,
            })
        };
        tokio::time::timeout(STATEMENT_LIMIT, open)
            .await
            .unwrap_or_else(|_| Err("connecting took too long".into()))
    }

    /// Everything before the commit.
    async fn work(&self, t: &Transfer) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute("BEGIN").await?;
        self.client
            .execute(&self.account, &[&t.delta, &t.account])
            .await?;
        self.client.execute(&self.teller, &[&t.delta, &t.teller]).await?;
        self.client.execute(&self.branch, &[&t.delta, &t.branch]).await?;
        self.client
            .execute(
                &self.history,
                &[&t.id, &t.account, &t.teller, &t.branch, &t.delta],
            )
            .await?;
        Ok(())
    }
}

/// How one attempt ended.
enum Attempt {
    Acknowledged,
    /// Surely not committed; the connection is good.
    RolledBack,
    /// Surely not committed; the connection is gone.
    Lost,
    /// The connection was lost while the commit was under way.
    Unknown,
}

struct Worker {
    number: usize,
    home: usize,
    nodes: Vec<SocketAddr>,
    scale: Scale,
    board: Arc<Board>,
    result: LoadResult,
}

impl Worker {
    async fn run(mut self) -> LoadResult {
        let mut random = Random::new(self.number as u64);
        let mut session = None;
        // The worker's number is the high part, so that workers insert at different places of the tree.
        let mut id = (self.number as i64 + 1) << 40;
        let mut transfer = random.transfer(id, self.scale);
        while !self.board.stopped() {
            let Some(open) = &session else {
                session = self.connect_somewhere().await;
                continue;
            };
            match self.attempt(open, &transfer).await {
                Attempt::Acknowledged => {
                    let at = boottime();
                    self.board.commits[open.node].fetch_add(1, Ordering::Relaxed);
                    self.result.acknowledged.push(Acknowledged {
                        transfer,
                        node: open.node,
                        at,
                    });
                }
                Attempt::RolledBack => {
                    self.board.retried.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_micros(200 + random.below(2000) as u64)).await;
                    continue;
                }
                Attempt::Lost => {
                    session = None;
                    continue;
                }
                Attempt::Unknown => {
                    self.result.unknown.push(transfer);
                    session = None;
                }
            }
            id += 1;
            transfer = random.transfer(id, self.scale);
        }
        self.result
    }

    /// The home node first, then the others in turn: what libpq does with several hosts.
    async fn connect_somewhere(&self) -> Option<Session> {
        let mut last = String::new();
        for step in 0..self.nodes.len() {
            let node = (self.home + step) % self.nodes.len();
            match Session::open(node, self.nodes[node]).await {
                Ok(session) => return Some(session),
                Err(error) => last = error,
            }
        }
        self.trouble(format!("no node could be used: {last}"));
        tokio::time::sleep(BACKOFF).await;
        None
    }

    async fn attempt(&self, session: &Session, transfer: &Transfer) -> Attempt {
        match tokio::time::timeout(STATEMENT_LIMIT, session.work(transfer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return self.not_committed(session, &error).await,
            Err(_) => {
                self.trouble(format!("a statement took longer than {STATEMENT_LIMIT:?}"));
                return Attempt::Lost;
            }
        }
        match tokio::time::timeout(STATEMENT_LIMIT, session.client.batch_execute("COMMIT")).await {
            Ok(Ok(())) => Attempt::Acknowledged,
            Ok(Err(error)) => match error.code() {
                Some(state) if outcome_unknown(state) => Attempt::Unknown,
                Some(_) => self.not_committed(session, &error).await,
                None => Attempt::Unknown,
            },
            Err(_) => Attempt::Unknown,
        }
    }

    async fn not_committed(&self, session: &Session, error: &tokio_postgres::Error) -> Attempt {
        let Some(state) = error.code() else {
            return Attempt::Lost;
        };
        if !is_conflict(state) {
            self.trouble(describe(error));
        }
        let rollback = tokio::time::timeout(STATEMENT_LIMIT, session.client.batch_execute("ROLLBACK"));
        match rollback.await {
            Ok(Ok(())) => Attempt::RolledBack,
            _ => Attempt::Lost,
        }
    }

    fn trouble(&self, text: String) {
        if !self.board.stopped() {
            let _ = self.board.trouble.set(text);
        }
    }
}

/// Errors that say only: again.
fn is_conflict(state: &SqlState) -> bool {
    *state == SqlState::T_R_SERIALIZATION_FAILURE
        || *state == SqlState::T_R_DEADLOCK_DETECTED
        || *state == SqlState::LOCK_NOT_AVAILABLE
        || state.code() == "72000"
}

/// Errors of COMMIT that leave the outcome open.
fn outcome_unknown(state: &SqlState) -> bool {
    matches!(state.code(), "08007" | "40003")
}
