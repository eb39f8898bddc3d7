//! `aquifer inspect`.

use crate::failure::Outcome;

/// `inspect ...`.
#[derive(Debug, clap::Subcommand)]
pub enum InspectCommand {}

impl InspectCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        match self {}
    }
}
