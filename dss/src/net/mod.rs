//! The transport of production: TCP, or UNIX sockets where an address has the form `unix:PATH`.
//!
//! Each node dials every peer and only writes on the connection it dialled; it reads what others dialled. Rules:
//! - nothing is believed before a hello with the right magic, version, group and node; each refusal is counted
//!   and logged once per connection;
//! - the device says who is a peer: a life that its slots do not name, once they are known, is refused ([`NetTransport::set_lives`]);
//! - a frame is bounded before memory is taken for it, and checked before it is delivered; its head before anybody is asked about
//!   its tail;
//! - nobody is waited for without end: a hello, the rest of a frame that has begun, and each write that the peer has to take
//!   have a limit of time, then the connection is closed. (A peer that is silent between frames is a matter of membership.)
//! - what strangers can hold is bounded: `ARRIVING_MAX` connections without a hello, of which the oldest goes, and one
//!   connection per node after it: a new one ends the one before;
//! - the reading task calls the [`Receiver`](crate::seam::Receiver) itself: no hop between socket and receiver;
//! - a tail is read where the receiver wants it to stay, and written from where it is; it is believed when it is whole and its
//!   checksum fits, and a connection that ends before that gives the memory back with its receiver;
//! - all that is queued when the writer wakes goes out in vectored writes, small messages one behind another in one part;
//! - a message that is sent or received takes no memory of its own: buffers, and the queue of each peer, keep theirs;
//! - every task can be ended and its end waited for ([`NetTransport::stop`]): nothing of a transport outlives it.

mod batch;
mod frame;
mod incoming;
mod link;
mod offer;
mod peer;
mod ring;
mod stream;
#[cfg(test)]
mod tests;

pub use frame::{HEAD_BYTES_MAX, Refusal, TAIL_BYTES_MAX};

use crate::seam::{Inbound, Service, Tail, Transport, hand_over};
use aquifer_dss_proto::{Incarnation, NodeId};
use frame::{HELLO, Hello, decode_hello, encode_hello};
use incoming::Incoming;
use offer::Place;
use parking_lot::Mutex;
use peer::Queue;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stream::{Listener, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// How long a hello may take.
const HELLO_TIME: Duration = Duration::from_secs(2);
/// Connections that have not said hello, at most.
const ARRIVING_MAX: usize = 64;
/// What [`NetConfig::patience`] usually is. Longer than the shortest lease: a peer that stops altogether is excluded first.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What [`NetConfig::memory`] usually is.
pub const MEMORY: &str = "/dev/shm";

/// Who this node is on the network.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// This node.
    pub me: NodeId,
    /// The volume group: nodes of another one are refused.
    pub group: [u8; 16],
    /// Addresses to listen on, each `HOST:PORT` or `unix:PATH`.
    pub listen: Vec<String>,
    /// How long the rest of a frame may take, and a write that makes no progress.
    pub patience: Duration,
    /// The directory where memory is made for the frames to peers of the same machine, usually [`MEMORY`]; `None`: they go over the socket.
    pub memory: Option<PathBuf>,
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Frames sent, and their bytes with headers.
    pub sent: (u64, u64),
    /// Frames received, and their bytes with headers.
    pub received: (u64, u64),
    /// Frames of these that went through memory: sent, received.
    pub by_memory: (u64, u64),
    /// Vectored writes to sockets.
    pub writes: u64,
    /// Frames dropped because there was no connection, or its queue was full.
    pub dropped: u64,
    /// Connections made, both ways.
    pub connections: u64,
    /// Connections refused or broken off, by reason.
    pub refused: BTreeMap<Refusal, u64>,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    sent_by_memory: AtomicU64,
    received_by_memory: AtomicU64,
    writes: AtomicU64,
    dropped: AtomicU64,
    connections: AtomicU64,
    refused: Mutex<BTreeMap<Refusal, u64>>,
}

struct Life {
    hello: Hello,
    /// Until the transport is stopped.
    inbound: Mutex<Option<Arc<dyn Inbound>>>,
    to_self: mpsc::UnboundedSender<(Service, Vec<u8>, Option<Tail>)>,
}

impl Life {
    fn inbound(&self) -> Option<Arc<dyn Inbound>> {
        self.inbound.lock().clone()
    }
}

struct Peer {
    address: String,
    queue: Arc<Queue>,
    dialler: JoinHandle<()>,
}

/// What is known of a node from its hellos.
struct Known {
    /// Its latest life.
    incarnation: Incarnation,
    /// Its present inbound connection; 0 before the first.
    number: u64,
    /// The task that reads it.
    reader: Option<AbortHandle>,
}

/// Inbound connections that have not said hello, in the order in which they came.
#[derive(Default)]
struct Arriving {
    last: u64,
    readers: BTreeMap<u64, AbortHandle>,
}

struct Shared {
    config: NetConfig,
    handle: Handle,
    /// Every task has one, so that its end can be waited for. `None`: the transport is stopped, and no task begins.
    running: Mutex<Option<mpsc::Sender<Infallible>>>,
    /// This machine, and where memory is made that its nodes have in common.
    memory: Option<(NonZeroU64, Place)>,
    life: OnceLock<Life>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    lives: Mutex<BTreeMap<NodeId, Known>>,
    arriving: Mutex<Arriving>,
    /// The lives that the slots name; `None` until somebody says.
    named: watch::Sender<Option<BTreeMap<NodeId, Incarnation>>>,
    counters: Counters,
}

/// The [`Transport`] of production. Bind it, publish [`addresses`](Self::addresses), then
/// [`start`](Self::start) it when the incarnation is known, and feed it with [`set_peers`](Self::set_peers).
pub struct NetTransport {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<Listener>>,
    addresses: Vec<String>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Closed when the last task has ended.
    ends: tokio::sync::Mutex<mpsc::Receiver<Infallible>>,
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
        let memory = config.memory.as_deref().and_then(|directory| {
            let place = Place::new(directory, config.group);
            place.sweep(config.me);
            Some((offer::machine()?, place))
        });
        let (running, ends) = mpsc::channel(1);
        let shared = Shared {
            config,
            memory,
            handle: Handle::current(),
            running: Mutex::new(Some(running)),
            life: OnceLock::new(),
            peers: Mutex::default(),
            lives: Mutex::default(),
            arriving: Mutex::default(),
            named: watch::Sender::new(None),
            counters: Counters::default(),
        };
        let (listeners, tasks) = (Mutex::new(listeners), Mutex::default());
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            listeners,
            addresses,
            tasks,
            ends: tokio::sync::Mutex::new(ends),
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
            machine: shared.memory.as_ref().map(|(machine, _)| *machine),
        };
        let (to_self, mut from_self) = mpsc::unbounded_channel();
        let life = Life {
            hello,
            inbound: Mutex::new(Some(inbound.clone())),
            to_self,
        };
        assert!(shared.life.set(life).is_ok(), "a transport is started once");
        let me = shared.config.me;
        let mut tasks = self.tasks.lock();
        tasks.extend(shared.spawn(async move {
            let mut receiver = inbound.connected(me, incarnation);
            while let Some((service, head, tail)) = from_self.recv().await {
                hand_over(
                    &mut *receiver,
                    service,
                    &head,
                    tail.as_deref().map(|tail| &tail[..]),
                );
            }
        }));
        for listener in self.listeners.lock().drain(..) {
            tasks.extend(shared.spawn(accept(shared.clone(), listener)));
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
            if present.contains_key(&node) {
                continue;
            }
            let queue = Arc::new(Queue::new(self.shared.life.get().is_some()));
            let task = peer::dial(self.shared.clone(), node, address.clone(), queue.clone());
            let Some(dialler) = self.shared.spawn(task) else {
                return;
            };
            let peer = Peer {
                address,
                queue,
                dialler,
            };
            present.insert(node, peer);
        }
    }

    /// The lives that the slots on the device name. From now on nobody else is a peer; who is not named yet waits a while for it.
    pub fn set_lives(&self, lives: BTreeMap<NodeId, Incarnation>) {
        self.shared.named.send_if_modified(|named| {
            let news = named.as_ref() != Some(&lives);
            *named = Some(lives);
            news
        });
    }

    /// Ends all connections and all tasks, and lets go of whom messages are delivered to. When this returns, nothing is delivered any more, every
    /// socket is closed and no memory is shared. What is sent from now on is dropped.
    pub async fn stop(&self) {
        self.abort();
        let last = self.ends.lock().await.recv().await;
        assert!(last.is_none(), "tasks say nothing");
    }

    fn abort(&self) {
        let shared = &self.shared;
        // First, so that whoever looks after us begins nothing: see `take_over` for a connection that is between two tables.
        drop(shared.running.lock().take());
        self.listeners.lock().clear();
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        let peers = std::mem::take(&mut *shared.peers.lock());
        peers.into_values().for_each(|peer| peer.dialler.abort());
        let arriving = std::mem::take(&mut shared.arriving.lock().readers);
        arriving.into_values().for_each(|reader| reader.abort());
        let readers: Vec<_> = shared
            .lives
            .lock()
            .values_mut()
            .filter_map(|known| known.reader.take())
            .collect();
        readers.into_iter().for_each(|reader| reader.abort());
        let inbound = shared.life.get().and_then(|life| life.inbound.lock().take());
        drop(inbound);
    }

    /// Counters now.
    pub fn counters(&self) -> NetCounters {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetCounters {
            sent: (get(&counters.sent), get(&counters.sent_bytes)),
            received: (get(&counters.received), get(&counters.received_bytes)),
            by_memory: (get(&counters.sent_by_memory), get(&counters.received_by_memory)),
            writes: get(&counters.writes),
            dropped: get(&counters.dropped),
            connections: get(&counters.connections),
            refused: counters.refused.lock().clone(),
        }
    }
}

impl Drop for NetTransport {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Transport for NetTransport {
    fn send(&self, to: NodeId, service: Service, head: &[u8], tail: Option<Tail>) {
        let shared = &self.shared;
        if to == shared.config.me {
            if let Some(life) = shared.life.get() {
                // Fails only when the transport is being dropped.
                let _ = life.to_self.send((service, head.to_vec(), tail));
            }
            return;
        }
        let queue = shared.peers.lock().get(&to).map(|peer| peer.queue.clone());
        if !queue.is_some_and(|queue| queue.push(shared, service, head, tail)) {
            shared.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Begins a task, unless the transport is stopped.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
        let running = self.running.lock().clone()?;
        Some(self.handle.spawn(async move {
            work.await;
            drop(running);
        }))
    }

    fn refuse(&self, reason: Refusal, who: &str) {
        *self.counters.refused.lock().entry(reason).or_insert(0) += 1;
        tracing::warn!(?reason, who, "connection refused or broken off");
    }

    /// Where memory is that this node and the peer can both have, if they are on the same machine.
    fn common_place(&self, peer: &Hello) -> Option<&Place> {
        let (machine, place) = self.memory.as_ref()?;
        (peer.machine == Some(*machine)).then_some(place)
    }

    fn sent_by_memory(&self, frames: u64, bytes: usize) {
        let counters = &self.counters;
        counters.sent.fetch_add(frames, Ordering::Relaxed);
        counters.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        counters.sent_by_memory.fetch_add(frames, Ordering::Relaxed);
    }

    /// A frame of so many bytes has come. It is refused when the life that sent it is over.
    fn received(&self, peer: &Hello, bytes: usize) -> Result<(), Refusal> {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        self.counters
            .received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        let latest = self.lives.lock().get(&peer.node).map(|known| known.incarnation);
        if latest == Some(peer.incarnation) {
            Ok(())
        } else {
            Err(Refusal::Stale)
        }
    }

    async fn check(&self, hello: &Hello, expected: Option<NodeId>) -> Result<(), Refusal> {
        if hello.group != self.config.group {
            return Err(Refusal::Group);
        }
        if hello.node == self.config.me || expected.is_some_and(|node| node != hello.node) {
            return Err(Refusal::Node);
        }
        self.is_named(hello).await?;
        let mut lives = self.lives.lock();
        let known = lives.entry(hello.node).or_insert(Known {
            incarnation: hello.incarnation,
            number: 0,
            reader: None,
        });
        if hello.incarnation < known.incarnation {
            return Err(Refusal::Stale);
        }
        known.incarnation = hello.incarnation;
        Ok(())
    }

    /// A life that has just begun may be faster than the next look at the slots.
    async fn is_named(&self, hello: &Hello) -> Result<(), Refusal> {
        let mut named = self.named.subscribe();
        let reached = named.wait_for(|lives| {
            let lives = lives.as_ref();
            lives.is_none_or(|lives| lives.get(&hello.node) >= Some(&hello.incarnation))
        });
        let lives = tokio::time::timeout(HELLO_TIME, reached).await;
        let Ok(Ok(lives)) = lives else {
            return Err(Refusal::Unknown);
        };
        match &*lives {
            Some(lives) if lives.get(&hello.node) != Some(&hello.incarnation) => Err(Refusal::Stale),
            _ => Ok(()),
        }
    }

    /// Reads a connection that was accepted, unless others without a hello push it out.
    fn arrive(self: &Arc<Self>, stream: Stream) {
        let mut arriving = self.arriving.lock();
        arriving.last += 1;
        let number = arriving.last;
        let Some(reader) = self.spawn(serve(self.clone(), stream, number)) else {
            return;
        };
        arriving.readers.insert(number, reader.abort_handle());
        if arriving.readers.len() > ARRIVING_MAX {
            let (_, oldest) = arriving.readers.pop_first().expect("there are many");
            drop(arriving);
            oldest.abort();
            self.refuse(Refusal::Crowded, "inbound");
        }
    }

    /// A peer has said who it is on the connection that arrived under this number: the connection before ends.
    /// None when the connection is to end itself.
    fn take_over(&self, hello: &Hello, arrived: u64) -> Option<u64> {
        let reader = self.arriving.lock().readers.remove(&arrived)?;
        let number = self.counters.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let mut lives = self.lives.lock();
        let known = lives
            .get_mut(&hello.node)
            .filter(|known| known.incarnation == hello.incarnation)?;
        known.number = number;
        if let Some(earlier) = known.reader.replace(reader) {
            earlier.abort();
        }
        // Whoever stops the transport has looked at both tables after it took this away.
        self.running.lock().is_some().then_some(number)
    }

    /// Whether this is the present connection of that life.
    fn is_latest(&self, hello: &Hello, number: u64) -> bool {
        let lives = self.lives.lock();
        let known = lives.get(&hello.node);
        known.is_some_and(|known| known.incarnation == hello.incarnation && known.number == number)
    }

    fn disconnected(&self, hello: &Hello) {
        let life = self.life.get().expect("connections begin after the start");
        if let Some(inbound) = life.inbound() {
            inbound.disconnected(hello.node, hello.incarnation);
        }
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
            Ok(stream) => shared.arrive(stream),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn introduce(shared: &Shared, stream: &mut Stream) -> Result<Hello, Refusal> {
    let hello = read_hello(stream).await?;
    shared.check(&hello, None).await?;
    Ok(hello)
}

/// Reads what a peer that dialled us sends.
async fn serve(shared: Arc<Shared>, mut stream: Stream, arrived: u64) {
    let life = shared.life.get().expect("connections begin after the start");
    let hello = match introduce(&shared, &mut stream).await {
        Ok(hello) => hello,
        Err(reason) => {
            shared.arriving.lock().readers.remove(&arrived);
            return shared.refuse(reason, "inbound");
        }
    };
    let Some(number) = shared.take_over(&hello, arrived) else {
        return;
    };
    if stream.write_all(&encode_hello(&life.hello)).await.is_ok()
        && let Err(reason) = read(&shared, life, &hello, stream).await
    {
        shared.refuse(reason, "inbound frame");
    }
    // When a later connection of the peer has taken over, there is nothing to tell.
    if shared.is_latest(&hello, number) {
        shared.disconnected(&hello);
    }
}

/// Reads frames, wherever they come through.
async fn read(shared: &Shared, life: &Life, peer: &Hello, mut stream: Stream) -> Result<(), Refusal> {
    match link::take(shared, &mut stream, peer).await? {
        Some(reader) => link::read(shared, life, peer, stream, reader).await,
        None => read_frames(shared, life, peer, stream, None).await,
    }
}

async fn read_frames(
    shared: &Shared,
    life: &Life,
    hello: &Hello,
    stream: impl AsyncRead + Unpin,
    also: Option<&AtomicU64>,
) -> Result<(), Refusal> {
    let mut incoming = Incoming::new(stream);
    let Some(inbound) = life.inbound() else {
        return Ok(());
    };
    let mut receiver = inbound.connected(hello.node, hello.incarnation);
    // Between frames a peer may be silent as long as it lives.
    while incoming.begins().await {
        let frame = incoming.read_frame(&mut *receiver);
        let frame = tokio::time::timeout(shared.config.patience, frame).await;
        let Some(frame) = frame.map_err(|_| Refusal::Stalled)?? else {
            break;
        };
        if let Some(counter) = also {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        shared.received(hello, frame.bytes())?;
        incoming.deliver(&frame, &mut *receiver);
    }
    Ok(())
}
