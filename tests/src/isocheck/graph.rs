//! A directed graph with kinds of edges: its components (Tarjan), and shortest ways inside one of them.

use std::collections::VecDeque;

/// Why one transaction comes before another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(super) enum Kind {
    /// Both appended to a key, the second one after the first.
    Ww,
    /// The second read what the first had appended.
    Wr,
    /// The first read a key before the second appended to it.
    Rw,
    /// The first had ended before the second began.
    RealTime,
}

/// A set of kinds.
#[derive(Clone, Copy)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub(super) const fn of(kinds: &[Kind]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < kinds.len() {
            bits |= 1 << kinds[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    pub(super) const fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    const fn has(self, kind: Kind) -> bool {
        self.0 >> kind as u8 & 1 == 1
    }
}

/// An edge from one node to another, and what shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) to: u32,
    pub(super) kind: Kind,
    /// The key it is about; not for real time.
    pub(super) key: u32,
    /// ww, wr: the value of the first; rw: the last value that was read, if any.
    pub(super) first: Option<i64>,
    /// ww, rw: the value of the second.
    pub(super) second: Option<i64>,
}

/// Transactions first, then auxiliary nodes, which stand for a place between transactions.
#[derive(Default)]
pub(super) struct Graph {
    edges: Vec<Vec<Edge>>,
    transactions: usize,
}

impl Graph {
    pub(super) fn new(transactions: usize) -> Self {
        Self {
            edges: vec![Vec::new(); transactions],
            transactions,
        }
    }

    pub(super) fn add_node(&mut self) -> u32 {
        self.edges.push(Vec::new());
        self.edges.len() as u32 - 1
    }

    pub(super) fn add(&mut self, from: u32, edge: Edge) {
        self.edges[from as usize].push(edge);
    }

    pub(super) const fn is_auxiliary(&self, node: u32) -> bool {
        node as usize >= self.transactions
    }

    pub(super) fn edges(&self, node: u32) -> &[Edge] {
        &self.edges[node as usize]
    }

    pub(super) fn nodes(&self) -> usize {
        self.edges.len()
    }
}

/// Which ways are gone: edges of some kinds, and, if asked for, never two anti-dependencies one after the other.
///
/// A way is at a *state*: a node, and whether it was reached by an anti-dependency, which only matters when ways alternate.
#[derive(Clone, Copy)]
pub(super) struct Ways<'a> {
    pub(super) graph: &'a Graph,
    pub(super) kinds: Kinds,
    pub(super) alternating: bool,
    /// Only between nodes of one component.
    pub(super) inside: &'a [u32],
}

/// A node, and how it was reached.
pub(super) type State = u32;

/// Nodes in no component of more than one.
pub(super) const ALONE: u32 = u32::MAX;

impl<'a> Ways<'a> {
    /// The state at `node`.
    pub(super) const fn state(node: u32, by_rw: bool) -> State {
        node * 2 + by_rw as u32
    }

    /// The state behind `edge`.
    fn after(&self, from: State, edge: &Edge) -> Option<State> {
        let node = from / 2;
        if !self.kinds.has(edge.kind) || self.inside[node as usize] != self.inside[edge.to as usize] {
            return None;
        }
        if !self.alternating {
            return Some(Self::state(edge.to, false));
        }
        let by_rw = from % 2 == 1;
        if self.graph.is_auxiliary(node) {
            // The second half of an edge whose first half said what it is.
            return Some(Self::state(edge.to, by_rw));
        }
        match edge.kind {
            Kind::Rw if by_rw => None,
            kind => Some(Self::state(edge.to, kind == Kind::Rw)),
        }
    }

    /// The components of more than one state, as a number per state; the others are [`ALONE`]. Tarjan, without recursion.
    pub(super) fn components(&self) -> Vec<u32> {
        Tarjan::new(self).run()
    }

    /// A shortest way from one state to another, counted in transactions, as edges with their beginnings. `budget` counts down
    /// with every edge looked at; without any left there is no way.
    pub(super) fn shortest(
        &self,
        search: &mut Search,
        from: State,
        to: State,
        budget: &mut usize,
    ) -> Option<Vec<(u32, Edge)>> {
        search.begin(self.graph.nodes() * 2);
        search.reach(from, None);
        search.queue.push_back(from);
        while let Some(state) = search.queue.pop_front() {
            if state == to {
                return Some(search.way(to));
            }
            if !search.settle(state) {
                continue;
            }
            for (index, edge) in self.graph.edges(state / 2).iter().enumerate() {
                *budget = budget.checked_sub(1)?;
                let Some(next) = self.after(state, edge) else {
                    continue;
                };
                let short = self.graph.is_auxiliary(edge.to);
                if search.is_settled(next) || (search.is_reached(next) && !short) {
                    continue;
                }
                if search.is_reached(next) && search.distance(next) <= search.distance(state) {
                    continue;
                }
                search.reach(next, Some((state, index as u32, *edge, !short)));
                if short {
                    search.queue.push_front(next);
                } else {
                    search.queue.push_back(next);
                }
            }
        }
        None
    }
}

/// What a search needs, kept from one to the next.
#[derive(Default)]
pub(super) struct Search {
    round: u32,
    /// Per state: the round in which it was reached, whether it is settled, its distance.
    seen: Vec<(u32, bool, u32)>,
    before: Vec<Option<(State, Edge)>>,
    queue: VecDeque<State>,
}

impl Search {
    fn begin(&mut self, states: usize) {
        self.round += 1;
        self.seen.resize(states, (0, false, 0));
        self.before.resize(states, None);
        self.queue.clear();
    }

    fn is_reached(&self, state: State) -> bool {
        self.seen[state as usize].0 == self.round
    }

    fn is_settled(&self, state: State) -> bool {
        self.is_reached(state) && self.seen[state as usize].1
    }

    fn distance(&self, state: State) -> u32 {
        self.seen[state as usize].2
    }

    /// False when it was settled before.
    fn settle(&mut self, state: State) -> bool {
        !std::mem::replace(&mut self.seen[state as usize].1, true)
    }

    fn reach(&mut self, state: State, by: Option<(State, u32, Edge, bool)>) {
        let distance = by.map_or(0, |(before, _, _, long)| self.distance(before) + u32::from(long));
        self.seen[state as usize] = (self.round, false, distance);
        self.before[state as usize] = by.map(|(before, _, edge, _)| (before, edge));
    }

    fn way(&self, to: State) -> Vec<(u32, Edge)> {
        let mut way = Vec::new();
        let mut at = to;
        while let Some((before, edge)) = self.before[at as usize] {
            way.push((before / 2, edge));
            at = before;
        }
        way.reverse();
        way
    }
}

struct Tarjan<'a, 'b> {
    ways: &'b Ways<'a>,
    next: u32,
    components: u32,
    /// Number of a state in the order of discovery; 0 is not discovered.
    number: Vec<u32>,
    low: Vec<u32>,
    on_stack: Vec<bool>,
    stack: Vec<State>,
    component: Vec<u32>,
}

impl<'a, 'b> Tarjan<'a, 'b> {
    fn new(ways: &'b Ways<'a>) -> Self {
        let states = ways.graph.nodes() * 2;
        Self {
            ways,
            next: 1,
            components: 0,
            number: vec![0; states],
            low: vec![0; states],
            on_stack: vec![false; states],
            stack: Vec::new(),
            component: vec![ALONE; states],
        }
    }

    fn run(mut self) -> Vec<u32> {
        for node in 0..self.ways.graph.nodes() as u32 {
            if self.ways.inside[node as usize] != ALONE {
                self.visit(Ways::state(node, false));
            }
        }
        self.component
    }

    fn discover(&mut self, state: State) {
        self.number[state as usize] = self.next;
        self.low[state as usize] = self.next;
        self.next += 1;
        self.stack.push(state);
        self.on_stack[state as usize] = true;
    }

    fn visit(&mut self, root: State) {
        if self.number[root as usize] != 0 {
            return;
        }
        self.discover(root);
        let mut path: Vec<(State, usize)> = vec![(root, 0)];
        while let Some((state, at)) = path.last_mut() {
            let state = *state;
            let Some(edge) = self.ways.graph.edges(state / 2).get(*at) else {
                path.pop();
                self.finish(state);
                if let Some((before, _)) = path.last() {
                    let before = *before as usize;
                    self.low[before] = self.low[before].min(self.low[state as usize]);
                }
                continue;
            };
            *at += 1;
            let Some(next) = self.ways.after(state, edge) else {
                continue;
            };
            if self.number[next as usize] == 0 {
                self.discover(next);
                path.push((next, 0));
            } else if self.on_stack[next as usize] {
                let number = self.number[next as usize];
                self.low[state as usize] = self.low[state as usize].min(number);
            }
        }
    }

    /// All ways from `state` have been gone: if nothing before it is reached, what lies above it on the stack is a component.
    fn finish(&mut self, state: State) {
        if self.low[state as usize] != self.number[state as usize] {
            return;
        }
        let alone = self.stack.last() == Some(&state);
        loop {
            let member = self
                .stack
                .pop()
                .expect("a state is on the stack until its component is known");
            self.on_stack[member as usize] = false;
            if !alone {
                self.component[member as usize] = self.components;
            }
            if member == state {
                break;
            }
        }
        self.components += u32::from(!alone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(u32, u32, Kind)]) -> Graph {
        let mut graph = Graph::new(6);
        for (from, to, kind) in edges {
            let edge = Edge {
                to: *to,
                kind: *kind,
                key: 0,
                first: None,
                second: None,
            };
            graph.add(*from, edge);
        }
        graph
    }

    const ALL: Kinds = Kinds::of(&[Kind::Ww, Kind::Wr, Kind::Rw]);

    #[test]
    fn components_and_shortest_ways_are_found() {
        use Kind::{Rw, Wr, Ww};
        let graph = graph(&[
            (0, 1, Ww),
            (1, 2, Wr),
            (2, 0, Ww),
            (0, 2, Wr),
            (2, 3, Ww),
            (3, 4, Rw),
            (4, 3, Rw),
        ]);
        let inside = vec![0; 6];
        let mut ways = Ways {
            graph: &graph,
            kinds: ALL,
            alternating: false,
            inside: &inside,
        };
        let components = ways.components();
        let of = |node: u32| components[Ways::state(node, false) as usize];
        assert!(of(0) == of(1) && of(1) == of(2) && of(0) != ALONE);
        assert!(of(3) == of(4) && of(3) != of(0) && of(3) != ALONE);
        assert_eq!(of(5), ALONE);
        let mut budget = 1_000;
        let way = ways.shortest(
            &mut Search::default(),
            Ways::state(2, false),
            Ways::state(2, false),
            &mut budget,
        );
        assert_eq!(way.map(|way| way.len()), Some(0));
        let way = ways.shortest(
            &mut Search::default(),
            Ways::state(0, false),
            Ways::state(3, false),
            &mut budget,
        );
        let nodes: Vec<u32> = way.unwrap().iter().map(|(from, _)| *from).collect();
        assert_eq!(nodes, [0, 2]);
        ways.alternating = true;
        let components = ways.components();
        assert_eq!(
            components[Ways::state(3, true) as usize],
            ALONE,
            "two anti-dependencies meet"
        );
        assert_ne!(components[Ways::state(0, false) as usize], ALONE);
    }
}
