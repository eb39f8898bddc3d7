//! `aquifer bench`.

use crate::failure::Outcome;

/// `bench ...`.
#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {}

impl BenchCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        match self {}
    }
}
