//! Sans-IO cores of the engine: redo records, visibility, recovery plan.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod recovery;
