//! Node processes and sessions for the end-to-end tests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Condvar, Mutex, OnceLock, mpsc};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

/// No single step takes so long, on any machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The program under test: `AQUIFER_BIN`, or what cargo built beside this test.
pub fn aquifer() -> PathBuf {
    let path = std::env::var_os("AQUIFER_BIN").map_or_else(
        || {
            let this = std::env::current_exe().unwrap();
            let profile = this.parent().and_then(Path::parent).unwrap();
            profile.join("aquifer")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is not there: the end-to-end tests run the real binary. Build it first with `cargo build -p aquifer` \
         (scripts/check does), or name it in AQUIFER_BIN",
        path.display()
    );
    path
}

/// Runs `aquifer` with these arguments to its end.
pub fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// An `aquifer` command that no variable of the environment reaches.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(aquifer());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AQUIFER_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Asserts how a command ended, and that it said one line that has all of `words`.
pub fn ends(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    let line = said.lines().find(|line| line.starts_with("aquifer: "));
    let line = line.unwrap_or_else(|| panic!("no line says what is wrong: {said:?}"));
    for word in words {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    })
}

/// A directory that goes with its test, unless the test fails.
pub struct Place(pub PathBuf);

impl Place {
    /// Short, because paths of sockets are.
    pub fn new(name: &str) -> Self {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("aq-e2e-{}-{name}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    /// A file in it, as text.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("device and logs are kept in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A process that is killed when it is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node that serves.
pub struct Node {
    /// Where it serves SQL.
    pub sql: SocketAddr,
    process: Process,
}

/// The nodes of one device file.
pub struct Cluster {
    /// In order of id.
    pub nodes: BTreeMap<u8, Node>,
    tcp: bool,
    sockets_only: bool,
    /// After the nodes, so that it goes when they are dead.
    pub place: Place,
    /// Memory for pages of each node that is started.
    pub buffer: &'static str,
    /// The device that nodes are told of, when it is not [`device`](Self::device).
    pub named: Option<String>,
    /// Further flags of nodes that are started.
    pub flags: Vec<String>,
}

impl Cluster {
    /// A device with a volume group and no node.
    pub fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// A device with a volume group that is made with these options, and no node.
    pub fn with(name: &str, options: &[&str]) -> Self {
        let place = Place::new(name);
        let device = place.file("device");
        let usual = ["cluster", "init", "--vg", "e2e", "--size", "1G", "--yes", &device];
        let made = run(&[&usual, options].concat());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let nodes = BTreeMap::new();
        Self {
            nodes,
            tcp: false,
            sockets_only: false,
            place,
            buffer: "16M",
            named: None,
            flags: Vec::new(),
        }
    }

    /// Nodes that are started from now on talk to each other over TCP.
    pub fn peers_over_tcp(&mut self) {
        self.tcp = true;
    }

    /// Nodes that are started from now on have no memory in common.
    pub fn no_peer_memory(&mut self) {
        self.sockets_only = true;
    }

    /// The device file.
    pub fn device(&self) -> String {
        self.place.file("device")
    }

    /// Nodes 1 to `count`.
    pub fn of(name: &str, count: u8) -> Self {
        let mut cluster = Self::new(name);
        cluster.start(&(1..=count).collect::<Vec<_>>());
        cluster
    }

    /// `node start` with everything of its own, to be spawned; `more` may repeat a flag.
    pub fn start_command(&self, id: u8, life: &str) -> Command {
        let file = |kind: &str| self.place.file(&format!("{id}{life}.{kind}"));
        let peer = if self.tcp {
            "127.0.0.1:0".to_owned()
        } else {
            format!("unix:{}", file("peer"))
        };
        let mut command = command(&["node", "start", "--sql", "127.0.0.1:0", "--buffer", self.buffer]);
        command.args([
            "--id",
            &id.to_string(),
            "--device",
            self.named.as_ref().unwrap_or(&self.device()),
            "--peer",
            &peer,
        ]);
        command.args(["--admin", &file("admin"), "--log", &file("log")]);
        command.args(&self.flags);
        if self.sockets_only {
            command.args(["--peer-memory", "off"]);
        }
        command
    }

    /// Starts nodes together and waits until they serve.
    pub fn start(&mut self, ids: &[u8]) {
        let started: Vec<_> = ids.iter().map(|id| (*id, self.launch(*id))).collect();
        for (id, (process, line)) in started {
            self.serves(id, process, &line);
        }
    }

    /// Starts a node, and does something else before it serves.
    pub fn start_and<T>(&mut self, id: u8, meanwhile: impl FnOnce(&Self) -> T) -> T {
        let (process, line) = self.launch(id);
        let done = meanwhile(self);
        self.serves(id, process, &line);
        done
    }

    fn serves(&mut self, id: u8, process: Process, line: &mpsc::Receiver<String>) {
        let line = line.recv_timeout(LIMIT);
        let line = line.unwrap_or_else(|_| panic!("node {id} is not ready after {LIMIT:?}"));
        let sql = line.split_whitespace().find_map(|word| word.strip_prefix("sql="));
        let sql = sql.unwrap_or_else(|| panic!("node {id} did not start: {line:?}"));
        let sql = sql.parse().unwrap();
        self.nodes.insert(id, Node { sql, process });
    }

    fn launch(&self, id: u8) -> (Process, mpsc::Receiver<String>) {
        let mut command = self.start_command(id, "");
        // The nodes end with the test, whatever ends the test.
        command.args(["--with-parent", &std::process::id().to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let (said, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(output).read_line(&mut line);
            let _ = said.send(line);
        });
        (Process(child), line)
    }

    /// SIGKILL to all of them, then they are reaped.
    pub fn kill(&mut self, ids: &[u8]) {
        let mut dead: Vec<Node> = ids.iter().map(|id| self.nodes.remove(id).unwrap()).collect();
        for node in &mut dead {
            node.process.0.kill().unwrap();
        }
    }

    /// Sends a signal to a node.
    pub fn signal(&self, id: u8, signal: &str) {
        let pid = self.nodes[&id].process.0.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success(), "SIG{signal} to node {id}");
    }

    /// Waits until a node's process has ended; whether by SIGKILL.
    pub fn was_killed(&mut self, id: u8) -> bool {
        use std::os::unix::process::ExitStatusExt;
        self.has_ended(id).signal() == Some(9)
    }

    /// Waits until a node's process has ended.
    pub fn has_ended(&mut self, id: u8) -> ExitStatus {
        let mut node = self.nodes.remove(&id).unwrap();
        let begun = std::time::Instant::now();
        loop {
            if let Some(status) = node.process.0.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "node {id} goes on");
            std::thread::yield_now();
        }
    }

    /// A clean stop of everybody.
    pub fn stop_all(&mut self) {
        for (id, mut node) in std::mem::take(&mut self.nodes) {
            let admin = self.place.file(&format!("{id}.admin"));
            let stopped = run(&["node", "stop", &id.to_string(), "--yes", "--admin", &admin]);
            let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
            assert!(stopped.status.success(), "node {id} did not stop: {said}");
            assert!(node.process.0.wait().unwrap().success(), "node {id}");
        }
    }

    /// A session at a node.
    pub fn session(&self, id: u8) -> Session {
        Session::open(self.nodes[&id].sql).unwrap()
    }
}

/// One client.
pub struct Session {
    client: Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Session {
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self, Error> {
        let connect = async {
            let mut config = tokio_postgres::Config::new();
            config.host(address.ip().to_string()).port(address.port());
            config.user("aquifer").dbname("aquifer");
            let (client, connection) = limited(config.connect(NoTls)).await?;
            let driver = tokio::spawn(async move {
                let _ended = connection.await;
            });
            Ok(Self { client, driver })
        };
        runtime().block_on(connect)
    }

    /// Runs statements; the rows, columns joined by `|`.
    pub fn rows(&self, sql: &str) -> Result<Vec<String>, Error> {
        let messages = runtime().block_on(limited(self.client.simple_query(sql)))?;
        let row = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                let columns: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("null")).collect();
                Some(columns.join("|"))
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Runs statements that must succeed; what the only row has.
    pub fn one(&self, sql: &str) -> String {
        let mut rows = self.rows(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        assert!(rows.len() <= 1, "{sql}: {rows:?}");
        rows.pop().unwrap_or_default()
    }

    /// `aquifer.counters` of its node.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let rows = self.rows("select name, value from aquifer.counters").unwrap();
        let pair = |row: &String| {
            let (name, value) = row.split_once('|').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        rows.iter().map(pair).collect()
    }

    /// SQLSTATE and message of statements that must fail.
    pub fn refused(&self, sql: &str) -> (String, String) {
        let error = self.rows(sql).expect_err(sql);
        let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
        (error.code().code().to_owned(), error.message().to_owned())
    }

    /// Closes the connection without a word.
    pub fn vanish(self) {
        self.driver.abort();
    }
}

/// Keys whose insert was acknowledged, with a way to wait for more.
#[derive(Default)]
pub struct Acknowledged {
    /// The keys.
    pub keys: Mutex<Vec<u64>>,
    grown: Condvar,
}

impl Acknowledged {
    /// One more.
    pub fn add(&self, key: u64) {
        self.keys.lock().unwrap().push(key);
        self.grown.notify_all();
    }

    /// Until there are `more` than now.
    pub fn wait_for(&self, more: usize) {
        let keys = self.keys.lock().unwrap();
        let enough = keys.len() + more;
        let (_keys, limit) = self
            .grown
            .wait_timeout_while(keys, LIMIT, |keys| keys.len() < enough)
            .unwrap();
        assert!(!limit.timed_out(), "nothing is acknowledged any more");
    }
}

async fn limited<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| panic!("no answer for {LIMIT:?}"))
}

/// A program that Debian packages bring, set up as a PostgreSQL client, or `None`, loudly.
pub fn program(name: &str) -> Option<Command> {
    // Debian has wrappers of programs that are not installed.
    let version = Command::new(name).arg("--version").output();
    if !version.is_ok_and(|version| version.status.success()) {
        eprintln!("SKIPPED: {name} is not installed (Debian: postgresql-client, postgresql, fio)");
        return None;
    }
    let mut command = Command::new(name);
    command.env("PGHOST", "127.0.0.1").env("PGUSER", "aquifer");
    command
        .env("PGDATABASE", "aquifer")
        .env("PGCONNECT_TIMEOUT", "10");
    Some(command)
}
