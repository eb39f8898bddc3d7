//! `bench page`: what possession costs when the page is here, and when it is at the other node.
//!
//! Two page caches in this process talk over the transport of production, by UNIX sockets; storage is memory, because a
//! page that moves from memory to memory touches none. The raw round trip, 64 bytes one way and 8 KiB back, runs in turn
//! with the fetches over the same connections.

use super::figures::{HEADING, Times, ratio};
use super::place::PlaceOptions;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, table};
use aquifer_buffer_pool::testing::{MemoryStore, NullRedo};
use aquifer_buffer_pool::{Lsn, Mode, PAGE_SIZE, PageId, Pool, PoolConfig, Psn};
use aquifer_dss::net::{NetConfig, NetTransport};
use aquifer_dss::seam::{Inbound, Runtime, Service, Transport};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::{FileId, Incarnation, Member, NodeId, NodeSet, View};
use serde_json::json;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Bytes of a request in the raw round trip.
const REQUEST: usize = 64;
/// Local hits of one sample.
const HITS: u32 = 10_000;
/// Nothing takes longer unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of `bench page`.
#[derive(Clone, Debug, clap::Args)]
pub struct PageOptions {
    #[command(flatten)]
    place: PlaceOptions,
    /// Fetches to measure.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    fetches: u32,
    #[command(flatten)]
    output: OutputOptions,
}

/// One page cache with its end of the transport.
struct End {
    node: NodeId,
    pool: Arc<Pool>,
    transport: Arc<NetTransport>,
    answers: tokio::sync::Mutex<mpsc::UnboundedReceiver<usize>>,
}

/// Gives messages to the pool, answers raw requests with a page.
struct Deliver {
    pool: Arc<Pool>,
    transport: Arc<NetTransport>,
    answers: mpsc::UnboundedSender<usize>,
}

impl Inbound for Deliver {
    fn receive(&self, from: NodeId, incarnation: Incarnation, service: Service, body: Vec<u8>) {
        match service {
            Service::Pages => self.pool.receive(from, incarnation, &body),
            _ if body.len() == REQUEST => self.transport.send(from, Service::Engine, vec![1; PAGE_SIZE]),
            _ => {
                // The receiver is gone only when the benchmark has ended.
                let _ = self.answers.send(body.len());
            }
        }
    }

    fn disconnected(&self, _peer: NodeId, _incarnation: Incarnation) {}
}

impl End {
    async fn open(id: u8, directory: &Path, store: Arc<MemoryStore>) -> Result<Self, Failure> {
        let node = NodeId::new(id).expect("1 and 2 are node ids");
        let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::current());
        let listen = vec![format!("unix:{}", directory.join(format!("{id}.peer")).display())];
        let config = NetConfig {
            me: node,
            group: [7; 16],
            listen,
        };
        let transport = NetTransport::bind(config).await.map_err(|e| {
            Failure::failed(format!(
                "cannot listen in {}: {e}; use a shorter --dir",
                directory.display()
            ))
        })?;
        let pool = Pool::new(
            PoolConfig::new(node, 256),
            runtime,
            transport.clone(),
            store,
            Arc::new(NullRedo),
        );
        let (sender, answers) = mpsc::unbounded_channel();
        let deliver = Deliver {
            pool: pool.clone(),
            transport: transport.clone(),
            answers: sender,
        };
        transport.start(Incarnation(1), Arc::new(deliver));
        Ok(Self {
            node,
            pool,
            transport,
            answers: tokio::sync::Mutex::new(answers),
        })
    }

    /// Takes the page for writing and writes it.
    async fn take(&self, page: PageId) -> Result<Duration, Failure> {
        let began = Instant::now();
        let acquired = tokio::time::timeout(PATIENCE, self.pool.acquire(page, Mode::Exclusive)).await;
        let hold = acquired
            .map_err(|_| Failure::failed("a page did not come"))?
            .map_err(Failure::failed)?;
        let elapsed = began.elapsed();
        if let Ok(mut guard) = self.pool.write(page) {
            let next = Psn(guard.psn().0 + 1);
            guard.bytes_mut()[100] = guard.bytes_mut()[100].wrapping_add(1);
            guard.finish(next, Lsn(0));
        }
        drop(hold);
        Ok(elapsed)
    }

    /// A raw round trip to `peer`.
    async fn ask(&self, peer: NodeId) -> Result<Duration, Failure> {
        let mut answers = self.answers.lock().await;
        let began = Instant::now();
        self.transport.send(peer, Service::Engine, vec![0; REQUEST]);
        let answer = tokio::time::timeout(PATIENCE, answers.recv()).await;
        match answer {
            Ok(Some(PAGE_SIZE)) => Ok(began.elapsed()),
            _ => Err(Failure::failed("the other end did not answer")),
        }
    }
}

/// Both ends, connected, in one view.
async fn connect(directory: &Path) -> Result<[End; 2], Failure> {
    let store = Arc::new(MemoryStore::default());
    let ends = [
        End::open(1, directory, store.clone()).await?,
        End::open(2, directory, store).await?,
    ];
    let addresses: Vec<_> = ends
        .iter()
        .filter_map(|e| Some((e.node, e.transport.addresses().first()?.clone())))
        .collect();
    let members = ends
        .iter()
        .map(|e| Member {
            node: e.node,
            incarnation: Incarnation(1),
        })
        .collect();
    let view = Arc::new(View::none().successor(members));
    for end in &ends {
        end.transport.set_peers(addresses.clone());
        end.pool.install_view(view.clone(), NodeSet::EMPTY, false);
    }
    // A message before the connection stands is lost: ask until one comes back.
    let deadline = Instant::now() + PATIENCE;
    for (end, peer) in [(&ends[0], ends[1].node), (&ends[1], ends[0].node)] {
        let mut answers = end.answers.lock().await;
        loop {
            end.transport.send(peer, Service::Engine, vec![0; REQUEST]);
            if tokio::time::timeout(Duration::from_millis(50), answers.recv())
                .await
                .is_ok()
            {
                break;
            }
            if Instant::now() > deadline {
                return Err(Failure::failed("the two ends could not connect"));
            }
        }
        while tokio::time::timeout(Duration::from_millis(100), answers.recv())
            .await
            .is_ok()
        {}
    }
    Ok(ends)
}

fn local_hits(pool: &Pool, page: PageId) -> Result<f64, Failure> {
    let mut best = f64::MAX;
    for _ in 0..200 {
        let began = Instant::now();
        for _ in 0..HITS {
            let guard = pool
                .read(black_box(page))
                .map_err(|_| Failure::failed("the page went away"))?;
            black_box(guard.bytes()[100]);
        }
        best = best.min(began.elapsed().as_nanos() as f64 / f64::from(HITS));
    }
    Ok((best * 10.0).round() / 10.0)
}

/// Runs it.
pub async fn run(options: PageOptions) -> Outcome {
    let place = options.place.make("page")?;
    let ends = connect(&place.directory).await?;
    let page = |number: u32| PageId {
        file: FileId(9),
        number: number * 64,
    };
    let (mut fetch, mut raw) = (Times::new(), Times::new());
    let before = ends.iter().map(|e| e.pool.counters().transfers_in).sum::<u64>();
    for round in 0..options.fetches {
        // Sixteen pages, of homes at either end; each page goes from one end to the other and back.
        let (number, end) = (round % 16, &ends[(round / 16 % 2) as usize]);
        let peer = if end.node == ends[0].node {
            ends[1].node
        } else {
            ends[0].node
        };
        let elapsed = end.take(page(number)).await?;
        if round >= 32 {
            fetch.add(elapsed);
            raw.add(end.ask(peer).await?);
        }
    }
    let transfers = ends.iter().map(|e| e.pool.counters().transfers_in).sum::<u64>() - before;
    ends[0].take(page(0)).await?;
    let hit = local_hits(&ends[0].pool, page(0))?;
    let over = ratio(fetch.microseconds(0.5), raw.microseconds(0.5));
    let object = json!({
        "local_hit_ns": hit, "fetch": fetch.object(), "raw_round_trip": raw.object(), "fetch_over_raw": over,
        "transfers": transfers,
    });
    options.output.emit(object, || {
        let rows = vec![
            raw.row("raw 64 B -> 8 KiB"),
            fetch.row("page from the other node"),
        ];
        format!(
            "local hit: {hit} ns\n{}\na fetch costs {over} raw round trips (median)",
            table(&HEADING, rows)
        )
    })?;
    Ok(Exit::Done)
}
