//! How file commands reach a volume group: through a node that runs, or as a member for the length of the command.
//!
//! Rules: a node that answers is used; when nodes live and none answers the command is refused (exit 6), because beside
//! them only a member may change files; when nobody lives this process becomes a node, does its work and leaves.

use super::protocol::{Bytes, FileInfo, FileRequest};
use super::service;
use crate::admin::{AdminClient, Locator, Request};
use crate::daemon::ShortMember;
use crate::device;
use crate::failure::{Exit, Failure};
use aquifer_dss_proto::NodeId;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Node that a command becomes when nobody else is there: the last one, which people rarely use.
const MEMBER: u8 = NodeId::MAX;

/// Which volume group, and how to reach it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GroupOptions {
    #[command(flatten)]
    pub locator: Locator,
    /// Node number of this process while no node runs.
    #[arg(long, default_value_t = MEMBER, value_name = "N")]
    pub as_node: u8,
}

/// Somebody who does file requests.
pub enum Session {
    /// A running node.
    Node(Box<AdminClient>),
    /// This process.
    Member(Box<ShortMember>),
}

impl Session {
    /// Finds a node, or becomes one.
    pub async fn open(options: &GroupOptions) -> Result<Self, Failure> {
        let unreachable = match options.locator.connect(None).await {
            Ok(client) => return Ok(Self::Node(Box::new(client))),
            Err(failure) => failure,
        };
        let Some(path) = options
            .locator
            .device
            .as_ref()
            .filter(|_| unreachable.exit == Exit::Unavailable)
        else {
            return Err(unreachable);
        };
        if device::anybody_runs(path)? {
            return Err(Failure::refused(format!(
                "nodes live on {} and none answers here: ask one of them with --admin PATH, or stop them",
                path.display()
            )));
        }
        let id = crate::units::node_id(options.as_node)?;
        Ok(Self::Member(Box::new(ShortMember::start(path, id).await?)))
    }

    /// One request and its answer.
    pub async fn call(&mut self, request: FileRequest) -> Result<Value, Failure> {
        match self {
            Self::Node(client) => client.call(&Request::Files { request }).await,
            Self::Member(member) => service::handle(member.group(), request).await,
        }
    }

    async fn typed<T: DeserializeOwned>(&mut self, request: FileRequest) -> Result<T, Failure> {
        let value = self.call(request).await?;
        serde_json::from_value(value)
            .map_err(|e| Failure::failed(format!("the node speaks another version: {e}")))
    }

    /// What is at a path.
    pub async fn stat(&mut self, path: &str, follow: bool) -> Result<FileInfo, Failure> {
        let path = path.to_owned();
        self.typed(FileRequest::Stat { path, follow }).await
    }

    /// What is in a directory.
    pub async fn list(&mut self, path: &str) -> Result<Vec<FileInfo>, Failure> {
        let path = path.to_owned();
        self.typed(FileRequest::List { path }).await
    }

    /// Makes an empty file.
    pub async fn create(&mut self, path: &str, exclusive: bool) -> Result<FileInfo, Failure> {
        let path = path.to_owned();
        self.typed(FileRequest::Create { path, exclusive }).await
    }

    /// Up to `length` bytes of a file.
    pub async fn read(&mut self, id: u64, offset: u64, length: u64) -> Result<Vec<u8>, Failure> {
        let bytes: Bytes = self.typed(FileRequest::Read { id, offset, length }).await?;
        service::decode(&bytes.data)
    }

    /// Writes bytes into a file.
    pub async fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let data = service::encode(bytes);
        self.call(FileRequest::Write { id, offset, data }).await.map(drop)
    }

    /// Leaves the cluster, when this process joined it.
    pub async fn close(self) -> Result<(), Failure> {
        match self {
            Self::Node(_) => Ok(()),
            Self::Member(member) => member.stop().await,
        }
    }
}
