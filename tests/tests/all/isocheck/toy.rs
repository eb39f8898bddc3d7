//! A database in memory with many versions, driven by a few clients in a drawn interleaving: it makes histories whose
//! isolation level is known, and breaks it on purpose.

use aquifer_tests::isocheck::{Event, Kind, Micro};
use aquifer_tests::sim::Random;
use std::collections::BTreeMap;

/// What is wrong with the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing: snapshot isolation, the first who commits wins, no stale reads.
    Nothing,
    /// Nothing, and who has read what was replaced meanwhile is refused too: strict serializability.
    Serializable,
    /// An update of what was replaced meanwhile commits on top of it.
    LostUpdate,
    /// A refused transaction is applied.
    DirtyAbort,
    /// The first append is applied before the others.
    Intermediate,
    /// A snapshot is some commits old.
    StaleSnapshot,
    /// A commit is acknowledged and thrown away.
    LostCommit,
    /// Every read takes a snapshot of its own.
    ReadCommitted,
    /// Some keys are read in an older snapshot than others.
    TornSnapshot,
    /// An append is applied twice.
    Twice,
    /// A commit leaves out its last key.
    HalfCommit,
}

/// Appends to one key before another takes its place.
const LONGEST: usize = 24;

struct Open {
    micros: Vec<Micro>,
    done: usize,
    snapshot: usize,
    broken: bool,
    /// Lists of the keys appended to, and how many values of each are own.
    writes: BTreeMap<String, (Vec<i64>, usize)>,
    reads: Vec<String>,
}

/// The database and its clients.
pub struct Toy {
    fault: Fault,
    random: Random,
    clock: usize,
    versions: BTreeMap<String, Vec<(usize, Vec<i64>)>>,
    /// The keys in use, each with its number of appends.
    keys: Vec<(u64, usize)>,
    next_key: u64,
    next_value: i64,
    open: Vec<Option<Open>>,
    events: Vec<Event>,
}

/// A history of so many transactions.
pub fn generate(seed: u64, transactions: usize, fault: Fault) -> Vec<Event> {
    let mut toy = Toy {
        fault,
        random: Random::fork(seed, "toy"),
        clock: 0,
        versions: BTreeMap::new(),
        keys: (0..4).map(|key| (key, 0)).collect(),
        next_key: 4,
        next_value: 0,
        open: (0..6).map(|_| None).collect(),
        events: Vec::new(),
    };
    let mut begun = 0;
    while begun < transactions || toy.open.iter().any(Option::is_some) {
        let process = toy.random.below(6) as usize;
        match toy.open[process].take() {
            Some(open) => toy.go_on(process, open),
            None if begun < transactions => {
                begun += 1;
                toy.begin(process);
            }
            None => {}
        }
    }
    toy.events
}

impl Toy {
    fn event(&mut self, process: usize, kind: Kind, micros: Vec<Micro>) {
        self.events.push(Event {
            process: process as i64,
            kind,
            time: None,
            micros,
            line: self.events.len() + 1,
        });
    }

    fn begin(&mut self, process: usize) {
        let micros: Vec<Micro> = (0..self.random.between(1, 4)).map(|_| self.draw()).collect();
        self.event(process, Kind::Invoke, micros.clone());
        let broken = self.random.chance(100_000);
        let old = if broken && self.fault == Fault::StaleSnapshot {
            5
        } else {
            0
        };
        self.open[process] = Some(Open {
            micros,
            done: 0,
            snapshot: self.clock.saturating_sub(old),
            broken,
            writes: BTreeMap::new(),
            reads: Vec::new(),
        });
    }

    fn draw(&mut self) -> Micro {
        let place = self.random.below(self.keys.len() as u64) as usize;
        let key = self.keys[place].0.to_string();
        if self.random.chance(500_000) {
            return Micro::Read { key, list: None };
        }
        self.keys[place].1 += 1;
        if self.keys[place].1 == LONGEST {
            self.keys[place] = (self.next_key, 0);
            self.next_key += 1;
        }
        self.next_value += 1;
        Micro::Append {
            key,
            value: self.next_value,
        }
    }

    fn state(&self, key: &str, snapshot: usize) -> Vec<i64> {
        let versions = self.versions.get(key).map(Vec::as_slice).unwrap_or_default();
        let seen = versions.iter().rev().find(|(clock, _)| *clock <= snapshot);
        seen.map(|(_, list)| list.clone()).unwrap_or_default()
    }

    fn newest(&self, key: &str) -> usize {
        let versions = self.versions.get(key).and_then(|versions| versions.last());
        versions.map_or(0, |(clock, _)| *clock)
    }

    fn go_on(&mut self, process: usize, mut open: Open) {
        if open.done == open.micros.len() {
            return self.finish(process, open);
        }
        let mut micro = open.micros[open.done].clone();
        let key = micro.key().clone();
        let reads = matches!(micro, Micro::Read { .. });
        let torn = reads && open.broken && self.fault == Fault::TornSnapshot && open.done % 2 == 1;
        if self.fault == Fault::ReadCommitted {
            open.snapshot = self.clock;
        }
        let snapshot = open.snapshot.saturating_sub(if torn { 6 } else { 0 });
        let state = match open.writes.get(&key) {
            Some((list, _)) => list.clone(),
            None => self.state(&key, snapshot),
        };
        match &mut micro {
            Micro::Read { list, .. } => {
                *list = Some(state);
                open.reads.push(key);
            }
            Micro::Append { value, .. } => {
                let entry = open.writes.entry(key.clone()).or_insert((state, 0));
                entry.0.push(*value);
                entry.1 += 1;
                if open.broken && self.fault == Fault::Intermediate && entry.1 == 1 {
                    let list = entry.0.clone();
                    self.clock += 1;
                    self.versions.entry(key).or_default().push((self.clock, list));
                    open.snapshot = self.clock;
                }
            }
        }
        open.micros[open.done] = micro;
        open.done += 1;
        self.open[process] = Some(open);
    }

    fn finish(&mut self, process: usize, open: Open) {
        let conflict = open.writes.keys().any(|key| self.newest(key) > open.snapshot)
            || self.fault == Fault::Serializable
                && open.reads.iter().any(|key| self.newest(key) > open.snapshot);
        let merged = conflict && self.fault == Fault::LostUpdate;
        let dirty = open.broken && self.fault == Fault::DirtyAbort;
        let refused = conflict && !merged || dirty || self.random.chance(50_000);
        if refused {
            if dirty && !conflict {
                self.apply(&open);
            }
            return self.event(process, Kind::Fail, open.micros);
        }
        let unknown = self.random.chance(50_000);
        let thrown_away = open.broken && self.fault == Fault::LostCommit;
        let applied = if unknown {
            self.random.chance(500_000)
        } else {
            !thrown_away
        };
        if applied {
            self.apply(&open);
        }
        if !unknown {
            return self.event(process, Kind::Ok, open.micros);
        }
        // Nobody knows what it has read.
        let forget = |micro| match micro {
            Micro::Read { key, .. } => Micro::Read { key, list: None },
            append => append,
        };
        let micros = open.micros.into_iter().map(forget).collect();
        self.event(process, Kind::Info, micros);
    }

    fn apply(&mut self, open: &Open) {
        self.clock += 1;
        let mut left = open.writes.len();
        for (key, (list, own)) in &open.writes {
            left -= 1;
            if open.broken && self.fault == Fault::HalfCommit && left == 0 && open.writes.len() > 1 {
                return;
            }
            let mut list = list.clone();
            if self.newest(key) > open.snapshot {
                let mut merged = self.state(key, self.clock);
                merged.extend(&list[list.len() - own..]);
                list = merged;
            }
            if open.broken && self.fault == Fault::Twice {
                list.push(list[list.len() - 1]);
            }
            let versions = self.versions.entry(key.clone()).or_default();
            versions.push((self.clock, list));
        }
    }
}
