//! Real processes, a real device file, real clients: the `aquifer` binary as its users run it.
//!
//! Rules: the binary is not built here and must be there; a wait is for a condition and has a limit; ports are free ones; children are
//! killed by their process id; what was made is taken away unless the test failed.

mod bad_input;
mod bad_peer;
mod check;
mod clients;
mod damage;
mod definitions;
mod figures;
mod files;
mod isolation;
mod mirror;
mod pairs;
mod rig;
mod shape;
mod sides_alone;
mod stalled_peer;
mod stalling_proxy;
mod survival;
mod upkeep;
mod volumes;
mod volumes_alone;
