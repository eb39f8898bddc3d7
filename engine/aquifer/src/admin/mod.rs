//! The admin channel of a node: one JSON object per line over a UNIX socket, requests and answers in turn.
//!
//! Rules: the socket's directory has mode 0700 and the peer must be the same user (or root); a line is at most 64 KiB;
//! a bad request gets an error answer and never stops the node.

mod client;
mod protocol;
mod server;

pub use client::{AdminClient, Locator};
pub use protocol::{Counters, HistoryEntry, NodeReport, Reform, Request, StatusReport, TwinRequest};
pub use server::{AdminService, AdminSocket, serve};
