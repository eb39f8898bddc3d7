//! The node process: listeners, the assembled node, its admin service, signals and the clean stop.

mod assemble;
mod history;
mod member;
mod service;
mod views;
mod volumes;
mod watch;

use crate::admin::{self, AdminSocket};
use crate::failure::{Exit, Failure, Outcome};
use crate::mount::Mounted;
use crate::output::{note, print_line};
use crate::units::Address;
use aquifer_dss_proto::NodeId;
pub use member::{ShortMember, ShortNode};

use assemble::Running;
use service::NodeService;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;

/// A clean stop that takes longer is given up: the others then recover this node like a dead one.
const STOP_LIMIT: Duration = Duration::from_secs(55);

/// Everything that a node is told.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Which node.
    pub id: NodeId,
    /// Devices of the volume group, in any order; those that are missing here are opened by their path in the catalogue.
    pub devices: Vec<PathBuf>,
    /// Where SQL is served; a member that only uses files serves none.
    pub sql: Option<SocketAddr>,
    /// Where peers connect.
    pub peer: Address,
    /// Whether messages go through memory to peers of the same machine.
    pub peer_memory: bool,
    /// Admin socket.
    pub admin: PathBuf,
    /// Memory for pages, in bytes.
    pub buffer: u64,
    /// Side of volume 0 that is lost for good, as the operator says.
    pub lost_side: Option<u8>,
    /// Log file.
    pub log: Option<PathBuf>,
    /// Name of the volume group and directory to mount it on.
    pub mount: Option<(String, PathBuf)>,
}

/// Sends the log to `file`, or to stderr. The level is AQUIFER_LOG_LEVEL, `info` when unset.
pub fn logging(file: Option<&Path>) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("AQUIFER_LOG_LEVEL").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match file {
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|e| Failure::usage(format!("cannot write the log {}: {e}", path.display())))?;
            builder.with_writer(std::sync::Mutex::new(file)).init();
        }
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

/// What ends a node that is asked to.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    asked: Arc<Notify>,
}

impl StopSignals {
    fn new(asked: Arc<Notify>) -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|e| Failure::failed(format!("cannot listen for signals: {e}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            asked,
        })
    }

    /// Waits for one of them; says which.
    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = self.asked.notified() => "an admin command",
        }
    }
}

/// Why a node that served ends.
enum End {
    /// Somebody asked for it.
    Asked(&'static str),
    /// It had to stop by itself.
    Lost(String),
}

/// Runs a node until it is stopped.
pub async fn run(settings: NodeSettings) -> Outcome {
    let asked = Arc::new(Notify::new());
    let mut signals = StopSignals::new(Arc::clone(&asked))?;
    let socket = AdminSocket::bind(&settings.admin)?;
    let sql = match settings.sql {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let sql_address = sql.as_ref().map(TcpListener::local_addr).transpose();
    let sql_address =
        sql_address.map_err(|e| Failure::failed(format!("the SQL port has no address: {e}")))?;
    let running = tokio::select! {
        running = Running::start(&settings, sql_address) => Arc::new(running?),
        by = signals.recv() => return Err(Failure::failed(format!("stopped by {by} before it was ready"))),
    };
    let service = Arc::new(NodeService::new(Arc::clone(&running), asked));
    let mut tasks = vec![tokio::spawn(admin::serve(socket, service))];
    let ready = tokio::select! {
        ready = running.ready() => Some(ready?),
        by = signals.recv() => { note(format!("stopped by {by} before it was ready")); None },
    };
    let mut served = Ok(());
    if ready.is_some() {
        if let Some(sql) = sql {
            tasks.push(tokio::spawn(Arc::clone(&running).serve_sql(sql)));
        }
        tasks.push(tokio::spawn(history::record(Arc::clone(&running))));
        match serve(&settings, sql_address, &running, &mut signals).await {
            Ok(End::Asked(by)) => tracing::info!(by, "stopping"),
            Ok(End::Lost(reason)) => {
                return Err(Failure::unavailable(format!("this node had to stop: {reason}")));
            }
            Err(failure) => served = Err(failure),
        }
    }
    let stopped = tokio::time::timeout(STOP_LIMIT, running.stop()).await;
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    match stopped {
        Ok(stopped) => served.and(stopped).map(|()| Exit::Done),
        Err(_) => Err(Failure::new(
            Exit::Degraded,
            format!("the clean stop took longer than {STOP_LIMIT:?}; the others recover this node"),
        )),
    }
}

/// Mounts, when that is asked for, says that the node is ready, and waits for the end.
async fn serve(
    settings: &NodeSettings,
    sql: Option<SocketAddr>,
    running: &Running,
    signals: &mut StopSignals,
) -> Result<End, Failure> {
    let mut mounted = match &settings.mount {
        Some((vg, directory)) => Some(Mounted::start(running.group(), vg, directory)?),
        None => None,
    };
    let status = running.status();
    let front = match (sql, &settings.mount) {
        (None, Some((_, directory))) => format!("mount={}", directory.display()),
        (address, _) => format!("sql={}", address.map(|a| a.to_string()).unwrap_or_default()),
    };
    print_line(&format!(
        "node {} ready incarnation={} epoch={} {front} peer={} admin={}",
        settings.id,
        status.incarnation,
        status.epoch,
        settings.peer,
        settings.admin.display()
    ))?;
    let end = tokio::select! {
        by = signals.recv() => End::Asked(by),
        reason = running.ended() => End::Lost(reason),
        () = unmounted(&mut mounted) => End::Asked("the directory was unmounted"),
    };
    if let Some(mounted) = mounted {
        mounted.end().await;
    }
    Ok(end)
}

/// Returns when somebody unmounts the directory; never without a mount.
async fn unmounted(mounted: &mut Option<Mounted>) {
    match mounted {
        Some(mounted) => mounted.ended().await,
        None => std::future::pending().await,
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Failure::unavailable(format!(
            "--sql {address} is in use: choose another port, or stop what listens there"
        )),
        _ => Failure::unavailable(format!("cannot listen on --sql {address}: {e}")),
    })
}
