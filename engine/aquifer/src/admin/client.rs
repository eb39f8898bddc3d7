//! The command's side of the admin channel, and how it finds a node.

use super::protocol::{Answer, Counters, HistoryEntry, Reform, Request, StatusReport};
use crate::device;
use crate::failure::Failure;
use crate::units::Address;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// How long a node may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How admin commands find a node: its socket, or the slots on the device.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Locator {
    /// Admin socket of a node.
    #[arg(long, env = "AQUIFER_ADMIN", value_name = "PATH")]
    pub admin: Option<String>,
    /// Device of the volume group; its slots say where the nodes listen.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    pub device: Option<PathBuf>,
}

impl Locator {
    /// Connects to node `id`, or to any node that answers.
    pub async fn connect(&self, id: Option<u8>) -> Result<AdminClient, Failure> {
        if let Some(admin) = &self.admin {
            let mut client = AdminClient::connect(admin).await?;
            let Some(id) = id else { return Ok(client) };
            let status = client.status().await?;
            if status.node == id {
                return Ok(client);
            }
            let node = status.nodes.iter().find(|n| n.id == id);
            let node =
                node.ok_or_else(|| Failure::usage(format!("there is no node {id} in this cluster")))?;
            return AdminClient::connect(&node.admin).await;
        }
        let Some(path) = &self.device else {
            return Err(Failure::usage(
                "which cluster? Give --admin PATH or --device DEV (or AQUIFER_ADMIN, AQUIFER_DEVICE)",
            ));
        };
        let slots = device::read_slots(path).await?;
        let mut last = None;
        for slot in slots
            .iter()
            .filter(|s| id.is_none_or(|id| s.id == id) && !s.admin.is_empty())
        {
            match AdminClient::connect(&slot.admin).await {
                Ok(client) => return Ok(client),
                Err(failure) => last = Some(failure),
            }
        }
        Err(match (last, id) {
            (_, None) => Failure::unavailable(format!(
                "no node of {} answers: start one with `aquifer node start --device {} ...`",
                path.display(),
                path.display()
            )),
            (Some(failure), Some(_)) => failure,
            (None, Some(id)) => Failure::usage(format!("node {id} never ran on {}", path.display())),
        })
    }
}

/// A connection to one node.
pub struct AdminClient {
    stream: BufReader<UnixStream>,
    address: String,
}

impl AdminClient {
    /// Connects to a socket, a path or `unix:PATH`.
    pub async fn connect(address: &str) -> Result<Self, Failure> {
        let path = match Address::parse(address) {
            Ok(Address::Unix(path)) => path,
            _ if !address.contains(':') && !address.is_empty() => PathBuf::from(address),
            _ => {
                return Err(Failure::usage(format!(
                    "`{address}` is not an admin socket; give its path"
                )));
            }
        };
        let stream = UnixStream::connect(&path)
            .await
            .map_err(|e| Failure::unavailable(format!("no node answers on {}: {e}", path.display())))?;
        Ok(Self {
            stream: BufReader::new(stream),
            address: address.to_owned(),
        })
    }

    /// One request and its answer.
    pub async fn call(&mut self, request: &Request) -> Result<Value, Failure> {
        let lost = |e: &dyn std::fmt::Display| {
            Failure::unavailable(format!("the node on {} went away: {e}", self.address))
        };
        let mut line = serde_json::to_vec(request).map_err(Failure::failed)?;
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .await
            .map_err(|e| lost(&e))?;
        let mut answer = String::new();
        let read = tokio::time::timeout(ANSWER_LIMIT, self.stream.read_line(&mut answer));
        let length = match read.await {
            Ok(result) => result
                .map_err(|e| Failure::unavailable(format!("the node on {} went away: {e}", self.address)))?,
            Err(_) => {
                return Err(Failure::unavailable(format!(
                    "the node on {} does not answer",
                    self.address
                )));
            }
        };
        if length == 0 {
            return Err(Failure::unavailable(format!(
                "the node on {} closed the connection",
                self.address
            )));
        }
        let answer: Answer = serde_json::from_str(&answer).map_err(|e| {
            Failure::failed(format!(
                "the node on {} answered what is no answer: {e}",
                self.address
            ))
        })?;
        answer.into_result()
    }

    /// One request, and its answer as what it is.
    pub async fn typed<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        let value = self.call(request).await?;
        serde_json::from_value(value).map_err(|e| {
            Failure::failed(format!(
                "the node on {} speaks another version: {e}",
                self.address
            ))
        })
    }

    /// `status`.
    pub async fn status(&mut self) -> Result<StatusReport, Failure> {
        self.typed(&Request::Status).await
    }

    /// `counters`.
    pub async fn counters(&mut self) -> Result<Counters, Failure> {
        self.typed(&Request::Counters).await
    }

    /// `timeline`.
    pub async fn timeline(&mut self) -> Result<Option<Reform>, Failure> {
        self.typed(&Request::Timeline).await
    }

    /// `history`.
    pub async fn history(&mut self, limit: usize) -> Result<Vec<HistoryEntry>, Failure> {
        self.typed(&Request::History { limit }).await
    }

    /// `stop`.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        self.call(&Request::Stop).await.map(|_| ())
    }
}
