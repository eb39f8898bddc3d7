//! A node from its production parts: io_uring devices, tokio, sockets, slot locks. The only place that knows them all.
//!
//! Whoever uses a volume group is a member of the cluster: it holds its slot through the descriptor of its I/O, so the fence
//! covers whatever it writes. Rules MBR-n are in this crate's README.

mod address;
mod devices;
mod error;
mod member;
mod options;
mod runtime;

pub use address::Address;
pub use error::MemberError;
pub use member::{LEAST_PAGES, Member};
pub use options::{BUFFER_FOR_FILES, MemberOptions, default_admin, runtime_directory};
pub use runtime::ExitHook;
