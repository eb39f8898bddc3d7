//! How a command reaches a volume group: through a node that runs or, while nobody does, as a node for its own length.
//!
//! Rules: a node that answers is used; when nodes live and none answers the command is refused (exit 6), because beside
//! them only a member may change anything; when nobody lives this process becomes a node, does its work and leaves.

use crate::admin::{AdminClient, Locator};
use crate::daemon::{ShortMember, ShortNode};
use crate::device;
use crate::failure::{Exit, Failure};
use aquifer_dss_proto::NodeId;
use std::path::PathBuf;

/// Node that a command becomes when nobody else is there: the last one, which people rarely use.
const MEMBER: u8 = NodeId::MAX;

/// Which volume group, and how to reach it.
#[derive(Clone, Debug, clap::Args)]
pub struct GroupOptions {
    #[command(flatten)]
    pub locator: Locator,
    /// Node number of this process while no node runs.
    #[arg(long, default_value_t = MEMBER, value_name = "N")]
    pub as_node: u8,
}

impl GroupOptions {
    /// The group on a device.
    pub fn on(device: PathBuf) -> Self {
        Self {
            locator: Locator {
                admin: None,
                device: Some(device),
            },
            as_node: MEMBER,
        }
    }

    /// Looks who is there.
    pub async fn reach(&self) -> Result<Reach, Failure> {
        let unreachable = match self.locator.connect(None).await {
            Ok(client) => return Ok(Reach::Node(Box::new(client))),
            Err(failure) => failure,
        };
        let Some(device) = self
            .locator
            .device
            .as_ref()
            .filter(|_| unreachable.exit == Exit::Unavailable)
        else {
            return Err(unreachable);
        };
        if device::anybody_runs(device)? {
            return Err(Failure::refused(format!(
                "nodes live on {} and none answers here: ask one of them with --admin PATH, or stop them",
                device.display()
            )));
        }
        Ok(Reach::Nobody(Alone {
            device: device.clone(),
            id: crate::units::node_id(self.as_node)?,
        }))
    }
}

/// Who is there.
pub enum Reach {
    /// A node that answers.
    Node(Box<AdminClient>),
    /// Nobody: this process may become a node.
    Nobody(Alone),
}

/// A group that nobody uses.
#[derive(Clone, Debug)]
pub struct Alone {
    /// Its first device.
    pub device: PathBuf,
    /// Which node this process becomes.
    pub id: NodeId,
}

impl Alone {
    /// Becomes a member that uses files.
    pub async fn member(&self) -> Result<ShortMember, Failure> {
        ShortMember::start(&self.device, self.id).await
    }

    /// Does what needs a node that answers, as that node; it leaves also when the work failed. A signal ends it early: what has
    /// begun by then is in the catalogue, and the next node goes on with it.
    pub async fn as_node<T>(
        &self,
        work: impl AsyncFnOnce(&Locator) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut node = ShortNode::start(&self.device, self.id).await?;
        let locator = Locator {
            admin: Some(node.admin().into()),
            device: Some(self.device.clone()),
        };
        let done = tokio::select! {
            done = work(&locator) => done,
            reason = node.cut_short() => Err(Failure::new(
                Exit::Unknown,
                format!("cut short by {reason}: what has begun goes on as soon as a node runs, or with the same command"),
            )),
        };
        let left = node.stop().await;
        let done = done?;
        left.map(|()| done)
    }
}
