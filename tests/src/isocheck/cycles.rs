//! Cycles of the graph, from the worst kind to the mildest.
//!
//! A kind of cycle is looked for among edges of its kinds only: first the components, which decide whether there is
//! one, then, inside each, a shortest cycle through an edge that makes it of this kind.

use super::anomaly::Anomaly;
use super::graph::{ALONE, Edge, Graph, Kind, Kinds, Search, Ways};
use super::verdict::{Finding, Hop};
use std::collections::{BTreeMap, HashSet};

/// Cycles reported of one kind: one of each component, and not of more components than this.
const REPORTED: usize = 8;
/// Edges looked at to find the shortest cycle of a component.
const BUDGET: usize = 1_000_000;

const DEPENDENCIES: Kinds = Kinds::of(&[Kind::Ww, Kind::Wr]);

/// What one pass looks for.
struct Pass {
    /// An edge of this kind is in the cycle.
    pivot: Kind,
    /// What the cycle may have otherwise.
    rest: Kinds,
    /// What the component may have.
    whole: Kinds,
    /// No two anti-dependencies meet.
    alternating: bool,
}

const PASSES: [Pass; 5] = [
    // G0
    Pass {
        pivot: Kind::Ww,
        rest: Kinds::of(&[Kind::Ww]),
        whole: Kinds::of(&[Kind::Ww]),
        alternating: false,
    },
    // G1c
    Pass {
        pivot: Kind::Wr,
        rest: DEPENDENCIES,
        whole: DEPENDENCIES,
        alternating: false,
    },
    // G-single
    Pass {
        pivot: Kind::Rw,
        rest: DEPENDENCIES,
        whole: DEPENDENCIES.with(Kind::Rw),
        alternating: true,
    },
    // G-nonadjacent
    Pass {
        pivot: Kind::Rw,
        rest: DEPENDENCIES.with(Kind::Rw),
        whole: DEPENDENCIES.with(Kind::Rw),
        alternating: true,
    },
    // G2-item
    Pass {
        pivot: Kind::Rw,
        rest: DEPENDENCIES.with(Kind::Rw),
        whole: DEPENDENCIES.with(Kind::Rw),
        alternating: false,
    },
];

/// All kinds of cycles; with `real_time` also those that need it.
pub(super) fn find(graph: &Graph, real_time: bool) -> Vec<Finding> {
    let everywhere = vec![0; graph.nodes()];
    let all = DEPENDENCIES.with(Kind::Rw);
    let widest = Ways {
        graph,
        kinds: if real_time { all.with(Kind::RealTime) } else { all },
        alternating: false,
        inside: &everywhere,
    };
    // What is in no cycle at all is in none of any kind.
    let components = widest.components();
    let inside: Vec<u32> = (0..graph.nodes() as u32)
        .map(|node| components[Ways::state(node, false) as usize])
        .collect();
    if inside.iter().all(|component| *component == ALONE) {
        return Vec::new();
    }
    let mut hunt = Hunt {
        graph,
        inside,
        search: Search::default(),
        known: HashSet::new(),
        found: Vec::new(),
    };
    for timed in [false, true] {
        if timed && !real_time {
            break;
        }
        PASSES.iter().for_each(|pass| hunt.pass(pass, timed));
    }
    hunt.found
}

struct Hunt<'a> {
    graph: &'a Graph,
    inside: Vec<u32>,
    search: Search,
    /// Cycles reported already.
    known: HashSet<(Anomaly, Vec<u32>)>,
    found: Vec<Finding>,
}

impl Hunt<'_> {
    fn pass(&mut self, pass: &Pass, timed: bool) {
        let extend = |kinds: Kinds| if timed { kinds.with(Kind::RealTime) } else { kinds };
        let whole = Ways {
            graph: self.graph,
            kinds: extend(pass.whole),
            alternating: pass.alternating,
            inside: &self.inside,
        };
        let components = whole.components();
        let pivots = self.pivots(pass, &components);
        let ways = Ways {
            kinds: extend(pass.rest),
            ..whole
        };
        let mut found = Vec::new();
        for (_, pivots) in pivots.into_iter().take(REPORTED) {
            let mut budget = BUDGET;
            let mut best: Option<Vec<Hop>> = None;
            for (from, edge) in pivots {
                let begin = Ways::state(edge.to, pass.alternating && edge.kind == Kind::Rw);
                let end = Ways::state(from, false);
                let Some(way) = ways.shortest(&mut self.search, begin, end, &mut budget) else {
                    if budget == 0 {
                        break;
                    }
                    continue;
                };
                let hops = hops(self.graph, from, edge, &way);
                if timed != hops.iter().any(|hop| hop.kind == Kind::RealTime) {
                    continue;
                }
                let meet = pass.alternating || pass.pivot != Kind::Rw || anti_dependencies_meet(&hops);
                if meet && best.as_ref().is_none_or(|best| hops.len() < best.len()) {
                    best = Some(hops);
                }
                if best.as_ref().is_some_and(|best| best.len() == 2) {
                    break;
                }
            }
            found.extend(best);
        }
        found.into_iter().for_each(|hops| self.report(hops));
    }

    /// The edges of the pass's kind inside each component.
    fn pivots(&self, pass: &Pass, components: &[u32]) -> BTreeMap<u32, Vec<(u32, Edge)>> {
        let mut pivots: BTreeMap<u32, Vec<(u32, Edge)>> = BTreeMap::new();
        for node in 0..self.graph.nodes() as u32 {
            let component = components[Ways::state(node, false) as usize];
            if component == ALONE || self.graph.is_auxiliary(node) {
                continue;
            }
            for edge in self
                .graph
                .edges(node)
                .iter()
                .filter(|edge| edge.kind == pass.pivot)
            {
                let to = Ways::state(edge.to, pass.alternating && edge.kind == Kind::Rw);
                if components[to as usize] == component {
                    pivots.entry(component).or_default().push((node, *edge));
                }
            }
        }
        pivots
    }

    fn report(&mut self, hops: Vec<Hop>) {
        let anomaly = classify(&hops);
        let mut members: Vec<u32> = hops.iter().map(|hop| hop.from).collect();
        let transactions = members.clone();
        members.sort_unstable();
        if self.known.insert((anomaly, members)) {
            self.found.push(Finding::of_cycle(anomaly, transactions, hops));
        }
    }
}

/// The cycle between transactions: edges through auxiliary nodes become one.
fn hops(graph: &Graph, from: u32, pivot: Edge, way: &[(u32, Edge)]) -> Vec<Hop> {
    let mut hops: Vec<Hop> = Vec::new();
    for (node, edge) in std::iter::once((from, pivot)).chain(way.iter().copied()) {
        if graph.is_auxiliary(node) {
            let hop = hops.last_mut().expect("a cycle begins at a transaction");
            hop.to = edge.to;
            hop.second = edge.second;
        } else {
            hops.push(Hop {
                from: node,
                to: edge.to,
                kind: edge.kind,
                key: edge.key,
                first: edge.first,
                second: edge.second,
            });
        }
    }
    hops
}

fn anti_dependencies_meet(hops: &[Hop]) -> bool {
    let next = hops.iter().cycle().skip(1);
    hops.len() > 1
        && hops
            .iter()
            .zip(next)
            .any(|(one, other)| one.kind == Kind::Rw && other.kind == Kind::Rw)
}

fn classify(hops: &[Hop]) -> Anomaly {
    let count = |kind: Kind| hops.iter().filter(|hop| hop.kind == kind).count();
    let timed = count(Kind::RealTime) > 0;
    match (count(Kind::Rw), count(Kind::Wr), timed) {
        (0, 0, false) => Anomaly::G0,
        (0, 0, true) => Anomaly::G0RealTime,
        (0, _, false) => Anomaly::G1c,
        (0, _, true) => Anomaly::G1cRealTime,
        (1, _, false) => Anomaly::GSingle,
        (1, _, true) if hops.len() == 2 => Anomaly::StaleRead,
        (1, _, true) => Anomaly::GSingleRealTime,
        (_, _, timed) => match (anti_dependencies_meet(hops), timed) {
            (false, false) => Anomaly::GNonadjacent,
            (false, true) => Anomaly::GNonadjacentRealTime,
            (true, false) => Anomaly::G2Item,
            (true, true) => Anomaly::G2ItemRealTime,
        },
    }
}
