//! Readers beside a writer of the same page: by copies, which take nothing from it, and by Shared possession, which takes the page.

use super::ends::Ends;
use super::moves::THREE;
use crate::bench::figures::ratio;
use crate::failure::Failure;
use aquifer_buffer_pool::{Lsn, Mode, PageId, Pool, Psn};
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Readers at the same time.
pub const READERS: usize = 4;
/// How long each way is counted at a time; in turns, since other work on the machine comes and goes.
const COUNTED: Duration = Duration::from_millis(200);
/// Turns.
const TURNS: u32 = 5;

/// What readers get, and what is left to the writer.
pub struct Beside {
    /// Copies per second while the owner writes.
    pub copies: f64,
    /// The writer's rate beside readers of copies, over its rate alone.
    pub with_copies: f64,
    /// The same beside readers that possess the page.
    pub with_shared: f64,
}

/// The way in which readers read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Nobody,
    Copies,
    Shared,
}

/// Measures over three ends: reader, writer and home.
pub async fn measure(ends: &Ends) -> Result<Beside, Failure> {
    let page = ends.pages(THREE.home, 1)[0];
    let (mut alone, mut beside_copies, mut beside_shared, mut copies) = (0.0, 0.0, 0.0, 0.0);
    for _ in 0..TURNS {
        alone += rates(ends, page, Way::Nobody).await?.0;
        let (changes, read) = rates(ends, page, Way::Copies).await?;
        (beside_copies, copies) = (beside_copies + changes, copies + read);
        beside_shared += rates(ends, page, Way::Shared).await?.0;
    }
    Ok(Beside {
        copies: copies / f64::from(TURNS),
        with_copies: ratio(beside_copies, alone),
        with_shared: ratio(beside_shared, alone),
    })
}

/// Changes per second at the owner, and reads per second at the requester.
async fn rates(ends: &Ends, page: PageId, way: Way) -> Result<(f64, f64), Failure> {
    let (owner, requester) = (&ends.all[THREE.owner], &ends.all[THREE.requester]);
    owner.take(page, Mode::Exclusive).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let changes = Arc::new(AtomicU64::new(0));
    let work = {
        let (pool, stop, changes) = (owner.pool.clone(), stop.clone(), changes.clone());
        move || write(&pool, page, &stop, &changes)
    };
    let writer = tokio::task::spawn_blocking(work);
    let (began, before) = (Instant::now(), changes.load(Ordering::Relaxed));
    let reads: Result<u64, Failure> = if way == Way::Nobody {
        tokio::time::sleep(COUNTED).await;
        Ok(0)
    } else {
        let readers = (0..READERS).map(|_| read(&requester.pool, page, way, began + COUNTED));
        let counts: Result<Vec<u64>, Failure> = join_all(readers).await.into_iter().collect();
        counts.map(|counts| counts.into_iter().sum())
    };
    let changed = changes.load(Ordering::Relaxed) - before;
    let elapsed = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    writer.await.map_err(Failure::failed)??;
    Ok((changed as f64 / elapsed, reads? as f64 / elapsed))
}

/// Changes the page again and again, and takes it back when it has lost it. On a thread of its own: what else the runtime has to do is
/// not to wait for it.
fn write(pool: &Arc<Pool>, page: PageId, stop: &AtomicBool, changes: &AtomicU64) -> Result<(), Failure> {
    let runtime = tokio::runtime::Handle::current();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut guard) = pool.write(page) else {
            let taken = runtime.block_on(pool.acquire(page, Mode::Exclusive));
            taken.map_err(Failure::failed)?;
            continue;
        };
        let next = Psn(guard.psn().0 + 1);
        guard.bytes_mut()[100] = next.0 as u8;
        guard.finish(next, Lsn(0));
        changes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads one after the other; answers how many.
async fn read(pool: &Arc<Pool>, page: PageId, way: Way, until: Instant) -> Result<u64, Failure> {
    let mut reads = 0;
    while Instant::now() < until {
        if way == Way::Copies {
            reads += u64::from(pool.copy(page).await.is_some());
            continue;
        }
        if pool.read(page).is_ok() {
            reads += 1;
            tokio::task::yield_now().await;
        } else {
            pool.acquire(page, Mode::Shared).await.map_err(Failure::failed)?;
        }
    }
    Ok(reads)
}
