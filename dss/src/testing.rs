//! A minimal deterministic runtime for unit tests: one thread, virtual time, one seed.
//!
//! Tasks run in the order in which they were woken; time moves only when nobody can run.

use crate::seam::{BoxFuture, Runtime};
use aquifer_dss_proto::Instant;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// How many times as long tests of hostile input run: `scripts/fuzz` sets `AQUIFER_FUZZ_ROUNDS`.
///
/// # Panics
/// When that is no number.
pub fn fuzz_rounds() -> u64 {
    let set = std::env::var("AQUIFER_FUZZ_ROUNDS").ok();
    set.map_or(1, |rounds| {
        rounds.parse().expect("AQUIFER_FUZZ_ROUNDS is a number")
    })
}

/// The runtime. Make it with [`TestRuntime::new`] and run a future with `block_on`.
pub struct TestRuntime {
    state: Mutex<State>,
    /// Whether an abort only ends the task that calls it.
    tolerant: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

#[derive(Default)]
struct State {
    now: u64,
    random: u64,
    next_task: u64,
    tasks: BTreeMap<u64, BoxFuture<'static, ()>>,
    next_timer: u64,
    timers: BTreeMap<(u64, u64), (Waker, Arc<AtomicBool>)>,
}

struct TaskWaker {
    task: u64,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock();
        if !ready.contains(&self.task) {
            ready.push_back(self.task);
        }
    }
}

impl TestRuntime {
    // What tests hold is a handle, because tasks and timers hold the runtime too.
    #[allow(clippy::new_ret_no_self)]
    /// A runtime at time 1 s whose random numbers come from `seed`.
    pub fn new(seed: u64) -> Arc<TestHandle> {
        let state = State {
            now: 1_000_000_000,
            random: seed,
            next_task: 1,
            ..State::default()
        };
        let runtime = Self {
            state: Mutex::new(state),
            tolerant: AtomicBool::new(false),
            ready: Arc::default(),
        };
        Arc::new(TestHandle(Arc::new(runtime)))
    }

    /// Runs `future` and every task until `future` is done; panics when nothing can ever run again.
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let main = Waker::from(Arc::new(TaskWaker {
            task: 0,
            ready: self.ready.clone(),
        }));
        self.ready.lock().push_back(0);
        loop {
            let next = self.ready.lock().pop_front();
            match next {
                Some(0) => {
                    if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&main)) {
                        return value;
                    }
                }
                Some(task) => self.poll_task(task),
                None => assert!(self.advance(), "deadlock: nobody can run and no timer is set"),
            }
        }
    }

    fn poll_task(&self, task: u64) {
        let Some(mut future) = self.state.lock().tasks.remove(&task) else {
            return;
        };
        let waker = Waker::from(Arc::new(TaskWaker {
            task,
            ready: self.ready.clone(),
        }));
        if future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            self.state.lock().tasks.insert(task, future);
        }
    }

    /// Moves time to the next timer.
    fn advance(&self) -> bool {
        let mut state = self.state.lock();
        let Some(((at, _), (waker, fired))) = state.timers.pop_first() else {
            return false;
        };
        state.now = state.now.max(at);
        drop(state);
        fired.store(true, Ordering::Relaxed);
        waker.wake();
        true
    }
}

/// A shared handle of a [`TestRuntime`]; this is what implements [`Runtime`].
pub struct TestHandle(Arc<TestRuntime>);

impl TestHandle {
    /// Runs `future` and every task until `future` is done; panics when nothing can ever run again.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future)
    }

    /// From now on `abort` does nothing instead of failing the test: for tests that take the device away.
    pub fn tolerate_aborts(&self) {
        self.0.tolerant.store(true, Ordering::Relaxed);
    }

    /// Forgets every task and timer, as a crash of the process does.
    pub fn drop_tasks(&self) {
        let mut state = self.0.state.lock();
        let (tasks, timers) = (
            std::mem::take(&mut state.tasks),
            std::mem::take(&mut state.timers),
        );
        drop(state);
        drop((tasks, timers));
        self.0.ready.lock().clear();
    }
}

struct Sleep {
    runtime: Arc<TestRuntime>,
    deadline: u64,
    timer: Option<(u64, Arc<AtomicBool>)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let runtime = self.runtime.clone();
        let mut state = runtime.state.lock();
        if state.now >= self.deadline {
            return Poll::Ready(());
        }
        let number = match &self.timer {
            Some((number, _)) => *number,
            None => {
                state.next_timer += 1;
                state.next_timer
            }
        };
        let fired = Arc::new(AtomicBool::new(false));
        state
            .timers
            .insert((self.deadline, number), (context.waker().clone(), fired.clone()));
        self.timer = Some((number, fired));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((number, fired)) = &self.timer
            && !fired.load(Ordering::Relaxed)
        {
            self.runtime.state.lock().timers.remove(&(self.deadline, *number));
        }
    }
}

impl Runtime for TestHandle {
    fn now(&self) -> Instant {
        Instant(self.0.state.lock().now)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(Sleep {
            runtime: self.0.clone(),
            deadline: deadline.0,
            timer: None,
        })
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        let mut state = self.0.state.lock();
        let number = state.next_task;
        state.next_task += 1;
        state.tasks.insert(number, task);
        drop(state);
        self.0.ready.lock().push_back(number);
    }

    fn random(&self) -> u64 {
        let mut state = self.0.state.lock();
        state.random = state
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.random ^ (state.random >> 29)
    }

    fn abort(&self, reason: &str) {
        assert!(self.0.tolerant.load(Ordering::Relaxed), "node aborted: {reason}");
    }
}
