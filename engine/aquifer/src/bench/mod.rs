//! `aquifer bench`: figures of this machine, each beside the physical limit it is to be compared with.
//!
//! Rules: ratios before absolute numbers, because machines differ; what is compared is measured in the same run on the
//! same device or socket; nodes are real processes on a scratch device.

mod commit;
mod failover;
mod figures;
mod io;
mod page;
mod place;
mod tpcb;

use crate::failure::Outcome;

/// `bench ...`.
#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// Commit latency of one session over an 8 KiB O_DSYNC write on the same device
    Commit(commit::CommitOptions),
    /// Reads and writes of a pool's file beside fio on the same bytes of the same device
    Io(io::IoOptions),
    /// A page that is here, and a page fetched from another node over a raw 8 KiB round trip
    Page(page::PageOptions),
    /// TPC-B-like throughput of one node and of several on the same rows
    Tpcb(tpcb::TpcbOptions),
    /// Take-over times over several kills
    Failover(failover::FailoverOptions),
}

impl BenchCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        match self {
            Self::Commit(options) => commit::run(options).await,
            Self::Io(options) => io::run(options).await,
            Self::Page(options) => page::run(options).await,
            Self::Tpcb(options) => tpcb::run(options).await,
            Self::Failover(options) => failover::run(options).await,
        }
    }
}
