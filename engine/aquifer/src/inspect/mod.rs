//! `aquifer inspect`: what is on the device, decoded with the decoders that nodes use. Nothing is written.

mod block;
mod page;
mod structures;
mod wal;

use crate::failure::Outcome;

/// `inspect ...`.
#[derive(Debug, clap::Subcommand)]
pub enum InspectCommand {
    /// Both copies of the label
    Label(structures::DeviceOptions),
    /// The slots of the nodes
    Slots(structures::DeviceOptions),
    /// Metadata journal since the last checkpoint
    Journal(structures::DeviceOptions),
    /// Redo stream of a node
    Wal(wal::WalOptions),
    /// A page of a file: header and content
    Page(page::PageOptions),
    /// What is at a byte offset of a device, sound or not: its kind is recognised
    Block(block::BlockOptions),
    /// Everything that the group has: labels, control blocks, metadata, redo, pages
    All(structures::DeviceOptions),
}

impl InspectCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        match self {
            Self::Label(options) => structures::label(options).await,
            Self::Slots(options) => structures::slots(options).await,
            Self::Journal(options) => structures::journal(options).await,
            Self::Wal(options) => wal::run(options).await,
            Self::Page(options) => page::run(options).await,
            Self::Block(options) => block::block(options).await,
            Self::All(options) => block::all(options).await,
        }
    }
}
