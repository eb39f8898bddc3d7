//! For unit tests here and in other crates: a deterministic runtime with virtual time, storage in memory, redo that is
//! always durable, a network in memory, and a pool alone in its view.

use crate::{PageId, PageSize, PageStore, PageStoreError, Pool, PoolConfig, Psn, Redo};
use aquifer_buffer_pool_proto::Lsn;
use aquifer_dss::seam::{BoxFuture, IoBuffer, Runtime, Service, Tail, Transport, hand_over};
use aquifer_dss_proto::{Incarnation, Instant, Member, NodeId, NodeSet, View};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use tokio::sync::Notify;

struct Task {
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    ready: Weak<Mutex<VecDeque<Arc<Task>>>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if let Some(ready) = self.ready.upgrade() {
            ready.lock().push_back(self);
        }
    }
}

struct Flag(Mutex<bool>);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        *self.0.lock() = true;
    }
}

/// Tasks on one thread, in order of their wake-ups; time goes on only when nothing else can.
#[derive(Default)]
pub struct TestRuntime {
    now: AtomicU64,
    random: AtomicU64,
    ready: Arc<Mutex<VecDeque<Arc<Task>>>>,
    timers: Arc<Mutex<BTreeMap<(Instant, u64), Waker>>>,
    next_timer: AtomicU64,
}

struct Sleep {
    runtime: Arc<TestRuntime>,
    deadline: Instant,
    key: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.runtime.time() >= self.deadline {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| {
            (
                self.deadline,
                self.runtime.next_timer.fetch_add(1, Ordering::Relaxed),
            )
        });
        self.key = Some(key);
        self.runtime.timers.lock().insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.runtime.timers.lock().remove(&key);
        }
    }
}

/// A shared [`TestRuntime`].
#[derive(Clone, Default)]
pub struct TestClock(Arc<TestRuntime>);

impl TestRuntime {
    fn time(&self) -> Instant {
        Instant(self.now.load(Ordering::Relaxed))
    }
}

impl TestClock {
    /// Runs tasks until `future` is done. Panics when nothing can go on.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let flag = Arc::new(Flag(Mutex::new(true)));
        let waker = Waker::from(flag.clone());
        loop {
            if std::mem::take(&mut *flag.0.lock())
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return output;
            }
            if !self.run_one() && !*flag.0.lock() {
                self.advance();
            }
        }
    }

    fn run_one(&self) -> bool {
        let Some(task) = self.0.ready.lock().pop_front() else {
            return false;
        };
        let taken = task.future.lock().take();
        if let Some(mut future) = taken {
            let waker = Waker::from(task.clone());
            if future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
            {
                *task.future.lock() = Some(future);
            }
        }
        true
    }

    fn advance(&self) {
        let first = self.0.timers.lock().pop_first();
        let ((at, _), waker) = first.expect("deadlock: no task can go on and no timer is set");
        self.0.now.fetch_max(at.0, Ordering::Relaxed);
        waker.wake();
    }
}

impl Runtime for TestClock {
    fn now(&self) -> Instant {
        self.0.time()
    }
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(Sleep {
            runtime: self.0.clone(),
            deadline,
            key: None,
        })
    }
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        let ready = Arc::downgrade(&self.0.ready);
        self.0.ready.lock().push_back(Arc::new(Task {
            future: Mutex::new(Some(task)),
            ready,
        }));
    }
    fn random(&self) -> u64 {
        self.0.random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
    }
    fn abort(&self, reason: &str) {
        panic!("abort: {reason}");
    }
}

/// Pages in memory; what was never written is zero.
#[derive(Default)]
pub struct MemoryStore {
    page_size: PageSize,
    pages: Mutex<BTreeMap<PageId, Vec<u8>>>,
    known: Mutex<BTreeMap<PageId, Vec<u8>>>,
}

impl MemoryStore {
    /// An empty store of pages of this size.
    pub fn of(page_size: PageSize) -> Self {
        Self {
            page_size,
            ..Self::default()
        }
    }

    /// The stored bytes of a page.
    pub fn page(&self, page: PageId) -> Option<Vec<u8>> {
        self.pages.lock().get(&page).cloned()
    }

    /// Puts bytes where a page is, as they are.
    pub fn set_page(&self, page: PageId, bytes: Vec<u8>) {
        self.pages.lock().insert(page, bytes);
    }

    /// What [`rebuild`](PageStore::rebuild) gives for a page; of others it knows nothing.
    pub fn set_rebuilt(&self, page: PageId, bytes: Vec<u8>) {
        self.known.lock().insert(page, bytes);
    }
}

impl PageStore for MemoryStore {
    fn read(&self, page: PageId) -> BoxFuture<'_, Result<IoBuffer, PageStoreError>> {
        Box::pin(async move {
            let mut buffer = IoBuffer::zeroed(self.page_size.bytes());
            if let Some(bytes) = self.pages.lock().get(&page) {
                buffer.copy_from_slice(bytes);
            }
            Ok(buffer)
        })
    }

    fn write_batch<'a>(&'a self, pages: &'a [(PageId, Tail)]) -> BoxFuture<'a, Result<(), PageStoreError>> {
        Box::pin(async move {
            for (page, bytes) in pages {
                let (page, new) = (*page, crate::header::psn(bytes));
                let mut pages = self.pages.lock();
                let stored = pages.entry(page).or_default();
                let before =
                    Some(&*stored).filter(|old| !old.is_empty() && crate::header::page_id(old) == page);
                let old = before.map_or(Psn(0), |old| crate::header::psn(old));
                stored.clear();
                stored.extend_from_slice(bytes);
                assert!(
                    old <= new,
                    "DIR-4: {page} fell from {old:?} to {new:?} on storage"
                );
            }
            Ok(())
        })
    }

    fn rebuild(&self, page: PageId) -> BoxFuture<'_, Result<IoBuffer, String>> {
        let known = self.known.lock().get(&page).cloned();
        let known = known.ok_or_else(|| "nothing is known of it".to_owned());
        Box::pin(async move { known.map(|bytes| IoBuffer::copy_padded(&bytes)) })
    }
}

/// Redo that is durable at once.
pub struct NullRedo;

impl Redo for NullRedo {
    fn durable(&self) -> Lsn {
        Lsn(u64::MAX)
    }
    fn request(&self, _position: Lsn) {}
    fn risen(&self) -> Arc<Notify> {
        Arc::default()
    }
    fn written_back(&self, _by: NodeId, _pages: &[(PageId, Psn)]) {}
}

/// A network of pools in memory: every message takes a tenth of a millisecond; `lose` drops every nth.
pub struct MemoryNetwork {
    runtime: Arc<dyn Runtime>,
    pools: Mutex<BTreeMap<NodeId, (Incarnation, Weak<Pool>)>>,
    sent: AtomicU64,
    lose: AtomicU64,
}

impl MemoryNetwork {
    /// A network without a node.
    pub fn new(runtime: Arc<dyn Runtime>) -> Arc<Self> {
        let (sent, lose) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self {
            runtime,
            pools: Mutex::default(),
            sent,
            lose,
        })
    }

    /// Connects a pool.
    pub fn attach(&self, node: NodeId, incarnation: Incarnation, pool: &Arc<Pool>) {
        self.pools
            .lock()
            .insert(node, (incarnation, Arc::downgrade(pool)));
    }

    /// Cuts a node off.
    pub fn detach(&self, node: NodeId) {
        self.pools.lock().remove(&node);
    }

    /// Drops every `nth` message; 0 drops none.
    pub fn lose_every(&self, nth: u64) {
        self.lose.store(nth, Ordering::Relaxed);
    }

    /// One node's end of the network.
    pub fn transport(self: &Arc<Self>, node: NodeId) -> Arc<dyn Transport> {
        Arc::new(MemoryTransport {
            network: self.clone(),
            node,
        })
    }
}

struct MemoryTransport {
    network: Arc<MemoryNetwork>,
    node: NodeId,
}

impl Transport for MemoryTransport {
    fn send(&self, to: NodeId, service: Service, head: &[u8], tail: Option<Tail>) {
        assert_eq!(service, Service::Pages, "pools send page messages");
        let network = self.network.clone();
        let lose = network.lose.load(Ordering::Relaxed);
        if lose > 0 && network.sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(lose) {
            return;
        }
        let from = self.node;
        let Some((incarnation, _)) = network.pools.lock().get(&from).cloned() else {
            return;
        };
        let wait = network.runtime.sleep(std::time::Duration::from_micros(100));
        let (runtime, head) = (network.runtime.clone(), head.to_vec());
        let deliver = async move {
            wait.await;
            let pool = network.pools.lock().get(&to).and_then(|(_, pool)| pool.upgrade());
            if let Some(pool) = pool {
                let mut receiver = pool.receiver(from, incarnation);
                hand_over(
                    &mut receiver,
                    service,
                    &head,
                    tail.as_deref().map(|tail| &tail[..]),
                );
            }
        };
        runtime.spawn("deliver", Box::pin(deliver));
    }
}

/// A pool that is alone in its view: every page is homed here.
pub struct SoloPool {
    /// The pool.
    pub pool: Arc<Pool>,
    /// Its storage.
    pub store: Arc<MemoryStore>,
    /// Its runtime: run async code by `clock.block_on`.
    pub clock: TestClock,
}

impl SoloPool {
    /// A pool of `frames` pages over empty storage, with redo that is always durable.
    pub fn new(frames: usize) -> Self {
        Self::with_redo(frames, Arc::new(NullRedo))
    }

    /// A pool of `frames` pages over empty storage and `redo`.
    pub fn with_redo(frames: usize, redo: Arc<dyn Redo>) -> Self {
        let clock = TestClock::default();
        let store = Arc::new(MemoryStore::default());
        let pool = Self::build(frames, Arc::new(clock.clone()), store.clone(), redo);
        Self { pool, store, clock }
    }

    /// A pool alone in its view over a caller's runtime, storage and redo.
    pub fn build(
        frames: usize,
        runtime: Arc<dyn Runtime>,
        store: Arc<dyn PageStore>,
        redo: Arc<dyn Redo>,
    ) -> Arc<Pool> {
        let node = NodeId::new(1).expect("1 is a node id");
        let network = MemoryNetwork::new(runtime.clone());
        let pool = Pool::new(
            PoolConfig::new(node, frames),
            runtime,
            network.transport(node),
            store,
            redo,
        );
        let view = View::none().successor(vec![Member {
            node,
            incarnation: Incarnation(1),
        }]);
        pool.install_view(Arc::new(view), NodeSet::EMPTY, false);
        pool
    }
}
