//! Tests of the whole: the deterministic simulator, its workloads and checkers, and end-to-end runs of real processes.
//!
//! Nothing depends on this crate. `docs/testing.md` says how to run and replay.

pub mod sim;

pub mod checker;
pub mod golden;
pub mod hunt;
pub mod isocheck;
pub mod model;
pub mod swarm;
pub mod workload;
