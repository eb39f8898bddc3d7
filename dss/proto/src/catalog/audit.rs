//! Whether a catalogue agrees with itself. What holds by construction is computed again here from what the files say:
//! a checker that trusted the counters would find nothing.

use super::{Catalog, Extent, FreeMap, Node, Removed, extents};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Faults of one kind that are named; the rest is counted.
const NAMED: usize = 16;

/// Where the units of a group are. They add up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnitBalance {
    /// Units of all volumes.
    pub total: u64,
    /// Nobody's.
    pub free: u64,
    /// Of files that have a name.
    pub files: u64,
    /// Removed or cut off, until every member let go of them.
    pub limbo: u64,
    /// Set aside for lives of nodes.
    pub reserved: u64,
    /// Of moves, beside those that a file has.
    pub moving: u64,
}

impl UnitBalance {
    /// Units of which it is known whose they are.
    pub const fn accounted(&self) -> u64 {
        self.free + self.files + self.limbo + self.reserved + self.moving
    }
}

/// Whose units are looked at.
#[derive(Clone, Copy)]
enum Owner {
    File(u64),
    Limbo(u64),
    Reservation(u64),
    Move(u64),
}

impl core::fmt::Display for Owner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::File(id) => write!(f, "file {id}"),
            Self::Limbo(number) => write!(f, "entry {number} of limbo"),
            Self::Reservation(number) => write!(f, "reservation {number}"),
            Self::Move(number) => write!(f, "move {number}"),
        }
    }
}

impl Catalog {
    /// Where all units are, or everything that contradicts something else.
    pub fn audit(&self) -> Result<UnitBalance, Vec<String>> {
        let mut faults = Vec::new();
        let (owned, mut balance) = self.owned();
        self.audit_units(owned, &mut faults);
        self.audit_names(&mut faults);
        balance.total = self.volumes.iter().map(|map| u64::from(map.units())).sum();
        balance.free = self.volumes.iter().map(|map| u64::from(map.free())).sum();
        if balance.accounted() != balance.total {
            let (total, known) = (balance.total, balance.accounted());
            faults.push(format!(
                "there are {total} units, and free, owned and waiting ones are {known}"
            ));
        }
        if self.check_limbo().is_none() {
            faults.push("limbo and the files without a name disagree".into());
        }
        if self.check_claims().is_none() {
            faults.push("claims are of files or nodes that are not there".into());
        }
        if self.check_mirrors().is_none() {
            faults.push("what is said of mirrored volumes cannot be".into());
        }
        if self.weight != self.weigh() {
            faults.push(format!(
                "the room that is used is counted as {} bytes and is {}",
                self.weight,
                self.weigh()
            ));
        }
        if faults.is_empty() {
            Ok(balance)
        } else {
            Err(faults)
        }
    }

    /// Every run that is somebody's.
    fn owned(&self) -> (Vec<(Extent, Owner)>, UnitBalance) {
        let (mut owned, mut balance) = (Vec::new(), UnitBalance::default());
        let mut take = |runs: &[Extent], owner: Owner| {
            owned.extend(runs.iter().map(|run| (*run, owner)));
            extents::units(runs)
        };
        for (id, inode) in self.inodes.iter() {
            if let Node::File { extents, .. } = &inode.node {
                let units = take(extents, Owner::File(id.0));
                if inode.is_removed(id) {
                    balance.limbo += units;
                } else {
                    balance.files += units;
                }
            }
        }
        for limbo in self.limbo.values() {
            if let Removed::Units(runs) = &limbo.what {
                balance.limbo += take(runs, Owner::Limbo(limbo.number));
            }
        }
        for (number, reservation) in &self.claims.reservations {
            balance.reserved += take(&reservation.extents, Owner::Reservation(*number));
        }
        for unit in &self.moves {
            balance.moving += take(&[unit.spare()], Owner::Move(unit.number));
        }
        (owned, balance)
    }

    /// Every run is inside its volume and nobody else's, and the free maps have exactly the rest.
    fn audit_units(&self, mut owned: Vec<(Extent, Owner)>, faults: &mut Vec<String>) {
        owned.sort_by_key(|(run, _)| (run.volume, run.start));
        let end = |run: &Extent| u64::from(run.start) + u64::from(run.count);
        let shared = owned.windows(2).filter(|pair| {
            let (one, other) = (&pair[0].0, &pair[1].0);
            one.volume == other.volume && end(one) > u64::from(other.start)
        });
        name(faults, shared, |pair| {
            let (place, one, other) = (pair[1].0, pair[0].1, pair[1].1);
            format!(
                "unit {} of volume {} belongs to {one} and to {other}",
                place.start, place.volume
            )
        });
        let outside = owned.iter().filter(|(run, _)| {
            let units = u64::from(self.units_of(run.volume).0);
            run.count == 0 || end(run) > units
        });
        name(faults, outside, |(run, owner)| {
            format!("{owner} has units that volume {} has not", run.volume)
        });
        for (volume, map) in self.volumes.iter().enumerate() {
            let mut expected = FreeMap::new(map.units(), map.cursor());
            let of_volume = owned.iter().filter(|(run, _)| usize::from(run.volume) == volume);
            let mut all_taken = true;
            for (run, _) in of_volume {
                all_taken &= expected.take(run.start, run.count);
            }
            if all_taken && expected != *map {
                faults.push(format!(
                    "volume {volume} has {} free units by its map and {} by what is owned",
                    map.free(),
                    expected.free()
                ));
            }
        }
    }

    /// Every entry of a directory names an inode that names it, and the other way round.
    fn audit_names(&self, faults: &mut Vec<String>) {
        let directories = self.inodes.iter().filter(|(_, inode)| inode.node.is_directory());
        let entries = directories.flat_map(|(directory, _)| {
            let entries = self.names.of(directory).into_iter().flatten();
            entries.map(move |(name, id)| (directory, name, *id))
        });
        let lost = entries.filter(|(directory, name, id)| {
            let named = self.inodes.get(id).map(|inode| inode.names.iter());
            let says_so = named.is_some_and(|mut names| {
                names.any(|entry| entry.directory == *directory && *entry.name == ***name)
            });
            // By hash too, as look-ups find it.
            let found = self.names.find(*directory, name).map(|(found, _)| found);
            !says_so || found != Some(*id)
        });
        name(faults, lost, |(directory, name, id)| {
            format!(
                "'{name}' in directory {} names {}, which does not say so",
                directory.0, id.0
            )
        });
        let names = self
            .inodes
            .iter()
            .flat_map(|(id, inode)| inode.names.iter().map(move |entry| (id, entry)));
        let orphans = names.filter(|(id, entry)| {
            let entries = self.names.of(entry.directory);
            entries.and_then(|entries| entries.get(&*entry.name)) != Some(id)
        });
        name(faults, orphans, |(id, entry)| {
            format!(
                "{} has the name '{}' in directory {}, which does not say so",
                id.0, entry.name, entry.directory.0
            )
        });
    }
}

/// Names some of the faults and counts the others.
fn name<T>(faults: &mut Vec<String>, found: impl Iterator<Item = T>, text: impl Fn(T) -> String) {
    let mut more = 0usize;
    for (number, fault) in found.enumerate() {
        if number < NAMED {
            faults.push(text(fault));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        faults.push(format!("... and {more} more of that kind"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileId;
    use crate::catalog::{FileKind, Operation, Record};

    fn catalog() -> (Catalog, FileId) {
        let mut catalog = Catalog::new(4096, &[16, 16], 1 << 20);
        let create = Operation::Create {
            path: "/a/b".into(),
            size: 3 * 4096,
            kind: FileKind::Tree,
            exclusive: true,
        };
        let made = catalog.apply(
            1,
            &Record {
                origin: None,
                operation: create,
            },
        );
        assert!(made.is_ok());
        let file = catalog.lookup("/a/b").unwrap();
        (catalog, file)
    }

    fn extents_of(catalog: &mut Catalog, file: FileId) -> &mut Vec<Extent> {
        match &mut catalog.inodes.get_mut(&file).unwrap().node {
            Node::File { extents, .. } => extents,
            _ => panic!("it is a file"),
        }
    }

    #[test]
    fn units_add_up_in_a_sound_catalogue() {
        let (catalog, _) = catalog();
        let balance = catalog.audit().unwrap();
        assert_eq!((balance.total, balance.files, balance.free), (32, 3, 29));
    }

    #[test]
    fn each_contradiction_is_named() {
        let says = |catalog: &Catalog, wanted: &str| {
            let faults = catalog.audit().unwrap_err();
            assert!(faults.iter().any(|fault| fault.contains(wanted)), "{faults:?}");
        };
        let (mut leaked, file) = catalog();
        extents_of(&mut leaked, file).clear();
        says(&leaked, "13 free units by its map and 16");
        says(&leaked, "there are 32 units");

        let (mut shared, file) = catalog();
        let run = extents_of(&mut shared, file)[0];
        let twice = Extent { unit: 3, ..run };
        extents_of(&mut shared, file).push(twice);
        says(&shared, "belongs to file 3 and to file 3");

        let (mut outside, file) = catalog();
        extents_of(&mut outside, file)[0].start = 1000;
        says(&outside, "has units that volume 0 has not");

        let (mut nameless, file) = catalog();
        nameless.inodes.get_mut(&file).unwrap().names[0].name = "c".into();
        says(&nameless, "'b' in directory 2 names 3");
        says(&nameless, "has the name 'c'");

        let (mut counted, _) = catalog();
        counted.weight += 1;
        says(&counted, "the room that is used");
    }
}
