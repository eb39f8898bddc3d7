//! Isolation of list-append histories, from outside: what clients asked and were told, and nothing of the database.
//!
//! The method is that of Elle (Kingsbury and Alvaro, 2020). Every value is appended to a key once, and a read answers the
//! whole list, so the longest read of a key *is* the order of its versions, and every read names the version it saw:
//!
//! 1. [`read_history`] reads a history, JSON lines or EDN, and pairs each invocation with its completion;
//! 2. `versions` takes the order of each key's versions from its longest read, and finds what needs no cycle: aborted
//!    and intermediate reads, lost and dirty updates, orders that contradict each other, reads that contradict their own transaction;
//! 3. `dependencies` builds the graph of the transactions: ww, wr and rw edges, and real-time edges when asked for;
//! 4. `cycles` finds its cycles (Tarjan's components, then breadth first), and [`Verdict`] tells them in words.
//!
//! Rules:
//! - ISO-1 nothing is reported that a database of the model could have answered: every edge follows from the history. A
//!   transaction of unknown outcome counts as committed exactly when a committed one saw it;
//! - ISO-2 an acknowledged append that nobody read comes after every version that was read, because lists only grow;
//! - ISO-3 one transaction ended before another began when its completion stands before the other's invocation in the
//!   history: the order of the history is the clock;
//! - ISO-4 the time is linear in the history when it is valid. Real time is a chain of the completions, not edges
//!   between pairs; snapshot isolation is decided by one pass over a graph of twice the nodes. Only the search for a
//!   short cycle to show is more, and has a budget;
//! - ISO-5 no input makes it panic.

mod anomaly;
mod cycles;
mod dependencies;
mod edn;
mod graph;
mod history;
mod input;
mod verdict;
mod versions;

pub use anomaly::{Anomaly, Level, Model};
pub use history::{Event, History, Kind, Micro, Transaction};
pub use input::{BadInput, Format, read_events, write_events};
pub use verdict::{Counts, Finding, Step, Verdict};

/// Reads a history.
pub fn read_history(bytes: &[u8], format: Format) -> Result<History, BadInput> {
    History::pair(read_events(bytes, format)?)
}

/// Checks `history` against `model`.
pub fn check(history: &History, model: Model) -> Verdict {
    let (versions, mut findings) = versions::Versions::infer(history);
    let graph = dependencies::build(history, &versions, model);
    findings.extend(cycles::find(&graph, model.real_time));
    Verdict::new(history, &versions, model, findings)
}
