//! Distributed shared storage: device I/O, volume groups, files, membership, fencing.
//!
//! Rules and lock order: this crate's README. The traits in [`seam`] are the only places where the
//! simulator puts its own twin.

pub mod check;
pub mod device;
pub mod fence;
pub mod group;
pub mod in_place;
pub mod membership;
pub mod net;
mod random;
pub mod seam;
pub mod testing;
pub mod tokio_runtime;

pub(crate) use random::random_bytes;
