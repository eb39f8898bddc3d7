//! The command's side of the admin channel, and how it finds a node.

use super::protocol::{Answer, Counters, HistoryEntry, Reform, Request, StatusReport};
use super::server::LINE_LIMIT;
use crate::device;
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::units::Address;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// How long a node may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long a node that lives may take for a change. What takes longer is begun by one request and looked at by others.
const CHANGE_LIMIT: Duration = Duration::from_secs(600);
/// Longest answer: 512 entries of a directory with the longest names and targets of links take a quarter of it.
const ANSWER_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 16 << 20 };

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

/// A connection to one node. It is made again after one that failed, so that a late answer is never taken for that of another request.
pub struct AdminClient {
    stream: Option<BufReader<UnixStream>>,
    address: String,
}

/// Why there is no answer.
#[derive(Debug)]
enum Lost {
    /// The connection is gone.
    Closed(String),
    /// Nothing came in time.
    Silent,
    /// It is no answer, or one without an end.
    Nonsense(String),
}

async fn open(address: &str) -> Result<BufReader<UnixStream>, Failure> {
    let path = match Address::parse(address) {
        Ok(Address::Unix(path)) => path,
        _ if !address.contains(':') && !address.is_empty() => PathBuf::from(address),
        _ => {
            return Err(Failure::usage(format!(
                "`{address}` is not an admin socket; give its path"
            )));
        }
    };
    let stream = UnixStream::connect(&path).await;
    let stream =
        stream.map_err(|e| Failure::unavailable(format!("no node answers on {}: {e}", path.display())))?;
    Ok(BufReader::new(stream))
}

/// Says one line and waits for another.
async fn exchange(stream: &mut BufReader<UnixStream>, line: &[u8]) -> Result<Answer, Lost> {
    let closed = |error: std::io::Error| Lost::Closed(format!("went away: {error}"));
    stream.get_mut().write_all(line).await.map_err(closed)?;
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWER_BYTES);
    let length = limited.read_until(b'\n', &mut answer).await.map_err(closed)?;
    if length == 0 {
        return Err(Lost::Closed("closed the connection".into()));
    }
    if length as u64 == ANSWER_BYTES {
        return Err(Lost::Nonsense(format!("more than {ANSWER_BYTES} bytes")));
    }
    serde_json::from_slice(&answer).map_err(|error| Lost::Nonsense(error.to_string()))
}

/// Whether a node answers, however long something else takes it.
async fn lives(address: &str) -> bool {
    let ask = async {
        let mut stream = open(address).await.ok()?;
        exchange(&mut stream, b"{\"command\":\"status\"}\n").await.ok()
    };
    matches!(tokio::time::timeout(ANSWER_LIMIT, ask).await, Ok(Some(_)))
}

impl AdminClient {
    /// Connects to a socket, a path or `unix:PATH`.
    pub async fn connect(address: &str) -> Result<Self, Failure> {
        let stream = Some(open(address).await?);
        let address = address.to_owned();
        Ok(Self { stream, address })
    }

    /// One request and its answer. What only looks is given up after [`ANSWER_LIMIT`] (exit 4). A change is waited for as long as the
    /// node answers otherwise; when it does not, or goes away, nobody knows what became of the change (exit 5).
    pub async fn call(&mut self, request: &Request) -> Result<Value, Failure> {
        let answer = self.ask(request).await?;
        answer.map_err(|lost| self.failure(request, &lost))?.into_result()
    }

    /// What came back. An error when the node cannot be asked.
    async fn ask(&mut self, request: &Request) -> Result<Result<Answer, Lost>, Failure> {
        let mut line = serde_json::to_vec(request).map_err(Failure::failed)?;
        line.push(b'\n');
        if line.len() as u64 > LINE_LIMIT {
            return Err(Failure::usage(format!(
                "{} bytes are more than one request takes",
                line.len()
            )));
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => open(&self.address).await?,
        };
        let answer = self.wait(request, exchange(&mut stream, &line)).await;
        if answer.is_ok() {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    async fn wait(
        &self,
        request: &Request,
        answer: impl Future<Output = Result<Answer, Lost>>,
    ) -> Result<Answer, Lost> {
        let begun = Instant::now();
        let mut answer = std::pin::pin!(answer);
        loop {
            if let Ok(answer) = tokio::time::timeout(ANSWER_LIMIT, &mut answer).await {
                return answer;
            }
            let goes_on = request.changes() && begun.elapsed() < CHANGE_LIMIT && lives(&self.address).await;
            if !goes_on {
                return Err(Lost::Silent);
            }
            note(format!(
                "the node on {} works on it for {} s",
                self.address,
                begun.elapsed().as_secs()
            ));
        }
    }

    fn failure(&self, request: &Request, lost: &Lost) -> Failure {
        let address = &self.address;
        let text = match lost {
            Lost::Closed(how) => format!("the node on {address} {how}"),
            Lost::Silent => format!("the node on {address} does not answer"),
            Lost::Nonsense(why) => format!("the node on {address} answered what is no answer: {why}"),
        };
        match lost {
            _ if request.changes() => {
                let unknown =
                    format!("{text}: what became of the change is not known; look before you repeat it");
                Failure::new(Exit::Unknown, unknown)
            }
            Lost::Nonsense(_) => Failure::failed(text),
            _ => Failure::unavailable(text),
        }
    }

    /// Whether the node's process has ended: it closes its connections when it does. A node that is silent has not.
    pub async fn has_ended(&mut self) -> bool {
        match self.ask(&Request::Status).await {
            Ok(answer) => matches!(answer, Err(Lost::Closed(_))),
            Err(_) => true,
        }
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
