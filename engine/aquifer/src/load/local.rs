//! A cluster of node processes on this machine, owned by this command.
//!
//! Rules: nodes are this very program (`node start`) in processes of their own; each dies with this process unless it is
//! kept; whatever ends this command, its children are ended by their process id.

use crate::admin::AdminClient;
use crate::failure::{Exit, Failure};
use crate::units::boottime;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A node that is not ready by then has failed.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A node that has not stopped by then is killed.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Where and how the nodes run.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The shared device.
    pub device: PathBuf,
    /// Directory for logs.
    pub logs: PathBuf,
    /// Memory for pages of each node, as `--buffer` takes it.
    pub buffer: String,
    /// The nodes outlive this command.
    pub keep: bool,
}

/// One node process.
pub struct LocalNode {
    /// Node id.
    pub id: u8,
    /// Where it serves SQL.
    pub sql: SocketAddr,
    /// Its admin socket.
    pub admin: String,
    child: Option<Child>,
}

/// The node processes. Dropping it kills those that are left.
pub struct LocalCluster {
    /// In order of id.
    pub nodes: Vec<LocalNode>,
    options: LocalOptions,
    sockets: PathBuf,
}

impl LocalCluster {
    /// Starts nodes 1 to `count` one after the other.
    pub async fn start(options: LocalOptions, count: u8) -> Result<Self, Failure> {
        let sockets = aquifer_member::runtime_directory().join(format!("local-{}", std::process::id()));
        let mut cluster = Self {
            nodes: Vec::new(),
            options,
            sockets,
        };
        // All are launched before any is waited for: they form one view together.
        for id in 1..=count {
            let sql = SocketAddr::from(([127, 0, 0, 1], 0));
            let child = cluster.launch(id, sql)?;
            cluster.nodes.push(LocalNode {
                id,
                sql,
                admin: String::new(),
                child: Some(child),
            });
        }
        for index in 0..cluster.nodes.len() {
            cluster.wait_ready(index).await?;
        }
        Ok(cluster)
    }

    /// Starts one node again, under its old id and SQL address.
    pub async fn restart(&mut self, id: u8) -> Result<(), Failure> {
        let index = self
            .nodes
            .iter()
            .position(|n| n.id == id)
            .expect("only known nodes are restarted");
        let child = self.launch(id, self.nodes[index].sql)?;
        self.nodes[index].child = Some(child);
        self.wait_ready(index).await
    }

    fn log(&self, id: u8) -> PathBuf {
        self.options.logs.join(format!("node-{id}.log"))
    }

    fn launch(&self, id: u8, sql: SocketAddr) -> Result<Child, Failure> {
        let program =
            std::env::current_exe().map_err(|e| Failure::failed(format!("cannot find this program: {e}")))?;
        let errors = self.options.logs.join(format!("node-{id}.err"));
        let stderr = std::fs::File::create(&errors)
            .map_err(|e| Failure::failed(format!("{}: {e}", errors.display())))?;
        let mut command = Command::new(program);
        command.args([
            "node",
            "start",
            "--id",
            &id.to_string(),
            "--sql",
            &sql.to_string(),
            "--buffer",
            &self.options.buffer,
        ]);
        command
            .arg("--device")
            .arg(&self.options.device)
            .arg("--log")
            .arg(self.log(id));
        command
            .arg("--admin")
            .arg(self.sockets.join(format!("{id}.admin")));
        command.arg("--peer").arg(format!(
            "unix:{}",
            self.sockets.join(format!("{id}.peer")).display()
        ));
        if self.options.keep {
            command.arg("--session");
        } else {
            command.args(["--with-parent", &std::process::id().to_string()]);
        }
        for variable in crate::config::VARIABLES
            .iter()
            .filter(|v| **v != "AQUIFER_LOG_LEVEL")
        {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        command
            .spawn()
            .map_err(|e| Failure::failed(format!("cannot start node {id}: {e}")))
    }

    async fn wait_ready(&mut self, index: usize) -> Result<(), Failure> {
        let id = self.nodes[index].id;
        let log = self.log(id);
        let child = self.nodes[index]
            .child
            .as_mut()
            .expect("it was launched just now");
        let output = child.stdout.take().expect("stdout was asked for as a pipe");
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        });
        let line = match tokio::time::timeout(READY_LIMIT, line).await {
            Ok(Ok(Ok(line))) if line.contains(" ready") => line,
            Ok(_) => return Err(self.early_end(index)),
            Err(_) => {
                return Err(Failure::unavailable(format!(
                    "node {id} was not ready after {READY_LIMIT:?}; see {}",
                    log.display()
                )));
            }
        };
        let node = &mut self.nodes[index];
        let field = |name: &str| {
            line.split_whitespace()
                .find_map(|w| w.strip_prefix(name))
                .unwrap_or_default()
        };
        node.sql = field("sql=")
            .parse()
            .map_err(|_| Failure::failed(format!("node {id} did not say its SQL address")))?;
        node.admin = field("admin=").to_owned();
        Ok(())
    }

    /// Why a node ended before it was ready: its own line, with its own exit code.
    fn early_end(&mut self, index: usize) -> Failure {
        let log = self.log(self.nodes[index].id);
        let node = &mut self.nodes[index];
        let status = node.child.as_mut().and_then(|c| c.wait().ok());
        let said = std::fs::read_to_string(self.options.logs.join(format!("node-{}.err", node.id)))
            .unwrap_or_default();
        let reason = said
            .lines()
            .rev()
            .find_map(|l| l.strip_prefix("aquifer: "))
            .or(said.lines().next_back());
        let code = status.and_then(|s| s.code()).unwrap_or(1);
        let reason = reason.map_or_else(
            || format!("it ended with {status:?}; see {}", log.display()),
            str::to_owned,
        );
        Failure::new(Exit::from_code(code), format!("node {}: {reason}", node.id))
    }

    /// SIGKILL, by process id. Gives the instant of the kill (CLOCK_BOOTTIME, ns).
    pub fn kill(&mut self, id: u8) -> Result<u64, Failure> {
        let node = self
            .nodes
            .iter_mut()
            .find(|n| n.id == id)
            .expect("only known nodes are killed");
        let mut child = node
            .child
            .take()
            .ok_or_else(|| Failure::failed(format!("node {id} does not run")))?;
        let at = boottime();
        child
            .kill()
            .map_err(|e| Failure::failed(format!("cannot kill node {id}: {e}")))?;
        // Reaped apart: a dying process may take a while to give back its memory.
        std::thread::spawn(move || child.wait());
        Ok(at)
    }

    /// Nodes that run.
    pub fn alive(&self) -> impl Iterator<Item = &LocalNode> {
        self.nodes.iter().filter(|n| n.child.is_some())
    }

    /// Nodes that ended without being told to.
    pub fn fallen(&mut self) -> Vec<u8> {
        let ended = |n: &mut LocalNode| matches!(n.child.as_mut().map(Child::try_wait), Some(Ok(Some(_))));
        self.nodes
            .iter_mut()
            .filter_map(|n| ended(n).then_some(n.id))
            .collect()
    }

    /// Connects to the admin channel of every running node.
    pub async fn admins(&self) -> Result<Vec<(u8, AdminClient)>, Failure> {
        let mut clients = Vec::new();
        for node in self.alive() {
            clients.push((node.id, AdminClient::connect(&node.admin).await?));
        }
        Ok(clients)
    }

    /// Stops all nodes cleanly; names those that did not.
    pub async fn stop(&mut self) -> Vec<u8> {
        for node in self.alive() {
            let child = node.child.as_ref().expect("it is alive");
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_LIMIT;
        let mut unclean = Vec::new();
        for node in &mut self.nodes {
            let Some(mut child) = node.child.take() else {
                continue;
            };
            loop {
                match child.try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(None) if Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(20)).await
                    }
                    _ => {
                        let _ = child.kill();
                        let _ = child.wait();
                        unclean.push(node.id);
                        break;
                    }
                }
            }
        }
        unclean
    }

    /// Leaves the nodes running for good.
    pub fn release(mut self) {
        for node in &mut self.nodes {
            node.child = None;
        }
        self.sockets = PathBuf::new();
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for mut child in self.nodes.iter_mut().filter_map(|n| n.child.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.sockets != Path::new("") {
            let _ = std::fs::remove_dir_all(&self.sockets);
        }
    }
}

/// Runs `work`, or ends it when the user interrupts; what `work` owns is dropped, so its children are killed.
pub async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let listen = |kind| {
        tokio::signal::unix::signal(kind)
            .map_err(|e| Failure::failed(format!("cannot listen for signals: {e}")))
    };
    let mut terminate = listen(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = listen(tokio::signal::unix::SignalKind::interrupt())?;
    tokio::select! {
        result = work => result,
        _ = terminate.recv() => Err(Failure::failed("interrupted; its nodes were ended")),
        _ = interrupt.recv() => Err(Failure::failed("interrupted; its nodes were ended")),
    }
}
