//! Three nodes over a network that loses and repeats messages, in virtual time.

mod hostile;

use super::*;
use crate::rpc::{EngineHandler, EngineRequest, EngineResponse, Reply, Rpc};
use crate::{Blocked, Error};
use aquifer_buffer_pool::Redo;
use aquifer_buffer_pool_proto::{Lsn, PageId, Psn, Scn};
use aquifer_dss::seam::{BoxFuture, Runtime, Service, Tail, Transport};
use aquifer_dss::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::{FileId, Incarnation, Member, NodeId, NodeSet, View};
use aquifer_engine_proto::{TreeId, TxnId, TxnStatus};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const MILLISECOND: Duration = Duration::from_millis(1);

/// The network and what is durable.
#[derive(Default)]
struct World {
    nodes: BTreeMap<NodeId, Arc<Rpc>>,
    stored: BTreeMap<TxnId, Scn>,
    ceilings: BTreeMap<NodeId, Scn>,
    refuse_writes: bool,
}

struct Wire {
    from: NodeId,
    rt: Arc<TestHandle>,
    world: Arc<Mutex<World>>,
}

impl Transport for Wire {
    fn send(&self, to: NodeId, service: Service, head: &[u8], _: Option<Tail>) {
        assert_eq!(service, Service::Engine);
        let dice = self.rt.random() % 10;
        for copy in 0..if dice == 0 {
            0
        } else if dice == 1 {
            2
        } else {
            1
        } {
            let (world, from, head) = (self.world.clone(), self.from, head.to_vec());
            let sleep = self.rt.sleep(MILLISECOND * (1 + copy * 40));
            self.rt.spawn(
                "wire",
                Box::pin(async move {
                    sleep.await;
                    let rpc = world.lock().nodes.get(&to).cloned();
                    // A dead node neither sends nor receives.
                    if let Some(rpc) = rpc.filter(|_| world.lock().nodes.contains_key(&from)) {
                        rpc.receive(from, Incarnation(1), &head);
                    }
                }),
            );
        }
    }
}

struct Device {
    me: NodeId,
    rt: Arc<TestHandle>,
    world: Arc<Mutex<World>>,
}

impl StatusStore for Device {
    fn read(&self, txn: TxnId) -> BoxFuture<'_, Result<Option<Scn>, Error>> {
        Box::pin(async move {
            self.rt.sleep(MILLISECOND).await;
            Ok(self.world.lock().stored.get(&txn).copied())
        })
    }
    fn write(&self, commits: Vec<(TxnId, Scn)>) -> BoxFuture<'_, Result<Lsn, Error>> {
        Box::pin(async move {
            self.rt.sleep(MILLISECOND).await;
            let mut world = self.world.lock();
            if world.refuse_writes {
                return Err(Error::NoSpace);
            }
            world.stored.extend(commits);
            Ok(Lsn(1))
        })
    }
}

impl CeilingStore for Device {
    fn raise_scn_ceiling(&self, ceiling: Scn) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.rt.sleep(MILLISECOND * 3).await;
            self.world.lock().ceilings.insert(self.me, ceiling);
            Ok(())
        })
    }
}

impl Redo for Device {
    fn durable(&self) -> Lsn {
        Lsn(0)
    }
    fn request(&self, _position: Lsn) {}
    fn risen(&self) -> Arc<tokio::sync::Notify> {
        Arc::default()
    }
    fn wait(&self, _position: Lsn) -> BoxFuture<'_, ()> {
        self.rt.sleep(MILLISECOND * 20)
    }
    fn written_back(&self, _by: NodeId, _pages: &[(PageId, Psn)]) {}
}

struct Handler(Arc<TransactionManager>);

impl EngineHandler for Handler {
    fn handle(&self, from: NodeId, request: EngineRequest) -> Reply {
        match self.0.handle(from, request) {
            Ok(reply) => reply,
            Err(EngineRequest::Admin(bytes)) => Reply::Now(EngineResponse::Admin(bytes)),
            Err(_) => Reply::NotNow,
        }
    }
}

struct Cluster {
    rt: Arc<TestHandle>,
    world: Arc<Mutex<World>>,
    managers: Vec<Arc<TransactionManager>>,
    view: Arc<View>,
}

fn node(id: usize) -> NodeId {
    NodeId::new(id as u8).unwrap()
}

impl Cluster {
    fn new(seed: u64) -> Self {
        Self::hostile(seed, 0, |_| unreachable!("everybody is honest"))
    }

    /// The requests of node `hostile` are answered by another handler.
    fn hostile(
        seed: u64,
        hostile: usize,
        handler: impl Fn(Arc<TestHandle>) -> Arc<dyn EngineHandler>,
    ) -> Self {
        let rt = TestRuntime::new(seed);
        let world = Arc::new(Mutex::new(World::default()));
        let mut managers = Vec::new();
        for id in 1..=3 {
            let me = node(id);
            let wire = Arc::new(Wire {
                from: me,
                rt: rt.clone(),
                world: world.clone(),
            });
            let device = Arc::new(Device {
                me,
                rt: rt.clone(),
                world: world.clone(),
            });
            let rpc = Rpc::new(rt.clone(), wire, me);
            let config = TransactionConfig {
                cached_answers: 4,
                ..TransactionConfig::default()
            };
            let manager = TransactionManager::start(
                rt.clone(),
                rpc.clone(),
                me,
                config,
                device.clone(),
                device.clone(),
                device,
            );
            manager.add_sequences(1..10_000);
            if id == hostile {
                rpc.serve(handler(rt.clone()));
            } else {
                rpc.serve(Arc::new(Handler(manager.clone())));
            }
            world.lock().nodes.insert(me, rpc);
            managers.push(manager);
        }
        let mut cluster = Self {
            rt,
            world,
            managers,
            view: Arc::new(View::none()),
        };
        cluster.install(&[1, 2, 3]);
        cluster
    }

    fn install(&mut self, ids: &[usize]) {
        let members = ids
            .iter()
            .map(|id| Member {
                node: node(*id),
                incarnation: Incarnation(1),
            })
            .collect();
        let before = self.view.nodes();
        self.view = Arc::new(self.view.successor(members));
        let joined: NodeSet = self.view.nodes().without(before);
        let highest = self
            .world
            .lock()
            .ceilings
            .values()
            .copied()
            .max()
            .unwrap_or_default();
        for id in ids {
            let rpc = self.world.lock().nodes[&node(*id)].clone();
            rpc.install_view(self.view.clone());
            self.manager(*id).install_view(self.view.clone(), joined, highest);
        }
    }

    fn kill(&mut self, id: usize) {
        self.world.lock().nodes.remove(&node(id));
    }

    fn manager(&self, id: usize) -> &Arc<TransactionManager> {
        &self.managers[id - 1]
    }
}

#[test]
fn a_snapshot_taken_after_an_acknowledgement_covers_the_commit_on_any_node() {
    for seed in 0..5 {
        let cluster = Cluster::new(seed);
        cluster.rt.block_on(async {
            let mut last = Scn(0);
            for round in 0..30 {
                let manager = cluster.manager(round % 3 + 1);
                let txn = manager.begin().unwrap();
                let scn = manager.commit(txn).await.unwrap();
                assert!(scn > last, "one order everywhere");
                last = scn;
                let snapshot = cluster.manager((round / 3) % 3 + 1).snapshot().await;
                assert!(snapshot.scn() >= scn, "no stale read");
                let status = cluster.manager((round + 1) % 3 + 1).resolve(txn).await.unwrap();
                assert_eq!(status, TxnStatus::Committed(scn));
            }
        });
    }
}

#[test]
fn committing_is_published_before_the_scn_and_readers_wait_for_the_outcome() {
    let cluster = Cluster::new(1);
    cluster.rt.block_on(async {
        let (two, three) = (cluster.manager(2).clone(), cluster.manager(3));
        let txn = two.begin().unwrap();
        assert!(matches!(three.status(txn, &Resolutions::new()), Err(Blocked::Status(t)) if t == txn));
        assert_eq!(three.resolve(txn).await.unwrap(), TxnStatus::Active);
        let committed = Arc::new(Mutex::new(None));
        let (slot, committer) = (committed.clone(), two.clone());
        cluster.rt.spawn(
            "test",
            Box::pin(async move { *slot.lock() = Some(committer.commit(txn).await.unwrap()) }),
        );
        while two.status(txn, &Resolutions::new()).unwrap() != TxnStatus::Committing {
            cluster.rt.sleep(MILLISECOND).await;
        }
        assert_eq!(three.resolve(txn).await.unwrap(), TxnStatus::Committing);
        three.wait_for(None, txn).await.unwrap();
        let status = three.resolve(txn).await.unwrap();
        cluster.rt.sleep(MILLISECOND).await;
        assert_eq!(status, TxnStatus::Committed(committed.lock().unwrap()));
        assert_eq!(
            three.status(txn, &Resolutions::new()).unwrap(),
            status,
            "a final answer is kept"
        );
    });
}

#[test]
fn a_commit_that_cannot_be_written_is_an_abort() {
    let cluster = Cluster::new(1);
    cluster.rt.block_on(async {
        cluster.world.lock().refuse_writes = true;
        let txn = cluster.manager(1).begin().unwrap();
        assert!(matches!(
            cluster.manager(1).commit(txn).await,
            Err(Error::NoSpace)
        ));
        assert_eq!(cluster.manager(3).resolve(txn).await.unwrap(), TxnStatus::Aborted);
    });
}

#[test]
fn when_the_leader_dies_time_goes_on_above_its_ceiling_and_waiters_look_again() {
    let mut cluster = Cluster::new(3);
    let rt = cluster.rt.clone();
    let (committed, lost) = rt.block_on(async {
        let one = cluster.manager(1);
        let committed = one.begin().unwrap();
        let scn = one.commit(committed).await.unwrap();
        ((committed, scn), one.begin().unwrap())
    });
    let done = Arc::new(Mutex::new(0));
    for id in [2, 3] {
        let (manager, done) = (cluster.manager(id).clone(), done.clone());
        rt.spawn(
            "test",
            Box::pin(async move {
                manager.wait_for(None, lost).await.unwrap();
                assert_eq!(manager.resolve(lost).await.unwrap(), TxnStatus::Aborted);
                *done.lock() += 1;
            }),
        );
    }
    rt.block_on(async { rt.sleep(MILLISECOND * 100).await });
    cluster.kill(1);
    let waiting = cluster.manager(3).clone();
    let counted = done.clone();
    rt.spawn(
        "test",
        Box::pin(async move {
            assert!(waiting.snapshot().await.scn() >= committed.1);
            *counted.lock() += 1;
        }),
    );
    rt.block_on(async { rt.sleep(MILLISECOND * 300).await });
    assert_eq!(
        *done.lock(),
        0,
        "nobody is answered for a node that is not proven dead"
    );
    cluster.install(&[2, 3]);
    rt.block_on(async {
        let two = cluster.manager(2);
        let ceiling = cluster.world.lock().ceilings[&node(1)];
        let txn = two.begin().unwrap();
        assert!(two.commit(txn).await.unwrap() > ceiling);
        assert_eq!(
            cluster.manager(3).resolve(committed.0).await.unwrap(),
            TxnStatus::Committed(committed.1)
        );
        rt.sleep(MILLISECOND * 100).await;
    });
    assert_eq!(*done.lock(), 3);
}

#[test]
fn a_cycle_over_two_nodes_has_one_victim() {
    for seed in 0..5 {
        let cluster = Cluster::new(seed);
        let rt = cluster.rt.clone();
        let (a, b) = (
            cluster.manager(1).begin().unwrap(),
            cluster.manager(2).begin().unwrap(),
        );
        let sub = cluster.manager(2).begin_child(b).unwrap();
        let other = cluster.manager(1).clone();
        let first = Arc::new(Mutex::new(None));
        let slot = first.clone();
        rt.spawn(
            "test",
            Box::pin(async move { *slot.lock() = Some(other.wait_for(Some(a), sub).await) }),
        );
        let outcome = rt.block_on(cluster.manager(2).wait_for(Some(b), a));
        assert!(
            matches!(outcome, Err(Error::Deadlock)),
            "the highest id is the victim: {outcome:?}"
        );
        assert!(first.lock().is_none(), "the other goes on waiting");
        cluster.manager(2).abort(b);
        rt.block_on(async { rt.sleep(MILLISECOND * 600).await });
        assert!(matches!(*first.lock(), Some(Ok(()))));
    }
}

#[test]
fn a_wait_without_a_cycle_ends_at_the_limit() {
    let cluster = Cluster::new(1);
    let (a, b) = (
        cluster.manager(1).begin().unwrap(),
        cluster.manager(2).begin().unwrap(),
    );
    let outcome = cluster.rt.block_on(cluster.manager(2).wait_for(Some(b), a));
    assert!(matches!(outcome, Err(Error::LockTimeout)));
}

#[test]
fn a_sub_transaction_rolled_back_alone_stays_aborted() {
    let cluster = Cluster::new(1);
    cluster.rt.block_on(async {
        let one = cluster.manager(1);
        let root = one.begin().unwrap();
        let (kept, gone) = (one.begin_child(root).unwrap(), one.begin_child(root).unwrap());
        one.abort_child(gone);
        one.wait_for(None, gone).await.unwrap();
        assert_eq!(one.status(gone, &Resolutions::new()).unwrap(), TxnStatus::Aborted);
        assert_eq!(one.status(kept, &Resolutions::new()).unwrap(), TxnStatus::Active);
        let scn = one.commit(root).await.unwrap();
        let stored = cluster.world.lock().stored.clone();
        assert_eq!(stored, BTreeMap::from([(root, scn), (kept, scn)]));
        assert_eq!(
            cluster.manager(2).resolve(kept).await.unwrap(),
            TxnStatus::Committed(scn)
        );
        assert_eq!(
            cluster.manager(2).resolve(gone).await.unwrap(),
            TxnStatus::Aborted
        );
    });
}

#[test]
fn the_horizon_follows_but_never_passes_a_snapshot() {
    let cluster = Cluster::new(2);
    cluster.rt.block_on(async {
        let old = cluster.manager(3).snapshot().await;
        let copy = old.clone();
        for _ in 0..5 {
            let txn = cluster.manager(2).begin().unwrap();
            cluster.manager(2).commit(txn).await.unwrap();
        }
        cluster.rt.sleep(Duration::from_secs(5)).await;
        for id in 1..=3 {
            assert!(cluster.manager(id).scns().horizon() <= old.scn());
        }
        let scn = old.scn();
        drop(old);
        cluster.rt.sleep(Duration::from_secs(5)).await;
        assert!(
            cluster.manager(1).scns().horizon() <= scn,
            "a copy is as good as the first"
        );
        drop(copy);
        cluster.rt.sleep(Duration::from_secs(5)).await;
        for id in 1..=3 {
            assert!(
                cluster.manager(id).scns().horizon() > scn,
                "idle nodes tell their floor too"
            );
        }
    });
}

/// A wait that arrives when its holder has ended is answered at once (HZ-16), whichever way it ended.
#[test]
fn a_wait_for_a_transaction_that_has_ended_is_answered_at_once() {
    let cluster = Cluster::new(4);
    cluster.rt.block_on(async {
        let two = cluster.manager(2);
        let (committed, aborted) = (two.begin().unwrap(), two.begin().unwrap());
        two.commit(committed).await.unwrap();
        two.abort(aborted);
        for holder in [committed, aborted] {
            for id in 1..=3 {
                cluster.manager(id).wait_for(None, holder).await.unwrap();
            }
        }
    });
}

const ROW: (TreeId, &[u8]) = (TreeId(FileId(7)), b"table/t");

/// TXN-8: whoever has locked a row waits for those that go on from it, at whatever node, and for nobody else.
#[test]
fn who_changes_a_row_waits_for_the_intents_of_every_node() {
    let cluster = Cluster::new(5);
    cluster.rt.block_on(async {
        let one = cluster.manager(1);
        let changer = one.begin().unwrap();
        one.register_intent(changer, ROW.0, ROW.1).confirm();
        let mut writers = Vec::new();
        for id in 1..=3 {
            let manager = cluster.manager(id);
            let (writer, other) = (manager.begin().unwrap(), manager.begin().unwrap());
            manager.register_intent(writer, ROW.0, ROW.1).confirm();
            manager.register_intent(other, ROW.0, b"table/other").confirm();
            writers.push((manager.clone(), writer));
        }
        let done = Arc::new(Mutex::new(false));
        let (slot, waiting) = (done.clone(), one.clone());
        cluster.rt.spawn(
            "test",
            Box::pin(async move {
                waiting.wait_for_intents(changer, ROW.0, ROW.1).await.unwrap();
                *slot.lock() = true;
            }),
        );
        for (manager, writer) in writers {
            cluster.rt.sleep(Duration::from_secs(1)).await;
            assert!(!*done.lock(), "{writer} has not ended");
            manager.commit(writer).await.unwrap();
        }
        cluster.rt.sleep(Duration::from_secs(1)).await;
        assert!(*done.lock());
    });
}

/// A writer that finds the row locked withdraws and then waits: each saw the other, and that is no deadlock.
#[test]
fn an_intent_that_is_withdrawn_is_not_waited_for() {
    for seed in 0..90 {
        let cluster = Cluster::new(seed);
        cluster.rt.block_on(async {
            let (one, three) = (cluster.manager(1), cluster.manager(3).clone());
            let changer = one.begin().unwrap();
            let writer = three.begin().unwrap();
            let intent = three.register_intent(writer, ROW.0, ROW.1);
            let (waiting, rt) = (one.clone(), cluster.rt.clone());
            let changed = Arc::new(Mutex::new(None));
            let slot = changed.clone();
            cluster.rt.spawn(
                "test",
                Box::pin(async move {
                    let outcome = waiting.wait_for_intents(changer, ROW.0, ROW.1).await;
                    rt.sleep(MILLISECOND * 300).await;
                    waiting.abort(changer);
                    *slot.lock() = Some(outcome);
                }),
            );
            // Before it is asked about, before it is waited for, or after.
            cluster.rt.sleep(MILLISECOND * (seed as u32 % 30)).await;
            drop(intent);
            three.wait_for(Some(writer), changer).await.unwrap();
            while changed.lock().is_none() {
                cluster.rt.sleep(MILLISECOND).await;
            }
            assert!(matches!(*changed.lock(), Some(Ok(()))));
        });
    }
}

/// A confirmed intent and a row lock do make a deadlock, and it has one victim.
#[test]
fn a_cycle_through_an_intent_is_found() {
    let cluster = Cluster::new(6);
    cluster.rt.block_on(async {
        let (one, two) = (cluster.manager(1), cluster.manager(2).clone());
        let changer = one.begin().unwrap();
        let writer = two.begin().unwrap();
        two.register_intent(writer, ROW.0, ROW.1).confirm();
        let victim = two.clone();
        let (lost, outcome) = oneshot::channel();
        cluster.rt.spawn(
            "test",
            Box::pin(async move {
                let outcome = victim.wait_for(Some(writer), changer).await;
                victim.abort(writer);
                let _ = lost.send(outcome);
            }),
        );
        one.wait_for_intents(changer, ROW.0, ROW.1).await.unwrap();
        assert!(matches!(outcome.await.unwrap(), Err(Error::Deadlock)));
    });
}

/// TXN-9: what waits for the horizon goes on when the last older snapshot has gone, and not before.
#[test]
fn the_horizon_is_awaited_without_asking() {
    let cluster = Cluster::new(7);
    cluster.rt.block_on(async {
        let old = cluster.manager(3).snapshot().await;
        let one = cluster.manager(1);
        let txn = one.begin().unwrap();
        let scn = one.commit(txn).await.unwrap();
        let passed = Arc::new(Mutex::new(0));
        for id in 1..=3 {
            let (scns, passed) = (cluster.manager(id).scns().clone(), passed.clone());
            cluster.rt.spawn(
                "test",
                Box::pin(async move {
                    scns.horizon_at(scn).await;
                    *passed.lock() += 1;
                }),
            );
        }
        cluster.rt.sleep(Duration::from_secs(10)).await;
        assert_eq!(*passed.lock(), 0, "{:?} is in use", old.scn());
        drop(old);
        cluster.rt.sleep(Duration::from_secs(3)).await;
        assert_eq!(*passed.lock(), 3);
    });
}

#[test]
fn each_rule_of_transactions_is_missed_when_it_is_gone() {
    let ended: fn() = a_wait_for_a_transaction_that_has_ended_is_answered_at_once;
    assert!(fails_with(Defect::WaitForTheEnded, ended));
    let successor = when_the_leader_dies_time_goes_on_above_its_ceiling_and_waiters_look_again;
    assert!(fails_with(Defect::LeaderIgnoresCeilings, successor));
    let intents: fn() = who_changes_a_row_waits_for_the_intents_of_every_node;
    assert!(fails_with(Defect::ChangeBesideIntents, intents));
}
