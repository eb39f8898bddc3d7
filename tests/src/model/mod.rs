//! The model of page ownership: the production cores (`Ownership`) with the network, the frames, storage and redo
//! around them, explored to exhaustion by `stateright`.
//!
//! What surrounds the cores is the cluster of the crate's own tests (`buffer-pool/proto/tests/all/cluster.rs`), so that
//! traces, walks and model speak of the same thing. A configuration bounds what may happen by budgets: one for each
//! family of hazards, small enough that nothing is left unexplored. `docs/page-ownership.md` has the state counts.

mod configurations;
mod defects;
mod properties;
mod state;

#[allow(
    missing_docs,
    reason = "shared with the tests of the core, where it is explained"
)]
#[path = "../../../buffer-pool/proto/tests/all/cluster.rs"]
pub mod cluster;
#[allow(
    missing_docs,
    reason = "shared with the tests of the core, where it is explained"
)]
#[path = "../../../buffer-pool/proto/tests/all/trace.rs"]
pub mod trace;
#[allow(
    missing_docs,
    reason = "shared with the tests of the core, where it is explained"
)]
#[path = "../../../buffer-pool/proto/tests/all/walk.rs"]
pub mod walk;
#[allow(
    missing_docs,
    reason = "shared with the tests of the core, where it is explained"
)]
#[path = "../../../buffer-pool/proto/tests/all/words.rs"]
pub mod words;

pub use configurations::{Configuration, configurations};
pub use defects::{Hunt, PAGE_DEFECTS, hunt, hunted};
pub use state::{Action, Budget, Pages, State};

use stateright::{Checker, HasDiscoveries, Model};
use std::time::{Duration, Instant};

/// What exploring a configuration came to.
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// Transitions taken.
    pub transitions: usize,
    /// Length of the longest shortest path.
    pub depth: usize,
    /// Nothing was left unexplored.
    pub exhausted: bool,
    /// How long it took.
    pub took: Duration,
    /// A property that does not hold, and the events that lead there.
    pub failure: Option<(&'static str, String)>,
    /// What `sometimes` should be so, and never was.
    pub never: Vec<&'static str>,
    /// Kinds of message that were delivered.
    pub delivered: Vec<&'static str>,
}

/// Explores a configuration breadth first, with `threads`, until a property fails, nothing is left, or time is up.
pub fn explore(model: Pages, threads: usize, limit: Option<Duration>) -> Outcome {
    let begun = Instant::now();
    let (coverage, patience) = (model.coverage.clone(), model.patience.clone());
    patience.set(limit.map(|limit| begun + limit));
    let checker = model
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let took = begun.elapsed();
    patience.set(None);
    let discoveries = checker.discoveries();
    let properties = checker.model().properties();
    let failed = properties
        .iter()
        .find(|p| p.expectation.discovery_is_failure() && discoveries.contains_key(p.name));
    let failure = failed.map(|property| {
        let actions = discoveries[property.name].clone().into_actions();
        (property.name, checker.model().explain(&actions))
    });
    let never = properties
        .iter()
        .filter(|p| !p.expectation.discovery_is_failure() && !discoveries.contains_key(p.name))
        .map(|p| p.name)
        .collect();
    Outcome {
        states: checker.unique_state_count(),
        transitions: checker.state_count(),
        depth: checker.max_depth(),
        exhausted: failure.is_none() && limit.is_none_or(|limit| took < limit),
        took,
        failure,
        never,
        delivered: coverage.delivered(),
    }
}
