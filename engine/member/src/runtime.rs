//! The runtime of production, with somebody who is told when the process aborts, and whose tasks end with their member.

use aquifer_dss::seam::{BoxFuture, Runtime, Sleeper};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::Instant;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

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

/// Tasks that have ended are forgotten whenever there are twice as many as went on the last time, and never before there are so many.
const FORGOTTEN_FROM: usize = 256;

/// The tasks of a member, so that none outlives it.
struct Tasks {
    /// Calls that are about to add one. They do so without the lock: a task may be dropped there and then, and what is dropped may spawn.
    beginning: usize,
    begun: Vec<JoinHandle<()>>,
    /// With so many it is time to look which have ended.
    look_at: usize,
    /// No task begins any more.
    over: bool,
}

impl Tasks {
    fn add(&mut self, task: JoinHandle<()>) {
        if self.begun.len() >= self.look_at {
            self.begun.retain(|task| !task.is_finished());
            self.look_at = (self.begun.len() * 2).max(FORGOTTEN_FROM);
        }
        self.begun.push(task);
    }
}

/// tokio's, but for the abort, and for the end of all tasks together.
pub(crate) struct MemberRuntime {
    tokio: TokioRuntime,
    handle: Handle,
    tasks: Mutex<Tasks>,
    on_exit: Option<ExitHook>,
}

impl MemberRuntime {
    /// Of the tokio runtime that this is called in.
    pub(crate) fn current(on_exit: Option<ExitHook>) -> Self {
        let tasks = Tasks {
            beginning: 0,
            begun: Vec::new(),
            look_at: FORGOTTEN_FROM,
            over: false,
        };
        Self {
            tokio: TokioRuntime::current(),
            handle: Handle::current(),
            tasks: Mutex::new(tasks),
            on_exit,
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks
            .lock()
            .expect("nothing panics while it holds the tasks")
    }

    /// Drops all tasks, wherever they wait, and returns when they are gone. What is to be spawned from now on is dropped at once.
    /// Not to be called by one of them.
    pub(crate) async fn stop(&self) {
        loop {
            let (beginning, begun) = {
                let mut tasks = self.tasks();
                tasks.over = true;
                (tasks.beginning, std::mem::take(&mut tasks.begun))
            };
            if beginning == 0 && begun.is_empty() {
                return;
            }
            begun.iter().for_each(JoinHandle::abort);
            for task in begun {
                // Ended, cancelled or by a panic that was told when it happened.
                let _ended = task.await;
            }
            tokio::task::yield_now().await;
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

    fn sleeper(&self) -> Option<Box<dyn Sleeper>> {
        self.tokio.sleeper()
    }

    fn spawn(&self, _: &'static str, task: BoxFuture<'static, ()>) {
        {
            let mut tasks = self.tasks();
            if tasks.over {
                drop(tasks);
                return;
            }
            tasks.beginning += 1;
        }
        let task = self.handle.spawn(task);
        let mut tasks = self.tasks();
        tasks.beginning -= 1;
        tasks.add(task);
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
