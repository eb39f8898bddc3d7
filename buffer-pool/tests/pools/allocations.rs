//! What a hand-off of a page costs in memory: nothing, once everything is warm (NET-4, BUF-16). Two pools over the transport of
//! production, by UNIX sockets.

use crate::{id, page};
use aquifer_buffer_pool::testing::{MemoryStore, NullRedo};
use aquifer_buffer_pool::{Lsn, Mode, PageId, PageReceiver, Pool, PoolConfig, Psn};
use aquifer_dss::net::{NetConfig, NetTransport, PATIENCE};
use aquifer_dss::seam::{Inbound, Receiver};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::{Incarnation, Member, NodeId, NodeSet, View};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

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

async fn end(name: &str, node: NodeId, store: Arc<MemoryStore>) -> (Arc<Pool>, Arc<NetTransport>) {
    let listen = format!("unix:/tmp/aquifer-{name}-{}-{node}", std::process::id());
    let net = NetConfig {
        me: node,
        group: [7; 16],
        listen: vec![listen],
        patience: PATIENCE,
        memory: None,
    };
    let transport = NetTransport::bind(net).await.unwrap();
    // Nothing is lost, and nobody looks whether slots should move: both look at a clock, and take memory for that.
    let config = PoolConfig {
        retransmit: Duration::from_secs(60),
        locality: None,
        ..PoolConfig::new(node, 64)
    };
    let runtime = Arc::new(TokioRuntime::current());
    let pool = Pool::new(config, runtime, transport.clone(), store, Arc::new(NullRedo));
    transport.start(Incarnation(1), Arc::new(Deliver(Arc::downgrade(&pool))));
    (pool, transport)
}

/// Two nodes that are connected.
async fn two(name: &str) -> Ends {
    let store = Arc::new(MemoryStore::default());
    let ends = [
        end(name, id(1), store.clone()).await,
        end(name, id(2), store).await,
    ];
    for (pool, transport) in &ends {
        let peers = ends
            .iter()
            .map(|(pool, transport)| (pool.me(), transport.addresses()[0].clone()));
        transport.set_peers(peers.filter(|(node, _)| *node != pool.me()).collect());
    }
    while ends
        .iter()
        .any(|(_, transport)| transport.counters().connections < 2)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let member = |node| Member {
        node,
        incarnation: Incarnation(1),
    };
    let view = Arc::new(View::none().successor(vec![member(id(1)), member(id(2))]));
    for (pool, _) in &ends {
        pool.install_view(view.clone(), NodeSet::EMPTY, false);
    }
    ends
}

type Ends = [(Arc<Pool>, Arc<NetTransport>); 2];

/// The node takes the page and changes it.
async fn change(pool: &Arc<Pool>, page: PageId) {
    let mut hold = None;
    loop {
        if let Ok(guard) = pool.write(page) {
            let next = Psn(guard.psn().0 + 1);
            guard.finish(next, Lsn(0));
            return drop(hold);
        }
        hold = Some(pool.acquire(page, Mode::Exclusive).await.unwrap());
    }
}

/// How often memory is taken meanwhile, and how many pages come.
async fn counted(ends: &Ends, work: impl Future<Output = ()>) -> (u64, u64) {
    let came = || -> u64 {
        let counters = ends.iter().map(|(pool, _)| pool.counters());
        counters.map(|c| c.transfers_in + c.copies_in).sum()
    };
    let before = (TAKEN.get(), came());
    work.await;
    (TAKEN.get() - before.0, came() - before.1)
}

/// Removes the sockets.
fn close(ends: &Ends) {
    for (_, transport) in ends {
        let _ = std::fs::remove_file(&transport.addresses()[0]["unix:".len()..]);
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
            for (pool, _) in &ends {
                for page in pages() {
                    change(pool, page).await;
                }
            }
        }
    };
    let (taken, _) = counted(&ends, hand_on(200)).await;
    assert!(taken > 0, "it is counted");
    assert_eq!(counted(&ends, hand_on(500)).await, (0, 500 * 2 * 4));
    close(&ends);
}

#[tokio::test]
async fn a_copy_for_a_reader_takes_no_memory() {
    let ends = two("copies").await;
    let [(owner, _), (reader, _)] = &ends;
    let copy = async |rounds: u64| {
        for round in 0..rounds {
            let page = pages()[round as usize % 4];
            change(owner, page).await;
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
    let [(one, _), (other, _)] = &ends;
    let contend = async |rounds: u64| {
        let changes = async |pool| {
            for _ in 0..rounds {
                change(pool, page(0)).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(changes(one), changes(other));
    };
    contend(500).await;
    let (taken, came) = counted(&ends, contend(2000)).await;
    // The timer of holds that may expire is set anew once per `hold_limit` at most.
    assert!(taken * 100 <= came, "{taken} times for {came} pages");
    assert!(came > 100, "{came} pages");
    close(&ends);
}
