//! Workloads that check themselves, over a small trait that the engine and a model in memory implement.
//!
//! Rules: a session runs as a task of the node it is connected to, so it dies with it; the client is outside. A
//! transaction whose node died is `Aborted` when its commit had not been asked for, and `Unknown` otherwise. No client
//! gives up on a session that lives: a call that never returns is a failure of the run (time limit).

mod append;
mod bank;
mod client;
mod database;
mod definitions;
mod device;
mod engine;
mod memory;
mod register;
mod set;
mod tree;
pub mod volumes;

pub use append::ListAppend;
pub use bank::Bank;
pub use client::{Client, Sessions};
pub use database::{Database, DatabaseError, Pairs, TransactionHandle};
pub use definitions::Definitions;
pub use device::device_is_sound;
pub use engine::EngineProgram;
pub use memory::{MemoryProgram, Planted};
pub use register::Registers;
pub use set::Set;
pub use tree::TreeAgainstMap;

use aquifer_dss::seam::BoxFuture;
use std::sync::Arc;

/// How large a workload is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Clients at once.
    pub clients: u64,
    /// Accounts, registers, or keys of a client.
    pub keys: u64,
    /// Length of large values in bytes.
    pub value: usize,
}

/// A workload: prepared once, driven by many clients, checked at the end.
pub trait Workload: Send + Sync + 'static {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// Makes its trees and first rows.
    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<(), String>>;
    /// One client, until the sessions say that it is over.
    fn run(&self, client: Client) -> BoxFuture<'static, Result<(), String>>;
    /// The check at the end, through a healthy cluster.
    fn check(&self, client: Client) -> BoxFuture<'static, Result<(), String>>;
    /// One line of what was done.
    fn summary(&self) -> String;
    /// What clients asked and were told, as `isocheck` reads it, where the workload keeps that.
    fn history(&self) -> Option<Vec<u8>> {
        None
    }
}

/// The workload of a name.
pub fn workload(name: &str, size: Size) -> Option<Arc<dyn Workload>> {
    Some(match name {
        "bank" => Bank::new(size),
        "set" => Set::new(),
        "register" => Registers::new(size),
        "tree" => TreeAgainstMap::new(size),
        "append" => ListAppend::new(size),
        "definitions" => Definitions::new(),
        _ => return None,
    })
}

/// The names of all workloads.
pub const WORKLOADS: [&str; 6] = ["bank", "set", "register", "tree", "append", "definitions"];

/// Counts of what clients did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Acknowledged.
    pub committed: u64,
    /// Refused.
    pub aborted: u64,
    /// Unknown.
    pub unknown: u64,
    /// Snapshots read and checked.
    pub reads: u64,
}

impl Tally {
    /// Counts one transaction.
    pub fn count(&mut self, outcome: crate::checker::Outcome) {
        match outcome {
            crate::checker::Outcome::Committed => self.committed += 1,
            crate::checker::Outcome::Aborted => self.aborted += 1,
            crate::checker::Outcome::Unknown => self.unknown += 1,
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            committed,
            aborted,
            unknown,
            reads,
        } = self;
        write!(
            f,
            "{committed} committed, {aborted} refused, {unknown} unknown, {reads} snapshots"
        )
    }
}
