//! The executor: one thread, virtual time, one seed.
//!
//! Rules:
//! - tasks belong to one life of a node, or to the world (clients, nemesis). When a life ends, its tasks and timers go with
//!   it: they are never polled again, and are dropped only when nothing is being polled, because a destructor may take
//!   a lock that the running task holds;
//! - which ready task runs next is drawn from the seed; the clock jumps to the next event when no task is ready;
//! - a stopped (SIGSTOP) node is not polled and receives nothing; what arrives meanwhile is kept, its I/O completes;
//! - a panic of a node's task is a failure of the run, and so is an `abort` whose reason is not one that the faults of the run
//!   explain (`WorldOptions::explained`); any other `abort` is an event, the checks at the end decide;
//! - no foreign code (poll, destructor, delivery) runs while the world's own lock is held.

use super::random::Random;
use super::trace::Trace;
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::NodeId;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// One life of a node as the simulator counts them (the node's own incarnation is the node's business).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Life {
    /// Which node.
    pub node: NodeId,
    /// Which of its lives: 1 is the first.
    pub number: u64,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Virtual time in nanoseconds.
    pub at: u64,
    /// What went wrong.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {:.3} s: {}", self.at as f64 / 1e9, self.message)
    }
}

/// How the executor behaves.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// The seed of everything.
    pub seed: u64,
    /// Run ready tasks in the order they became ready, instead of a drawn order.
    pub fifo: bool,
    /// Longest virtual time one poll takes.
    pub poll_cost: Duration,
    /// Timers that fire late, in a million.
    pub late_timers: u32,
    /// How late they fire at most.
    pub late_by: Duration,
    /// Largest deviation of a node's clock rate, in parts per million.
    pub clock_skew: u32,
    /// Virtual time after which the run has failed.
    pub time_limit: Duration,
    /// Polls after which the run has failed.
    pub step_limit: u64,
    /// Whether the faults of the run explain that a life ends itself for this reason; otherwise the run has failed.
    pub explained: fn(&str) -> bool,
    /// Print every event.
    pub print: bool,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            fifo: false,
            poll_cost: Duration::from_micros(5),
            late_timers: 1_000,
            late_by: Duration::from_millis(200),
            clock_skew: 200,
            time_limit: Duration::from_secs(600),
            step_limit: 20_000_000,
            explained: |_| true,
            print: std::env::var_os("AQUIFER_TRACE").is_some_and(|value| value != "0"),
        }
    }
}

/// Told when a life has ended.
pub trait CrashHook: Send + Sync {
    /// `life` has just ended.
    fn crashed(&self, life: Life);
}

type Call = Box<dyn FnOnce() + Send>;

enum Event {
    Wake(Arc<TimerState>),
    Call(Call),
}

struct Scheduled {
    /// The life that must still be there (and running) for the event to happen.
    owner: Option<Life>,
    event: Event,
}

struct Task {
    owner: Option<Life>,
    name: &'static str,
    future: Option<BoxFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
}

/// A task taken out to be polled.
type Taken = (
    u64,
    Option<Life>,
    &'static str,
    BoxFuture<'static, ()>,
    Arc<TaskWaker>,
);

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().push_back(self.id);
        }
    }
}

#[derive(Default)]
struct TimerState {
    fired: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct NodeState {
    life: u64,
    alive: bool,
    paused: bool,
    parked: Vec<u64>,
    held: Vec<Call>,
    clock_offset: u64,
    clock_skew_ppm: i64,
}

struct Inner {
    now: u64,
    sequence: u64,
    next_task: u64,
    /// Tasks to poll. What is woken during one step is sorted in: the order of wake-ups inside a step is not ours
    /// (`tokio::sync::watch` wakes in an order it draws itself).
    queue: VecDeque<u64>,
    steps: u64,
    events: BTreeMap<(u64, u64), Scheduled>,
    tasks: BTreeMap<u64, Task>,
    nodes: BTreeMap<NodeId, NodeState>,
    random: Random,
    trace: Trace,
    graveyard: Vec<Box<dyn Any + Send>>,
    failure: Option<Failure>,
    aborts: Vec<(Life, String)>,
}

/// Ends the poll of a task whose node has aborted itself.
struct Aborted;

/// The simulated world: tasks, time, lives. See the module's rules.
pub struct World {
    options: WorldOptions,
    inner: Mutex<Inner>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    hooks: Mutex<Vec<Arc<dyn CrashHook>>>,
}

impl World {
    /// An empty world at time zero.
    pub fn new(options: WorldOptions) -> Arc<Self> {
        super::panics::capture();
        let inner = Inner {
            now: 0,
            sequence: 0,
            next_task: 1,
            queue: VecDeque::new(),
            steps: 0,
            events: BTreeMap::new(),
            tasks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            random: Random::fork(options.seed, "world"),
            trace: Trace::new(options.print),
            graveyard: Vec::new(),
            failure: None,
            aborts: Vec::new(),
        };
        Arc::new(Self {
            options,
            inner: Mutex::new(inner),
            ready: Arc::default(),
            hooks: Mutex::default(),
        })
    }

    /// The seed of this world.
    pub fn seed(&self) -> u64 {
        self.options.seed
    }

    /// Virtual nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.inner.lock().now
    }

    /// Records an event in the trace.
    pub fn record(&self, kind: &'static str, fields: [u64; 4], text: &str) {
        let mut inner = self.inner.lock();
        let now = inner.now;
        inner.trace.record(now, kind, fields, text);
    }

    /// Digest of everything that has happened, and how many events that were.
    pub fn digest(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.trace.digest(), inner.trace.events())
    }

    /// The last events with a text.
    pub fn recent(&self) -> Vec<String> {
        self.inner.lock().trace.recent()
    }

    /// Nodes that ended their own life, and why.
    pub fn aborts(&self) -> Vec<(Life, String)> {
        self.inner.lock().aborts.clone()
    }

    /// Polls so far.
    pub fn steps(&self) -> u64 {
        self.inner.lock().steps
    }

    /// Fails the run: [`block_on`](Self::block_on) returns this (the first one wins).
    pub fn fail(&self, message: impl Into<String>) {
        let mut inner = self.inner.lock();
        if inner.failure.is_none() {
            let failure = Failure {
                at: inner.now,
                message: message.into(),
            };
            let now = inner.now;
            inner.trace.record(now, "FAILURE", [0; 4], &failure.message);
            inner.failure = Some(failure);
        }
    }

    /// Why the run has failed, if it has: also when the scenario came to its end in the same step.
    pub fn failure(&self) -> Option<Failure> {
        self.inner.lock().failure.clone()
    }

    /// Tells `hook` of every life that ends.
    pub fn add_hook(&self, hook: Arc<dyn CrashHook>) {
        self.hooks.lock().push(hook);
    }

    // ---- lives ----

    /// Begins a new life of `node`, whose earlier one has ended.
    pub fn start_life(&self, node: NodeId) -> Life {
        let mut inner = self.inner.lock();
        let seed = self.options.seed;
        let skew = u64::from(self.options.clock_skew);
        let state = inner.nodes.entry(node).or_insert_with(|| {
            // A machine's clock belongs to the machine: it outlives its processes.
            let mut random = Random::fork(seed, &format!("clock {node}"));
            let clock_skew_ppm = random.below(2 * skew + 1) as i64 - skew as i64;
            NodeState {
                clock_offset: random.between(1_000_000_000, 1 << 50),
                clock_skew_ppm,
                ..NodeState::default()
            }
        });
        assert!(!state.alive, "node {node} is alive already");
        state.life += 1;
        state.alive = true;
        state.paused = false;
        let life = Life {
            node,
            number: state.life,
        };
        let now = inner.now;
        inner.trace.record(
            now,
            "start",
            [u64::from(node.get()), life.number, 0, 0],
            "node starts",
        );
        life
    }

    /// The life of `node` that goes on now, if any.
    pub fn life(&self, node: NodeId) -> Option<Life> {
        let inner = self.inner.lock();
        inner
            .nodes
            .get(&node)
            .filter(|state| state.alive)
            .map(|state| Life {
                node,
                number: state.life,
            })
    }

    /// Whether `life` goes on.
    pub fn is_alive(&self, life: Life) -> bool {
        self.inner.lock().is_alive(life)
    }

    /// Whether `node` is stopped.
    pub fn is_paused(&self, node: NodeId) -> bool {
        self.inner
            .lock()
            .nodes
            .get(&node)
            .is_some_and(|state| state.paused)
    }

    /// Ends `life` at once, as kill -9 does. Nothing happens when it has ended already.
    pub fn crash(&self, life: Life, reason: &str) {
        {
            let mut inner = self.inner.lock();
            if !inner.is_alive(life) {
                return;
            }
            let now = inner.now;
            inner.trace.record(
                now,
                "crash",
                [u64::from(life.node.get()), life.number, 0, 0],
                reason,
            );
            inner.bury(life);
        }
        let hooks = self.hooks.lock().clone();
        for hook in hooks {
            hook.crashed(life);
        }
    }

    /// A node ends its own life in order, by leaving its main function with an error. As an abort it needs an explanation.
    pub fn exit(&self, life: Life, reason: &str) {
        if !self.is_alive(life) {
            return;
        }
        self.inner.lock().aborts.push((life, reason.to_owned()));
        if !(self.options.explained)(reason) {
            self.fail(format!(
                "node {} (life {}) ended itself: {reason}",
                life.node, life.number
            ));
        }
        self.crash(life, reason);
    }

    /// A node ends its own life; does not return to the task that calls it.
    pub fn abort(&self, life: Life, reason: &str) {
        if !self.is_alive(life) {
            return;
        }
        self.exit(life, reason);
        if !std::thread::panicking() {
            std::panic::resume_unwind(Box::new(Aborted));
        }
    }

    /// Stops `node` (SIGSTOP).
    pub fn pause(&self, node: NodeId) {
        let mut inner = self.inner.lock();
        let now = inner.now;
        if let Some(state) = inner
            .nodes
            .get_mut(&node)
            .filter(|state| state.alive && !state.paused)
        {
            state.paused = true;
            inner
                .trace
                .record(now, "pause", [u64::from(node.get()), 0, 0, 0], "node is stopped");
        }
    }

    /// Lets `node` go on (SIGCONT).
    pub fn resume(&self, node: NodeId) {
        let mut inner = self.inner.lock();
        let now = inner.now;
        let Some(state) = inner
            .nodes
            .get_mut(&node)
            .filter(|state| state.alive && state.paused)
        else {
            return;
        };
        state.paused = false;
        let owner = Some(Life {
            node,
            number: state.life,
        });
        let parked = std::mem::take(&mut state.parked);
        let held = std::mem::take(&mut state.held);
        self.ready.lock().extend(parked);
        for call in held {
            inner.schedule(now, owner, Event::Call(call));
        }
        inner
            .trace
            .record(now, "resume", [u64::from(node.get()), 0, 0, 0], "node goes on");
    }

    /// The clock of `node` at this moment, in nanoseconds.
    pub fn local_time(&self, node: NodeId) -> u64 {
        let inner = self.inner.lock();
        inner
            .nodes
            .get(&node)
            .map_or(inner.now, |state| state.local(inner.now))
    }

    /// Sets how fast the clock of `node` goes, in parts per million; its reading does not jump.
    pub fn set_clock_rate(&self, node: NodeId, skew_ppm: i64) {
        let mut inner = self.inner.lock();
        let now = inner.now;
        if let Some(state) = inner.nodes.get_mut(&node) {
            let before = state.local(now);
            state.clock_skew_ppm = skew_ppm;
            state.clock_offset = state
                .clock_offset
                .wrapping_add(before.wrapping_sub(state.local(now)));
        }
    }

    // ---- tasks and time ----

    /// Starts a task of `owner` (of the world when `None`). Ignored when that life has ended.
    pub fn spawn(&self, owner: Option<Life>, name: &'static str, future: BoxFuture<'static, ()>) {
        let waker = {
            let mut inner = self.inner.lock();
            if owner.is_some_and(|life| !inner.is_alive(life)) {
                inner.graveyard.push(Box::new(future));
                return;
            }
            let id = inner.next_task;
            inner.next_task += 1;
            let waker = Arc::new(TaskWaker {
                id,
                queued: AtomicBool::new(false),
                ready: self.ready.clone(),
            });
            inner.tasks.insert(
                id,
                Task {
                    owner,
                    name,
                    future: Some(future),
                    waker: waker.clone(),
                },
            );
            waker
        };
        waker.wake();
    }

    /// Calls `call` after `delay`, unless `owner` has ended by then; a stopped owner gets it when it goes on.
    pub fn after(&self, delay: Duration, owner: Option<Life>, call: impl FnOnce() + Send + 'static) {
        let mut inner = self.inner.lock();
        let at = inner.now + delay.as_nanos() as u64;
        inner.schedule(at, owner, Event::Call(Box::new(call)));
    }

    /// Waits for `delay` of virtual time: for tasks of the world.
    pub fn sleep(self: &Arc<Self>, delay: Duration) -> BoxFuture<'static, ()> {
        let at = self.now() + delay.as_nanos() as u64;
        Box::pin(Sleep {
            world: self.clone(),
            owner: None,
            at,
            state: None,
        })
    }

    /// Waits until the clock of `life`'s node shows `local`; sometimes later, never earlier.
    pub fn sleep_local(self: &Arc<Self>, life: Life, local: u64) -> BoxFuture<'static, ()> {
        let at = {
            let mut inner = self.inner.lock();
            let at = inner
                .nodes
                .get(&life.node)
                .map_or(local, |state| state.world_time(local));
            let late = inner.random.chance(self.options.late_timers);
            at + if late {
                inner.random.below(self.options.late_by.as_nanos() as u64 + 1)
            } else {
                0
            }
        };
        Box::pin(Sleep {
            world: self.clone(),
            owner: Some(life),
            at,
            state: None,
        })
    }

    /// Runs the world until `scenario` has finished, or the run has failed.
    pub fn block_on<T: Send + 'static>(
        &self,
        scenario: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        let result = Arc::new(Mutex::new(None));
        let slot = result.clone();
        let task = async move {
            let value = scenario.await;
            *slot.lock() = Some(value);
        };
        self.spawn(None, "scenario", Box::pin(task));
        loop {
            if let Some(failure) = self.inner.lock().failure.clone() {
                return Err(failure);
            }
            if let Some(value) = result.lock().take() {
                return Ok(value);
            }
            self.step();
        }
    }

    /// One event or one poll.
    fn step(&self) {
        let due = {
            let mut inner = self.inner.lock();
            inner.sort_in(&self.ready);
            let nothing_ready = inner.queue.is_empty();
            let next = inner.events.first_key_value().map(|((at, _), _)| *at);
            match next {
                Some(at) if at <= inner.now || nothing_ready => {
                    inner.now = inner.now.max(at);
                    inner.events.pop_first().map(|(_, scheduled)| scheduled)
                }
                None if nothing_ready => {
                    drop(inner);
                    self.fail("nothing left to run: everybody waits for somebody");
                    return;
                }
                _ => None,
            }
        };
        match due {
            Some(scheduled) => self.happen(scheduled),
            None => self.poll_one(),
        }
        self.clean();
    }

    fn happen(&self, scheduled: Scheduled) {
        {
            let mut inner = self.inner.lock();
            if inner.now > self.options.time_limit.as_nanos() as u64 {
                drop(inner);
                self.fail("the run did not come to its end in the virtual time it has");
                return;
            }
            if let Some(life) = scheduled.owner {
                if !inner.is_alive(life) {
                    inner.graveyard.push(Box::new(scheduled));
                    return;
                }
                let state = inner
                    .nodes
                    .get_mut(&life.node)
                    .expect("a living node has a state");
                if state.paused
                    && let Event::Call(call) = scheduled.event
                {
                    state.held.push(call);
                    return;
                }
            }
        }
        match scheduled.event {
            Event::Wake(timer) => {
                timer.fired.store(true, Ordering::Relaxed);
                let waker = timer.waker.lock().take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Event::Call(call) => self.guarded(scheduled.owner, "delivery", call),
        }
    }

    fn poll_one(&self) {
        let Some((id, owner, name, mut future, waker)) = self.take_ready() else {
            return;
        };
        let mut finished = true;
        let outcome = &mut finished;
        let polled = &mut future;
        self.guarded(owner, name, move || {
            let waker = Waker::from(waker);
            *outcome = polled.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        });
        let mut inner = self.inner.lock();
        let cost = inner.random.below(self.options.poll_cost.as_nanos() as u64 + 1);
        inner.now += cost;
        match inner.tasks.get_mut(&id) {
            Some(task) if !finished => task.future = Some(future),
            _ => {
                inner.tasks.remove(&id);
                inner.graveyard.push(Box::new(future));
            }
        }
    }

    fn take_ready(&self) -> Option<Taken> {
        let mut inner = self.inner.lock();
        let index = if self.options.fifo {
            0
        } else {
            let length = inner.queue.len() as u64;
            inner.random.below(length) as usize
        };
        let id = if self.options.fifo {
            inner.queue.pop_front()
        } else {
            inner.queue.swap_remove_back(index)
        }?;
        let owner = inner.tasks.get(&id)?.owner;
        if let Some(life) = owner {
            let state = inner
                .nodes
                .get_mut(&life.node)
                .expect("a task's node has a state");
            if state.paused {
                state.parked.push(id);
                return None;
            }
        }
        inner.steps += 1;
        if inner.steps > self.options.step_limit {
            drop(inner);
            self.fail("the run did not come to its end in the polls it has: somebody spins");
            return None;
        }
        let now = inner.now;
        let task = inner.tasks.get_mut(&id).expect("looked up above");
        task.waker.queued.store(false, Ordering::Relaxed);
        let taken = (id, owner, task.name, task.future.take()?, task.waker.clone());
        inner.trace.record(now, "poll", [id, 0, 0, 0], "");
        Some(taken)
    }

    /// Runs foreign code: a panic fails the run, an abort only ends the node.
    fn guarded(&self, owner: Option<Life>, name: &str, code: impl FnOnce()) {
        let Err(payload) = catch_unwind(AssertUnwindSafe(code)) else {
            return;
        };
        if payload.is::<Aborted>() {
            return;
        }
        let text = super::panics::last().unwrap_or_else(|| "panic without a message".to_owned());
        match owner {
            Some(life) => {
                self.fail(format!(
                    "node {} (life {}) panicked in {name}: {text}",
                    life.node, life.number
                ));
                self.crash(life, "panic");
            }
            None => self.fail(format!("panic in {name}: {text}")),
        }
    }

    /// Drops what has ended. Destructors may call back into the world.
    fn clean(&self) {
        loop {
            let garbage = std::mem::take(&mut self.inner.lock().graveyard);
            if garbage.is_empty() {
                return;
            }
            self.guarded(None, "destructor", move || drop(garbage));
        }
    }

    /// Drops `value` when nothing is being polled.
    pub fn drop_later(&self, value: impl Send + 'static) {
        self.inner.lock().graveyard.push(Box::new(value));
    }

    /// Ends everything and drops all tasks and events, so that nothing keeps the world alive.
    pub fn shut_down(&self) {
        let lives: Vec<Life> = {
            let inner = self.inner.lock();
            let living = inner.nodes.iter().filter(|(_, state)| state.alive);
            living
                .map(|(node, state)| Life {
                    node: *node,
                    number: state.life,
                })
                .collect()
        };
        for life in lives {
            self.crash(life, "the run is over");
        }
        self.hooks.lock().clear();
        let (tasks, events) = {
            let mut inner = self.inner.lock();
            (
                std::mem::take(&mut inner.tasks),
                std::mem::take(&mut inner.events),
            )
        };
        drop(tasks);
        drop(events);
        self.clean();
    }
}

impl Inner {
    fn sort_in(&mut self, woken: &Mutex<VecDeque<u64>>) {
        let mut woken: Vec<u64> = woken.lock().drain(..).collect();
        woken.sort_unstable();
        self.queue.extend(woken);
    }

    fn is_alive(&self, life: Life) -> bool {
        self.nodes
            .get(&life.node)
            .is_some_and(|state| state.alive && state.life == life.number)
    }

    fn schedule(&mut self, at: u64, owner: Option<Life>, event: Event) -> (u64, u64) {
        self.sequence += 1;
        let key = (at.max(self.now), self.sequence);
        self.events.insert(key, Scheduled { owner, event });
        key
    }

    /// Marks the end of `life` and moves what it leaves to the graveyard.
    fn bury(&mut self, life: Life) {
        let state = self.nodes.get_mut(&life.node).expect("checked by the caller");
        state.alive = false;
        state.paused = false;
        state.parked.clear();
        let held = std::mem::take(&mut state.held);
        self.graveyard.push(Box::new(held));
        let dead: Vec<u64> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.owner == Some(life))
            .map(|(id, _)| *id)
            .collect();
        for id in dead {
            let task = self.tasks.remove(&id).expect("just listed");
            self.graveyard.push(Box::new(task.future));
        }
        let over: Vec<(u64, u64)> = self
            .events
            .iter()
            .filter(|(_, event)| event.owner == Some(life))
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            let event = self.events.remove(&key).expect("just listed");
            self.graveyard.push(Box::new(event));
        }
    }
}

impl NodeState {
    fn local(&self, now: u64) -> u64 {
        let drift = i128::from(now) * i128::from(self.clock_skew_ppm) / 1_000_000;
        (i128::from(self.clock_offset) + i128::from(now) + drift) as u64
    }

    /// The first world time at which the local clock shows at least `local`.
    fn world_time(&self, local: u64) -> u64 {
        let elapsed = i128::from(local) - i128::from(self.clock_offset);
        if elapsed <= 0 {
            return 0;
        }
        let rate = i128::from(1_000_000 + self.clock_skew_ppm);
        ((elapsed * 1_000_000 + rate - 1) / rate + 1) as u64
    }
}

/// A timer. Registered when first polled; taken back when dropped.
struct Sleep {
    world: Arc<World>,
    owner: Option<Life>,
    at: u64,
    state: Option<(Arc<TimerState>, (u64, u64))>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some((timer, _)) = &self.state {
            if timer.fired.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            *timer.waker.lock() = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut inner = self.world.inner.lock();
        if inner.now >= self.at {
            return Poll::Ready(());
        }
        let timer = Arc::new(TimerState::default());
        *timer.waker.lock() = Some(context.waker().clone());
        let key = inner.schedule(self.at, self.owner, Event::Wake(timer.clone()));
        drop(inner);
        self.state = Some((timer, key));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((timer, key)) = &self.state
            && !timer.fired.load(Ordering::Relaxed)
        {
            let removed = self.world.inner.lock().events.remove(key);
            drop(removed);
        }
    }
}
