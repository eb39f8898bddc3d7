//! Checkers: pure functions over what clients did and saw. Each answers the first contradiction it finds.

pub mod bank;
pub mod register;
pub mod set;

/// What a client knows of a transaction it tried to commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Acknowledged: it must be there, for ever.
    Committed,
    /// Refused, rolled back, or the node died before commit was asked for: it must never be seen.
    Aborted,
    /// The node died or said so while it committed: it is there as a whole or not at all.
    Unknown,
}
