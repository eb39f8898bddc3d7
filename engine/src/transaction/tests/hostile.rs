//! One member says anything at all, also as the leader: nobody panics, and who does not depend on it goes on (TXN-10).

use super::{Cluster, EngineHandler, EngineRequest, EngineResponse, Reply, Scn, node};
use crate::rpc::Rpc;
use aquifer_buffer_pool_proto::{Lsn, PageId, Psn};
use aquifer_dss::seam::Runtime;
use aquifer_dss::testing::{TestHandle, fuzz_rounds};
use aquifer_dss_proto::{FileId, Incarnation};
use aquifer_engine_proto::{RetentionEntry, ScnFetch, ScnReply, TreeId, TxnId, TxnStatus};
use std::sync::Arc;
use std::time::Duration;

/// Draws what a liar says.
#[derive(Clone)]
struct Liar(Arc<TestHandle>);

impl Liar {
    fn below(&self, limit: u64) -> u64 {
        self.0.random() % limit
    }

    fn number(&self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX - self.below(3),
            3 => 1 << self.below(64),
            _ => self.below(40),
        }
    }

    fn txn(&self) -> TxnId {
        let node = [0, 1, 2, 3, 4, 64, 65, 0xFFFF][self.below(8) as usize];
        TxnId(node << TxnId::SEQUENCE_BITS | (self.number() & ((1 << TxnId::SEQUENCE_BITS) - 1)))
    }

    fn some<T>(&self, limit: u64, mut one: impl FnMut(&Self) -> T) -> Vec<T> {
        (0..self.below(limit)).map(|_| one(self)).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        self.some(60, |liar| liar.0.random() as u8)
    }

    fn status(&self) -> TxnStatus {
        match self.below(4) {
            0 => TxnStatus::Active,
            1 => TxnStatus::Committing,
            2 => TxnStatus::Committed(Scn(self.number())),
            _ => TxnStatus::Aborted,
        }
    }

    fn request(&self) -> EngineRequest {
        let tree = TreeId(FileId(self.number()));
        match self.below(8) {
            0 => EngineRequest::Scn(ScnFetch {
                take: self.number() as u32,
                floor: Scn(self.number()),
            }),
            1 => EngineRequest::Status(self.some(20, Self::txn)),
            2 => EngineRequest::Wait(self.txn()),
            3 => EngineRequest::WaitsFor(self.txn()),
            4 => EngineRequest::Retention,
            5 => EngineRequest::Admin(self.bytes()),
            6 => EngineRequest::Intents(tree, self.bytes()),
            _ => EngineRequest::WaitIntent(self.txn(), tree, self.bytes()),
        }
    }

    fn response(&self) -> EngineResponse {
        let entry = |liar: &Self| RetentionEntry {
            page: PageId {
                file: FileId(liar.number()),
                number: liar.number() as u32,
            },
            first: Psn(liar.number()),
            last: Psn(liar.number()),
            lsn: Lsn(liar.number()),
        };
        match self.below(8) {
            0 | 1 => EngineResponse::Scn(ScnReply {
                first: Scn(self.number()),
                current: Scn(self.number()),
                horizon: Scn(self.number()),
            }),
            2 => EngineResponse::Status(self.some(4, Self::status)),
            3 => EngineResponse::Ended((self.below(2) == 0).then(|| self.status())),
            4 => EngineResponse::WaitsFor(self.txn(), (self.below(2) == 0).then(|| self.txn())),
            5 => EngineResponse::Retention(self.some(4, entry)),
            6 => EngineResponse::Refused(String::new()),
            _ => EngineResponse::Intents(self.some(4, Self::txn)),
        }
    }

    /// Asks `victim` for many things, without caring for answers, and sends it bytes of no meaning.
    async fn ask(self, me: usize, rpc: Arc<Rpc>, victim: Arc<Rpc>, victim_id: usize, rounds: u64) {
        for _ in 0..rounds {
            let (rpc, request) = (rpc.clone(), self.request());
            self.0.spawn(
                "question",
                Box::pin(async move {
                    let _ = rpc.call(node(victim_id), request).await;
                }),
            );
            victim.receive(node(me), Incarnation(1), &self.bytes());
            self.0.sleep(Duration::from_millis(self.below(3))).await;
        }
    }
}

impl EngineHandler for Liar {
    fn handle(&self, _: aquifer_dss_proto::NodeId, _: EngineRequest) -> Reply {
        match self.below(8) {
            0 => Reply::NotNow,
            1 => {
                let (later, response) = (self.0.sleep(Duration::from_millis(20)), self.response());
                Reply::Later(Box::pin(async move {
                    later.await;
                    response
                }))
            }
            _ => Reply::Now(self.response()),
        }
    }
}

fn lies(seed: u64, hostile: usize) {
    let cluster = Cluster::hostile(seed, hostile, |rt| Arc::new(Liar(rt)));
    let liar = Liar(cluster.rt.clone());
    cluster.rt.block_on(async {
        let rpc = |id: usize| cluster.world.lock().nodes[&node(id)].clone();
        for victim in (1..=3).filter(|id| *id != hostile) {
            let questions = liar.clone().ask(hostile, rpc(hostile), rpc(victim), victim, 150 * fuzz_rounds());
            cluster.rt.spawn("liar", Box::pin(questions));
        }
        let honest: Vec<usize> = (1..=3).filter(|id| *id != hostile).collect();
        for round in 0..20 {
            let manager = cluster.manager(honest[round % 2]).clone();
            let work = async {
                let txn = manager.begin().unwrap();
                let scn = manager.commit(txn).await.unwrap();
                assert!(manager.snapshot().await.scn() >= scn);
                txn
            };
            let limit = cluster.rt.sleep(Duration::from_secs(2));
            tokio::select! {
                biased;
                txn = work => {
                    let _ = cluster.manager(honest[(round + 1) % 2]).resolve(txn).await;
                }
                () = limit => assert!(hostile == 1, "seed {seed}: who does not need the liar goes on"),
            }
            let asked = liar.txn();
            let limit = cluster.rt.sleep(Duration::from_secs(2));
            tokio::select! {
                biased;
                // A number of the liar's own may stay unknown: it is asked again and again.
                _ = manager.resolve(asked) => {}
                () = limit => assert!(asked.node() == Some(node(hostile)), "seed {seed}: {asked} is not found out"),
            }
        }
    });
}

#[test]
fn a_hostile_member_stops_nobody() {
    for seed in 0..6 {
        lies(seed, 3);
    }
}

#[test]
fn a_hostile_leader_makes_nobody_panic() {
    for seed in 0..6 {
        lies(seed, 1);
    }
}
