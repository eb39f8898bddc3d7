//! The largest set of nodes that all hear each other.

use crate::{NodeId, NodeSet};

/// The largest subset of `nodes` in which everybody hears everybody, the one with the lowest ids among equals
/// (compared as sorted lists). `heard(a)` is whom `a` hears; an edge needs both directions.
pub fn largest_connected(nodes: NodeSet, heard: impl Fn(NodeId) -> NodeSet) -> NodeSet {
    let mut edges = [NodeSet::EMPTY; NodeId::MAX as usize];
    for node in nodes.iter() {
        edges[node.index()] = nodes
            .iter()
            .filter(|p| *p != node && heard(node).contains(*p) && heard(*p).contains(node))
            .collect();
    }
    // Missing edges are few in practice; the bound keeps a hostile graph from costing more than a blink. A search
    // cut short still gives a connected set, the same one at every node that sees the same graph.
    let mut search = Search {
        edges,
        best: NodeSet::EMPTY,
        budget: 20_000,
    };
    search.extend(NodeSet::EMPTY, nodes);
    search.best
}

struct Search {
    edges: [NodeSet; NodeId::MAX as usize],
    best: NodeSet,
    budget: u32,
}

impl Search {
    /// Tries candidates in rising order, so that among sets of one size the first found has the lowest ids.
    fn extend(&mut self, chosen: NodeSet, mut candidates: NodeSet) {
        if chosen.len() > self.best.len() {
            self.best = chosen;
        }
        while chosen.len() + candidates.len() > self.best.len() && self.budget > 0 {
            self.budget -= 1;
            let Some(node) = candidates.first() else { return };
            candidates.remove(node);
            self.extend(
                chosen.union(NodeSet::of(node)),
                candidates.intersection(self.edges[node.index()]),
            );
        }
    }
}
