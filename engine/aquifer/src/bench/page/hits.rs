//! Local hits: one hot page, and random pages of a large cache beside a bare array of frames of the same size.

use crate::failure::Failure;
use aquifer_buffer_pool::testing::{MemoryStore, NullRedo};
use aquifer_buffer_pool::{Lsn, Mode, PageId, PageSize, Pool, PoolConfig, Psn};
use aquifer_dss::seam::{Runtime, Service, Tail, Transport};
use aquifer_dss::tokio_runtime::TokioRuntime;
use aquifer_dss_proto::{FileId, Incarnation, Member, NodeId, NodeSet, View};
use memmap2::MmapOptions;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Hits of one sample.
const HITS: u32 = 100_000;
/// Samples; the best counts.
const SAMPLES: u32 = 30;

/// How many pages before it is read a page is touched.
const AHEAD: usize = 16;

/// Nanoseconds of one hit.
pub struct Hits {
    /// Always the same page.
    pub hot: f64,
    /// Random pages; which one is next is known when one has been read, as on the way down a tree.
    pub random: Beside,
    /// Random pages, all known beforehand: the processor reads ahead as far as its window of instructions goes.
    pub independent: Beside,
    /// The same through the cache, each page touched [`AHEAD`] pages before it is read.
    pub touched: f64,
}

impl Hits {
    /// For a person.
    pub fn words(&self, pages: u32) -> String {
        let (hot, random, independent) = (self.hot, &self.random, &self.independent);
        format!(
            "local hit: {hot} ns hot; at random over {pages} pages, each known from the one before, {} ns ({} ns in a bare array); all known \
             beforehand, {} ns ({} ns), {} ns when each is touched {AHEAD} pages before",
            random.cache, random.array, independent.cache, independent.array, self.touched,
        )
    }
}

/// Nanoseconds of the same walk in both.
pub struct Beside {
    /// Through the cache.
    pub cache: f64,
    /// Through an array of frames.
    pub array: f64,
}

/// There is nobody to talk to.
struct Alone;

impl Transport for Alone {
    fn send(&self, _to: NodeId, _service: Service, _head: &[u8], _tail: Option<Tail>) {}
}

/// A walk at random: its state, and among how many pages.
pub struct Walk(pub u64, pub u64);

impl Walk {
    /// The next page, which depends on what was read.
    fn after(&mut self, byte: u8) -> u32 {
        self.0 ^= u64::from(byte);
        self.next()
    }

    /// The next page.
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(self.1)) >> 64) as u32
    }
}

fn page(number: u32) -> PageId {
    PageId {
        file: FileId(7),
        number,
    }
}

/// Bytes of a page.
const PAGE_BYTES: usize = PageSize::USUAL.bytes();

/// A cache with every frame full.
async fn filled(frames: u32) -> Result<Arc<Pool>, Failure> {
    let me = NodeId::new(1).expect("1 is a node id");
    let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::current());
    let config = PoolConfig::new(me, frames as usize + 64);
    let store = Arc::new(MemoryStore::default());
    let pool = Pool::new(config, runtime, Arc::new(Alone), store, Arc::new(NullRedo));
    let members = vec![Member {
        node: me,
        incarnation: Incarnation(1),
    }];
    pool.install_view(Arc::new(View::none().successor(members)), NodeSet::EMPTY, false);
    for number in 0..frames {
        let hold = pool
            .acquire(page(number), Mode::Exclusive)
            .await
            .map_err(Failure::failed)?;
        let mut guard = pool.write(page(number)).map_err(|_| gone())?;
        guard.bytes_mut()[100] = number as u8;
        guard.finish(Psn(1), Lsn(0));
        drop(hold);
    }
    Ok(pool)
}

fn gone() -> Failure {
    Failure::failed("a page went away")
}

/// The best of the samples, in nanoseconds per hit. Each walk begins anew, so that all go the same way.
fn best(frames: u32, mut sample: impl FnMut(&mut Walk) -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut best = f64::MAX;
    for seed in 1..=SAMPLES {
        let mut walk = Walk(0x9E37_79B9_7F4A_7C15 ^ u64::from(seed), u64::from(frames));
        let began = Instant::now();
        sample(&mut walk)?;
        best = best.min(began.elapsed().as_nanos() as f64 / f64::from(HITS));
    }
    Ok((best * 10.0).round() / 10.0)
}

/// Both walks over what `read` gives.
fn walks(frames: u32, read: impl Fn(u32) -> Result<u8, Failure>) -> Result<(f64, f64), Failure> {
    let dependent = best(frames, |walk| {
        let mut byte = 0;
        for _ in 0..HITS {
            byte = read(walk.after(byte))?;
        }
        black_box(byte);
        Ok(())
    })?;
    let independent = best(frames, |walk| {
        for _ in 0..HITS {
            black_box(read(walk.next())?);
        }
        Ok(())
    })?;
    Ok((dependent, independent))
}

fn read(pool: &Pool, number: u32) -> Result<u8, Failure> {
    let guard = pool.read(black_box(page(number))).map_err(|_| gone())?;
    Ok(guard.bytes()[100])
}

/// Reads pages that are known beforehand, and touches those to come.
fn touched(pool: &Pool, walk: &mut Walk) -> Result<(), Failure> {
    let mut ahead = [0; AHEAD];
    let touch = |number: u32| {
        pool.touch(black_box(page(number)));
        number
    };
    ahead.fill_with(|| touch(walk.next()));
    for hit in 0..HITS as usize {
        let number = std::mem::replace(&mut ahead[hit % AHEAD], touch(walk.next()));
        black_box(read(pool, number)?);
    }
    Ok(())
}

/// Measures with `frames` pages.
pub async fn measure(frames: u32) -> Result<Hits, Failure> {
    let pool = filled(frames).await?;
    let mut array = MmapOptions::new()
        .len(frames as usize * PAGE_BYTES)
        .map_anon()
        .map_err(|e| Failure::failed(format!("no memory for the array: {e}")))?;
    // As the cache has it; where the kernel knows no huge pages, neither has them.
    let _ = array.advise(memmap2::Advice::HugePage);
    for number in 0..frames {
        array[number as usize * PAGE_BYTES + 100] = number as u8;
    }
    let bare = walks(frames, |number| {
        Ok(array[black_box(number as usize * PAGE_BYTES + 100)])
    })?;
    let cache = walks(frames, |number| read(&pool, number))?;
    let touched = best(frames, |walk| touched(&pool, walk))?;
    let hot = best(frames, |_| {
        for _ in 0..HITS {
            black_box(read(&pool, 0)?);
        }
        Ok(())
    })?;
    let beside = |cache, array| Beside { cache, array };
    Ok(Hits {
        hot,
        random: beside(cache.0, bare.0),
        independent: beside(cache.1, bare.1),
        touched,
    })
}
