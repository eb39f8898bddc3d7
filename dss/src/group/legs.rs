//! I/O on the legs of a volume, and what to do when one fails.
//!
//! Rules (MIR-n, README of this crate):
//! - a write that reached one leg of two is acknowledged when every member knows that the other does not count;
//! - a read that fails on one leg is done on the other, whatever becomes of the first;
//! - an operation leaves the count of what is in flight before it asks for a leg to be detached: members are waited for then.

use super::error::StorageError;
use super::in_flight::NOBODY;
use super::open_volumes::{FIRST, LegId, OpenVolume};
use super::places::Place;
use super::volume_group::{Role, VolumeGroup};
use crate::in_place::at_once;
use crate::seam::{DeviceError, IoBuffer};
use aquifer_dss_proto::catalog::{Legs, Mirror, MirrorState, Operation, OperationError};
use aquifer_dss_proto::defect::{Defect, planted};
use futures_util::future::{join, join_all};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether every member knows that a leg does not count.
const PASSED_AGAIN: Duration = Duration::from_millis(1);

/// A leg that failed.
#[derive(Debug)]
pub(super) struct LegFailure {
    leg: LegId,
    /// The stay of the leg that is over.
    generation: u64,
    /// What the other leg alone has now: first units, and how many.
    units: Vec<(u32, u32)>,
    error: StorageError,
}

/// Whether an error is the leg's own: not that this node is fenced, nor a mistake of its own.
pub(super) fn is_of_leg(error: &StorageError) -> bool {
    matches!(
        error,
        StorageError::Device(DeviceError::Io { .. }) | StorageError::MissingVolume { .. }
    )
}

/// What two legs answered: when one of them failed, which.
fn judge<T>(
    first: Result<T, StorageError>,
    second: Result<T, StorageError>,
) -> (Result<T, StorageError>, Option<(u8, StorageError)>) {
    match (first, second) {
        (Ok(done), Ok(_)) => (Ok(done), None),
        (Ok(done), Err(error)) if is_of_leg(&error) => (Ok(done), Some((1, error))),
        (Err(error), Ok(done)) if is_of_leg(&error) => (Ok(done), Some((0, error))),
        (Err(error), _) | (Ok(_), Err(error)) => (Err(error), None),
    }
}

impl VolumeGroup {
    /// The failure of a leg while an operation on `place` is counted: so it is about this stay of the leg.
    pub(super) fn failure(&self, leg: LegId, error: StorageError, units: Vec<(u32, u32)>) -> LegFailure {
        let generation = self.with_catalog(|catalog| {
            let mirror = catalog.mirror(leg.0);
            mirror.map_or(0, |mirror| mirror.generations[usize::from(leg.1)])
        });
        LegFailure {
            leg,
            generation,
            units,
            error,
        }
    }

    /// Reads from one of the legs that have it.
    pub(super) async fn read_legs(&self, place: &Place, buffer: IoBuffer) -> Result<IoBuffer, StorageError> {
        if place.legs != Legs::BOTH {
            let leg = place.legs.iter().next().expect("a place has a leg");
            return self
                .leg((place.volume, leg))
                .await?
                .read(place.offset, buffer)
                .await;
        }
        let (chosen, length) = (self.choose(place.volume), buffer.len());
        let error = match self.read_leg((place.volume, chosen), place.offset, buffer).await {
            Err(error) if is_of_leg(&error) => error,
            done => return done,
        };
        let other = (place.volume, 1 - chosen);
        let read = self
            .read_leg(other, place.offset, IoBuffer::zeroed(length))
            .await?;
        self.detach_later(self.failure((place.volume, chosen), error, Vec::new()));
        Ok(read)
    }

    pub(super) async fn read_leg(
        &self,
        leg: LegId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        self.leg(leg).await?.read(offset, buffer).await
    }

    /// What each leg of a volume has there. On failure: which leg it was.
    pub(super) async fn read_both(
        &self,
        volume: u16,
        offset: u64,
        length: usize,
    ) -> Result<[IoBuffer; 2], (u8, StorageError)> {
        let read = |leg: u8| async move {
            let read = self.read_leg((volume, leg), offset, IoBuffer::zeroed(length));
            read.await.map_err(|error| (leg, error))
        };
        let (first, second) = at_once(join(read(0), read(1))).await;
        Ok([first?, second?])
    }

    /// Counts out work on units that are nobody's, and has the leg detached that failed under it, where that `may_go`; false then.
    pub(super) async fn end_on_legs(
        &self,
        volume: u16,
        units: (u32, u32),
        generation: u64,
        done: Result<bool, (u8, StorageError)>,
        may_go: impl Fn(u8) -> bool,
    ) -> Result<bool, StorageError> {
        let done = done.map_err(|(leg, error)| match may_go(leg) && is_of_leg(&error) {
            true => Ok(self.failure((volume, leg), error, vec![units])),
            false => Err(error),
        });
        // First: members are waited for, this one too, before a leg is detached.
        self.in_flight.end(NOBODY, generation);
        match done {
            Ok(done) => Ok(done),
            Err(failure) => self.detach_failed(vec![failure?]).await.map(|()| false),
        }
    }

    /// The leg with less to do; by turns when both have as much.
    fn choose(&self, volume: u16) -> u8 {
        let burden = |leg| {
            self.volumes
                .get((volume, leg))
                .map_or(u64::MAX, |open| open.burden())
        };
        match burden(0).cmp(&burden(1)) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Greater => 1,
            std::cmp::Ordering::Equal => self.syncer.turn(),
        }
    }

    /// Writes to all legs of a place.
    pub(super) async fn write_legs(
        &self,
        place: &Place,
        buffer: IoBuffer,
    ) -> (Result<IoBuffer, StorageError>, Option<LegFailure>) {
        if place.legs != Legs::BOTH {
            let leg = place.legs.iter().next().expect("a place has a leg");
            return (
                self.write_leg((place.volume, leg), place.offset, buffer).await,
                None,
            );
        }
        let mut copy = IoBuffer::zeroed(buffer.len());
        copy.copy_from_slice(&buffer);
        let first = self.write_leg((place.volume, 0), place.offset, buffer);
        let second = self.write_leg((place.volume, 1), place.offset, copy);
        let (first, second) = at_once(join(first, second)).await;
        let (written, failed) = judge(first, second);
        (written, self.failed_at(place, failed))
    }

    pub(super) async fn write_leg(
        &self,
        leg: LegId,
        offset: u64,
        buffer: IoBuffer,
    ) -> Result<IoBuffer, StorageError> {
        self.leg(leg).await?.write(offset, buffer).await
    }

    /// Zeroes a place on all its legs.
    pub(super) async fn zero_legs(&self, place: &Place) -> (Result<(), StorageError>, Option<LegFailure>) {
        let zero = |leg: u8| async move {
            let open = self.leg((place.volume, leg)).await?;
            open.write_zeroes(place.offset, place.length as u64).await
        };
        if place.legs != Legs::BOTH {
            let leg = place.legs.iter().next().expect("a place has a leg");
            return (zero(leg).await, None);
        }
        let (first, second) = at_once(join(zero(0), zero(1))).await;
        let (zeroed, failed) = judge(first, second);
        (zeroed, self.failed_at(place, failed))
    }

    /// Discards a place on all its legs, which read alike afterwards; how many bytes.
    pub(super) async fn discard_legs(&self, place: &Place) -> (u64, Option<LegFailure>) {
        let open = |leg: u8| self.volumes.get((place.volume, leg));
        let is_two = self.with_catalog(|catalog| catalog.mirror(place.volume).is_some());
        let legs: Vec<_> = place.legs.iter().filter_map(open).collect();
        if !legs.iter().all(|leg| leg.takes_discards(is_two)) {
            return (0, None);
        }
        let each = legs
            .iter()
            .map(|leg| leg.discard(place.offset, place.length as u64));
        let errors: Vec<_> = join_all(each).await.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() {
            self.discards.count(place.length as u64);
            return (place.length as u64, None);
        }
        self.discards.count_failure();
        tracing::warn!(volume = place.volume, error = %errors[0], "a device does not discard; nothing depends on it");
        if is_two {
            let (_, failed) = self.zero_legs(place).await;
            return (0, failed);
        }
        (0, None)
    }

    fn failed_at(&self, place: &Place, failed: Option<(u8, StorageError)>) -> Option<LegFailure> {
        let (leg, error) = failed?;
        Some(self.failure((place.volume, leg), error, vec![place.units]))
    }

    /// Detaches the legs that failed under an operation, one after another. When it returns, every member knows it.
    pub(super) async fn detach_failed(&self, failures: Vec<LegFailure>) -> Result<(), StorageError> {
        for failure in failures {
            if planted(Defect::AcknowledgeBeforePassed) {
                self.detach_later(failure);
            } else {
                self.detach_one(failure).await?;
            }
        }
        Ok(())
    }

    async fn detach_one(&self, failure: LegFailure) -> Result<(), StorageError> {
        let LegFailure {
            leg,
            generation,
            units,
            error,
        } = failure;
        tracing::error!(volume = leg.0, leg = leg.1, %error, "a side of a mirror failed: it is detached");
        match self.ask_to_detach(leg, generation, units).await {
            // Without the leg that failed there is none: then this is what happened.
            Err(refused) if refused.is(OperationError::LastLeg) => Err(error),
            done => done,
        }
    }

    /// Detaches a leg; every member knows it when this returns.
    pub(super) async fn ask_to_detach(
        &self,
        (volume, leg): LegId,
        generation: u64,
        units: Vec<(u32, u32)>,
    ) -> Result<(), StorageError> {
        let detach = Operation::Detach {
            volume,
            leg,
            generation,
            units,
        };
        self.submit(&format!("volume {volume}"), detach).await?;
        let is_awaited = |mirror: &Mirror| matches!(mirror.state, MirrorState::Out { leg: out, since: Some(_) } if out == leg);
        while self.with_catalog(|catalog| catalog.mirror(volume).is_some_and(is_awaited)) {
            self.runtime.sleep(PASSED_AGAIN).await;
            self.catch_up().await?;
        }
        Ok(())
    }

    /// Has a leg detached that failed; nobody waits for it.
    fn detach_later(&self, failure: LegFailure) {
        // Others that fail meanwhile find that it is known.
        if let Some(open) = self.volumes.get(failure.leg)
            && open.set_failed(true)
        {
            return;
        }
        self.spawn_detach(failure, |group, leg, is_done| {
            // The next failure, or view, tries again.
            if let Some(open) = group.volumes.get(leg).filter(|_| !is_done) {
                open.set_failed(false);
            }
        });
    }

    /// Has a leg detached; `ended` comes when that is over, with whether it was done.
    fn spawn_detach(&self, failure: LegFailure, ended: impl FnOnce(&Self, LegId, bool) + Send + 'static) {
        let Some(group) = self.itself.upgrade() else {
            return;
        };
        let detach = async move {
            let leg = failure.leg;
            let detached = group.detach_one(failure).await;
            if let Err(error) = &detached {
                tracing::warn!(volume = leg.0, leg = leg.1, %error, "a side of a mirror could not be detached");
            }
            ended(&group, leg, detached.is_ok());
        };
        self.runtime.spawn("detach a leg", Box::pin(detach));
    }

    /// Has legs detached that failed, or that this node cannot open, once somebody can do it.
    pub(super) fn detach_unusable(&self) {
        let can_ask = !matches!(*self.role.borrow(), Role::Follower { leader: None });
        let has_failed = self.volumes.others().iter().any(|(_, open)| open.has_failed());
        if !can_ask || !(has_failed || self.is_anything_missing()) {
            return;
        }
        for status in self.volume_status() {
            let Some(mirror) = &status.mirror else { continue };
            // Not the last one that is whole: it would be refused for ever.
            let may_go =
                |leg: &u8| mirror.out().is_none() && mirror.stale().is_none_or(|stale| stale == *leg);
            for leg in (0..2).filter(may_go) {
                let id = (status.id, leg);
                let failed = self.volumes.get(id).is_some_and(|open| open.has_failed());
                let missing = &status.missing_legs[usize::from(leg)];
                let error = match (failed, missing) {
                    (true, _) => "it could not be flushed after a fence".to_owned(),
                    // Not before it was tried.
                    (false, Some(reason)) if self.is_known_missing(id) => reason.clone(),
                    _ => continue,
                };
                if !self.syncer.begin_detach(id) {
                    continue;
                }
                let failure = self.failure(id, StorageError::Invalid(error), Vec::new());
                self.spawn_detach(failure, |group, leg, _| group.syncer.end_detach(leg));
            }
        }
    }

    /// Makes what this node wrote durable on every leg that counts. A first volume that is not mirrored is always flushed.
    pub(super) async fn flush_legs(&self, volume: Option<u16>) -> Result<(), StorageError> {
        let is_wanted = |id: u16| volume.is_none_or(|wanted| wanted == id);
        let others = self.volumes.others().into_iter();
        let others: Vec<(LegId, Arc<OpenVolume>)> = others.filter(|((id, _), _)| is_wanted(*id)).collect();
        let flushes = join_all(others.iter().map(|(_, open)| open.flush()));
        let first = async {
            match self.volumes.first.as_ref().filter(|_| is_wanted(FIRST.0)) {
                Some(first) => first.device.flush().await,
                None => Ok(()),
            }
        };
        let (first, flushed) = match others.is_empty() {
            true => (first.await, Vec::new()),
            false => at_once(join(first, flushes)).await,
        };
        first?;
        let mut failures = Vec::new();
        for ((leg, _), result) in others.iter().zip(flushed) {
            match result {
                Err(error) if is_of_leg(&error) && self.is_leg_of_two(*leg) => {
                    failures.push(self.failure(*leg, error, Vec::new()));
                }
                result => result?,
            }
        }
        self.detach_failed(failures).await
    }

    pub(super) fn is_leg_of_two(&self, leg: LegId) -> bool {
        self.with_catalog(|catalog| catalog.mirror(leg.0).is_some())
    }
}
