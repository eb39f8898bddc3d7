//! The order of each key's versions, and the anomalies that need no cycle.

use super::anomaly::Anomaly;
use super::history::{History, Micro};
use super::verdict::{Finding, shortened};
use crate::checker::Outcome;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Who appended a value, with which of its operations, and whether that was its last append to that key.
#[derive(Clone, Copy)]
pub(super) struct Writer {
    pub(super) transaction: u32,
    place: usize,
    last: bool,
}

/// What the history says of versions.
pub(super) struct Versions {
    writers: HashMap<(u32, i64), Writer>,
    /// Per key, its longest read, and who read it.
    pub(super) orders: Vec<(Vec<i64>, u32)>,
    /// Whether each transaction is known to have committed: it was acknowledged, or a committed one saw it.
    pub(super) committed: Vec<bool>,
}

impl Versions {
    /// Takes the orders from the reads.
    pub(super) fn infer(history: &History) -> (Self, Vec<Finding>) {
        let mut versions = Self {
            writers: HashMap::new(),
            orders: vec![(Vec::new(), u32::MAX); history.keys.len()],
            committed: vec![false; history.transactions.len()],
        };
        versions.gather_writers(history);
        versions.gather_orders(history);
        let mut findings = Findings::new(history, &versions);
        for (number, committed) in versions.committed.iter().enumerate() {
            if *committed {
                findings.transaction(number as u32);
            }
        }
        findings.own_orders();
        findings.dirty_updates();
        findings.lost_updates();
        let found = findings.found;
        (versions, found)
    }

    pub(super) fn writer(&self, key: u32, value: i64) -> Option<Writer> {
        self.writers.get(&(key, value)).copied()
    }

    /// The committed transaction that appended `value`.
    pub(super) fn committed_writer(&self, key: u32, value: i64) -> Option<u32> {
        let writer = self.writer(key, value)?.transaction;
        self.committed[writer as usize].then_some(writer)
    }

    /// Whether `list` is a state that the order of `key` went through.
    pub(super) fn agrees(&self, key: u32, list: &[i64]) -> bool {
        self.orders[key as usize].0.starts_with(list)
    }

    fn gather_writers(&mut self, history: &History) {
        for (number, transaction) in history.transactions.iter().enumerate() {
            let mut seen = HashSet::new();
            for (place, micro) in transaction.micros.iter().enumerate().rev() {
                if let Micro::Append { key, value } = micro {
                    let writer = Writer {
                        transaction: number as u32,
                        place,
                        last: seen.insert(*key),
                    };
                    self.writers.insert((*key, *value), writer);
                }
            }
        }
    }

    /// The longest read of each key by a transaction that committed. Who is seen by one of those has committed, and its
    /// own reads count then.
    fn gather_orders(&mut self, history: &History) {
        let acknowledged = history.transactions.iter().enumerate();
        let mut next: Vec<u32> = acknowledged
            .filter(|(_, transaction)| transaction.outcome == Outcome::Committed)
            .map(|(number, _)| number as u32)
            .collect();
        next.reverse();
        next.iter()
            .for_each(|number| self.committed[*number as usize] = true);
        while let Some(number) = next.pop() {
            for micro in &history.transactions[number as usize].micros {
                let Micro::Read {
                    key,
                    list: Some(list),
                } = micro
                else {
                    continue;
                };
                let order = &self.orders[*key as usize].0;
                let known = order
                    .iter()
                    .zip(list)
                    .take_while(|(one, other)| one == other)
                    .count();
                for value in &list[known..] {
                    let Some(writer) = self.writers.get(&(*key, *value)) else {
                        continue;
                    };
                    let writer = writer.transaction as usize;
                    let unknown = history.transactions[writer].outcome == Outcome::Unknown;
                    if unknown && !self.committed[writer] {
                        self.committed[writer] = true;
                        next.push(writer as u32);
                    }
                }
                if list.len() > order.len() {
                    self.orders[*key as usize] = (list.clone(), number);
                }
            }
        }
    }
}

/// Looks for anomalies, transaction by transaction.
struct Findings<'a> {
    history: &'a History,
    versions: &'a Versions,
    /// Per key, the places of its order at which something is wrong, not reported yet, the last one first.
    wrong: Vec<Vec<(usize, Anomaly)>>,
    /// Values reported outside the orders.
    reported: HashSet<(u32, i64)>,
    /// Who read a version and replaced it.
    replaced: BTreeMap<(u32, usize), Vec<u32>>,
    found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    fn new(history: &'a History, versions: &'a Versions) -> Self {
        let mut findings = Self {
            history,
            versions,
            wrong: Vec::new(),
            reported: HashSet::new(),
            replaced: BTreeMap::new(),
            found: Vec::new(),
        };
        for (key, (order, _)) in versions.orders.iter().enumerate() {
            let mut wrong = findings.wrong_values(key as u32, order);
            wrong.reverse();
            findings.wrong.push(wrong);
        }
        findings
    }

    fn key(&self, key: u32) -> &'a str {
        &self.history.keys[key as usize]
    }

    fn report(&mut self, anomaly: Anomaly, transactions: Vec<u32>, words: String) {
        self.found.push(Finding::new(anomaly, transactions, vec![words]));
    }

    /// The places of `list` whose value cannot be there, whoever reads it.
    fn wrong_values(&self, key: u32, list: &[i64]) -> Vec<(usize, Anomaly)> {
        let mut seen = HashSet::with_capacity(list.len());
        let what = |value: &i64| {
            if !seen.insert(*value) {
                return Some(Anomaly::DuplicateAppend);
            }
            match self.versions.writer(key, *value) {
                None => Some(Anomaly::GarbageRead),
                Some(writer) => {
                    let outcome = self.history.transactions[writer.transaction as usize].outcome;
                    (outcome == Outcome::Aborted).then_some(Anomaly::AbortedRead)
                }
            }
        };
        let each = list.iter().map(what).enumerate();
        each.filter_map(|(place, what)| Some((place, what?))).collect()
    }

    fn transaction(&mut self, number: u32) {
        let history = self.history;
        let mut known: HashMap<u32, Known<'a>> = HashMap::new();
        for micro in &history.transactions[number as usize].micros {
            let key = *micro.key();
            match micro {
                Micro::Append { value, .. } => {
                    let known = known.entry(key).or_default();
                    if known.own.is_empty()
                        && let Some(read) = known.read
                        && self.versions.agrees(key, read)
                    {
                        self.replaced.entry((key, read.len())).or_default().push(number);
                    }
                    known.own.push(*value);
                    known.ever.push(*value);
                }
                Micro::Read { list: Some(list), .. } => {
                    self.read(number, key, list);
                    let known = known.entry(key).or_default();
                    self.inside(number, key, list, known);
                    known.read = Some(list);
                    known.own.clear();
                }
                Micro::Read { .. } => {}
            }
        }
    }

    /// What is wrong with a read, whatever else its transaction did.
    fn read(&mut self, number: u32, key: u32, list: &'a [i64]) {
        if self.versions.agrees(key, list) {
            while let Some((place, anomaly)) = self.wrong[key as usize].last().copied()
                && place < list.len()
            {
                self.wrong[key as usize].pop();
                self.wrong_value(number, key, list[place], anomaly);
            }
        } else {
            for (place, anomaly) in self.wrong_values(key, list) {
                if self.reported.insert((key, list[place])) {
                    self.wrong_value(number, key, list[place], anomaly);
                }
            }
            let (order, reader) = &self.versions.orders[key as usize];
            let same = list
                .iter()
                .zip(order)
                .take_while(|(one, other)| one == other)
                .count();
            let words = format!(
                "{} read {} as {}, and {} read it as {}: they differ from place {} on",
                name(number),
                self.key(key),
                shortened(&list[..list.len().min(same + 3)]),
                name(*reader),
                shortened(&order[..order.len().min(same + 3)]),
                same + 1,
            );
            self.report(Anomaly::IncompatibleOrder, vec![number, *reader], words);
        }
        let Some(value) = list.last() else { return };
        if let Some(writer) = self.versions.writer(key, *value)
            && !writer.last
            && writer.transaction != number
        {
            let words = format!(
                "{} read {} as {}, and {value} is not the last that {} appended to it",
                name(number),
                self.key(key),
                shortened(list),
                name(writer.transaction),
            );
            self.report(Anomaly::IntermediateRead, vec![number, writer.transaction], words);
        }
    }

    fn wrong_value(&mut self, number: u32, key: u32, value: i64, anomaly: Anomaly) {
        let mut transactions = vec![number];
        let about = match (anomaly, self.versions.writer(key, value)) {
            (Anomaly::AbortedRead, Some(writer)) => {
                transactions.push(writer.transaction);
                format!("that {} appended, which was refused", name(writer.transaction))
            }
            (Anomaly::DuplicateAppend, _) => "twice".to_owned(),
            _ => "that nobody appended".to_owned(),
        };
        let words = format!(
            "{} read {} with {value} in it {about}",
            name(number),
            self.key(key)
        );
        self.report(anomaly, transactions, words);
    }

    /// Whether a read agrees with what its own transaction did to the key before.
    fn inside(&mut self, number: u32, key: u32, list: &[i64], known: &Known<'_>) {
        let others = list.len().saturating_sub(known.own.len());
        let own = |value: &i64| {
            let writer = self.versions.writer(key, *value);
            writer.is_some_and(|writer| writer.transaction == number) && !known.ever.contains(value)
        };
        let anomaly = match known.read {
            _ if !list.ends_with(&known.own) => Anomaly::Internal,
            // Its own append of later on.
            _ if list[..others].last().is_some_and(own) => Anomaly::Internal,
            Some(read) if list[..others] != *read => Anomaly::NonRepeatableRead,
            _ => return,
        };
        let mut before = Vec::new();
        if let Some(read) = known.read {
            before.push(format!("read it as {}", shortened(read)));
        }
        if !known.own.is_empty() {
            before.push(format!("appended {}", shortened(&known.own)));
        }
        if before.is_empty() {
            before.push("not appended to it".to_owned());
        }
        let words = format!(
            "{} read {} as {}, after it had {}",
            name(number),
            self.key(key),
            shortened(list),
            before.join(" and "),
        );
        self.report(anomaly, vec![number], words);
    }

    /// Values of one transaction beside each other stand in the order in which it appended them; others between them make a cycle.
    fn own_orders(&mut self) {
        let versions = self.versions;
        for (key, (order, reader)) in versions.orders.iter().enumerate() {
            let key = key as u32;
            for pair in order.windows(2) {
                let writers = (versions.writer(key, pair[0]), versions.writer(key, pair[1]));
                let (Some(first), Some(second)) = writers else {
                    continue;
                };
                if first.transaction != second.transaction || first.place <= second.place {
                    continue;
                }
                let words = format!(
                    "{} read {} with {} before {}, which {} appended in the other order",
                    name(*reader),
                    self.key(key),
                    pair[0],
                    pair[1],
                    name(first.transaction),
                );
                self.report(
                    Anomaly::IncompatibleOrder,
                    vec![*reader, first.transaction],
                    words,
                );
            }
        }
    }

    fn dirty_updates(&mut self) {
        let (history, versions) = (self.history, self.versions);
        for (key, (order, _)) in versions.orders.iter().enumerate() {
            let key = key as u32;
            let mut refused = None;
            for value in order {
                let Some(writer) = versions.writer(key, *value) else {
                    continue;
                };
                let writer = writer.transaction;
                if history.transactions[writer as usize].outcome == Outcome::Aborted {
                    refused = Some((writer, *value));
                } else if let Some((before, dirty)) = refused.take() {
                    let words = format!(
                        "{} appended {value} to {} on top of {dirty}, which {} had appended and which was refused",
                        name(writer),
                        self.key(key),
                        name(before),
                    );
                    self.report(Anomaly::DirtyUpdate, vec![writer, before], words);
                }
            }
        }
    }

    fn lost_updates(&mut self) {
        for ((key, length), transactions) in std::mem::take(&mut self.replaced) {
            if transactions.len() < 2 {
                continue;
            }
            let version = shortened(&self.versions.orders[key as usize].0[..length]);
            let names: Vec<String> = transactions.iter().map(|number| name(*number)).collect();
            let words = format!(
                "{} all read {} as {version} and then appended to it",
                names.join(", "),
                self.key(key)
            );
            self.report(Anomaly::LostUpdate, transactions, words);
        }
    }
}

/// What a transaction knows of a key: its last read of it, what it has appended since, and ever.
#[derive(Default)]
struct Known<'a> {
    read: Option<&'a [i64]>,
    own: Vec<i64>,
    ever: Vec<i64>,
}

/// What a report calls a transaction.
pub(super) fn name(number: u32) -> String {
    format!("T{}", number + 1)
}
