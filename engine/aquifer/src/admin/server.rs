//! The node's side of the admin channel.

use super::protocol::{Answer, Request};
use crate::failure::Failure;
use serde_json::Value;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Longest request line, in bytes.
pub(super) const LINE_LIMIT: u64 = 64 * 1024;
/// A client that says nothing, or does not read its answer, for so long is cut off.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// What answers the requests.
pub trait AdminService: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Value, Failure>> + Send;
}

/// The socket of a node; its file is removed when this is dropped.
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens on `path`. Its directory is made with mode 0700, or must belong to this user and be closed to others.
    pub fn bind(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let directory = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        if !directory.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|e| Failure::failed(format!("cannot make {}: {e}", directory.display())))?;
        }
        let attributes = std::fs::metadata(directory)
            .map_err(|e| Failure::failed(format!("cannot look at {}: {e}", directory.display())))?;
        if attributes.mode() & 0o077 != 0 || attributes.uid() != rustix::process::geteuid().as_raw() {
            return Err(Failure::refused(format!(
                "the admin socket {shown} must be in a directory that only this user can enter: chmod 0700 {}",
                directory.display()
            )));
        }
        // A socket that nobody answers on is a leftover of an earlier life; one that answers is another node.
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(Failure::refused(format!(
                    "a node already answers on {shown}: choose another --admin, or stop it"
                )));
            }
            std::fs::remove_file(path)
                .map_err(|e| Failure::failed(format!("cannot replace {shown}: {e}")))?;
        }
        let listener = UnixListener::bind(path)
            .map_err(|e| Failure::unavailable(format!("cannot listen on {shown}: {e}")))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers on `socket` for ever.
pub async fn serve<S: AdminService>(socket: AdminSocket, service: Arc<S>) {
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) if is_allowed(&stream) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, service).await {
                        tracing::debug!(%error, "admin connection ended");
                    }
                });
            }
            Ok(_) => tracing::warn!("admin connection of another user refused"),
            Err(error) => {
                tracing::warn!(%error, "accepting an admin connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Only this user and root may give orders.
fn is_allowed(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw() || peer.uid() == 0)
}

/// Requests and answers in turn, until the client goes away, or says what is no request: then this connection ends, and no other.
pub(super) async fn converse<S: AdminService>(stream: UnixStream, service: Arc<S>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(LINE_LIMIT);
        let read = limited.read_until(b'\n', &mut line);
        let length = tokio::time::timeout(IDLE_LIMIT, read)
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)??;
        if length == 0 {
            return Ok(());
        }
        let request = understand(&line);
        let was_understood = request.is_ok();
        let result = match request {
            Ok(request) => service.handle(request).await,
            Err(failure) => Err(failure),
        };
        let mut text = serde_json::to_vec(&Answer::of(result)).map_err(std::io::Error::other)?;
        text.push(b'\n');
        let write = writer.write_all(&text);
        tokio::time::timeout(IDLE_LIMIT, write)
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)??;
        if !was_understood {
            return Ok(());
        }
    }
}

/// The request of a line.
pub(super) fn understand(line: &[u8]) -> Result<Request, Failure> {
    if line.len() as u64 >= LINE_LIMIT && line.last() != Some(&b'\n') {
        return Err(Failure::usage(format!(
            "not an admin request: its line is longer than {LINE_LIMIT} bytes"
        )));
    }
    serde_json::from_slice(line).map_err(|error| Failure::usage(format!("not an admin request: {error}")))
}
