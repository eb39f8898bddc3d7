//! Who does file requests: a node that runs, or this process.

use super::protocol::{Bytes, FileInfo, FileRequest, Listing};
use super::service;
use crate::admin::{AdminClient, Request};
use crate::daemon::ShortMember;
use crate::failure::Failure;
use crate::reach::{GroupOptions, Reach};
use serde::de::DeserializeOwned;
use serde_json::Value;

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
        Ok(match options.reach().await? {
            Reach::Node(client) => Self::Node(client),
            Reach::Nobody(alone) => Self::Member(Box::new(alone.member().await?)),
        })
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
        let (mut entries, mut after) = (Vec::new(), String::new());
        loop {
            let path = path.to_owned();
            let page: Listing = self.typed(FileRequest::List { path, after }).await?;
            entries.extend(page.entries);
            match page.next {
                Some(next) => after = next,
                None => return Ok(entries),
            }
        }
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
