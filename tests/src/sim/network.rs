//! The simulated network: one [`Transport`] per life of a node.
//!
//! What a TCP connection per pair gives, and what it does not:
//! - messages of one service between two lives arrive at most once and in order; services overtake each other;
//! - a message may be lost at any time (a connection that broke with it in its queue), silently; a page also in its middle, after its
//!   receiver has said where it is to go;
//! - nothing reaches a life that it was not sent to: a restarted node never gets its predecessor's mail;
//! - when a life ends its peers are told with some probability, after whatever it had sent; otherwise they have to find out;
//! - a partition blocks a direction. What is sent meanwhile is lost, or (a short partition, TCP retransmits) arrives late.

use super::random::Random;
use super::trace::fingerprint;
use super::world::{CrashHook, Life, World};
use aquifer_dss::seam::{Inbound, Receiver, Service, Tail, Transport};
use aquifer_dss_proto::{Incarnation, NodeId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How the network behaves.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Shortest delay of a message.
    pub latency_low: Duration,
    /// Usual longest delay.
    pub latency_high: Duration,
    /// Messages that take up to fifty times longer, in a million.
    pub slow: u32,
    /// Messages that are lost, in a million.
    pub lost: u32,
    /// Ended lives that a peer is told of, in a million.
    pub closing_hint: u32,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            latency_low: Duration::from_micros(30),
            latency_high: Duration::from_micros(300),
            slow: 2_000,
            lost: 0,
            closing_hint: 900_000,
        }
    }
}

struct Port {
    life: Life,
    incarnation: Incarnation,
    inbound: Option<Arc<dyn Inbound>>,
}

#[derive(Default)]
struct Links {
    /// Blocked directions; true when what is sent meanwhile arrives after the heal.
    blocked: BTreeMap<(NodeId, NodeId), bool>,
    /// What waits for the heal of its direction.
    waiting: Vec<Letter>,
    /// Letters whose tails are on their way, and what waits for them.
    arriving: BTreeMap<u64, (Life, Box<dyn Receiver>)>,
    begun: u64,
    /// Connections in the middle of a tail, and what came behind it: a life that was stopped takes in at once what came meanwhile.
    behind: BTreeMap<Connection, VecDeque<(Letter, Option<Duration>)>>,
    /// When the last message of a direction and service arrives.
    last: BTreeMap<(NodeId, NodeId, Option<Service>), u64>,
    /// Messages sent and lost so far.
    sent: u64,
    lost: u64,
}

/// What keeps its order: a service from a node to a life.
type Connection = (NodeId, Life, Service);

struct Letter {
    from: Life,
    incarnation: Incarnation,
    to: Life,
    service: Service,
    head: Vec<u8>,
    tail: Option<Tail>,
}

impl Letter {
    fn connection(&self) -> Connection {
        (self.from.node, self.to, self.service)
    }

    /// As it is recorded.
    fn named(&self, last: u64) -> [u64; 4] {
        let (from, to) = (self.from.node.get(), self.to.node.get());
        [from.into(), to.into(), self.service as u64, last]
    }
}

/// All links between the nodes of a world.
pub struct SimNetwork {
    world: Weak<World>,
    options: Mutex<NetworkOptions>,
    random: Mutex<Random>,
    ports: Mutex<BTreeMap<NodeId, Port>>,
    links: Mutex<Links>,
    me: Weak<SimNetwork>,
}

impl SimNetwork {
    /// The network of `world`.
    pub fn new(world: &Arc<World>, options: NetworkOptions) -> Arc<Self> {
        let network = Arc::new_cyclic(|me| Self {
            world: Arc::downgrade(world),
            options: Mutex::new(options),
            random: Mutex::new(Random::fork(world.seed(), "network")),
            ports: Mutex::default(),
            links: Mutex::default(),
            me: me.clone(),
        });
        world.add_hook(network.clone());
        network
    }

    /// The transport of `life`, which can send at once and receives after [`SimTransport::attach`].
    pub fn transport(&self, life: Life) -> Arc<SimTransport> {
        let port = Port {
            life,
            incarnation: Incarnation(0),
            inbound: None,
        };
        self.ports.lock().insert(life.node, port);
        Arc::new(SimTransport {
            network: self.me.upgrade().expect("called through an Arc"),
            life,
        })
    }

    /// Blocks `from` → `to`. With `holds`, what is sent meanwhile arrives after the heal; otherwise it is lost.
    pub fn block(&self, from: NodeId, to: NodeId, holds: bool) {
        self.links.lock().blocked.insert((from, to), holds);
        if let Some(world) = self.world.upgrade() {
            world.record(
                "block",
                [from.get().into(), to.get().into(), holds.into(), 0],
                "direction blocked",
            );
        }
    }

    /// Unblocks every direction.
    pub fn heal(&self) {
        let waiting = {
            let mut links = self.links.lock();
            links.blocked.clear();
            std::mem::take(&mut links.waiting)
        };
        if let Some(world) = self.world.upgrade() {
            world.record("heal", [waiting.len() as u64, 0, 0, 0], "network healed");
        }
        for letter in waiting {
            self.post(letter);
        }
    }

    /// Whether `from` → `to` is blocked.
    pub fn is_blocked(&self, from: NodeId, to: NodeId) -> bool {
        self.links.lock().blocked.contains_key(&(from, to))
    }

    /// Changes the share of lost messages, in a million.
    pub fn set_lost(&self, parts_per_million: u32) {
        self.options.lock().lost = parts_per_million;
    }

    /// Messages sent and lost so far.
    pub fn counts(&self) -> (u64, u64) {
        let links = self.links.lock();
        (links.sent, links.lost)
    }

    fn send(&self, life: Life, to: NodeId, service: Service, head: &[u8], tail: Option<Tail>) {
        let Some(world) = self.world.upgrade() else { return };
        if !world.is_alive(life) {
            return;
        }
        let letter = {
            let ports = self.ports.lock();
            let Some(from) = ports.get(&life.node).filter(|port| port.life == life) else {
                return;
            };
            let Some(target) = ports.get(&to).filter(|port| port.inbound.is_some()) else {
                return;
            };
            Letter {
                from: life,
                incarnation: from.incarnation,
                to: target.life,
                service,
                head: head.to_vec(),
                tail,
            }
        };
        let lost = {
            let (options, mut random) = (self.options.lock(), self.random.lock());
            to != life.node && random.chance(options.lost)
        };
        let mut links = self.links.lock();
        links.sent += 1;
        let blocked = links.blocked.get(&(life.node, to)).copied();
        match blocked {
            Some(true) if !lost => links.waiting.push(letter),
            None if !lost => {
                drop(links);
                self.post(letter);
            }
            _ => {
                links.lost += 1;
                drop(links);
                world.record(
                    "lost",
                    [life.node.get().into(), to.get().into(), service as u64, 0],
                    "",
                );
            }
        }
    }

    /// Puts a letter on its way.
    fn post(&self, letter: Letter) {
        let Some(world) = self.world.upgrade() else { return };
        let (from, to) = (letter.from.node, letter.to.node);
        let now = world.now();
        let at = self.arrival(from, to, Some(letter.service), now);
        let rest = letter.tail.as_ref().map(|_| self.rest(from, to, letter.service));
        let network = self.me.clone();
        let target = letter.to;
        world.after(Duration::from_nanos(at - now), Some(target), move || {
            let Some(network) = network.upgrade() else { return };
            network.take_in(letter, rest);
        });
    }

    /// A letter without its tail has come, behind those that came before it.
    fn take_in(&self, letter: Letter, rest: Option<Duration>) {
        if let Some(behind) = self.links.lock().behind.get_mut(&letter.connection()) {
            return behind.push_back((letter, rest));
        }
        match (letter.tail.clone(), rest) {
            (Some(tail), Some(rest)) => self.begin_tail(letter, &tail, rest),
            _ => self.deliver(&letter),
        }
    }

    /// When something sent now arrives: in order within its service, and a closed connection (`None`) after everything.
    fn arrival(&self, from: NodeId, to: NodeId, service: Option<Service>, now: u64) -> u64 {
        let delay = {
            let (options, mut random) = (self.options.lock(), self.random.lock());
            let mut delay = random.duration(options.latency_low, options.latency_high);
            if from == to {
                delay = Duration::from_micros(1);
            } else if random.chance(options.slow) {
                delay *= random.between(2, 50) as u32;
            }
            delay
        };
        let mut links = self.links.lock();
        let earliest = match service {
            Some(_) => links.last.get(&(from, to, service)).copied(),
            None => links
                .last
                .iter()
                .filter(|((f, t, _), _)| (*f, *t) == (from, to))
                .map(|(_, at)| *at)
                .max(),
        };
        let at = (now + delay.as_nanos() as u64).max(earliest.unwrap_or(0) + 1);
        links.last.insert((from, to, service), at);
        at
    }

    /// How long the tail of a letter comes after its head. What is sent later comes after both.
    fn rest(&self, from: NodeId, to: NodeId, service: Service) -> Duration {
        let rest = {
            let (options, mut random) = (self.options.lock(), self.random.lock());
            let usual = random.duration(Duration::ZERO, options.latency_low);
            if from != to && random.chance(options.slow) {
                usual * 500
            } else {
                usual
            }
        };
        let mut links = self.links.lock();
        *links.last.entry((from, to, Some(service))).or_default() += rest.as_nanos() as u64;
        rest
    }

    /// A letter is there: what receives it, unless its direction is blocked meanwhile.
    fn receiver(&self, letter: &Letter) -> Option<Box<dyn Receiver>> {
        if self.is_blocked(letter.from.node, letter.to.node) {
            self.links.lock().lost += 1;
            return None;
        }
        let inbound = {
            let ports = self.ports.lock();
            let port = ports.get(&letter.to.node).filter(|port| port.life == letter.to)?;
            port.inbound.clone()?
        };
        Some(inbound.connected(letter.from.node, letter.incarnation))
    }

    fn deliver(&self, letter: &Letter) {
        if let Some(receiver) = self.receiver(letter) {
            self.hand_over(letter, receiver);
        }
    }

    fn hand_over(&self, letter: &Letter, mut receiver: Box<dyn Receiver>) {
        let Some(world) = self.world.upgrade() else { return };
        let print = fingerprint(&letter.head) ^ letter.tail.as_ref().map_or(0, |tail| fingerprint(tail));
        world.record("message", letter.named(print), "");
        receiver.receive(letter.service, &letter.head);
        world.drop_later(receiver);
    }

    /// The head of a letter with a tail is there; that the tail is, is known after `rest`, or the connection breaks in the middle of it.
    fn begin_tail(&self, letter: Letter, tail: &Tail, rest: Duration) {
        let Some(world) = self.world.upgrade() else { return };
        let Some(mut receiver) = self.receiver(&letter) else {
            return;
        };
        let Some(memory) = receiver.tail(letter.service, &letter.head, tail.len()) else {
            return world.drop_later(receiver);
        };
        let breaks = {
            let (options, mut random) = (self.options.lock(), self.random.lock());
            letter.from != letter.to && random.chance(options.lost)
        };
        let come = if breaks { memory.len() / 2 } else { memory.len() };
        memory[..come].copy_from_slice(&tail[..come]);
        let number = {
            let mut links = self.links.lock();
            links.begun += 1;
            let number = links.begun;
            links.arriving.insert(number, (letter.to, receiver));
            links.behind.insert(letter.connection(), VecDeque::new());
            number
        };
        let network = self.me.clone();
        world.after(rest, Some(letter.to), move || {
            if let Some(network) = network.upgrade() {
                network.end_tail(&letter, number, breaks);
                let behind = network.links.lock().behind.remove(&letter.connection());
                for (letter, rest) in behind.into_iter().flatten() {
                    network.take_in(letter, rest);
                }
            }
        });
    }

    fn end_tail(&self, letter: &Letter, number: u64, breaks: bool) {
        let Some(world) = self.world.upgrade() else { return };
        let Some((_, receiver)) = self.links.lock().arriving.remove(&number) else {
            return;
        };
        let dies = !world.is_alive(letter.from) && self.random.lock().chance(500_000);
        if breaks || dies || self.is_blocked(letter.from.node, letter.to.node) {
            self.links.lock().lost += 1;
            world.record("broken", letter.named(0), "");
            return world.drop_later(receiver);
        }
        self.hand_over(letter, receiver);
    }

    fn set_incarnation(&self, life: Life, incarnation: Incarnation) {
        if let Some(port) = self
            .ports
            .lock()
            .get_mut(&life.node)
            .filter(|port| port.life == life)
        {
            port.incarnation = incarnation;
        }
    }

    fn attach(&self, life: Life, inbound: Arc<dyn Inbound>) {
        if let Some(port) = self
            .ports
            .lock()
            .get_mut(&life.node)
            .filter(|port| port.life == life)
        {
            port.inbound = Some(inbound);
        }
    }
}

impl CrashHook for SimNetwork {
    fn crashed(&self, life: Life) {
        let Some(world) = self.world.upgrade() else { return };
        let (dead, peers) = {
            let mut ports = self.ports.lock();
            let Some(dead) = ports.remove(&life.node) else {
                return;
            };
            let peers: Vec<Life> = ports.values().map(|port| port.life).collect();
            (dead, peers)
        };
        let receivers: Vec<_> = {
            let mut links = self.links.lock();
            links
                .waiting
                .retain(|letter| letter.to != life && letter.from != life);
            links.behind.retain(|(_, to, _), _| *to != life);
            links.arriving.extract_if(.., |_, (to, _)| *to == life).collect()
        };
        world.drop_later(receivers);
        for peer in peers {
            let told = {
                let (options, mut random) = (self.options.lock(), self.random.lock());
                random.chance(options.closing_hint)
            };
            if !told || self.is_blocked(life.node, peer.node) {
                continue;
            }
            let now = world.now();
            let at = self.arrival(life.node, peer.node, None, now);
            let network = self.me.clone();
            let incarnation = dead.incarnation;
            world.after(Duration::from_nanos(at - now), Some(peer), move || {
                if let Some(network) = network.upgrade() {
                    network.close(life, incarnation, peer);
                }
            });
        }
        world.drop_later(dead.inbound);
    }
}

impl SimNetwork {
    fn close(&self, dead: Life, incarnation: Incarnation, peer: Life) {
        let Some(world) = self.world.upgrade() else { return };
        let inbound = {
            let ports = self.ports.lock();
            ports
                .get(&peer.node)
                .filter(|port| port.life == peer)
                .and_then(|port| port.inbound.clone())
        };
        world.record(
            "closed",
            [dead.node.get().into(), peer.node.get().into(), incarnation.0, 0],
            "",
        );
        if let Some(inbound) = inbound {
            inbound.disconnected(dead.node, incarnation);
            world.drop_later(inbound);
        }
    }

    /// Blocks both directions between the two groups.
    pub fn split(&self, left: &BTreeSet<NodeId>, right: &BTreeSet<NodeId>, holds: bool) {
        for a in left {
            for b in right {
                self.block(*a, *b, holds);
                self.block(*b, *a, holds);
            }
        }
    }
}

/// The transport of one life. A dead life's messages go nowhere.
pub struct SimTransport {
    network: Arc<SimNetwork>,
    life: Life,
}

impl SimTransport {
    /// From now on messages go to `inbound`.
    pub fn attach(&self, inbound: Arc<dyn Inbound>) {
        self.network.attach(self.life, inbound);
    }

    /// The incarnation that peers see on what this life sends from now on.
    pub fn set_incarnation(&self, incarnation: Incarnation) {
        self.network.set_incarnation(self.life, incarnation);
    }
}

impl Transport for SimTransport {
    fn send(&self, to: NodeId, service: Service, head: &[u8], tail: Option<Tail>) {
        self.network.send(self.life, to, service, head, tail);
    }
}
