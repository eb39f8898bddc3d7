//! Operations that are counted while devices work on them.

use aquifer_dss_proto::FileId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::Notify;

/// Operations on files that the devices are not done with.
#[derive(Default)]
pub(super) struct InFlight {
    flights: Mutex<Flights>,
    fewer: Notify,
}

#[derive(Default)]
struct Flights {
    /// Grows when somebody waits, so that what begins later is not waited for.
    generation: u64,
    /// Per file, and generation in which they began: how many.
    files: BTreeMap<FileId, BTreeMap<u64, u64>>,
}

impl InFlight {
    /// Counts an operation; gives the generation that it belongs to.
    pub(super) fn begin(&self, file: FileId) -> u64 {
        let mut flights = self.flights.lock();
        let generation = flights.generation;
        *flights
            .files
            .entry(file)
            .or_default()
            .entry(generation)
            .or_default() += 1;
        generation
    }

    pub(super) fn end(&self, file: FileId, generation: u64) {
        let mut flights = self.flights.lock();
        let counts = flights
            .files
            .get_mut(&file)
            .expect("an operation that ends has begun");
        let count = counts
            .get_mut(&generation)
            .expect("an operation that ends has begun");
        *count -= 1;
        if *count > 0 {
            return;
        }
        counts.remove(&generation);
        if counts.is_empty() {
            flights.files.remove(&file);
        }
        drop(flights);
        self.fewer.notify_waiters();
    }

    /// Waits until the operations on `files`, or on all, that have begun before this call are over.
    pub(super) async fn wait_for(&self, files: Option<&[FileId]>) {
        let now = {
            let mut flights = self.flights.lock();
            flights.generation += 1;
            flights.generation
        };
        loop {
            let changed = self.fewer.notified();
            let busy = {
                let flights = self.flights.lock();
                let is_old = |counts: &BTreeMap<u64, u64>| counts.range(..now).next().is_some();
                match files {
                    Some(files) => files
                        .iter()
                        .any(|file| flights.files.get(file).is_some_and(is_old)),
                    None => flights.files.values().any(is_old),
                }
            };
            if !busy {
                return;
            }
            changed.await;
        }
    }
}

/// Under this id operations are counted that are not on a file: on units that are nobody's.
pub(super) const NOBODY: FileId = FileId(0);

/// A read that is counted. One that is dropped has no effect any more.
pub(super) struct Counted<'a> {
    pub(super) in_flight: &'a InFlight,
    pub(super) file: FileId,
    pub(super) generation: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.in_flight.end(self.file, self.generation);
    }
}
