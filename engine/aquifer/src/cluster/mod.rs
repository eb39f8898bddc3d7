//! `aquifer cluster`: make a cluster, see how it is and how it came to be so.

mod history;
mod init;
mod status;

use crate::failure::Outcome;

pub use init::{InitOptions, initialise, preparation, run as create};

/// `cluster ...`.
#[derive(Debug, clap::Subcommand)]
pub enum ClusterCommand {
    /// Make a volume group on a device and, with it, an empty cluster
    Init(InitOptions),
    /// Verdict, nodes, and the next command to type
    Status(status::StatusOptions),
    /// Who joined, left and died, when and why
    History(history::HistoryOptions),
}

impl ClusterCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        match self {
            Self::Init(options) => init::run(options).await,
            Self::Status(options) => status::run(options).await,
            Self::History(options) => history::run(options).await,
        }
    }
}
