//! This node's write intents: the units that it may be writing on both legs of a volume (HZ-21).
//!
//! The catalogue has the set; here is what this node knows besides: which units are being written, which were written since the
//! last flush, and which it has asked to take out. Rules:
//! - a write begins when the catalogue has all its units as intents of this life, and none is on its way out;
//! - a unit goes out when no write to it is under way and both legs were flushed after the last one: lazily, the least
//!   recently used first, when another needs its place;
//! - one request at a time changes the set, and serves everybody who waits.

use super::error::StorageError;
use super::volume_group::VolumeGroup;
use aquifer_dss_proto::Member;
use aquifer_dss_proto::catalog::{Catalog, INTENTS_MAX, Operation, OperationError, VolumeUnit};
use aquifer_dss_proto::defect::{Defect, planted};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Units that one write may have: larger ones are split.
pub(super) const INTENTS_OF_ONE: u64 = 64;
/// Units that are taken out at a time, so that the next writers find room.
const OUT_AT_ONCE: usize = 32;
/// Units of others that one request takes along.
const ALONG: usize = 64;
/// How long until it is looked again whether a write has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What this node knows of a unit.
#[derive(Clone, Copy, Default)]
struct Local {
    /// Writes under way.
    in_flight: u32,
    /// Writes that got it and have not begun.
    held: u32,
    /// Writes that wait for it.
    wanted: u32,
    /// When it was used last, and when the last write ended: readings of the clock below.
    used: u64,
    written: u64,
    /// It was asked to take it out, and that is not known to be done.
    leaving: bool,
}

impl Local {
    const fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.held == 0
    }
}

#[derive(Default)]
struct State {
    units: BTreeMap<VolumeUnit, Local>,
    /// Counts beginnings and ends of writes.
    clock: u64,
    /// Every write that ended before this reading is durable on both legs.
    flushed: u64,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct IntentSet {
    state: Mutex<State>,
    growing: tokio::sync::Mutex<()>,
}

/// Units that stay intents until the write that asked for them has begun.
pub(super) struct Held<'a> {
    set: &'a IntentSet,
    units: Vec<VolumeUnit>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.set.change(&self.units, |unit| unit.held -= 1);
    }
}

/// Units that somebody waits for.
struct Wanted<'a> {
    set: &'a IntentSet,
    units: &'a [VolumeUnit],
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.set.change(self.units, |unit| unit.wanted -= 1);
    }
}

/// What to ask for next.
enum Growth {
    /// All are there.
    Done,
    Ask {
        add: Vec<VolumeUnit>,
        clear: Vec<VolumeUnit>,
    },
    /// Nothing can go out before the legs are flushed.
    Flush,
    /// ... or before a write ends.
    Wait,
}

impl IntentSet {
    fn change(&self, units: &[VolumeUnit], change: impl Fn(&mut Local)) {
        let mut state = self.state.lock();
        for unit in units {
            change(state.units.entry(*unit).or_default());
        }
    }

    /// Begins a write when all its units are intents; the catalogue must not change meanwhile.
    pub(super) fn enter(&self, catalog: &Catalog, life: Member, units: &[VolumeUnit]) -> bool {
        let mut state = self.state.lock();
        let is_leaving = |unit: &VolumeUnit| state.units.get(unit).is_some_and(|local| local.leaving);
        let lacks = |unit: &VolumeUnit| is_leaving(unit) || !catalog.has_intent(life, *unit);
        if !planted(Defect::WriteWithoutIntent) && units.iter().any(lacks) {
            return false;
        }
        state.clock += 1;
        let now = state.clock;
        for unit in units {
            let local = state.units.entry(*unit).or_default();
            local.in_flight += 1;
            local.used = now;
        }
        true
    }

    /// A write ended, and nothing of it is on one leg alone without the catalogue knowing it.
    pub(super) fn leave(&self, units: &[VolumeUnit]) {
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        for unit in units {
            let local = state.units.get_mut(unit).expect("a write that ends has begun");
            local.in_flight -= 1;
            local.written = now;
        }
    }

    /// To be taken before a flush.
    pub(super) fn clock(&self) -> u64 {
        self.state.lock().clock
    }

    /// A flush of all legs that count, begun after `clock` was read, is done.
    pub(super) fn flushed(&self, clock: u64) {
        let mut state = self.state.lock();
        state.flushed = state.flushed.max(clock);
    }

    fn growth(&self, catalog: &Catalog, life: Member, own: &[VolumeUnit], may_flush: bool) -> Growth {
        let there: BTreeSet<VolumeUnit> = catalog.intents(life).collect();
        let mut state = self.state.lock();
        state.units.retain(|unit, local| {
            !local.is_idle() || local.wanted > 0 || local.leaving || there.contains(unit)
        });
        let is_there = |unit: &VolumeUnit| {
            there.contains(unit) && !state.units.get(unit).is_some_and(|local| local.leaving)
        };
        let mut add: Vec<VolumeUnit> = own.iter().copied().filter(|unit| !is_there(unit)).collect();
        if add.is_empty() {
            return Growth::Done;
        }
        let leaving = |(unit, local): (&VolumeUnit, &Local)| local.leaving.then_some(*unit);
        let mut clear: Vec<VolumeUnit> = state.units.iter().filter_map(leaving).collect();
        let staying = there.iter().filter(|unit| is_there(unit)).count();
        let free = INTENTS_MAX.saturating_sub(staying);
        if free < add.len() {
            let out = state.candidates(&there, own);
            if out.len() < add.len() - free {
                return if may_flush { Growth::Flush } else { Growth::Wait };
            }
            let count = (add.len() - free).max(OUT_AT_ONCE).min(out.len());
            clear.extend(&out[..count]);
        } else {
            let is_wanted = |(_, local): &(&VolumeUnit, &Local)| local.wanted > 0;
            let others = state.units.iter().filter(is_wanted).map(|(unit, _)| *unit);
            let others = others.filter(|unit| !is_there(unit) && !own.contains(unit));
            let along: Vec<_> = others.take((free - add.len()).min(ALONG)).collect();
            add.extend(along);
        }
        for unit in &clear {
            state.units.entry(*unit).or_default().leaving = true;
        }
        Growth::Ask { add, clear }
    }

    /// The request was done: what was on its way out is out.
    fn is_asked(&self, clear: &[VolumeUnit]) {
        self.change(clear, |unit| unit.leaving = false);
    }
}

impl State {
    /// Units that may go out, the least recently used first.
    fn candidates(&self, there: &BTreeSet<VolumeUnit>, own: &[VolumeUnit]) -> Vec<VolumeUnit> {
        let durable =
            |local: &Local| local.written <= self.flushed || planted(Defect::ClearIntentBeforeFlush);
        let mut out: Vec<(u64, VolumeUnit)> = Vec::new();
        for unit in there.iter().filter(|unit| !own.contains(unit)) {
            let local = self.units.get(unit).copied().unwrap_or_default();
            if local.is_idle() && durable(&local) && !local.leaving {
                out.push((local.used, *unit));
            }
        }
        out.sort_unstable();
        out.into_iter().map(|(_, unit)| unit).collect()
    }
}

impl VolumeGroup {
    /// Makes units intents of this life; they stay so while what is returned is held. `None`: they are none of those that need
    /// it any more, look again.
    pub(super) async fn intend(&self, units: &[VolumeUnit]) -> Result<Option<Held<'_>>, StorageError> {
        self.intents.change(units, |unit| unit.wanted += 1);
        let _wanted = Wanted {
            set: &self.intents,
            units,
        };
        let _growing = self.intents.growing.lock().await;
        let mut may_flush = true;
        loop {
            let life = self.writer();
            let growth = self.with_catalog(|catalog| self.intents.growth(catalog, life, units, may_flush));
            match growth {
                Growth::Done => {
                    self.intents.change(units, |unit| unit.held += 1);
                    return Ok(Some(Held {
                        set: &self.intents,
                        units: units.to_vec(),
                    }));
                }
                Growth::Flush => {
                    self.flush().await?;
                    may_flush = false;
                }
                Growth::Wait => {
                    self.runtime.sleep(LOOK_AGAIN).await;
                    may_flush = true;
                }
                Growth::Ask { add, clear } => {
                    let cleared = clear.clone();
                    match self.submit("", Operation::Intend { life, add, clear }).await {
                        Ok(_) => self.intents.is_asked(&cleared),
                        Err(error) if error.is(OperationError::VolumeRaced) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Takes out all intents, at a clean stop: so nobody has to compare anything after it.
    pub async fn give_intents_back(&self) -> Result<(), StorageError> {
        let life = self.writer();
        if self.with_catalog(|catalog| catalog.intents(life).next().is_none()) {
            return Ok(());
        }
        let _growing = self.intents.growing.lock().await;
        self.flush().await?;
        let clear: Vec<VolumeUnit> = self.with_catalog(|catalog| {
            let there: BTreeSet<VolumeUnit> = catalog.intents(life).collect();
            let mut state = self.intents.state.lock();
            let clear = state.candidates(&there, &[]);
            for unit in &clear {
                state.units.entry(*unit).or_default().leaving = true;
            }
            clear
        });
        let (cleared, add) = (clear.clone(), Vec::new());
        let done = self.submit("", Operation::Intend { life, add, clear }).await;
        if done.is_ok() {
            self.intents.is_asked(&cleared);
        }
        done.map(drop)
    }
}
