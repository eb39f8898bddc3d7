//! The volume group in figures: the same whether a node answers or the device is read without one.

use aquifer_dss_proto::catalog::{Catalog, Node, Volume, VolumeState};
use aquifer_dss_proto::label::Label;
use serde::{Deserialize, Serialize};

/// Of all units of the group, in percent: from here on `vg status` and the log warn.
const LOW_SPACE_PERCENT: u64 = 80;
/// ... and from here on the group counts as degraded.
const NO_SPACE_PERCENT: u64 = 95;

/// One volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// Its id.
    pub id: u16,
    /// Its UUID.
    pub uuid: String,
    /// Its device, as the node saw it that added it; empty for the device that every node is told of.
    pub path: String,
    /// "joining", "active" or "draining".
    pub state: String,
    /// Volumes of one failure group fail together.
    pub failure_group: u8,
    /// Bytes for files.
    pub size_bytes: u64,
    /// Bytes that files have, or that wait for the members.
    pub used_bytes: u64,
    /// Bytes that nobody has.
    pub free_bytes: u64,
    /// Why the answering node cannot use it.
    #[serde(default)]
    pub missing: Option<String>,
    /// The two sides of a mirrored volume.
    #[serde(default)]
    pub legs: Vec<LegReport>,
}

/// One side of a mirrored volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegReport {
    /// 0 or 1.
    pub leg: u8,
    /// Its UUID.
    pub uuid: String,
    /// Its device.
    pub path: String,
    /// Sides of different failure groups do not fail together.
    pub failure_group: u8,
    /// "current", "resyncing" or "out". Of volume 0 it is current when its metadata counts too.
    pub state: String,
    /// Bytes that it lacks.
    pub left_bytes: u64,
    /// Bytes that the answering node copied to it, as the storage leader.
    pub copied_bytes: u64,
    /// Of the last seconds; 0 when another node leads.
    pub bytes_per_second: u64,
    /// At that rate.
    pub seconds_left: Option<u64>,
    /// Why it does not go on, or the answering node cannot use it.
    #[serde(default)]
    pub problem: Option<String>,
}

/// Units that move from volumes that are drained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveReport {
    /// Bytes that are still there.
    pub left_bytes: u64,
    /// Bytes that the answering node moved, as the storage leader.
    pub moved_bytes: u64,
    /// Of the last seconds; 0 when another node leads.
    pub bytes_per_second: u64,
    /// At that rate.
    pub seconds_left: Option<u64>,
    /// Why it does not go on.
    #[serde(default)]
    pub problem: Option<String>,
}

/// What a node did since it started for bytes that were wrong on one side, and for space that nobody uses any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpkeepReport {
    /// Which node; the storage leader, when that answers.
    pub node: u8,
    /// Reads that found something wrong on one side of a mirrored volume and right on the other.
    pub wrong_reads: u64,
    /// Bytes that it wrote again on the side that had them wrong, as the storage leader.
    pub mended_bytes: u64,
    /// Bytes that it discarded, as the storage leader.
    pub discarded_bytes: u64,
    /// Discards that a device refused.
    pub discards_refused: u64,
}

/// A volume group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Allocation unit.
    pub au_bytes: u64,
    /// Page.
    pub page_bytes: u32,
    /// Slots of the directory.
    pub home_slots: u32,
    /// Bytes for files on all volumes.
    pub size_bytes: u64,
    /// Bytes that belong to files, or wait for the members.
    pub used_bytes: u64,
    /// Bytes that are free for files.
    pub free_bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Who protects the data against the loss of a device.
    pub redundancy: String,
    /// The sides of volume 0 whose metadata counts; none when nobody runs who knows.
    #[serde(default)]
    pub metadata_sides: Vec<u8>,
    /// "ok", "low" from 80 % on, "full" from 95 % on.
    pub space: String,
    /// Units that move, when a volume is drained.
    #[serde(default)]
    pub moving: Option<MoveReport>,
    /// Of the node that answers; nothing when none does.
    #[serde(default)]
    pub upkeep: Option<UpkeepReport>,
    /// The volumes, without those that were removed.
    pub volumes: Vec<VolumeReport>,
}

const fn state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Joining { .. } => "joining",
        VolumeState::Active => "active",
        VolumeState::Draining => "draining",
        VolumeState::Removed => "removed",
    }
}

/// The sides of a mirrored volume, as the catalogue has them.
fn legs(catalog: &Catalog, id: u16, volume: &Volume) -> Vec<LegReport> {
    let Some(mirror) = catalog.mirror(id) else {
        return Vec::new();
    };
    let leg = |leg: u8| {
        let (uuid, path) = volume.leg(leg)?;
        let is_stale = mirror.stale() == Some(leg);
        let twin_group = volume.twin.as_ref().map_or(0, |twin| twin.failure_group);
        let state = match (is_stale, mirror.out() == Some(leg)) {
            (false, _) => "current",
            (true, true) => "out",
            (true, false) => "resyncing",
        };
        Some(LegReport {
            leg,
            uuid: uuid.to_string(),
            path: path.to_owned(),
            failure_group: if leg == 0 {
                volume.failure_group
            } else {
                twin_group
            },
            state: state.into(),
            left_bytes: if is_stale {
                mirror.dirty().units() * catalog.au_bytes()
            } else {
                0
            },
            ..LegReport::default()
        })
    };
    volume.legs().filter_map(leg).collect()
}

impl GroupReport {
    /// What the catalogue says.
    pub fn of(label: &Label, catalog: &Catalog) -> Self {
        let au_bytes = catalog.au_bytes();
        let volumes = catalog.volumes().filter(|(_, volume)| volume.exists());
        let volumes: Vec<_> = volumes
            .map(|(id, volume)| {
                let (units, free) = catalog.units_of(id);
                VolumeReport {
                    id,
                    uuid: volume.uuid.to_string(),
                    path: volume.path.clone(),
                    state: state(volume.state).into(),
                    failure_group: volume.failure_group,
                    size_bytes: u64::from(units) * au_bytes,
                    used_bytes: u64::from(units - free) * au_bytes,
                    free_bytes: u64::from(free) * au_bytes,
                    missing: None,
                    legs: legs(catalog, id, volume),
                }
            })
            .collect();
        let size_bytes: u64 = volumes.iter().map(|volume| volume.size_bytes).sum();
        let used_bytes: u64 = volumes.iter().map(|volume| volume.used_bytes).sum();
        Self {
            name: label.name.clone(),
            uuid: label.group.to_string(),
            au_bytes,
            page_bytes: label.page_bytes,
            home_slots: label.home_slots,
            size_bytes,
            used_bytes,
            free_bytes: catalog.free_units() * au_bytes,
            files: catalog
                .inodes()
                .filter(|(id, inode)| matches!(inode.node, Node::File { .. }) && !inode.is_removed(*id))
                .count() as u64,
            redundancy: if catalog.is_mirrored() {
                "mirror"
            } else {
                "external"
            }
            .into(),
            metadata_sides: Vec::new(),
            space: space(size_bytes, used_bytes).into(),
            moving: None,
            upkeep: None,
            volumes,
        }
    }

    /// Why the group is not as it should be.
    pub fn degraded(&self) -> Option<String> {
        let missing = self.volumes.iter().find(|volume| volume.missing.is_some());
        if let Some(volume) = missing {
            let reason = volume.missing.as_deref().unwrap_or_default();
            return Some(format!(
                "volume {} ({}) cannot be used: {reason}",
                volume.id, volume.path
            ));
        }
        let mut sides = self
            .volumes
            .iter()
            .flat_map(|volume| volume.legs.iter().map(move |leg| (volume.id, leg)));
        if let Some((id, leg)) = sides.find(|(_, leg)| leg.state != "current" || leg.problem.is_some()) {
            let reason = leg.problem.clone().unwrap_or_else(|| leg.state.clone());
            return Some(format!(
                "side {} of volume {id} ({}): {reason}",
                leg.leg, leg.path
            ));
        }
        if let Some(problem) = self.moving.as_ref().and_then(|moving| moving.problem.as_ref()) {
            return Some(format!("a volume cannot be drained: {problem}"));
        }
        (self.space == "full").then(|| format!("more than {NO_SPACE_PERCENT} % of the space is used"))
    }
}

fn space(size: u64, used: u64) -> &'static str {
    match u128::from(used) * 100 / u128::from(size.max(1)) {
        percent if percent >= u128::from(NO_SPACE_PERCENT) => "full",
        percent if percent >= u128::from(LOW_SPACE_PERCENT) => "low",
        _ => "ok",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_are_at_80_and_95_percent() {
        let levels = [
            (1000, 799),
            (1000, 800),
            (1000, 949),
            (1000, 950),
            (u64::MAX, u64::MAX),
        ];
        let found = levels.map(|(size, used)| space(size, used));
        assert_eq!(found, ["ok", "low", "low", "full", "full"]);
    }
}
