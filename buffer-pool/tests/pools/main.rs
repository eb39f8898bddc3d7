//! Whole pools in one deterministic executor: several nodes count in pages with few frames, over a lossy network,
//! through joins and deaths.
#![allow(clippy::unwrap_used, missing_docs)]

mod allocations;

use aquifer_buffer_pool::testing::{MemoryNetwork, MemoryStore, NullRedo, SoloPool, TestClock};
use aquifer_buffer_pool::{CopyImage, Lsn, Mode, PageId, Pool, PoolConfig, PoolError, Psn, Redo};
use aquifer_dss::seam::{IoBuffer, Runtime};
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::{FileId, Incarnation, Member, NodeId, NodeSet, View};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

const PAGE_SIZE: usize = 8192;

fn id(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn page(number: u32) -> PageId {
    PageId {
        file: FileId(9),
        number,
    }
}

fn counter(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[64..72].try_into().unwrap())
}

/// One change of a page by the rules of a step: what it lacks it acquires, then runs again.
async fn increment(pool: &Arc<Pool>, page: PageId, log: &Log) -> Result<(), PoolError> {
    let mut hold = None;
    loop {
        if let Ok(mut guard) = pool.write(page) {
            let next = counter(guard.bytes()) + 1;
            guard.bytes_mut()[64..72].copy_from_slice(&next.to_le_bytes());
            let psn = Psn(guard.psn().0 + 1);
            assert_eq!(psn.0, next, "every change counts once");
            let end = log.append(pool.me(), page, psn);
            guard.finish(psn, end);
            drop(hold);
            return Ok(());
        }
        hold = Some(pool.acquire(page, Mode::Exclusive).await?);
    }
}

async fn value(pool: &Arc<Pool>, page: PageId) -> u64 {
    let mut hold = None;
    loop {
        if let Ok(guard) = pool.read(page) {
            drop(hold);
            return counter(guard.bytes());
        }
        hold = Some(pool.acquire(page, Mode::Shared).await.unwrap());
    }
}

type Records = Vec<(PageId, Psn)>;

/// The redo streams of all nodes: position = number of records.
#[derive(Default)]
struct Log(
    Mutex<BTreeMap<NodeId, (Records, usize)>>,
    Mutex<BTreeMap<NodeId, Records>>,
    Arc<Notify>,
);

impl Log {
    fn append(&self, node: NodeId, page: PageId, psn: Psn) -> Lsn {
        let mut streams = self.0.lock().unwrap();
        let stream = streams.entry(node).or_default();
        stream.0.push((page, psn));
        Lsn(stream.0.len() as u64)
    }

    /// Whether `node` was told that storage has this page at `psn`, since the last time it was asked.
    fn heard(&self, node: NodeId, page: PageId, psn: u64) -> bool {
        let heard = self.1.lock().unwrap().remove(&node).unwrap_or_default();
        heard.contains(&(page, Psn(psn)))
    }

    fn durable_targets(&self) -> BTreeMap<PageId, Psn> {
        let mut targets = BTreeMap::new();
        for (records, durable) in self.0.lock().unwrap().values() {
            for (page, psn) in &records[..*durable] {
                let target = targets.entry(*page).or_insert(*psn);
                *target = (*target).max(*psn);
            }
        }
        targets
    }
}

/// One node's stream: a flush takes a millisecond of virtual time.
struct SlowRedo {
    node: NodeId,
    log: Arc<Log>,
    clock: TestClock,
}

impl Redo for SlowRedo {
    fn durable(&self) -> Lsn {
        Lsn(self.log.0.lock().unwrap().entry(self.node).or_default().1 as u64)
    }
    fn request(&self, position: Lsn) {
        let (node, log, flushed) = (
            self.node,
            self.log.clone(),
            self.clock.sleep(Duration::from_millis(1)),
        );
        let flush = async move {
            flushed.await;
            let mut streams = log.0.lock().unwrap();
            let stream = streams.entry(node).or_default();
            stream.1 = stream.1.max(position.0 as usize);
            log.2.notify_waiters();
        };
        self.clock.spawn("flush", Box::pin(flush));
    }
    fn risen(&self) -> Arc<Notify> {
        self.log.2.clone()
    }
    fn written_back(&self, _by: NodeId, pages: &[(PageId, Psn)]) {
        let mut heard = self.log.1.lock().unwrap();
        heard.entry(self.node).or_default().extend(pages);
    }
}

struct Cluster {
    clock: TestClock,
    network: Arc<MemoryNetwork>,
    store: Arc<MemoryStore>,
    log: Arc<Log>,
    pools: BTreeMap<NodeId, Arc<Pool>>,
    view: Arc<View>,
}

impl Cluster {
    fn new(nodes: u8, frames: usize) -> Self {
        let clock = TestClock::default();
        let network = MemoryNetwork::new(Arc::new(clock.clone()));
        let (store, log) = (Arc::new(MemoryStore::default()), Arc::new(Log::default()));
        let view = Arc::new(View::none());
        let mut cluster = Self {
            clock,
            network,
            store,
            log,
            pools: BTreeMap::new(),
            view,
        };
        for n in 1..=nodes {
            cluster.start(id(n), frames);
        }
        cluster.change_view(NodeSet::EMPTY);
        cluster
    }

    fn start(&mut self, node: NodeId, frames: usize) {
        let redo = SlowRedo {
            node,
            log: self.log.clone(),
            clock: self.clock.clone(),
        };
        let config = PoolConfig {
            retransmit: Duration::from_millis(20),
            ..PoolConfig::new(node, frames)
        };
        let transport = self.network.transport(node);
        let pool = Pool::new(
            config,
            Arc::new(self.clock.clone()),
            transport,
            self.store.clone(),
            Arc::new(redo),
        );
        self.network.attach(node, Incarnation(1), &pool);
        self.pools.insert(node, pool);
    }

    fn change_view(&mut self, dead: NodeSet) {
        let members = self
            .pools
            .keys()
            .map(|n| Member {
                node: *n,
                incarnation: Incarnation(1),
            })
            .collect();
        self.view = Arc::new(self.view.successor(members));
        for pool in self.pools.values() {
            pool.install_view(self.view.clone(), dead, !dead.is_empty());
        }
    }

    /// Kills a node and lets the leader redo what it left: a page's content is its counter, which is its PSN.
    fn kill(&mut self, node: NodeId) {
        self.network.detach(node);
        self.pools.remove(&node);
        self.change_view(NodeSet::of(node));
        let leader = self.pools[&self.view.leader].clone();
        leader.analysed(self.log.durable_targets().into_iter().collect());
        self.clock.spawn(
            "recovery",
            Box::pin(async move {
                while let Some(task) = leader.next_redo().await {
                    let mut image = IoBuffer::zeroed(PAGE_SIZE);
                    image[64..72].copy_from_slice(&task.target.0.to_le_bytes());
                    aquifer_buffer_pool::header::set_identity(&mut image, task.page, task.target);
                    let contributors = NodeSet::of(node);
                    let info = aquifer_buffer_pool::ImageInfo {
                        psn: task.target,
                        dirty: true,
                        contributors,
                        ..Default::default()
                    };
                    leader.redone(task, image, info).await;
                }
            }),
        );
    }

    /// Starts `times` rounds of increments of all `pages` at `node`; the receiver tells when they are done.
    fn work(&self, node: NodeId, pages: u32, times: u32) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let (pool, log) = (self.pools[&node].clone(), self.log.clone());
        let task = async move {
            for round in 0..times {
                for number in 0..pages {
                    increment(&pool, page((number * 7 + round) % pages * 64), &log)
                        .await
                        .unwrap();
                }
            }
            done.send(()).ok();
        };
        self.clock.spawn("work", Box::pin(task));
        receiver
    }
}

#[test]
fn solo_pool_reads_and_writes_with_eight_frames() {
    let solo = SoloPool::new(8);
    let log = Log::default();
    solo.clock.block_on(async {
        for round in 0..3 {
            for number in 0..40 {
                increment(&solo.pool, page(number), &log).await.unwrap();
                assert_eq!(value(&solo.pool, page(number)).await, round + 1);
            }
        }
        solo.pool.flush_all().await.unwrap();
    });
    for number in 0..40 {
        assert_eq!(counter(&solo.store.page(page(number)).unwrap()), 3);
    }
    let counters = solo.pool.counters();
    assert!(counters.evictions > 0 && counters.write_backs > 0 && counters.messages == 0);
}

#[test]
fn a_page_with_a_bad_checksum_or_of_another_place_is_corrupt_and_bytes_of_a_removed_file_are_none() {
    let solo = SoloPool::new(8);
    let mut bytes = vec![0; PAGE_SIZE];
    aquifer_buffer_pool::header::set_identity(&mut bytes, page(1), Psn(4));
    solo.store.set_page(page(1), bytes.clone());
    solo.store.set_page(page(3), bytes);
    // A file that was here before.
    let mut bytes = vec![0; PAGE_SIZE];
    let removed = PageId {
        file: FileId(8),
        number: 2,
    };
    aquifer_buffer_pool::header::set_identity(&mut bytes, removed, Psn(4));
    solo.store.set_page(page(2), bytes);
    solo.clock.block_on(async {
        for number in [1, 3] {
            let error = solo.pool.acquire(page(number), Mode::Shared).await.unwrap_err();
            assert_eq!(error, PoolError::Corrupt(page(number)));
        }
        let _hold = solo.pool.acquire(page(2), Mode::Shared).await.unwrap();
        assert_eq!(solo.pool.read(page(2)).unwrap().psn(), Psn(0));
        assert_eq!(solo.pool.read(page(2)).unwrap().bytes(), &[0; PAGE_SIZE]);
    });
}

#[test]
fn a_damaged_page_is_rebuilt_and_written_in_place_before_it_is_given_up() {
    let solo = SoloPool::new(2);
    let mut good = vec![0; PAGE_SIZE];
    aquifer_buffer_pool::header::set_kind(&mut good, 1, 9);
    aquifer_buffer_pool::header::set_identity(&mut good, page(1), Psn(4));
    good[64] = 77;
    let mut bad = good.clone();
    bad[64] = 78;
    solo.store.set_page(page(1), bad);
    solo.store.set_rebuilt(page(1), good.clone());
    solo.clock.block_on(async {
        assert_eq!(value(&solo.pool, page(1)).await, 77);
        // Both frames are needed for others: it must be in place by then.
        for number in 5..9 {
            value(&solo.pool, page(number)).await;
        }
        assert_eq!(solo.store.page(page(1)).unwrap()[64], 77);
        assert_eq!(value(&solo.pool, page(1)).await, 77, "its checksum is right now");
        assert_eq!(solo.pool.counters().rebuilt, 1);
    });
}

#[test]
fn a_page_taken_for_never_formatted_is_rebuilt_when_it_is_doubted() {
    let solo = SoloPool::new(4);
    let mut good = vec![0; PAGE_SIZE];
    aquifer_buffer_pool::header::set_identity(&mut good, page(1), Psn(4));
    good[64] = 77;
    solo.store.set_page(page(1), vec![0xAA; PAGE_SIZE]);
    solo.store.set_page(page(2), vec![0xAA; PAGE_SIZE]);
    solo.store.set_rebuilt(page(1), good);
    solo.clock.block_on(async {
        assert_eq!(value(&solo.pool, page(1)).await, 0);
        assert!(solo.pool.doubt(page(1)).await.unwrap());
        assert_eq!(value(&solo.pool, page(1)).await, 77);
        assert_eq!(solo.pool.read(page(1)).unwrap().psn(), Psn(4));
        assert!(!solo.pool.doubt(page(2)).await.unwrap(), "nothing is known of it");
        solo.pool.flush_all().await.unwrap();
    });
    assert_eq!(solo.store.page(page(1)).unwrap()[64], 77);
}

/// The second would otherwise find what the first found, again and again, and the executor would never come back to the repair.
#[test]
fn who_doubts_a_page_that_is_being_repaired_waits_for_the_repair() {
    let solo = SoloPool::new(4);
    let mut good = vec![0; PAGE_SIZE];
    aquifer_buffer_pool::header::set_identity(&mut good, page(1), Psn(4));
    for number in [1, 2] {
        solo.store.set_page(page(number), vec![0xAA; PAGE_SIZE]);
    }
    solo.store.set_rebuilt(page(1), good);
    let doubt = async |number| {
        let first = solo.pool.doubt(page(number)).await.unwrap();
        let psn = solo.pool.read(page(number)).map(|guard| guard.psn());
        (first, psn.unwrap_or(Psn(0)))
    };
    solo.clock.block_on(async {
        let (one, two) = tokio::join!(doubt(1), doubt(1));
        assert_eq!(
            (one, two),
            ((true, Psn(4)), (true, Psn(4))),
            "both look again after the repair"
        );
        let (one, two) = tokio::join!(doubt(2), doubt(2));
        assert_ne!(
            one.0, two.0,
            "nothing is known of it; who came second looks again and asks for itself"
        );
    });
}

fn count_everywhere(nodes: u8, frames: usize, pages: u32, lose: u64) {
    let cluster = Cluster::new(nodes, frames);
    cluster.network.lose_every(lose);
    let work: Vec<_> = (1..=nodes)
        .flat_map(|n| [cluster.work(id(n), pages, 5), cluster.work(id(n), pages, 5)])
        .collect();
    cluster.clock.block_on(async {
        for done in work {
            done.await.unwrap();
        }
        for pool in cluster.pools.values() {
            for number in 0..pages {
                assert_eq!(value(pool, page(number * 64)).await, u64::from(nodes) * 10);
            }
        }
    });
}

#[test]
fn nodes_count_in_shared_pages() {
    count_everywhere(3, 64, 12, 0);
}

#[test]
fn nodes_count_with_eight_frames_and_lost_messages() {
    count_everywhere(4, 8, 24, 9);
}

#[test]
fn counting_goes_on_through_a_join() {
    let mut cluster = Cluster::new(2, 8);
    let first = [cluster.work(id(1), 16, 6), cluster.work(id(2), 16, 6)];
    let clock = cluster.clock.clone();
    clock.block_on(clock.sleep(Duration::from_millis(40)));
    cluster.start(id(3), 8);
    cluster.change_view(NodeSet::EMPTY);
    let last = cluster.work(id(3), 16, 6);
    clock.block_on(async {
        for done in first {
            done.await.unwrap();
        }
        last.await.unwrap();
        for pool in cluster.pools.values() {
            for number in 0..16 {
                assert_eq!(value(pool, page(number * 64)).await, 18);
            }
        }
    });
}

#[test]
fn what_a_dead_node_made_durable_is_redone_and_the_rest_goes_on() {
    for at in [3, 11, 30, 55] {
        let mut cluster = Cluster::new(3, 8);
        let work = [cluster.work(id(1), 12, 8), cluster.work(id(3), 12, 8)];
        let doomed = cluster.work(id(2), 12, 8);
        let clock = cluster.clock.clone();
        clock.block_on(clock.sleep(Duration::from_millis(at)));
        // Its work must not go on: it ends when its pool is closed to the network and nobody answers.
        drop(doomed);
        cluster.kill(id(2));
        clock.block_on(async {
            for done in work {
                done.await.unwrap();
            }
        });
        let leader = cluster.pools[&cluster.view.leader].clone();
        clock.block_on(async {
            while leader.redo_outstanding() > 0 {
                clock.sleep(Duration::from_millis(5)).await;
            }
            let mut values = Vec::new();
            for pool in cluster.pools.values() {
                let mut all = Vec::new();
                for number in 0..12 {
                    all.push(value(pool, page(number * 64)).await);
                }
                values.push(all);
            }
            assert_eq!(values[0], values[1]);
            assert!(values[0].iter().all(|v| (16..=24).contains(v)), "{values:?}");
        });
    }
}

/// Members install a view one after the other. What the first ones say meanwhile is kept by the last one: otherwise each
/// take-over would wait for the repetition of its claims, analysis and redo orders.
#[test]
fn a_view_change_does_not_wait_for_repetition() {
    let mut cluster = Cluster::new(3, 8);
    let work = [cluster.work(id(1), 4, 2), cluster.work(id(2), 4, 2)];
    let clock = cluster.clock.clone();
    clock.block_on(async {
        for done in work {
            done.await.unwrap();
        }
    });
    cluster.network.detach(id(3));
    cluster.pools.remove(&id(3));
    let members = [1, 2].map(|n| Member {
        node: id(n),
        incarnation: Incarnation(1),
    });
    let view = Arc::new(cluster.view.successor(members.to_vec()));
    let (leader, other) = (cluster.pools[&id(1)].clone(), cluster.pools[&id(2)].clone());
    assert_eq!(view.leader, id(1));
    let begun = clock.now();
    clock.block_on(async {
        leader.install_view(view.clone(), NodeSet::of(id(3)), true);
        leader.analysed(Vec::new());
        clock.sleep(Duration::from_millis(2)).await;
        other.install_view(view.clone(), NodeSet::of(id(3)), true);
        while leader.redo_outstanding() > 0 {
            clock.sleep(Duration::from_millis(1)).await;
        }
        for number in 0..4 {
            assert_eq!(value(&other, page(number * 64)).await, 4);
        }
    });
    let took = clock.now().since(begun);
    assert!(
        took < Duration::from_millis(20),
        "{took:?}: something was repeated"
    );
    let repeated: u64 = cluster.pools.values().map(|p| p.counters().retransmits).sum();
    assert_eq!(repeated, 0);
}

#[test]
fn a_node_leaves_cleanly_and_its_pages_are_on_storage() {
    let mut cluster = Cluster::new(2, 8);
    let work = [cluster.work(id(1), 10, 2), cluster.work(id(2), 10, 2)];
    let clock = cluster.clock.clone();
    let leaving = cluster.pools[&id(2)].clone();
    clock.block_on(async {
        for done in work {
            done.await.unwrap();
        }
        leaving.flush_all().await.unwrap();
        assert!(matches!(
            leaving.acquire(page(0), Mode::Shared).await,
            Err(PoolError::Closed)
        ));
    });
    cluster.pools.remove(&id(2));
    cluster.network.detach(id(2));
    cluster.change_view(NodeSet::EMPTY);
    clock.block_on(async {
        for number in 0..10 {
            assert_eq!(value(&cluster.pools[&id(1)], page(number * 64)).await, 4);
        }
    });
}

#[test]
fn the_cleaner_writes_what_is_wanted_at_once() {
    let cluster = Cluster::new(2, 8);
    let (one, two) = (cluster.pools[&id(1)].clone(), cluster.pools[&id(2)].clone());
    cluster.clock.block_on(async {
        increment(&one, page(0), &cluster.log).await.unwrap();
        increment(&two, page(0), &cluster.log).await.unwrap();
        one.want_flush(&[page(0)]);
        cluster.clock.sleep(Duration::from_millis(1)).await;
        let notify = Notify::new();
        notify.notify_one();
        while two.write_back(8).await == 0 {
            cluster.clock.sleep(Duration::from_millis(2)).await;
            SlowRedo {
                node: id(2),
                log: cluster.log.clone(),
                clock: cluster.clock.clone(),
            }
            .wait(Lsn(1))
            .await;
        }
        notify.notified().await;
    });
    assert_eq!(counter(&cluster.store.page(page(0)).unwrap()), 2);
    let _unused = NullRedo;
}

/// Makes the redo of `pool` durable, and lets its cleaner step.
async fn written(cluster: &Cluster, pool: &Arc<Pool>) {
    let redo = SlowRedo {
        node: pool.me(),
        log: cluster.log.clone(),
        clock: cluster.clock.clone(),
    };
    redo.wait(Lsn(2)).await;
    assert!(pool.write_back(8).await > 0, "a page is wanted");
}

/// A recovering leader asks for pages that it never changed, and notices are lost with a view change: whoever asks is told,
/// whether the page is dirty, clean at its owner, clean at sharers, or held by nobody.
#[test]
fn who_asks_for_a_write_back_is_told_of_it() {
    let cluster = Cluster::new(3, 8);
    let (two, three) = (cluster.pools[&id(2)].clone(), cluster.pools[&id(3)].clone());
    let clock = cluster.clock.clone();
    let ask = |at: &Arc<Pool>| {
        at.want_flush(&[page(0)]);
        clock.block_on(clock.sleep(Duration::from_millis(5)));
    };
    clock.block_on(async {
        increment(&two, page(0), &cluster.log).await.unwrap();
        cluster.pools[&id(1)].want_flush(&[page(0)]);
        clock.sleep(Duration::from_millis(5)).await;
        written(&cluster, &two).await;
    });
    cluster.log.heard(id(3), page(0), 1);
    ask(&three);
    assert!(cluster.log.heard(id(3), page(0), 1), "the owner is clean");
    clock.block_on(async {
        increment(&two, page(0), &cluster.log).await.unwrap();
        assert_eq!(value(&cluster.pools[&id(1)], page(0)).await, 2);
    });
    ask(&three);
    assert!(
        !cluster.log.heard(id(3), page(0), 2),
        "the dirty holder has not written it"
    );
    clock.block_on(written(&cluster, &two));
    clock.block_on(clock.sleep(Duration::from_millis(5)));
    assert!(cluster.log.heard(id(3), page(0), 2), "the dirty holder wrote it");
    ask(&three);
    assert!(cluster.log.heard(id(3), page(0), 2), "the sharers are clean");
    clock.block_on(async { two.flush_all().await.unwrap() });
    ask(&three);
    assert!(
        cluster.log.heard(id(3), page(0), 2),
        "a sharer that got it dirty does not know that it is clean, storage does"
    );
}

/// HZ-11: storage is never ahead of the redo, for a page that is written back as for one that is handed over.
#[test]
fn a_page_leaves_memory_only_when_its_redo_is_durable() {
    let cluster = Cluster::new(2, 8);
    let (one, two) = (cluster.pools[&id(1)].clone(), cluster.pools[&id(2)].clone());
    let clock = cluster.clock.clone();
    clock.block_on(async {
        increment(&one, page(0), &cluster.log).await.unwrap();
        increment(&one, page(64), &cluster.log).await.unwrap();
        assert_eq!(value(&two, page(0)).await, 1);
        assert_eq!(
            cluster.log.durable_targets().get(&page(0)),
            Some(&Psn(1)),
            "DIR-3"
        );
        assert_eq!(cluster.log.durable_targets().get(&page(64)), None);
        one.want_flush(&[page(64)]);
        assert_eq!(one.write_back(8).await, 1);
    });
    assert_eq!(counter(&cluster.store.page(page(64)).unwrap()), 1);
    assert_eq!(
        cluster.log.durable_targets().get(&page(64)),
        Some(&Psn(1)),
        "HZ-11"
    );
}

#[test]
fn leaving_memory_early_is_seen() {
    for defect in [Defect::WriteBackBeforeRedo, Defect::SurrenderBeforeRedo] {
        assert!(
            fails_with(defect, a_page_leaves_memory_only_when_its_redo_is_durable),
            "{defect:?}"
        );
    }
}

/// A page that is changed without pause is written all the same: what is written is a copy, and its redo is waited for.
#[test]
fn a_page_that_is_always_changed_is_written_once_for_each_wish() {
    let cluster = Cluster::new(1, 8);
    let one = cluster.pools[&id(1)].clone();
    let clock = cluster.clock.clone();
    let work = cluster.work(id(1), 1, 1);
    clock.block_on(async {
        work.await.unwrap();
        let writer = {
            let (one, clock, log) = (one.clone(), clock.clone(), cluster.log.clone());
            async move {
                for _ in 0..100 {
                    increment(&one, page(0), &log).await.unwrap();
                    clock.sleep(Duration::from_micros(100)).await;
                }
            }
        };
        clock.spawn("writer", Box::pin(writer));
        for wish in 1..=3 {
            one.want_flush(&[page(0)]);
            assert_eq!(one.write_back(8).await, 1);
            assert_eq!(one.counters().write_backs, wish);
            assert_eq!(one.write_back(8).await, 0, "nobody wants what was changed since");
            let stored = counter(&cluster.store.page(page(0)).unwrap());
            assert!(stored >= wish && stored < value(&one, page(0)).await, "{stored}");
        }
    });
}

/// Nothing is written for its own sake: pages go to storage when they are old, when half of the frames are dirty, or when wanted.
#[test]
fn dirty_pages_stay_until_there_is_a_need() {
    let cluster = Cluster::new(1, 16);
    let one = cluster.pools[&id(1)].clone();
    let clock = cluster.clock.clone();
    clock.block_on(async {
        for number in 0..8 {
            increment(&one, page(number), &cluster.log).await.unwrap();
        }
        clock.sleep(Duration::from_secs(9)).await;
        assert_eq!((one.write_back(64).await, one.counters().dirty), (0, 8));
        increment(&one, page(8), &cluster.log).await.unwrap();
        one.until_write_back_is_behind().await;
        assert_eq!(
            one.write_back(64).await,
            2,
            "too many: two more than seven eighths of half"
        );
        clock.sleep(Duration::from_secs(2)).await;
        assert_eq!((one.write_back(64).await, one.counters().dirty), (6, 1), "old");
        assert_eq!(one.counters().write_batches, 2);
    });
}

/// A recovery ends with its view, wherever it is; it may be writing pages back to get frames.
#[test]
fn a_write_back_whose_caller_goes_away_ends() {
    let cluster = Cluster::new(1, 8);
    let one = cluster.pools[&id(1)].clone();
    let clock = cluster.clock.clone();
    clock.block_on(async {
        increment(&one, page(0), &cluster.log).await.unwrap();
        let redo = SlowRedo {
            node: id(1),
            log: cluster.log.clone(),
            clock: clock.clone(),
        };
        redo.wait(Lsn(1)).await;
        clock.sleep(Duration::from_secs(60)).await;
        let asked = one.write_back(8);
        tokio::select! {
            biased;
            _ = asked => panic!("a write takes time"),
            () = std::future::ready(()) => {}
        }
        clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(counter(&cluster.store.page(page(0)).unwrap()), 1);
        assert_eq!(one.write_back(8).await, 0, "it is clean");
        one.flush_all().await.unwrap();
    });
}

/// Until the home knows who owns the page: the owner's Done may still be under way.
async fn first_copy(clock: &TestClock, reader: &Arc<Pool>, page: PageId) -> CopyImage {
    loop {
        if let Some(copy) = reader.copy(page).await {
            return copy;
        }
        // A reader that is home itself answers at once: time has to pass all the same.
        clock.sleep(Duration::from_millis(1)).await;
    }
}

/// HZ-8: the owner keeps the page and its redo is not waited for; a page that is not changed is served a few times only.
#[test]
fn a_reader_has_a_copy_and_the_owner_keeps_its_page() {
    let cluster = Cluster::new(3, 8);
    let (owner, reader) = (cluster.pools[&id(1)].clone(), cluster.pools[&id(2)].clone());
    let log = cluster.log.clone();
    // Homes of all kinds: the owner, the reader, a third.
    let pages = (0..6).map(|number| page(number * 64));
    cluster.clock.block_on(async {
        for page in pages {
            assert!(reader.copy(page).await.is_none(), "nobody owns it");
            increment(&owner, page, &log).await.unwrap();
            first_copy(&cluster.clock, &reader, page).await;
            for _ in 0..3 {
                let copy = reader.copy(page).await.unwrap();
                assert_eq!(
                    (copy.page(), copy.psn(), counter(copy.bytes())),
                    (page, Psn(1), 1)
                );
                assert!(reader.copy_stands(&copy));
            }
            assert!(reader.copy(page).await.is_none(), "it is better shared");
            increment(&owner, page, &log).await.unwrap();
            assert_eq!(counter(reader.copy(page).await.unwrap().bytes()), 2);
            assert!(owner.write(page).is_ok(), "the owner has it still");
            assert!(owner.copy(page).await.is_none(), "who possesses it needs none");
        }
    });
    let durable = log.0.lock().unwrap().get(&id(1)).map(|(_, durable)| *durable);
    assert_eq!(durable, Some(0), "no redo was flushed");
    assert_eq!(reader.counters().copies_in, 30);
    assert_eq!(owner.counters().copies_out, 30);
    assert_eq!(reader.counters().transfers_in, 0);
}

/// A table that was loaded at one node and is read at others is not copied again and again.
#[test]
fn a_page_that_is_not_changed_any_more_is_not_copied() {
    let cluster = Cluster::new(3, 8);
    let (owner, reader) = (cluster.pools[&id(1)].clone(), cluster.pools[&id(2)].clone());
    let (clock, log) = (cluster.clock.clone(), cluster.log.clone());
    clock.block_on(async {
        increment(&owner, page(0), &log).await.unwrap();
        first_copy(&clock, &reader, page(0)).await;
        clock.sleep(Duration::from_millis(20)).await;
        assert!(reader.copy(page(0)).await.is_none(), "not changed for a while");
        increment(&owner, page(0), &log).await.unwrap();
        assert!(reader.copy(page(0)).await.is_some());
    });
}

/// HZ-8: who waits for a copy is told when the view changes, and a copy of the view before is not read any more.
#[test]
fn copies_end_with_their_view() {
    let mut cluster = Cluster::new(3, 8);
    let (owner, reader) = (cluster.pools[&id(1)].clone(), cluster.pools[&id(2)].clone());
    let log = cluster.log.clone();
    let copy = cluster.clock.block_on(async {
        increment(&owner, page(0), &log).await.unwrap();
        first_copy(&cluster.clock, &reader, page(0)).await
    });
    let (told, answer) = oneshot::channel();
    let asking = reader.clone();
    cluster.network.detach(id(1));
    cluster.clock.spawn(
        "reader",
        Box::pin(async move { drop(told.send(asking.copy(page(0)).await)) }),
    );
    cluster
        .clock
        .block_on(cluster.clock.sleep(Duration::from_millis(50)));
    cluster.kill(id(1));
    assert!(cluster.clock.block_on(answer).unwrap().is_none());
    assert!(
        !reader.copy_stands(&copy),
        "its owner is dead, and its redo was not durable"
    );
    assert_eq!(cluster.clock.block_on(value(&reader, page(0))), 0);
}

/// Rounds of increments of pages whose slots nobody else uses, until slots had time to move. Gives the messages that all nodes have sent.
fn partitioned(cluster: &Cluster, rounds: u32) -> u64 {
    cluster.clock.block_on(async {
        for round in 0..rounds {
            for (node, pool) in &cluster.pools {
                for number in 0..24 {
                    let own = page((u32::from(node.get()) * 24 + number * 7 % 24) * 64);
                    increment(pool, own, &cluster.log).await.unwrap();
                }
            }
            let pause = Duration::from_millis(100 + u64::from(round % 7));
            cluster.clock.sleep(pause).await;
        }
    });
    cluster.pools.values().map(|pool| pool.counters().messages).sum()
}

/// LOC-1: although everything is evicted again and again, a node that works alone on its pages sends no messages in the end.
#[test]
fn a_node_alone_with_its_pages_sends_no_messages() {
    let cluster = Cluster::new(3, 8);
    let begun = partitioned(&cluster, 40);
    let moved: u64 = cluster.pools.values().map(|p| p.counters().slots_moved).sum();
    assert!(begun > 0 && moved >= 24, "{begun} messages, {moved} slots moved");
    assert_eq!(
        partitioned(&cluster, 20),
        begun,
        "nobody has to be asked any more"
    );
}

/// LOC-1: what two nodes use stays where it is.
#[test]
fn slots_that_two_nodes_use_do_not_move() {
    let cluster = Cluster::new(3, 8);
    cluster.clock.block_on(async {
        for round in 0..60 {
            for number in 0..12 {
                for node in [1, 2] {
                    increment(&cluster.pools[&id(node)], page(number * 64), &cluster.log)
                        .await
                        .unwrap();
                }
            }
            cluster.clock.sleep(Duration::from_millis(100 + round % 7)).await;
        }
    });
    for pool in cluster.pools.values() {
        assert_eq!(pool.counters().slots_moved, 0);
    }
}
