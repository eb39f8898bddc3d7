//! How often each kind of call was made, and how long that took.

use crate::abi::{AQ_EVENTS, aq_event, aq_figures};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Figures of one kind. Each is right by itself; together they may be torn by a call that ends meanwhile.
struct Figures {
    calls: AtomicU64,
    failures: AtomicU64,
    nanoseconds: AtomicU64,
    longest: AtomicU64,
}

impl Figures {
    const fn new() -> Self {
        Self {
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }
}

static ALL: [Figures; AQ_EVENTS] = [const { Figures::new() }; AQ_EVENTS];

/// Counts a call.
pub fn count(event: aq_event, took: Duration, failed: bool) {
    let figures = &ALL[event as usize];
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    figures.calls.fetch_add(1, Ordering::Relaxed);
    figures.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
    figures.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    figures.longest.fetch_max(nanoseconds, Ordering::Relaxed);
}

/// All figures, by the number of the event.
pub fn all() -> impl Iterator<Item = aq_figures> {
    ALL.iter().map(|figures| aq_figures {
        calls: figures.calls.load(Ordering::Relaxed),
        failures: figures.failures.load(Ordering::Relaxed),
        nanoseconds: figures.nanoseconds.load(Ordering::Relaxed),
        longest_nanoseconds: figures.longest.load(Ordering::Relaxed),
    })
}
