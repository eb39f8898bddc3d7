//! What a hand-off of a page costs in memory: nothing, once everything is warm (NET-4, BUF-15). Two pools over the transport of
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

async fn end(node: NodeId, store: Arc<MemoryStore>) -> (Arc<Pool>, Arc<NetTransport>) {
    let listen = format!("unix:/tmp/aquifer-hand-off-{}-{node}", std::process::id());
    let net = NetConfig {
        me: node,
        group: [7; 16],
        listen: vec![listen],
        patience: PATIENCE,
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
async fn two() -> [(Arc<Pool>, Arc<NetTransport>); 2] {
    let store = Arc::new(MemoryStore::default());
    let ends = [end(id(1), store.clone()).await, end(id(2), store).await];
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

/// Each node in turn takes each page and changes it. How often memory was taken.
async fn hand_on(ends: &[(Arc<Pool>, Arc<NetTransport>)], pages: &[PageId], rounds: usize) -> u64 {
    let before = TAKEN.get();
    for _ in 0..rounds {
        for (pool, _) in ends {
            for page in pages {
                let hold = pool.acquire(*page, Mode::Exclusive).await.unwrap();
                let guard = pool.write(*page).unwrap();
                let next = Psn(guard.psn().0 + 1);
                guard.finish(next, Lsn(0));
                drop(hold);
            }
        }
    }
    TAKEN.get() - before
}

#[tokio::test]
async fn a_hand_off_takes_no_memory() {
    let ends = two().await;
    let pages = [page(0), page(64), page(128), page(192)];
    assert!(hand_on(&ends, &pages, 200).await > 0, "it is counted");
    let moved = || ends[0].0.counters().transfers_in + ends[1].0.counters().transfers_in;
    let before = moved();
    assert_eq!(hand_on(&ends, &pages, 500).await, 0);
    assert_eq!(
        moved() - before,
        500 * 2 * pages.len() as u64,
        "each of them moved"
    );
    for (_, transport) in &ends {
        let _ = std::fs::remove_file(&transport.addresses()[0]["unix:".len()..]);
    }
}
