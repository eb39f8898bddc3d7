//! An open pool: a member of the cluster on threads of its own.

use crate::abi::aq_error;
use crate::border::{Answer, Failure};
use crate::exit;
use crate::handles::Table;
use aquifer_dss::group::VolumeGroup;
use aquifer_member::{ExitHook, Member, MemberError, MemberOptions};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

/// How long the library's threads may take to end when a pool is closed.
const THREADS_END: Duration = Duration::from_secs(5);
/// A clean stop that takes longer is given up: the others then recover this node.
const LEAVE_LIMIT: Duration = Duration::from_secs(55);

/// The open pools.
pub static POOLS: Table<Pool> = Table::new(1);
/// One pool is opened at a time, so that two see each other: a process is one member of a group (MBR-2).
static OPENING: Mutex<()> = Mutex::new(());

/// A member of the cluster and the threads that run it.
pub struct Pool {
    member: Arc<Member>,
    handle: Handle,
    /// Taken by whoever closes the pool.
    runtime: Mutex<Option<Runtime>>,
    /// Tells the program when the node has to stop; ended before the node is told to stop.
    watch: JoinHandle<()>,
    timeout_ms: AtomicU64,
}

impl From<MemberError> for Failure {
    fn from(error: MemberError) -> Self {
        let code = match &error {
            MemberError::Device { .. } => aq_error::AQ_DEVICE,
            MemberError::NoDevice(_) => aq_error::AQ_NOT_FOUND,
            MemberError::Memory { .. } => aq_error::AQ_INVALID,
            MemberError::SlotBusy { .. } => aq_error::AQ_BUSY,
            _ => aq_error::AQ_NOT_A_MEMBER,
        };
        Self::new(code, error.to_string())
    }
}

/// One name for a device, however it is written.
fn key(path: &PathBuf) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())
}

/// Refuses calls from the library's own threads, which would wait for themselves.
fn outside() -> Answer<()> {
    if Handle::try_current().is_ok() {
        return Err(Failure::invalid(
            "the library is called from one of its callbacks",
        ));
    }
    Ok(())
}

fn runtime(threads: u32) -> Answer<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1) as usize)
        .thread_name("aquifer")
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                aq_error::AQ_NOT_A_MEMBER,
                format!("cannot start threads: {error}"),
            )
        })
}

impl Pool {
    /// Joins the cluster; returns when the node serves.
    pub fn open(
        mut options: MemberOptions,
        threads: u32,
        limit: Duration,
        timeout_ms: u32,
    ) -> Answer<Arc<Self>> {
        outside()?;
        let _one = OPENING.lock();
        if POOLS.any(|pool| pool.uses(&options.devices)) {
            return Err(Failure::new(
                aq_error::AQ_EXISTS,
                "this process has the pool open already",
            ));
        }
        options.on_exit = Some(ExitHook::new(exit::tell));
        let runtime = runtime(threads)?;
        let joined = runtime.block_on(Member::join(&options, limit));
        let member = match joined {
            Ok(member) => Arc::new(member),
            Err(error) => {
                runtime.shutdown_timeout(THREADS_END);
                return Err(error.into());
            }
        };
        let watched = member.clone();
        let watch = runtime.spawn(async move {
            let reason = watched.ended().await;
            watched.abort(&format!("this node had to stop: {reason}"));
        });
        Ok(Arc::new(Self {
            member,
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            watch,
            timeout_ms: AtomicU64::new(timeout_ms.into()),
        }))
    }

    /// Whether one of these devices is of this pool's group.
    fn uses(&self, devices: &[PathBuf]) -> bool {
        let mine: Vec<PathBuf> = self.member.devices().iter().map(key).collect();
        devices.iter().any(|path| mine.contains(&key(path)))
    }

    /// Leaves the cluster and ends the threads. The devices are closed when the last handle's work has let go of the pool.
    pub fn close(&self) -> Answer<()> {
        outside()?;
        let Some(runtime) = self.runtime.lock().take() else {
            return Err(Failure::new(aq_error::AQ_BAD_HANDLE, "the pool is closed"));
        };
        self.watch.abort();
        let left = runtime.block_on(async {
            let left = tokio::time::timeout(LEAVE_LIMIT, self.member.leave()).await;
            // Also when it took too long.
            self.member.end().await;
            left
        });
        runtime.shutdown_timeout(THREADS_END);
        match left {
            Ok(left) => left.map_err(Failure::from),
            Err(_) => Err(Failure::new(
                aq_error::AQ_NOT_A_MEMBER,
                "leaving took too long: the others recover this node",
            )),
        }
    }

    /// The member.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// The volume group.
    pub fn group(&self) -> &Arc<VolumeGroup> {
        self.member.group()
    }

    /// Sets how long an operation may take; 0 is without end.
    pub fn set_timeout(&self, milliseconds: u32) {
        self.timeout_ms.store(milliseconds.into(), Ordering::Relaxed);
    }

    /// Does work on the library's threads and waits for it. What takes too long goes on alone: work that is dropped in the middle
    /// could leave another node waiting for it.
    pub fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Answer<T>> + Send + 'static,
    ) -> Answer<T> {
        outside()?;
        let task = self.handle.spawn(work);
        let limit = match self.timeout_ms.load(Ordering::Relaxed) {
            0 => Duration::MAX,
            milliseconds => Duration::from_millis(milliseconds),
        };
        let done = self
            .handle
            .block_on(async { tokio::time::timeout(limit, task).await });
        match done {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_cancelled() => Err(Failure::new(
                aq_error::AQ_UNKNOWN,
                "the pool was closed meanwhile",
            )),
            Ok(Err(error)) => Err(Failure::new(aq_error::AQ_INTERNAL, error.to_string())),
            Err(_) => Err(Failure::new(
                aq_error::AQ_UNKNOWN,
                format!("not done within {limit:?}: it goes on, and the outcome is unknown"),
            )),
        }
    }
}
