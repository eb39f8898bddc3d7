//! The runtime of production, with somebody who is told when the process aborts.

use aquifer_dss::seam::{BoxFuture, Runtime};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::Instant;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// A node that may not go on waits no longer for whoever is told.
const TOLD: Duration = Duration::from_millis(500);

/// Is told why the process aborts, on a thread of its own; after half a second it aborts all the same.
#[derive(Clone)]
pub struct ExitHook(Arc<dyn Fn(&str) + Send + Sync>);

impl ExitHook {
    /// Calls `tell` with the reason.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Calls it, and waits for a moment.
    fn tell(&self, reason: &str) {
        let (told, wait) = mpsc::channel();
        let (hook, reason) = (self.0.clone(), reason.to_owned());
        let tell = move || {
            hook(&reason);
            // Nobody waits when it took too long.
            let _late = told.send(());
        };
        if std::thread::Builder::new()
            .name("exit".into())
            .spawn(tell)
            .is_ok()
        {
            let _told = wait.recv_timeout(TOLD);
        }
    }
}

impl std::fmt::Debug for ExitHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExitHook")
    }
}

/// tokio's, but for the abort.
pub(crate) struct MemberRuntime {
    tokio: TokioRuntime,
    on_exit: Option<ExitHook>,
}

impl MemberRuntime {
    /// Of the tokio runtime that this is called in.
    pub(crate) fn current(on_exit: Option<ExitHook>) -> Self {
        Self {
            tokio: TokioRuntime::current(),
            on_exit,
        }
    }
}

impl Runtime for MemberRuntime {
    fn now(&self) -> Instant {
        self.tokio.now()
    }

    fn wall_clock(&self) -> u64 {
        self.tokio.wall_clock()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.tokio.sleep_until(deadline)
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.tokio.spawn(name, task);
    }

    fn random(&self) -> u64 {
        self.tokio.random()
    }

    fn abort(&self, reason: &str) {
        if let Some(hook) = &self.on_exit {
            hook.tell(reason);
        }
        self.tokio.abort(reason);
    }
}
