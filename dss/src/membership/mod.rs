//! Membership: the driver around the cores of `aquifer_dss_proto::{ballot, membership}`.
//!
//! Rules: docs/membership.md. Tasks: `renew` writes the slot every H, `watch` reads the slots and looks at the
//! locks, `lease` ends the process in time, `reform` proposes, fences and gives out views, one step after another.
//! Locks: `inner` (short, never across an await), `slot_writer` (one slot write at a time).

mod api;
mod ballots;
#[cfg(test)]
mod leg_tests;
mod reform;
mod slot;
mod slots;
mod start;
mod tasks;
#[cfg(test)]
mod tests;
mod types;
mod vote;

pub use api::Membership;
pub use aquifer_dss_proto::membership::{LeaseState, SlotState, Timing};
#[cfg(test)]
pub(crate) use ballots::write_decree;
pub use ballots::{decode_body, learn_decided};
pub use slot::{ADDRESS_BYTES_MAX, Addresses, BadBlock, SlotView, decode_ballot};
pub use slots::read_slot;
pub use types::{Exclusions, MembershipConfig, MembershipError, MembershipEvent, Timeline};
