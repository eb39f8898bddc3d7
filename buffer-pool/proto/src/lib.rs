//! Sans-IO cores of page ownership: directory, possession, transfer, invalidation, rebuild.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod header;
mod page;

pub use page::{ImageInfo, Lsn, Mode, PAGE_SIZE, PageId, Psn, Scn};
