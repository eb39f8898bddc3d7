//! Sans-IO cores of page ownership: directory, possession, transfer, invalidation, rebuild.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod admission;
mod chain;
mod copies;
mod directory;
pub mod header;
mod inspect;
mod locality;
mod message;
mod ownership;
mod page;
mod possession;
mod rebuild;
mod surrender;

pub use admission::Fault;
pub use inspect::{HomeState, Listed};
pub use message::{Claim, Conversion, Envelope, Held, Message, Order, Redone, Request, SlotEntry, Source};
pub use ownership::{Contents, CoreCounters, Output, Ownership};
pub use page::{ImageInfo, Lsn, Mode, PageId, Psn, Scn, Stamp};
pub use surrender::SurrenderKind;

// Whoever handles pages needs their size.
pub use aquifer_dss_proto::PageSize;
