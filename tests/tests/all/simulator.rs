//! The simulator keeps its promises: determinism, ends of lives, the disk's durability, the network's order.

use aquifer_dss::seam::{BoxFuture, Inbound, IoBuffer, Receiver, Service, Transport};
use aquifer_dss_proto::{HomeSlots, Incarnation, NodeId, PageSize};
use aquifer_tests::sim::{Cluster, ClusterOptions, Faults, Nemesis, NodeContext, NodeProgram};
use aquifer_tests::swarm::{Configuration, Layout, Overrides, Subject};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

#[test]
fn the_swarm_draws_every_size_there_is() {
    let overrides = Overrides {
        nodes: None,
        workload: None,
        calm: false,
        trace: false,
        subject: Subject::Engine,
        defect: None,
        layout: Layout::Whole,
    };
    let drawn: Vec<_> = (1..=1000)
        .map(|seed| Configuration::draw(seed, &overrides))
        .collect();
    let nodes: BTreeSet<u8> = drawn.iter().map(|c| c.cluster.nodes).collect();
    assert_eq!(nodes, (1..=7).collect());
    let frames: BTreeSet<usize> = drawn.iter().map(|c| c.frames).collect();
    assert_eq!((frames.first(), frames.last()), (Some(&8), Some(&256)));
    let pages: BTreeSet<_> = drawn.iter().map(|c| c.tuning.page_size).collect();
    assert_eq!(pages, BTreeSet::from(PageSize::ALL));
    let slots: BTreeSet<usize> = drawn.iter().map(|c| c.tuning.home_slots.count()).collect();
    assert_eq!((slots.first(), slots.last()), (Some(&1), Some(&65_536)));
    let usual =
        |c: &&Configuration| c.tuning.page_size == PageSize::USUAL && c.tuning.home_slots == HomeSlots::USUAL;
    assert!((400..600).contains(&drawn.iter().filter(usual).count()));
}

fn options(seed: u64, nodes: u8) -> ClusterOptions {
    let mut options = ClusterOptions {
        nodes,
        ..ClusterOptions::default()
    };
    options.world.seed = seed;
    options
}

/// The last counter by receiver, receiver's life, and sender.
type Heard = Arc<Mutex<BTreeMap<(NodeId, Incarnation, NodeId), u64>>>;

/// Each node writes a counter into its block and tells everybody; receivers check the order.
#[derive(Default)]
struct Counting {
    heard: Heard,
}

#[derive(Clone)]
struct Ear {
    me: NodeId,
    heard: Heard,
}

/// What one life of a node says to an ear.
struct Voice {
    ear: Ear,
    from: NodeId,
    incarnation: Incarnation,
    tail: Vec<u8>,
}

impl Receiver for Voice {
    fn tail(&mut self, _service: Service, _head: &[u8], length: usize) -> Option<&mut [u8]> {
        self.tail.resize(length, 0);
        Some(&mut self.tail)
    }

    fn receive(&mut self, _service: Service, head: &[u8]) {
        let number = u64::from_le_bytes(head.try_into().unwrap());
        let who = (self.ear.me, self.incarnation, self.from);
        let before = self.ear.heard.lock().insert(who, number);
        assert!(
            before.is_none_or(|before| before < number),
            "in order, at most once"
        );
        assert!(self.tail.iter().all(|byte| *byte == number as u8), "whole");
    }
}

impl Inbound for Ear {
    fn connected(self: Arc<Self>, from: NodeId, incarnation: Incarnation) -> Box<dyn Receiver> {
        Box::new(Voice {
            ear: (*self).clone(),
            from,
            incarnation,
            tail: Vec::new(),
        })
    }
    fn disconnected(&self, _peer: NodeId, _incarnation: Incarnation) {}
}

impl NodeProgram for Counting {
    fn start(&self, context: NodeContext) -> BoxFuture<'static, ()> {
        let heard = self.heard.clone();
        Box::pin(async move {
            context.transport.attach(Arc::new(Ear {
                me: context.node,
                heard,
            }));
            context
                .transport
                .set_incarnation(Incarnation(context.life.number));
            let offset = 4096 * u64::from(context.node.get());
            for number in 1u64.. {
                let buffer = IoBuffer::copy_padded(&number.to_le_bytes());
                if context.device.write(offset, buffer).await.is_ok() && context.device.flush().await.is_ok()
                {
                    let mut tail = IoBuffer::zeroed(512);
                    tail.fill(number as u8);
                    let tail = (number % 3 == 0).then(|| Arc::new(tail));
                    for peer in 1..=3 {
                        context.transport.send(
                            node(peer),
                            Service::Membership,
                            &number.to_le_bytes(),
                            tail.clone(),
                        );
                    }
                }
                let pause = Duration::from_micros(context.runtime.random() % 5_000);
                context.runtime.sleep(pause).await;
            }
        })
    }
}

fn run_counting(seed: u64) -> (u64, u64) {
    let cluster = Cluster::new(options(seed, 3), Arc::new(Counting::default()));
    cluster.set_restarts(Some((Duration::from_millis(10), Duration::from_secs(1))));
    cluster.start_all();
    let nemesis = Nemesis::new(cluster.clone(), Faults::all());
    cluster
        .world
        .block_on(nemesis.run(Duration::from_secs(20)))
        .unwrap();
    let digest = cluster.world.digest();
    cluster.shut_down();
    digest
}

#[test]
fn same_seed_same_trace() {
    let first = run_counting(7);
    assert_eq!(first, run_counting(7));
    assert_ne!(first.0, run_counting(8).0);
    assert!(first.1 > 1_000);
}

/// A program that does nothing.
struct Idle;

impl NodeProgram for Idle {
    fn start(&self, _context: NodeContext) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[test]
fn flushed_writes_survive_a_power_cut_and_others_may_not() {
    let mut lost = 0;
    for seed in 0..20 {
        let cluster = Cluster::new(options(seed, 1), Arc::new(Idle));
        let inside = cluster.clone();
        let outcome = cluster.world.block_on(async move {
            let port = inside.disk.port(None);
            let mut first = IoBuffer::zeroed(8192);
            first.fill(1);
            port.write(0, first).await.unwrap();
            port.flush().await.unwrap();
            let mut second = IoBuffer::zeroed(8192);
            second.fill(2);
            port.write(4096, second).await.unwrap();
            inside.cut_power();
            port.read(0, IoBuffer::zeroed(16384)).await.unwrap().to_vec()
        });
        let bytes = outcome.unwrap();
        assert!(bytes[..4096].iter().all(|byte| *byte == 1));
        for sector in bytes[4096..8192].chunks(512) {
            assert!(sector.iter().all(|byte| *byte == 1) || sector.iter().all(|byte| *byte == 2));
        }
        lost += usize::from(bytes[4096..12288].iter().any(|byte| *byte != 2));
        cluster.shut_down();
    }
    assert!(lost > 0 && lost < 20, "some are lost, some are kept: {lost}");
}

/// Writes for ever, so that there is always something in flight.
struct Writing;

impl NodeProgram for Writing {
    fn start(&self, context: NodeContext) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            context.fencer.hold(context.node).unwrap();
            loop {
                let mut buffer = IoBuffer::zeroed(4096);
                buffer.fill(context.life.number as u8);
                let _ = context.device.write(0, buffer).await;
            }
        })
    }
}

#[test]
fn a_fenced_life_writes_no_more() {
    use aquifer_dss::seam::Fencer;
    use aquifer_dss_proto::Instant;
    for seed in 0..20 {
        let cluster = Cluster::new(options(seed, 2), Arc::new(Writing));
        let inside = cluster.clone();
        let result = cluster.world.block_on(async move {
            inside.start(node(1));
            inside.world.sleep(Duration::from_millis(5)).await;
            if inside.world.seed().is_multiple_of(2) {
                inside.world.pause(node(1));
            }
            let killer = inside.world.start_life(node(2));
            let fencer = inside.locks.fencer(killer);
            let victim = inside.world.life(node(1)).unwrap();
            let identity = inside.locks.fencer(victim).identity();
            let deadline = Instant(u64::MAX);
            let fenced = inside.call(node(2), "fence", async move {
                fencer.fence(node(1), Incarnation(1), identity, deadline).await
            });
            fenced.await.unwrap().unwrap();
            let port = inside.disk.port(None);
            port.write(0, IoBuffer::zeroed(4096)).await.unwrap();
            inside.world.sleep(Duration::from_secs(1)).await;
            port.read(0, IoBuffer::zeroed(4096))
                .await
                .unwrap()
                .iter()
                .all(|byte| *byte == 0)
        });
        assert_eq!(result, Ok(true));
        cluster.shut_down();
    }
}

/// Panics as a broken invariant does, or aborts as a node without a lease does.
struct Ending {
    panics: bool,
}

impl NodeProgram for Ending {
    fn start(&self, context: NodeContext) -> BoxFuture<'static, ()> {
        let panics = self.panics;
        Box::pin(async move {
            context.runtime.sleep(Duration::from_millis(1)).await;
            assert!(!panics, "a broken rule");
            context.runtime.abort("lease lost");
            unreachable!("abort does not return");
        })
    }
}

#[test]
fn a_panic_fails_the_run_and_so_does_an_abort_without_explanation() {
    let run = |panics, explained| {
        let mut options = options(1, 1);
        options.world.explained = explained;
        let cluster = Cluster::new(options, Arc::new(Ending { panics }));
        cluster.start_all();
        let world = cluster.world.clone();
        let result = cluster
            .world
            .block_on(async move { world.sleep(Duration::from_secs(1)).await });
        let aborts = cluster.world.aborts();
        cluster.shut_down();
        (result, aborts)
    };
    let (result, _) = run(true, |_| true);
    assert!(result.unwrap_err().message.contains("a broken rule"));
    let (result, aborts) = run(false, |reason| reason == "lease lost");
    assert_eq!(result, Ok(()));
    assert_eq!(aborts.len(), 1);
    let (result, _) = run(false, |_| false);
    assert!(result.unwrap_err().message.contains("ended itself: lease lost"));
}
