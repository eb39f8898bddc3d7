//! Why a process is no member.

use crate::address::Address;
use crate::member::LEAST_PAGES;
use aquifer_dss::group::StorageError;
use aquifer_dss::membership::MembershipError;
use aquifer_dss::seam::DeviceError;
use aquifer_dss_proto::{NodeId, PageSize};
use aquifer_engine::node::NodeError;
use std::path::PathBuf;
use std::time::Duration;

/// Why a process does not become a member, or does not stay one.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// A device that was named is not there.
    #[error("{} does not exist", .0.display())]
    NoDevice(PathBuf),
    /// A device cannot be opened.
    #[error("{}: {error}", path.display())]
    Device {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: DeviceError,
    },
    /// The volume group cannot be used.
    #[error("{}: {error}", devices.display())]
    Storage {
        /// The devices that were named.
        devices: PathBuf,
        /// Why.
        error: StorageError,
    },
    /// Peers cannot be listened to.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: Address,
        /// Why.
        error: std::io::Error,
    },
    /// Another process answers at the socket for peers.
    #[error("another process listens on {}", .0.display())]
    SocketInUse(PathBuf),
    /// The socket of an earlier life, or its directory, is in the way.
    #[error("cannot make the socket {}: {error}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// There is memory for fewer than [`LEAST_PAGES`] pages.
    #[error("{bytes} bytes are too little memory for pages of {page_size}: at least {}", page_size.bytes() * LEAST_PAGES)]
    Memory {
        /// Memory that was given.
        bytes: u64,
        /// Size of a page of the group.
        page_size: PageSize,
    },
    /// The fencer does not learn who this process is.
    #[error("/proc does not say who this process is: {0}")]
    Identity(std::io::Error),
    /// Another process is this node.
    #[error("node {id} runs already on {}: choose another number, or stop that process", devices.display())]
    SlotBusy {
        /// The node.
        id: NodeId,
        /// The devices that were named.
        devices: PathBuf,
    },
    /// The node cannot become a member.
    #[error("{}: {error}", devices.display())]
    Membership {
        /// The devices that were named.
        devices: PathBuf,
        /// Why.
        error: MembershipError,
    },
    /// The node did not start.
    #[error(transparent)]
    Node(NodeError),
    /// The node had to stop before it served.
    #[error("this node cannot serve: {0}")]
    Stopped(String),
    /// The node did not become a member in time.
    #[error(
        "cannot join the cluster on {} within {} s: its nodes live and do not answer, or cannot be proven dead",
        devices.display(),
        limit.as_secs()
    )]
    JoinLimit {
        /// The devices that were named.
        devices: PathBuf,
        /// How long it was tried.
        limit: Duration,
    },
    /// The node ended without leaving.
    #[error("the clean stop failed, the others recover this node: {0}")]
    Leave(NodeError),
}
