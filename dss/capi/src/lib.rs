//! The library for C programs. Its header is `aquifer.h`, made from this crate by cbindgen; `docs/library.md` has an example.
//!
//! A process that opens a pool is a member of the cluster (MBR-1): that is why this package depends on the engine's, though it only
//! offers storage. Rules CAPI-n are in this crate's README.
#![allow(
    clippy::missing_safety_doc,
    reason = "what a caller promises is the same for all functions, and is told once, at the top of the header"
)]

pub mod abi;
mod border;
mod callback;
mod data;
mod directory;
mod exit;
mod file;
mod handles;
mod library;
mod log;
mod names;
mod pool;
mod pools;
mod prepare;
mod statistics;
