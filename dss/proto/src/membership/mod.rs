//! Who is a member: liveness, lease, and the decision what to propose. Sans-IO; the driver is in `aquifer-dss`.
//!
//! Rules (MEM-n in the README of `dss/proto`):
//! - an observer counts silence from the moment *it* saw a sequence number change, by its own clock;
//! - a free lock is proof of death only when it was seen held in that incarnation (HZ-17);
//! - the largest mutually connected set proposes, through its lowest member, the others after a delay;
//! - nobody acts on a view before everybody excluded by it is proven dead or has left.

mod core;
mod decree;
mod graph;
mod lease;
mod peer;
#[cfg(test)]
mod tests;

pub use self::core::{Core, Plan, Proposal, Seen};
pub use decree::{Decree, MetadataLegs};
pub use graph::largest_connected;
pub use lease::{Lease, LeaseState, Timing};
pub use peer::{LifeState, SlotFacts, SlotState};
