//! `aquifer node`: run a node, stop it, fence it.

mod detach;
mod fence;
mod start;
mod stop;

use crate::failure::Outcome;

pub use start::peer_address;

/// `node ...`.
#[derive(Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// Run a node; it serves when it prints `node N ready`
    Start(Box<start::StartOptions>),
    /// Stop a node cleanly: dirty pages written, everything handed over
    Stop(stop::StopOptions),
    /// Kill a node and prove that it can write no more
    Fence(fence::FenceOptions),
}

impl NodeCommand {
    /// Runs it.
    pub fn run(self) -> Outcome {
        match self {
            Self::Start(options) => start::run(*options),
            Self::Stop(options) => crate::block_on(stop::run(options)),
            Self::Fence(options) => crate::block_on(fence::run(options)),
        }
    }
}
