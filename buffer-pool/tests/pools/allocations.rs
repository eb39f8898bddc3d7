//! What a hand-off of a page costs in memory: nothing, once everything is warm (NET-4, BUF-16), and what a write-back costs: nothing for a
//! page. Two pools over the transport of production, by UNIX sockets.

use crate::{id, page};
use aquifer_buffer_pool::testing::MemoryStore;
use aquifer_buffer_pool::{Locality, Lsn, Mode, PageId, PageReceiver, Pool, PoolConfig, Psn, Redo};
use aquifer_dss::net::{NetConfig, NetTransport, PATIENCE};
use aquifer_dss::seam::{Inbound, Receiver, Runtime, Timer};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::{Incarnation, Member, NodeId, NodeSet, View};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

std::thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// Counts, for each thread, how often memory is taken.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    // A thread that ends takes memory too.
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
}

// SAFETY: it does what the system's allocator does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

struct Deliver(Weak<Pool>);

impl Inbound for Deliver {
    fn connected(self: Arc<Self>, from: NodeId, incarnation: Incarnation) -> Box<dyn Receiver> {
        let pool = self.0.upgrade().expect("pools outlive their connections");
        let receiver: PageReceiver = pool.receiver(from, incarnation);
        Box::new(receiver)
    }

    fn disconnected(&self, _: NodeId, _: Incarnation) {}
}

/// A stream of which a task makes durable what was asked for, a moment later.
#[derive(Default)]
struct FlushedRedo {
    end: AtomicU64,
    requested: AtomicU64,
    durable: AtomicU64,
    flushes: AtomicU64,
    wanted: Notify,
    risen: Arc<Notify>,
}

impl FlushedRedo {
    fn append(&self) -> Lsn {
        Lsn(self.end.fetch_add(1, Ordering::Relaxed) + 1)
    }

    async fn flush(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            tokio::task::yield_now().await;
            let requested = self.requested.load(Ordering::Relaxed);
            self.flushes.fetch_add(1, Ordering::Relaxed);
            self.durable.store(requested, Ordering::Relaxed);
            self.risen.notify_waiters();
        }
    }
}

impl Redo for FlushedRedo {
    fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Relaxed))
    }

    fn request(&self, position: Lsn) {
        if self.requested.fetch_max(position.0, Ordering::Relaxed) < position.0 {
            self.wanted.notify_one();
        }
    }

    fn risen(&self) -> Arc<Notify> {
        self.risen.clone()
    }

    fn written_back(&self, _by: NodeId, _pages: &[(PageId, Psn)]) {}
}

async fn end(name: &str, node: NodeId, store: Arc<MemoryStore>) -> End {
    let listen = format!("unix:/tmp/aquifer-{name}-{}-{node}", std::process::id());
    let net = NetConfig {
        me: node,
        group: [7; 16],
        listen: vec![listen],
        patience: PATIENCE,
        memory: None,
    };
    let transport = NetTransport::bind(net).await.unwrap();
    // Many timers ring while it is counted.
    let config = PoolConfig {
        locality: Some(Locality {
            interval: Duration::from_millis(1),
            requests: u32::MAX,
        }),
        ..PoolConfig::new(node, 64)
    };
    let runtime = Arc::new(TokioRuntime::current());
    let redo = Arc::new(FlushedRedo::default());
    tokio::spawn(redo.clone().flush());
    let pool = Pool::new(config, runtime, transport.clone(), store, redo.clone());
    transport.start(Incarnation(1), Arc::new(Deliver(Arc::downgrade(&pool))));
    End {
        pool,
        transport,
        redo,
    }
}

/// Two nodes that are connected.
async fn two(name: &str) -> Ends {
    let store = Arc::new(MemoryStore::default());
    let ends = [
        end(name, id(1), store.clone()).await,
        end(name, id(2), store).await,
    ];
    for End { pool, transport, .. } in &ends {
        let peers = ends
            .iter()
            .map(|end| (end.pool.me(), end.transport.addresses()[0].clone()));
        transport.set_peers(peers.filter(|(node, _)| *node != pool.me()).collect());
    }
    while ends.iter().any(|end| end.transport.counters().connections < 2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let member = |node| Member {
        node,
        incarnation: Incarnation(1),
    };
    let view = Arc::new(View::none().successor(vec![member(id(1)), member(id(2))]));
    for end in &ends {
        end.pool.install_view(view.clone(), NodeSet::EMPTY, false);
    }
    ends
}

struct End {
    pool: Arc<Pool>,
    transport: Arc<NetTransport>,
    redo: Arc<FlushedRedo>,
}

type Ends = [End; 2];

impl End {
    /// The node takes the page and changes it: the change is in its redo, and not durable yet.
    async fn change(&self, page: PageId) {
        let mut hold = None;
        loop {
            if let Ok(guard) = self.pool.write(page) {
                let next = Psn(guard.psn().0 + 1);
                guard.finish(next, self.redo.append());
                return drop(hold);
            }
            hold = Some(self.pool.acquire(page, Mode::Exclusive).await.unwrap());
        }
    }

    fn flushes(&self) -> u64 {
        self.redo.flushes.load(Ordering::Relaxed)
    }
}

/// How often memory is taken meanwhile, and how many pages come.
async fn counted(ends: &Ends, work: impl Future<Output = ()>) -> (u64, u64) {
    let came = || -> u64 {
        let counters = ends.iter().map(|end| end.pool.counters());
        counters.map(|c| c.transfers_in + c.copies_in).sum()
    };
    let before = (TAKEN.get(), came());
    work.await;
    (TAKEN.get() - before.0, came() - before.1)
}

/// Removes the sockets.
fn close(ends: &Ends) {
    for end in ends {
        let _ = std::fs::remove_file(&end.transport.addresses()[0]["unix:".len()..]);
    }
}

/// Pages of which each node is home of some.
fn pages() -> [PageId; 4] {
    [page(0), page(64), page(128), page(192)]
}

#[tokio::test]
async fn a_hand_off_takes_no_memory() {
    let ends = two("turns").await;
    // Each node in turn takes each page and changes it.
    let hand_on = async |rounds: u64| {
        for _ in 0..rounds {
            for end in &ends {
                for page in pages() {
                    end.change(page).await;
                }
            }
        }
    };
    let (taken, _) = counted(&ends, hand_on(200)).await;
    assert!(taken > 0, "it is counted");
    let flushed = ends[0].flushes();
    assert_eq!(counted(&ends, hand_on(500)).await, (0, 500 * 2 * 4));
    assert_eq!(
        ends[0].flushes() - flushed,
        500 * 4,
        "each hand-off waits for redo"
    );
    close(&ends);
}

#[tokio::test]
async fn a_copy_for_a_reader_takes_no_memory() {
    let ends = two("copies").await;
    let [owner, End { pool: reader, .. }] = &ends;
    let copy = async |rounds: u64| {
        for round in 0..rounds {
            let page = pages()[round as usize % 4];
            owner.change(page).await;
            // None comes while its home has not heard who owns it, or if the last change is long ago.
            if let Some(copy) = reader.copy(page).await {
                assert!(reader.copy_stands(&copy));
            }
        }
    };
    copy(200).await;
    let (taken, came) = counted(&ends, copy(1000)).await;
    assert_eq!(taken, 0);
    assert!(came > 100, "{came} copies");
    close(&ends);
}

/// An order comes while the page is held.
#[tokio::test]
async fn a_page_that_both_want_at_once_takes_no_memory() {
    let ends = two("both").await;
    let [one, other] = &ends;
    let contend = async |rounds: u64| {
        let changes = async |end: &End| {
            for _ in 0..rounds {
                end.change(page(0)).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(changes(one), changes(other));
    };
    contend(500).await;
    let (taken, came) = counted(&ends, contend(2000)).await;
    assert_eq!(taken, 0, "{taken} times for {came} pages");
    assert!(came > 100, "{came} pages");
    close(&ends);
}

/// A page that is written costs nothing; a batch has a task, and what waits for redo and storage, however many pages it has.
#[tokio::test]
async fn a_page_that_is_written_back_takes_no_memory() {
    const BATCHES: u64 = 200;
    let ends = two("written").await;
    let [owner, _] = &ends;
    let all: Vec<PageId> = (0..48).map(page).collect();
    let write = async |pages_of_a_batch: usize| {
        for _ in 0..BATCHES {
            for page in &all[..pages_of_a_batch] {
                owner.change(*page).await;
            }
            owner.pool.want_flush(&all[..pages_of_a_batch]);
            assert_eq!(owner.pool.write_back(64).await, pages_of_a_batch);
        }
    };
    let before = owner.pool.counters();
    write(48).await;
    let few = counted(&ends, write(40)).await.0;
    let many = counted(&ends, write(48)).await.0;
    let counters = owner.pool.counters();
    let batches = counters.write_batches - before.write_batches;
    let written = counters.write_backs - before.write_backs;
    assert_eq!((batches, written), (3 * BATCHES, BATCHES * (48 + 40 + 48)));
    assert_eq!(few, many, "eight pages more cost nothing");
    assert!(many <= 8 * BATCHES, "{many} times for {BATCHES} batches");
    close(&ends);
}

/// What a cleaner does that finds nothing to do, as the node's cleaner does it.
#[tokio::test]
async fn a_cleaner_that_finds_nothing_takes_no_memory() {
    let ends = two("idle").await;
    let pool = &ends[0].pool;
    let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::current());
    let mut clock = Timer::new(runtime.clone());
    let mut look = async |rounds: u64| {
        for _ in 0..rounds {
            assert_eq!(pool.write_back(64).await, 0);
            tokio::select! {
                biased;
                () = pool.until_write_back_is_behind() => panic!("nothing is dirty"),
                () = clock.until(runtime.now() + Duration::from_millis(1)) => {}
            }
        }
    };
    look(10).await;
    assert_eq!(counted(&ends, look(50)).await.0, 0);
    close(&ends);
}
