//! The transport of production: TCP, or UNIX sockets where an address has the form `unix:PATH`.
//!
//! Each node dials every peer and only writes on the connection it dialled; it reads what others dialled. Rules:
//! - nothing is believed before a hello with the right magic, version, group and node; each refusal is counted
//!   and logged once per connection;
//! - a frame is bounded before memory is taken for it, and checked before it is delivered;
//! - the reading task calls `Inbound::receive` itself: no hop between socket and receiver;
//! - all that is queued when the writer wakes goes out in one vectored write.

mod frame;
mod peer;
mod stream;
#[cfg(test)]
mod tests;

pub use frame::{BODY_BYTES_MAX, Refusal};

use crate::seam::{Inbound, Service, Transport};
use aquifer_dss_proto::{Incarnation, NodeId};
use frame::{HEADER, HELLO, Hello, body_matches, decode_header, decode_hello, encode_hello};
use parking_lot::Mutex;
use peer::Queue;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stream::{Listener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a hello may take.
const HELLO_TIME: Duration = Duration::from_secs(2);

/// Who this node is on the network.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// This node.
    pub me: NodeId,
    /// The volume group: nodes of another one are refused.
    pub group: [u8; 16],
    /// Addresses to listen on, each `HOST:PORT` or `unix:PATH`.
    pub listen: Vec<String>,
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Frames sent, and their bytes with headers.
    pub sent: (u64, u64),
    /// Frames received, and their bytes with headers.
    pub received: (u64, u64),
    /// Vectored writes: `sent.0 / writes` is the mean batch.
    pub writes: u64,
    /// Frames dropped because there was no connection, or its queue was full.
    pub dropped: u64,
    /// Connections made, both ways.
    pub connections: u64,
    /// Connections refused, by reason.
    pub refused: BTreeMap<Refusal, u64>,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    writes: AtomicU64,
    dropped: AtomicU64,
    connections: AtomicU64,
    refused: Mutex<BTreeMap<Refusal, u64>>,
}

struct Life {
    hello: Hello,
    inbound: Arc<dyn Inbound>,
    to_self: mpsc::UnboundedSender<(Service, Vec<u8>)>,
}

struct Peer {
    address: String,
    queue: Arc<Queue>,
    dialler: JoinHandle<()>,
}

struct Shared {
    config: NetConfig,
    handle: Handle,
    life: OnceLock<Life>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Latest life seen of each node, and the number of its present inbound connection.
    lives: Mutex<BTreeMap<NodeId, (Incarnation, u64)>>,
    counters: Counters,
}

/// The [`Transport`] of production. Bind it, publish [`addresses`](Self::addresses), then
/// [`start`](Self::start) it when the incarnation is known, and feed it with [`set_peers`](Self::set_peers).
pub struct NetTransport {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<Listener>>,
    addresses: Vec<String>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl NetTransport {
    /// Listens. Connections wait until [`start`](Self::start). Call it inside a tokio runtime, which all its tasks use.
    pub async fn bind(config: NetConfig) -> io::Result<Arc<Self>> {
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for address in &config.listen {
            let listener = Listener::bind(address).await?;
            addresses.push(listener.address(address));
            listeners.push(listener);
        }
        let shared = Shared {
            config,
            handle: Handle::current(),
            life: OnceLock::new(),
            peers: Mutex::default(),
            lives: Mutex::default(),
            counters: Counters::default(),
        };
        let (listeners, tasks) = (Mutex::new(listeners), Mutex::default());
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            listeners,
            addresses,
            tasks,
        }))
    }

    /// What is listened on, with the ports that were chosen.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Begins to accept, dial and deliver, as this life. Once.
    pub fn start(&self, incarnation: Incarnation, inbound: Arc<dyn Inbound>) {
        let shared = &self.shared;
        let hello = Hello {
            group: shared.config.group,
            node: shared.config.me,
            incarnation,
        };
        let (to_self, mut from_self) = mpsc::unbounded_channel();
        let life = Life {
            hello,
            inbound: inbound.clone(),
            to_self,
        };
        assert!(shared.life.set(life).is_ok(), "a transport is started once");
        let me = shared.config.me;
        let mut tasks = self.tasks.lock();
        tasks.push(shared.handle.spawn(async move {
            while let Some((service, body)) = from_self.recv().await {
                inbound.receive(me, incarnation, service, body);
            }
        }));
        for listener in self.listeners.lock().drain(..) {
            tasks.push(shared.handle.spawn(accept(shared.clone(), listener)));
        }
        for peer in shared.peers.lock().values() {
            peer.queue.begin.notify_one();
        }
    }

    /// Whom to be connected with, and where. Others are disconnected.
    pub fn set_peers(&self, peers: Vec<(NodeId, String)>) {
        let wanted: BTreeMap<NodeId, String> = peers
            .into_iter()
            .filter(|(node, address)| *node != self.shared.config.me && !address.is_empty())
            .collect();
        let mut present = self.shared.peers.lock();
        present.retain(|node, peer| {
            let keep = wanted.get(node) == Some(&peer.address);
            if !keep {
                peer.dialler.abort();
            }
            keep
        });
        for (node, address) in wanted {
            present.entry(node).or_insert_with(|| {
                let queue = Arc::new(Queue::new(self.shared.life.get().is_some()));
                let task = peer::dial(self.shared.clone(), node, address.clone(), queue.clone());
                Peer {
                    address,
                    queue,
                    dialler: self.shared.handle.spawn(task),
                }
            });
        }
    }

    /// Counters now.
    pub fn counters(&self) -> NetCounters {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetCounters {
            sent: (get(&counters.sent), get(&counters.sent_bytes)),
            received: (get(&counters.received), get(&counters.received_bytes)),
            writes: get(&counters.writes),
            dropped: get(&counters.dropped),
            connections: get(&counters.connections),
            refused: counters.refused.lock().clone(),
        }
    }
}

impl Drop for NetTransport {
    fn drop(&mut self) {
        self.tasks.lock().iter().for_each(JoinHandle::abort);
        self.shared
            .peers
            .lock()
            .values()
            .for_each(|peer| peer.dialler.abort());
    }
}

impl Transport for NetTransport {
    fn send(&self, to: NodeId, service: Service, body: Vec<u8>) {
        let shared = &self.shared;
        if to == shared.config.me {
            if let Some(life) = shared.life.get() {
                // Fails only when the transport is being dropped.
                let _ = life.to_self.send((service, body));
            }
            return;
        }
        let queue = shared.peers.lock().get(&to).map(|peer| peer.queue.clone());
        if !queue.is_some_and(|queue| queue.push(service, body)) {
            shared.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn refuse(&self, reason: Refusal, who: &str) {
        *self.counters.refused.lock().entry(reason).or_insert(0) += 1;
        tracing::warn!(?reason, who, "connection refused");
    }

    fn check(&self, hello: &Hello, expected: Option<NodeId>) -> Result<(), Refusal> {
        if hello.group != self.config.group {
            return Err(Refusal::Group);
        }
        if hello.node == self.config.me || expected.is_some_and(|node| node != hello.node) {
            return Err(Refusal::Node);
        }
        let mut lives = self.lives.lock();
        let latest = lives.entry(hello.node).or_insert((hello.incarnation, 0));
        if hello.incarnation < latest.0 {
            return Err(Refusal::Stale);
        }
        latest.0 = hello.incarnation;
        Ok(())
    }

    fn disconnected(&self, hello: &Hello) {
        self.life
            .get()
            .expect("connections begin after the start")
            .inbound
            .disconnected(hello.node, hello.incarnation);
    }
}

async fn read_hello(stream: &mut Stream) -> Result<Hello, Refusal> {
    let mut bytes = [0; HELLO];
    match tokio::time::timeout(HELLO_TIME, stream.read_exact(&mut bytes)).await {
        Ok(Ok(_)) => decode_hello(&bytes),
        Ok(Err(_)) => Err(Refusal::Garbage),
        Err(_) => Err(Refusal::Timeout),
    }
}

async fn accept(shared: Arc<Shared>, listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(stream) => drop(shared.handle.spawn(serve(shared.clone(), stream))),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Reads what a peer that dialled us sends.
async fn serve(shared: Arc<Shared>, mut stream: Stream) {
    let life = shared.life.get().expect("connections begin after the start");
    let hello = match read_hello(&mut stream).await {
        Ok(hello) => hello,
        Err(reason) => return shared.refuse(reason, "inbound"),
    };
    if let Err(reason) = shared.check(&hello, None) {
        return shared.refuse(reason, "inbound");
    }
    if stream.write_all(&encode_hello(&life.hello)).await.is_err() {
        return;
    }
    let number = shared.counters.connections.fetch_add(1, Ordering::Relaxed) + 1;
    shared
        .lives
        .lock()
        .insert(hello.node, (hello.incarnation, number));
    if let Err(reason) = read_frames(&shared, life, &hello, stream).await {
        shared.refuse(reason, "inbound frame");
    }
    // A later connection of the peer has taken over: nothing to tell.
    let is_latest = shared.lives.lock().get(&hello.node) == Some(&(hello.incarnation, number));
    if is_latest {
        shared.disconnected(&hello);
    }
}

async fn read_frames(shared: &Shared, life: &Life, hello: &Hello, stream: Stream) -> Result<(), Refusal> {
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let mut header = [0; HEADER];
    while reader.read_exact(&mut header).await.is_ok() {
        let (service, length) = decode_header(&header)?;
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).await.is_err() {
            break;
        }
        if !body_matches(&header, &body) {
            return Err(Refusal::Garbage);
        }
        shared.counters.received.fetch_add(1, Ordering::Relaxed);
        shared
            .counters
            .received_bytes
            .fetch_add((HEADER + length) as u64, Ordering::Relaxed);
        let stale = shared
            .lives
            .lock()
            .get(&hello.node)
            .is_none_or(|latest| latest.0 > hello.incarnation);
        if stale {
            return Err(Refusal::Stale);
        }
        life.inbound.receive(hello.node, hello.incarnation, service, body);
    }
    Ok(())
}
