//! The admin channel of a node: one JSON object per line over a UNIX socket, requests and answers in turn.
//!
//! Rules:
//! - the socket's directory has mode 0700, and the peer must be the same user (or root);
//! - a request is at most 64 KiB, and an answer at most 16 MiB: what may be larger comes in pages;
//! - a bad request gets an error answer and the end of its connection; it never stops the node;
//! - nobody waits for ever: a node that does not answer a question for 10 s is unavailable (exit 4). A change is waited for while its node
//!   answers questions, and ends in exit 5 when it does not.

mod client;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub use client::{AdminClient, Locator};
pub use protocol::{Counters, HistoryEntry, NodeReport, Reform, Request, StatusReport, TwinRequest};
pub use server::{AdminService, AdminSocket, serve};
