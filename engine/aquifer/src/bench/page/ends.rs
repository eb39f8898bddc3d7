//! Page caches in this process that talk over the transport of production, by UNIX sockets. Storage is memory, because a page
//! that moves from memory to memory touches none.

use crate::failure::Failure;
use crate::units::Switch;
use aquifer_buffer_pool::testing::{MemoryStore, NullRedo};
use aquifer_buffer_pool::{Hold, Locality, Lsn, Mode, PageId, PageReceiver, PageSize, Pool, PoolConfig, Psn};
use aquifer_dss::net::{self, NetConfig, NetTransport};
use aquifer_dss::seam::{Inbound, IoBuffer, Receiver, Runtime, Service, Tail, Transport};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::{FileId, Incarnation, Member, NodeId, NodeSet, View};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Bytes of a request in the raw round trip.
const REQUEST: usize = 64;
/// Nothing takes longer unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a page.
const PAGE_BYTES: usize = PageSize::USUAL.bytes();

/// One page cache with its end of the transport.
pub struct End {
    node: NodeId,
    /// The cache.
    pub pool: Arc<Pool>,
    transport: Arc<NetTransport>,
    answers: tokio::sync::Mutex<mpsc::UnboundedReceiver<usize>>,
}

/// Gives messages to the pool, answers raw requests with a page.
struct Deliver {
    pool: Arc<Pool>,
    transport: Arc<NetTransport>,
    answers: mpsc::UnboundedSender<usize>,
    page: Tail,
}

/// One connection.
struct Connection {
    deliver: Arc<Deliver>,
    from: NodeId,
    pages: PageReceiver,
    /// Where raw answers arrive.
    answer: Vec<u8>,
}

impl Receiver for Connection {
    fn tail(&mut self, service: Service, head: &[u8], length: usize) -> Option<&mut [u8]> {
        if service == Service::Pages {
            return self.pages.tail(service, head, length);
        }
        self.answer.resize(length, 0);
        Some(&mut self.answer)
    }

    fn receive(&mut self, service: Service, head: &[u8]) {
        let deliver = &self.deliver;
        match service {
            Service::Pages => self.pages.receive(service, head),
            _ if head.len() == REQUEST => {
                let page = deliver.page.clone();
                deliver
                    .transport
                    .send(self.from, Service::Engine, &[], Some(page));
            }
            _ => {
                // The receiver is gone only when the benchmark has ended.
                let _ = deliver.answers.send(self.answer.len());
            }
        }
    }
}

impl Inbound for Deliver {
    fn connected(self: Arc<Self>, from: NodeId, incarnation: Incarnation) -> Box<dyn Receiver> {
        Box::new(Connection {
            from,
            pages: self.pool.receiver(from, incarnation),
            answer: Vec::new(),
            deliver: self,
        })
    }

    fn disconnected(&self, _peer: NodeId, _incarnation: Incarnation) {}
}

impl End {
    async fn open(
        socket: &Path,
        config: PoolConfig,
        store: Arc<MemoryStore>,
        memory: Switch,
    ) -> Result<Self, Failure> {
        let node = config.me;
        let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::current());
        let listen = vec![format!("unix:{}", socket.display())];
        let net = NetConfig {
            me: node,
            group: [7; 16],
            listen,
            patience: net::PATIENCE,
            memory: (memory == Switch::On).then(|| net::MEMORY.into()),
        };
        let transport = NetTransport::bind(net).await.map_err(|e| {
            Failure::failed(format!(
                "cannot listen at {}: {e}; use a shorter --dir",
                socket.display()
            ))
        })?;
        let pool = Pool::new(config, runtime, transport.clone(), store, Arc::new(NullRedo));
        let (sender, answers) = mpsc::unbounded_channel();
        let deliver = Deliver {
            pool: pool.clone(),
            transport: transport.clone(),
            answers: sender,
            page: Arc::new(IoBuffer::zeroed(PAGE_BYTES)),
        };
        transport.start(Incarnation(1), Arc::new(deliver));
        Ok(Self {
            node,
            pool,
            transport,
            answers: tokio::sync::Mutex::new(answers),
        })
    }

    /// Until the page is held in `mode`.
    pub async fn hold(&self, page: PageId, mode: Mode) -> Result<(Hold, Duration), Failure> {
        let began = Instant::now();
        let acquired = tokio::time::timeout(PATIENCE, self.pool.acquire(page, mode)).await;
        let hold = acquired
            .map_err(|_| Failure::failed("a page did not come"))?
            .map_err(Failure::failed)?;
        Ok((hold, began.elapsed()))
    }

    /// Takes the page in `mode`; who takes it Exclusive changes it.
    pub async fn take(&self, page: PageId, mode: Mode) -> Result<Duration, Failure> {
        let (_hold, elapsed) = self.hold(page, mode).await?;
        if mode == Mode::Exclusive
            && let Ok(mut guard) = self.pool.write(page)
        {
            let next = Psn(guard.psn().0 + 1);
            guard.bytes_mut()[100] = guard.bytes_mut()[100].wrapping_add(1);
            guard.finish(next, Lsn(0));
        }
        Ok(elapsed)
    }

    /// A raw round trip to `peer`: 64 bytes there, a page back.
    pub async fn ask(&self, peer: &Self) -> Result<Duration, Failure> {
        let mut answers = self.answers.lock().await;
        let began = Instant::now();
        self.transport
            .send(peer.node, Service::Engine, &[0; REQUEST], None);
        let answer = tokio::time::timeout(PATIENCE, answers.recv()).await;
        match answer {
            Ok(Some(PAGE_BYTES)) => Ok(began.elapsed()),
            _ => Err(Failure::failed("the other end did not answer")),
        }
    }

    /// Images received so far.
    pub fn received(&self) -> u64 {
        self.pool.counters().transfers_in
    }
}

/// Three ends in one view, connected.
pub struct Ends {
    /// The ends.
    pub all: [End; 3],
    view: Arc<View>,
}

impl Ends {
    /// Opens and connects them; their sockets in `directory` begin with `name`.
    pub async fn connect(
        directory: &Path,
        name: &str,
        frames: usize,
        locality: Option<Locality>,
        memory: Switch,
    ) -> Result<Self, Failure> {
        let store = Arc::new(MemoryStore::default());
        let open = |id: u8| {
            let node = NodeId::new(id).expect("small numbers are node ids");
            let config = PoolConfig {
                locality,
                ..PoolConfig::new(node, frames)
            };
            let (socket, store) = (directory.join(format!("{name}{id}.peer")), store.clone());
            async move { End::open(&socket, config, store, memory).await }
        };
        let all = [open(1).await?, open(2).await?, open(3).await?];
        let addresses: Vec<_> = all
            .iter()
            .filter_map(|e| Some((e.node, e.transport.addresses().first()?.clone())))
            .collect();
        let members = all
            .iter()
            .map(|e| Member {
                node: e.node,
                incarnation: Incarnation(1),
            })
            .collect();
        let view = Arc::new(View::none().successor(members));
        for end in &all {
            end.transport.set_peers(addresses.clone());
            end.pool.install_view(view.clone(), NodeSet::EMPTY, false);
        }
        let ends = Self { all, view };
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                ends.reach(from, to).await?;
            }
        }
        Ok(ends)
    }

    /// A message before the connection stands is lost: asks until an answer comes, and takes in the late ones.
    async fn reach(&self, from: usize, to: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        let (end, peer) = (&self.all[from], self.all[to].node);
        let mut answers = end.answers.lock().await;
        let short = Duration::from_millis(50);
        loop {
            end.transport.send(peer, Service::Engine, &[0; REQUEST], None);
            if tokio::time::timeout(short, answers.recv()).await.is_ok() {
                break;
            }
            if Instant::now() > deadline {
                return Err(Failure::failed("the ends could not connect"));
            }
        }
        while tokio::time::timeout(2 * short, answers.recv()).await.is_ok() {}
        Ok(())
    }

    /// `count` pages whose home is end number `home`.
    pub fn pages(&self, home: usize, count: usize) -> Vec<PageId> {
        let page = |number: u32| PageId {
            file: FileId(9),
            number: number * 64,
        };
        (0..)
            .map(page)
            .filter(|page| self.view.home(page.slot(&self.view)) == self.all[home].node)
            .take(count)
            .collect()
    }
}
