//! What is said over the admin channel.

use crate::failure::{Exit, Failure};
use crate::files::FileRequest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A request line: `{"command":"status"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// A [`StatusReport`].
    Status,
    /// [`Counters`].
    Counters,
    /// The last reform: [`Reform`], or null when there was none.
    Timeline,
    /// The newest [`HistoryEntry`]s, oldest first.
    History {
        /// At most so many.
        limit: usize,
    },
    /// Something about the files of the volume group.
    Files {
        /// What.
        request: FileRequest,
    },
    /// Clean stop; answered before it begins.
    Stop,
    /// A [`GroupReport`](crate::volume::GroupReport).
    Volumes,
    /// Adds a device to the volume group; the answer is the id of the volume.
    VolumeAdd {
        /// Where it is, for every node.
        path: String,
        /// Overwrite what is on it.
        force: bool,
        /// Volumes of one failure group fail together.
        failure_group: u8,
        /// The second side, of a mirrored group.
        #[serde(default)]
        twin: Option<TwinRequest>,
    },
    /// Puts a device in the place of the side of a mirrored volume that is out; the answer is which.
    VolumeReplaceSide {
        /// Which volume.
        volume: u16,
        /// Where the device is, for every node.
        path: String,
        /// Overwrite what is on it.
        force: bool,
    },
    /// Gives a volume the size of its device, or another one; the answer is the number of its units.
    VolumeResize {
        /// Which volume.
        volume: u16,
        /// Bytes, or the whole device.
        bytes: Option<u64>,
    },
    /// Moves the units of a volume away, or uses it again.
    VolumeDrain {
        /// Which volume.
        volume: u16,
        /// Drain, or use again.
        drain: bool,
    },
    /// Takes a drained volume out of the group.
    VolumeRemove {
        /// Which volume.
        volume: u16,
    },
    /// Stops using a side of a mirrored volume.
    VolumeDetach {
        /// Which volume.
        volume: u16,
        /// Which side, 0 or 1.
        leg: u8,
    },
    /// Lets the side of a mirrored volume in again that is out; the answer is which.
    VolumeResync {
        /// Which volume.
        volume: u16,
    },
    /// Compares both sides of mirrored volumes, at the storage leader; the answer is how far that is.
    VolumeScrub {
        /// The run that is asked about; one begins when this node knows another or none.
        run: u64,
    },
}

impl Request {
    /// Whether it changes something, so that nobody knows what became of it when its answer does not come.
    pub fn changes(&self) -> bool {
        match self {
            Self::Status | Self::Counters | Self::Timeline | Self::History { .. } | Self::Volumes => false,
            // Asked again and again; whoever asks again sees what became of it.
            Self::VolumeScrub { .. } => false,
            Self::Files { request } => request.changes(),
            Self::Stop
            | Self::VolumeAdd { .. }
            | Self::VolumeReplaceSide { .. }
            | Self::VolumeResize { .. }
            | Self::VolumeDrain { .. }
            | Self::VolumeRemove { .. }
            | Self::VolumeDetach { .. }
            | Self::VolumeResync { .. } => true,
        }
    }
}

/// The device that becomes the second side of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinRequest {
    /// Where it is, for every node.
    pub path: String,
    /// Another one than that of the first side.
    pub failure_group: u8,
}

/// An answer line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// 0, or an exit code of `failure::Exit`.
    pub exit: i32,
    /// The data, null on errors.
    #[serde(default)]
    pub data: Value,
    /// One line, when `exit` is not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Answer {
    /// From what a handler returned.
    pub fn of(result: Result<Value, Failure>) -> Self {
        match result {
            Ok(data) => Self {
                exit: 0,
                data,
                error: None,
            },
            Err(failure) => Self {
                exit: failure.exit as i32,
                data: Value::Null,
                error: Some(failure.message),
            },
        }
    }

    /// Back to a result, on the client's side.
    pub fn into_result(self) -> Result<Value, Failure> {
        match self.error {
            None if self.exit == 0 => Ok(self.data),
            error => Err(Failure::new(
                Exit::from_code(self.exit),
                error.unwrap_or_else(|| "the node refused".into()),
            )),
        }
    }
}

/// One node as another sees it: what its slot says, and what was observed of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// 1 to 64.
    pub id: u8,
    /// "member", "joining", "leaving", "stopped", or "dead" when the slot says it lives and the view does not have it.
    pub state: String,
    /// Which life.
    pub incarnation: u64,
    /// Whether the installed view has it.
    pub member: bool,
    /// "leader" or "member"; empty outside the view.
    pub role: String,
    /// What it would be in an undisturbed cluster.
    pub preferred_role: String,
    /// Where SQL clients connect.
    pub sql: String,
    /// Where the other nodes connect.
    pub peer: String,
    /// Where the admin channel is.
    pub admin: String,
    /// Milliseconds of lease left when the report was made, as far as the reporting node knows.
    pub lease_left_ms: Option<u64>,
    /// Epoch this node has installed.
    pub installed_epoch: u64,
    /// Home slots it answers for.
    pub homes: usize,
}

/// A node's answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Name of the volume group.
    pub cluster: String,
    /// UUID of the volume group, hexadecimal.
    pub uuid: String,
    /// Who answers.
    pub node: u8,
    /// Its life.
    pub incarnation: u64,
    /// Installed view.
    pub epoch: u64,
    /// Storage leader of that view.
    pub leader: u8,
    /// Whether the node serves SQL now.
    pub serving: bool,
    /// Pages that wait for redo, at the leader.
    pub redo_outstanding: u64,
    /// Why a decided view cannot be installed, while that is so.
    #[serde(default)]
    pub alarm: Option<String>,
    /// A line for each volume that the node cannot use.
    #[serde(default)]
    pub volumes_missing: Vec<String>,
    /// Every node that ever took a slot.
    pub nodes: Vec<NodeReport>,
    /// The last reform.
    pub reform: Option<Reform>,
}

/// Instants of the last reform, in nanoseconds of CLOCK_BOOTTIME; 0 means not reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reform {
    /// View that it led to.
    pub epoch: u64,
    /// Members of that view.
    pub members: Vec<u8>,
    /// Nodes that left by death.
    pub dead: Vec<u8>,
    /// The death was seen.
    pub detected: u64,
    /// It was proven that the dead can write no more.
    pub fenced: u64,
    /// The view was chosen.
    pub decided: u64,
    /// The view was installed at this node: what is not lost is served.
    pub installed: u64,
    /// Every page is redone.
    pub recovered: u64,
}

/// Named counters since the node started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// CLOCK_BOOTTIME of the snapshot, nanoseconds.
    pub at: u64,
    /// Counter by name, such as "transfers_in".
    pub values: BTreeMap<String, u64>,
}

impl Counters {
    /// A counter, 0 when the node has none of that name.
    pub fn get(&self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or_default()
    }
}

/// One line of the cluster's history, kept on the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Wall clock in UTC of the node that wrote it.
    pub time: String,
    /// View that it is about.
    pub epoch: u64,
    /// Node that wrote it.
    pub actor: u8,
    /// "joined", "left", "died", "formed".
    pub event: String,
    /// Nodes that it is about.
    pub nodes: Vec<u8>,
    /// Members afterwards.
    pub members: Vec<u8>,
    /// Why.
    pub reason: String,
    /// From detection to installation, in milliseconds, when it was a reform.
    pub duration_ms: Option<f64>,
}
