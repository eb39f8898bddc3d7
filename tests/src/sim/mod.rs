//! The deterministic simulator: whole nodes on one thread, virtual time, one seed.
//!
//! A run is a [`World`] with a [`Cluster`] in it: every node gets its [`aquifer_dss::seam`] traits from here and
//! runs the very code that runs in production. Same seed, same trace, byte for byte (`docs/testing.md`).

mod cluster;
mod disk;
mod fencer;
mod image;
mod nemesis;
mod network;
pub mod panics;
mod random;
mod runtime;
mod trace;
mod world;

pub use cluster::{Cluster, ClusterOptions, NodeContext, NodeProgram};
pub use disk::{Counts, DiskOptions, PortFault, SimDisk};
pub use fencer::{Locks, SimFencer};
pub use nemesis::{Faults, Nemesis};
pub use network::{NetworkOptions, SimNetwork, SimTransport};
pub use panics::release as release_panics;
pub use random::{Random, mix};
pub use runtime::SimRuntime;
pub use trace::{Trace, fingerprint};
pub use world::{CrashHook, Failure, Life, World, WorldOptions};
