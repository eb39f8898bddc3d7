//! The integration tests of the package: one binary, so that nothing is linked twice.
// A test that cannot go on has failed; helpers of tests are not seen as tests by the lint.
#![allow(clippy::unwrap_used)]

mod copies;
mod defects;
mod end_to_end;
mod golden;
mod hazards;
mod hunt;
mod isocheck;
mod limits;
mod local_pool;
mod mirrored_redo;
mod model;
mod seeds;
mod simulator;
mod steady;
mod workloads;
