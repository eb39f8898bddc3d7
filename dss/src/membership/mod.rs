//! Membership: the driver around the cores of `aquifer_dss_proto::{ballot, membership}`.
//!
//! Rules: docs/membership.md. Tasks: `renew` writes the slot every H, `watch` reads the slots and looks at the
//! locks, `lease` ends the process in time, `reform` proposes, fences and gives out views, one step after another.
//! Locks: `inner` (short, never across an await), `slot_writer` (one slot write at a time).

mod api;
mod ballots;
mod reform;
mod slot;
mod start;
mod tasks;
#[cfg(test)]
mod tests;
mod types;

pub use api::Membership;
pub use aquifer_dss_proto::membership::{LeaseState, SlotState, Timing};
pub use ballots::decode_body;
pub use slot::{ADDRESS_BYTES_MAX, Addresses, BadBlock, SlotView, decode_ballot};
pub use types::{Exclusions, MembershipConfig, MembershipError, MembershipEvent, Timeline};
