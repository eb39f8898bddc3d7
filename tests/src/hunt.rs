//! Many seeds, each on a thread of its own, under a limit of wall-clock time.
//!
//! The executor of a run counts its polls, so it ends whatever goes round through it; a loop *inside* one poll never comes back to
//! it. Such a seed is reported as failed and its thread is left alone: a thread cannot be ended from outside. It goes on
//! spinning until the process ends.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How seeds are run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Seeds at the same time.
    pub jobs: NonZeroUsize,
    /// Longest wall-clock time of one seed.
    pub limit: Duration,
}

/// What became of one seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// Its run came to an end.
    Ended(T),
    /// It ran longer than the limit, or its thread ended without a result: a panic of the simulator itself.
    Lost,
}

/// Runs `work` for each of the seeds, and tells `ended` of each outcome, in the order in which they end, until there are no more
/// seeds or it breaks off. Runs that are then under way are left alone.
pub fn hunt<T: Send + 'static>(
    seeds: impl IntoIterator<Item = u64>,
    pace: Pace,
    work: impl Fn(u64) -> T + Send + Sync + 'static,
    mut ended: impl FnMut(u64, Outcome<T>) -> ControlFlow<()>,
) {
    let work = Arc::new(work);
    let mut seeds = seeds.into_iter();
    let (sender, results) = channel();
    let mut running = BTreeMap::new();
    loop {
        while running.len() < pace.jobs.get()
            && let Some(seed) = seeds.next()
        {
            begin(seed, work.clone(), sender.clone());
            running.insert(seed, Instant::now() + pace.limit);
        }
        let Some((seed, outcome)) = next_outcome(&mut running, &results) else {
            return;
        };
        if ended(seed, outcome).is_break() {
            return;
        }
    }
}

fn begin<T: Send + 'static>(
    seed: u64,
    work: Arc<impl Fn(u64) -> T + Send + Sync + 'static>,
    results: Sender<(u64, Outcome<T>)>,
) {
    thread::spawn(move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(seed)));
        // Nobody listens any more once the hunt has been broken off.
        let _ = results.send((seed, outcome.map_or(Outcome::Lost, Outcome::Ended)));
    });
}

/// Waits for the next seed that ends or whose time is over. None when none is running.
fn next_outcome<T>(
    running: &mut BTreeMap<u64, Instant>,
    results: &Receiver<(u64, Outcome<T>)>,
) -> Option<(u64, Outcome<T>)> {
    loop {
        let (&seed, &deadline) = running.iter().min_by_key(|(_, deadline)| **deadline)?;
        let left = deadline.saturating_duration_since(Instant::now());
        match results.recv_timeout(left) {
            // One that was given up may still end: its seed has been reported.
            Ok((seed, outcome)) => {
                if running.remove(&seed).is_some() {
                    return Some((seed, outcome));
                }
            }
            Err(_) => {
                running.remove(&seed);
                return Some((seed, Outcome::Lost));
            }
        }
    }
}
