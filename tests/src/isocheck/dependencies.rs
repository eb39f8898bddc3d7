//! The graph of a history: which transaction comes before which, and why.

use super::anomaly::{Level, Model};
use super::graph::{Edge, Graph, Kind};
use super::history::{History, Micro};
use super::versions::Versions;
use std::collections::HashSet;

/// Direct edges from one transaction to appends that nobody read; more add nothing that a report would show.
const DIRECT: usize = 64;

/// Builds the graph of the committed transactions.
pub(super) fn build(history: &History, versions: &Versions, model: Model) -> Graph {
    let mut builder = Builder {
        history,
        versions,
        graph: Graph::new(history.transactions.len()),
        unread: vec![Vec::new(); history.keys.len()],
        gaps: vec![None; history.keys.len()],
        following: Vec::new(),
        level: model.level,
    };
    builder.gather_unread();
    builder.orders();
    builder.reads();
    if model.real_time {
        builder.real_time();
    }
    builder.graph
}

struct Builder<'a> {
    history: &'a History,
    versions: &'a Versions,
    graph: Graph,
    /// Per key, the committed appends that no order shows.
    unread: Vec<Vec<(u32, i64)>>,
    /// Per key, the node between the last version that was read and those.
    gaps: Vec<Option<u32>>,
    /// Per key and place in its order, the first committed version there or behind it.
    following: Vec<Vec<Option<(u32, i64)>>>,
    level: Level,
}

impl Builder<'_> {
    fn committed(&self) -> impl Iterator<Item = u32> + use<'_> {
        let numbers = 0..self.history.transactions.len() as u32;
        numbers.filter(|number| self.versions.committed[*number as usize])
    }

    fn gather_unread(&mut self) {
        let orders = &self.versions.orders;
        let read: HashSet<(u32, i64)> = orders
            .iter()
            .enumerate()
            .flat_map(|(key, (order, _))| order.iter().map(move |value| (key as u32, *value)))
            .collect();
        let mut unread = std::mem::take(&mut self.unread);
        for number in self.committed() {
            for micro in &self.history.transactions[number as usize].micros {
                if let Micro::Append { key, value } = micro
                    && !read.contains(&(*key, *value))
                {
                    unread[*key as usize].push((number, *value));
                }
            }
        }
        self.unread = unread;
    }

    /// ww edges, and the way to what nobody read (ISO-2).
    fn orders(&mut self) {
        for (key, (order, _)) in self.versions.orders.iter().enumerate() {
            let key = key as u32;
            let mut following = vec![None; order.len() + 1];
            for (place, value) in order.iter().enumerate().rev() {
                let writer = self.versions.committed_writer(key, *value);
                following[place] = writer.map(|writer| (writer, *value)).or(following[place + 1]);
            }
            let mut before: Option<(u32, i64)> = None;
            for value in order {
                let Some(writer) = self.versions.committed_writer(key, *value) else {
                    continue;
                };
                if let Some((earlier, first)) = before
                    && earlier != writer
                {
                    self.edge(earlier, writer, Kind::Ww, key, Some(first), Some(*value));
                }
                before = Some((writer, *value));
            }
            self.following.push(following);
            if !self.unread[key as usize].is_empty() {
                let gap = self.graph.add_node();
                for (writer, value) in self.unread[key as usize].clone() {
                    self.edge(gap, writer, Kind::Ww, key, None, Some(value));
                }
                self.gaps[key as usize] = Some(gap);
                if let Some((writer, first)) = before {
                    self.before_unread(writer, Kind::Ww, key, Some(first));
                }
            }
        }
    }

    fn edge(&mut self, from: u32, to: u32, kind: Kind, key: u32, first: Option<i64>, second: Option<i64>) {
        let edge = Edge {
            to,
            kind,
            key,
            first,
            second,
        };
        self.graph.add(from, edge);
    }

    /// `number` comes before everything appended to `key` that nobody read; what it appended itself is no reason for that.
    fn before_unread(&mut self, number: u32, kind: Kind, key: u32, first: Option<i64>) {
        let Some(gap) = self.gaps[key as usize] else {
            return;
        };
        let unread = &self.unread[key as usize];
        if unread
            .binary_search_by_key(&number, |(writer, _)| *writer)
            .is_err()
        {
            self.edge(number, gap, kind, key, first, None);
            return;
        }
        // It read the last version and replaced it. Where updates are not lost, the others came after its own.
        let own = unread.iter().find(|(writer, _)| *writer == number);
        let (kind, first) = match own {
            Some((_, own)) if kind == Kind::Rw && self.level >= Level::SnapshotIsolation => {
                (Kind::Ww, Some(*own))
            }
            _ => (kind, first),
        };
        let others = unread.iter().filter(|(writer, _)| *writer != number).take(DIRECT);
        for (writer, value) in others.copied().collect::<Vec<_>>() {
            self.edge(number, writer, kind, key, first, Some(value));
        }
    }

    /// wr and rw edges.
    fn reads(&mut self) {
        let (history, versions) = (self.history, self.versions);
        for number in 0..history.transactions.len() as u32 {
            if !versions.committed[number as usize] {
                continue;
            }
            for micro in &history.transactions[number as usize].micros {
                let Micro::Read {
                    key,
                    list: Some(list),
                } = micro
                else {
                    continue;
                };
                let (key, last) = (*key, list.last().copied());
                if let Some(last) = last
                    && let Some(writer) = versions.committed_writer(key, last)
                    && writer != number
                {
                    self.edge(writer, number, Kind::Wr, key, Some(last), None);
                }
                if !versions.agrees(key, list) {
                    continue;
                }
                match self.following[key as usize][list.len()] {
                    Some((writer, _)) if writer == number => {}
                    Some((writer, value)) => self.edge(number, writer, Kind::Rw, key, last, Some(value)),
                    None => self.before_unread(number, Kind::Rw, key, last),
                }
            }
        }
    }

    /// The completions as a chain in which each is before the next; a transaction begins behind the last completion before it
    /// (ISO-3, ISO-4).
    fn real_time(&mut self) {
        let history = self.history;
        let ended = |number: u32| {
            history.transactions[number as usize]
                .ended
                .map(|ended| (ended, number))
        };
        let mut ends: Vec<(usize, u32)> = self.committed().filter_map(ended).collect();
        ends.sort_unstable();
        let mut chain = Vec::with_capacity(ends.len());
        for (_, number) in &ends {
            let node = self.graph.add_node();
            self.time(*number, node);
            if let Some(before) = chain.last() {
                self.time(*before, node);
            }
            chain.push(node);
        }
        let begins = |number: u32| {
            history.transactions[number as usize]
                .begun
                .map(|begun| (begun, number))
        };
        for (begun, number) in self.committed().filter_map(begins).collect::<Vec<_>>() {
            let ended = ends.partition_point(|(ended, _)| *ended < begun);
            if ended > 0 {
                self.time(chain[ended - 1], number);
            }
        }
    }

    fn time(&mut self, from: u32, to: u32) {
        self.edge(from, to, Kind::RealTime, 0, None, None);
    }
}
