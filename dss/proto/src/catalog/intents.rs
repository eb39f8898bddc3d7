//! Write intents: the units that a life may be writing on both legs of a volume (HZ-21).
//!
//! Rules (MIR-n, README of `aquifer-dss`):
//! - a unit is an intent of its writer before the first write that both legs get, and until both are flushed after the last;
//! - who is not in a view can have died with half a write: the entry `Lead` makes his intents torn, in the same entry;
//! - a torn unit is read and written by nobody until the leader has made both legs alike.

use super::{Catalog, OperationError, Outcome, Reply};
use crate::defect::{Defect, planted};
use crate::{Member, NodeId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Units that one life may have as intents.
pub const INTENTS_MAX: usize = 256;
/// Bytes an intent, or a torn unit, takes in a checkpoint at most.
const UNIT_WEIGHT: usize = 8;

/// A unit of a volume.
pub type VolumeUnit = (u16, u32);

/// Who may be writing where.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Intents {
    /// Incarnations of the members, as the last `Lead` named them.
    lives: BTreeMap<NodeId, u64>,
    units: BTreeMap<NodeId, BTreeSet<VolumeUnit>>,
    torn: BTreeSet<VolumeUnit>,
    /// Journal sequence that members have to pass before torn units are compared: the living may write there still.
    pub(super) torn_since: Option<u64>,
}

impl Intents {
    pub(super) fn weight(&self) -> usize {
        let units: usize = self.units.values().map(BTreeSet::len).sum();
        16 + self.lives.len() * 16 + (units + self.torn.len()) * UNIT_WEIGHT
    }

    fn is_life(&self, life: Member) -> bool {
        self.lives.get(&life.node) == Some(&life.incarnation.0)
    }

    /// Takes the intents and the torn units of a volume out: one of its legs does not count any more.
    pub(super) fn drop_volume(&mut self, volume: u16) -> Vec<(u32, u32)> {
        let range = (volume, 0)..=(volume, u32::MAX);
        let mut gone = BTreeSet::new();
        for units in self.units.values_mut().chain([&mut self.torn]) {
            gone.extend(units.range(range.clone()).copied());
            units.retain(|unit| unit.0 != volume);
        }
        if self.torn.is_empty() {
            self.torn_since = None;
        }
        gone.into_iter().map(|(_, unit)| (unit, 1)).collect()
    }

    pub(super) fn trim(&mut self, volume: u16, count: u32) {
        for units in self.units.values_mut().chain([&mut self.torn]) {
            units.retain(|unit| unit.0 != volume || unit.1 < count);
        }
        if self.torn.is_empty() {
            self.torn_since = None;
        }
    }

    pub(super) fn is_sound(&self, is_unit: impl Fn(u16, u32) -> bool) -> bool {
        let nodes = self.lives.keys().chain(self.units.keys());
        let bounded = self.units.values().all(|units| units.len() <= INTENTS_MAX);
        let mut units = self.units.values().flatten().chain(&self.torn);
        bounded
            && nodes.copied().all(|node| NodeId::new(node.get()).is_some())
            && units.all(|(volume, unit)| is_unit(*volume, *unit))
    }
}

impl Catalog {
    /// The members of a view: what the others may have been writing is torn.
    pub(super) fn tear(&mut self, sequence: u64, members: &[Member]) {
        let intents = &mut self.mirrors.intents;
        let lives: BTreeMap<NodeId, u64> = members
            .iter()
            .map(|member| (member.node, member.incarnation.0))
            .collect();
        let died = |node: &NodeId| lives.get(node) != intents.lives.get(node);
        let dead: Vec<NodeId> = intents.units.keys().copied().filter(died).collect();
        for node in dead {
            let units = intents.units.remove(&node).unwrap_or_default();
            if planted(Defect::ForgetIntentsOfDead) {
                continue;
            }
            intents.torn.extend(units);
        }
        intents.lives = lives;
        // Also what was torn before: whoever led may have been comparing it.
        if !intents.torn.is_empty() && !planted(Defect::HealBesideWriters) {
            intents.torn_since = Some(sequence);
        }
        self.mirrors.wait_for_copies(sequence);
    }

    /// Puts units into the intents of `life`, and takes others out: all, or nothing.
    pub(super) fn intend(
        &mut self,
        asker: Option<NodeId>,
        life: Member,
        add: &[VolumeUnit],
        clear: &[VolumeUnit],
    ) -> Outcome {
        let is_both = |unit: &VolumeUnit| {
            let mirror = self.mirror(unit.0);
            let counts = mirror.is_some_and(|mirror| mirror.out().is_none());
            counts && unit.1 < self.units_of(unit.0).0
        };
        if !self.mirrors.intents.is_life(life) || asker != Some(life.node) || !add.iter().all(is_both) {
            return Err(OperationError::VolumeRaced);
        }
        let mut units = self
            .mirrors
            .intents
            .units
            .get(&life.node)
            .cloned()
            .unwrap_or_default();
        clear.iter().for_each(|unit| {
            units.remove(unit);
        });
        units.extend(add);
        if units.len() > INTENTS_MAX {
            return Err(OperationError::Invalid);
        }
        self.require_mirror_room(add.len() * UNIT_WEIGHT)?;
        self.mirrors.intents.units.insert(life.node, units);
        Ok(Reply::Done)
    }

    /// Both legs are alike in these units, durably.
    pub(super) fn heal(&mut self, units: &[VolumeUnit]) -> Outcome {
        let intents = &mut self.mirrors.intents;
        if intents.torn_since.is_some() {
            // Others became torn meanwhile, perhaps the same ones again.
            return Err(OperationError::VolumeRaced);
        }
        for unit in units {
            intents.torn.remove(unit);
        }
        Ok(Reply::Done)
    }

    /// The units that `life` may be writing.
    pub fn intents(&self, life: Member) -> impl Iterator<Item = VolumeUnit> {
        let intents = &self.mirrors.intents;
        let units = intents.units.get(&life.node);
        let units = units.filter(|_| intents.is_life(life));
        units.into_iter().flatten().copied()
    }

    /// Whether `life` may be writing this unit.
    pub fn has_intent(&self, life: Member, unit: VolumeUnit) -> bool {
        let intents = &self.mirrors.intents;
        let units = intents.units.get(&life.node);
        intents.is_life(life) && units.is_some_and(|units| units.contains(&unit))
    }

    /// Whether the legs may differ in this unit: somebody may be writing it, or died while he did.
    pub fn may_differ(&self, volume: u16, unit: u32) -> bool {
        let mut intents = self.mirrors.intents.units.values();
        self.is_torn(volume, unit) || intents.any(|units| units.contains(&(volume, unit)))
    }

    /// Whether a writer died there and the legs were not compared since.
    pub fn is_torn(&self, volume: u16, unit: u32) -> bool {
        self.mirrors.intents.torn.contains(&(volume, unit))
    }

    /// Units whose legs are to be compared.
    pub fn torn(&self) -> impl Iterator<Item = VolumeUnit> {
        self.mirrors.intents.torn.iter().copied()
    }

    /// How many they are.
    pub fn torn_units(&self) -> usize {
        self.mirrors.intents.torn.len()
    }

    /// Whether every member has stopped to use what is torn.
    pub const fn torn_is_passed(&self) -> bool {
        self.mirrors.intents.torn_since.is_none()
    }
}
