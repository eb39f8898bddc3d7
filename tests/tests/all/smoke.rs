//! Whole nodes in the simulator: transfers on three nodes, one killed.

use aquifer_dss::group::{GroupOptions, VolumeGroup};
use aquifer_dss::membership::SlotView;
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::{Incarnation, NodeId};
use aquifer_engine::node::{Links, Node, NodeConfig, Router, Seams};
use aquifer_engine::{Engine, Isolation};
use aquifer_tests::sim::{Cluster, ClusterOptions, NodeContext, NodeProgram, SimTransport};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

#[derive(Default)]
struct Engines {
    nodes: Arc<Mutex<BTreeMap<NodeId, Arc<Node>>>>,
}

struct SimLinks(Arc<SimTransport>);
impl Links for SimLinks {
    fn start(&self, incarnation: Incarnation) {
        self.0.set_incarnation(incarnation);
    }
    fn peers(&self, _slots: &[SlotView]) {}
}

impl NodeProgram for Engines {
    fn start(&self, context: NodeContext) -> BoxFuture<'static, ()> {
        let nodes = self.nodes.clone();
        Box::pin(async move {
            let router = Arc::new(Router::new());
            context.transport.attach(router.clone());
            let mut config = NodeConfig::new(context.node, 64);
            config.redo_bytes = 4 << 20;
            let seams = Seams {
                runtime: context.runtime.clone(),
                devices: vec![context.device.clone()],
                transport: context.transport.clone(),
                links: Arc::new(SimLinks(context.transport.clone())),
                fencer: context.fencer.clone(),
                router,
            };
            let started = Node::start(config, seams).await.unwrap();
            nodes.lock().insert(context.node, started.clone());
            eprintln!("{:?} node {} started", context.runtime.now(), context.node);
            started.serving().await;
            eprintln!("{:?} node {} serves", context.runtime.now(), context.node);
            started.stopped().await;
        })
    }
}

async fn transfer(engine: &Arc<Engine>, n: u64) -> Result<(), aquifer_engine::Error> {
    let tree = engine.catalog_tree();
    let mut txn = engine.begin(Isolation::ReadCommitted);
    txn.statement().await?;
    txn.update_with(tree, b"a", |v| {
        Some(
            (u64::from_le_bytes(v.try_into().unwrap()) - 1)
                .to_le_bytes()
                .to_vec(),
        )
    })
    .await?
    .expect("row");
    txn.statement().await?;
    txn.update_with(tree, b"b", |v| {
        Some(
            (u64::from_le_bytes(v.try_into().unwrap()) + 1)
                .to_le_bytes()
                .to_vec(),
        )
    })
    .await?
    .expect("row");
    txn.statement().await?;
    txn.insert(tree, format!("h{n}").as_bytes(), b"x").await?;
    txn.commit().await?;
    Ok(())
}

#[test]
fn three_nodes_transfer_over_the_same_rows() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    let mut options = ClusterOptions {
        nodes: 3,
        ..ClusterOptions::default()
    };
    options.world.seed = seed;
    let program = Arc::new(Engines::default());
    let nodes = program.nodes.clone();
    let cluster = Cluster::new(options, program);
    let c = cluster.clone();
    let world = cluster.world.clone();
    let w = world.clone();
    let result = world.block_on(async move {
        let device = c.disk.port(None);
        let group = GroupOptions {
            au_bytes: 1 << 20,
            ..GroupOptions::default()
        };
        VolumeGroup::format(&*device, &group).await.unwrap();
        c.start_all();
        let get = |id: u8| nodes.lock().get(&node(id)).cloned();
        let engine = loop {
            if let Some(n) = get(1) {
                if n.serving().await {
                    break n.engine().clone();
                }
            }
            w.sleep(Duration::from_millis(10)).await;
        };
        eprintln!("first serves at {:?}", w.now());
        let e = engine.clone();
        c.call(node(1), "load", async move {
            let tree = e.catalog_tree();
            let mut txn = e.begin(Isolation::ReadCommitted);
            txn.statement().await.unwrap();
            txn.insert(tree, b"a", &1000u64.to_le_bytes()).await.unwrap();
            txn.insert(tree, b"b", &0u64.to_le_bytes()).await.unwrap();
            txn.commit().await.unwrap();
        })
        .await
        .unwrap();
        eprintln!("loaded at {:?}", w.now());
        for id in [2, 3] {
            while get(id).is_none() {
                w.sleep(Duration::from_millis(10)).await;
            }
            get(id).unwrap().serving().await;
        }
        for round in 0..2u64 {
            let mut joins = Vec::new();
            for id in 1..=3u8 {
                if round == 1 && id == 2 {
                    continue;
                }
                let e = get(id).unwrap().engine().clone();
                joins.push(c.call(node(id), "work", async move {
                    for k in 0..20u64 {
                        loop {
                            match transfer(&e, round * 1000 + u64::from(id) * 100 + k).await {
                                Ok(()) => break,
                                Err(err) => {
                                    eprintln!("node {id}: {err}");
                                }
                            }
                        }
                    }
                }));
            }
            for j in joins {
                j.await.unwrap();
            }
            eprintln!("round {round} done at {:?}", w.now());
            if round == 0 {
                c.crash(node(2), "kill");
            }
        }
        let e = get(3).unwrap().engine().clone();
        let (a, b) = c
            .call(node(3), "check", async move {
                let tree = e.catalog_tree();
                let mut txn = e.begin(Isolation::Snapshot);
                txn.statement().await.unwrap();
                (
                    txn.get(tree, b"a").await.unwrap().unwrap(),
                    txn.get(tree, b"b").await.unwrap().unwrap(),
                )
            })
            .await
            .unwrap();
        assert_eq!(
            (
                u64::from_le_bytes(a.try_into().unwrap()),
                u64::from_le_bytes(b.try_into().unwrap())
            ),
            (900, 100)
        );
        c.shut_down();
    });
    result.unwrap();
}
