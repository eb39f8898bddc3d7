//! What a member is told, and where its sockets are when it is not told.

use crate::address::Address;
use crate::member::LEAST_PAGES;
use crate::runtime::ExitHook;
use aquifer_dss_proto::{NodeId, PageSize};
use std::path::{Path, PathBuf};

/// Memory of a member that reads no page of the database: the least for the largest pages, in bytes.
pub const BUFFER_FOR_FILES: u64 = (LEAST_PAGES * PageSize::MOST.bytes()) as u64;

/// Everything that a member is told.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// Which node, 1 to 64. One process at a time is it.
    pub id: NodeId,
    /// Devices of the volume group, in any order; those that are missing here are opened by their path in the catalogue.
    pub devices: Vec<PathBuf>,
    /// Where peers connect.
    pub peer: Address,
    /// Whether messages go through memory to peers of the same machine.
    pub peer_memory: bool,
    /// Side of volume 0 that is lost for good, when no node runs and somebody answers for it: what the other side has is believed.
    pub lost_side: Option<u8>,
    /// Memory for pages of the database, in bytes.
    pub buffer: u64,
    /// Where SQL is served, published for the others; empty when it is not.
    pub sql: String,
    /// Where admin commands are served, published for the others; empty when they are not.
    pub admin: String,
    /// Who is told before the process aborts because going on would not be safe.
    pub on_exit: Option<ExitHook>,
}

impl MemberOptions {
    /// A member that uses files only: the least memory, no SQL, no admin commands, a socket of its own for peers.
    pub fn new(id: NodeId, devices: Vec<PathBuf>) -> Self {
        let first = devices.first().map_or(Path::new(""), PathBuf::as_path);
        let peer = default_admin(id.get(), first).with_extension("peer");
        Self {
            id,
            peer: Address::Unix(peer),
            devices,
            peer_memory: true,
            lost_side: None,
            buffer: BUFFER_FOR_FILES,
            sql: String::new(),
            admin: String::new(),
            on_exit: None,
        }
    }

    /// The devices as one text, for messages.
    pub fn shown_devices(&self) -> PathBuf {
        let shown = self.devices.iter().map(|device| device.display().to_string());
        shown.collect::<Vec<_>>().join(", ").into()
    }
}

/// Directory for sockets of this user.
pub fn runtime_directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| Path::new(d).is_dir()) {
        Some(directory) => PathBuf::from(directory).join("aquifer"),
        None => std::env::temp_dir().join(format!("aquifer-{}", rustix::process::geteuid().as_raw())),
    }
}

/// An admin socket that no other cluster's node of the same number uses.
pub fn default_admin(id: u8, device: &Path) -> PathBuf {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in device.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    runtime_directory().join(format!("{:08x}-node-{id}.admin", hash as u32))
}
