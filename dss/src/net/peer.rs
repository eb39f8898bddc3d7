//! The outgoing side of one peer: dial, then write what is queued.

use super::frame::{BODY_BYTES_MAX, HEADER, Refusal, encode_header, encode_hello};
use super::stream::Stream;
use super::{Shared, read_hello};
use crate::seam::Service;
use aquifer_dss_proto::NodeId;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Bytes that may wait for one peer.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Parts of one vectored write: the kernel takes 1024.
const PARTS_MAX: usize = 1024;

type Frame = ([u8; HEADER], Vec<u8>);

#[derive(Default)]
struct Waiting {
    connected: bool,
    bytes: usize,
    frames: Vec<Frame>,
}

/// What waits to be written to one peer.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Notify,
    /// Signalled when the transport is started.
    pub begin: Notify,
}

impl Queue {
    pub fn new(started: bool) -> Self {
        let queue = Self {
            waiting: Mutex::default(),
            ready: Notify::new(),
            begin: Notify::new(),
        };
        if started {
            queue.begin.notify_one();
        }
        queue
    }

    /// False when the frame was dropped.
    pub fn push(&self, service: Service, body: Vec<u8>) -> bool {
        assert!(
            body.len() <= BODY_BYTES_MAX,
            "a message of {} bytes is too long",
            body.len()
        );
        let header = encode_header(service, &body);
        let mut waiting = self.waiting.lock();
        if !waiting.connected || waiting.bytes > QUEUE_BYTES_MAX {
            return false;
        }
        waiting.bytes += HEADER + body.len();
        waiting.frames.push((header, body));
        let first = waiting.frames.len() == 1;
        drop(waiting);
        if first {
            self.ready.notify_one();
        }
        true
    }

    fn connect(&self, connected: bool) {
        *self.waiting.lock() = Waiting {
            connected,
            ..Waiting::default()
        };
    }

    async fn take(&self) -> Vec<Frame> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if !waiting.frames.is_empty() {
                    waiting.bytes = 0;
                    return std::mem::take(&mut waiting.frames);
                }
            }
            self.ready.notified().await;
        }
    }
}

/// Keeps a connection to `node` for ever.
pub(super) async fn dial(shared: Arc<Shared>, node: NodeId, address: String, queue: Arc<Queue>) {
    queue.begin.notified().await;
    let mut pause = Duration::from_millis(10);
    let mut told = None;
    loop {
        match connect(&shared, node, &address).await {
            Ok((stream, hello)) => {
                shared.counters.connections.fetch_add(1, Ordering::Relaxed);
                pause = Duration::from_millis(10);
                told = None;
                queue.connect(true);
                let stalled = carry(&shared, stream, &queue).await;
                queue.connect(false);
                if stalled {
                    shared.refuse(Refusal::Stalled, &address);
                }
                shared.disconnected(&hello);
            }
            Err(Some(reason)) if told != Some(reason) => {
                told = Some(reason);
                shared.refuse(reason, &address);
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

async fn connect(
    shared: &Shared,
    node: NodeId,
    address: &str,
) -> Result<(Stream, super::Hello), Option<Refusal>> {
    let life = shared.life.get().expect("dialling begins after the start");
    let stream = tokio::time::timeout(super::HELLO_TIME, Stream::connect(address)).await;
    let mut stream = stream.map_err(|_| None)?.map_err(|_| None)?;
    stream
        .write_all(&encode_hello(&life.hello))
        .await
        .map_err(|_| None)?;
    let hello = read_hello(&mut stream).await?;
    shared.check(&hello, Some(node)).await?;
    Ok((stream, hello))
}

/// Writes until the connection closes, or the peer takes nothing for too long. Whether it was that.
async fn carry(shared: &Shared, stream: Stream, queue: &Queue) -> bool {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        loop {
            let frames = queue.take().await;
            for batch in frames.chunks(PARTS_MAX / 2) {
                if let Err(error) = write_batch(shared, &mut writer, batch).await {
                    return error.kind() == io::ErrorKind::TimedOut;
                }
            }
        }
    };
    // A peer writes nothing here: whatever comes is the end.
    let mut nothing = [0; 1];
    tokio::select! {
        biased;
        _ = reader.read(&mut nothing) => false,
        stalled = writing => stalled,
    }
}

async fn write_batch(
    shared: &Shared,
    writer: &mut (impl AsyncWrite + Unpin),
    batch: &[Frame],
) -> io::Result<()> {
    let bytes: usize = batch.iter().map(|(_, body)| HEADER + body.len()).sum();
    let mut parts: Vec<IoSlice<'_>> = Vec::with_capacity(batch.len() * 2);
    for (header, body) in batch {
        parts.push(IoSlice::new(header));
        if !body.is_empty() {
            parts.push(IoSlice::new(body));
        }
    }
    let mut parts = &mut parts[..];
    while !parts.is_empty() {
        let write = writer.write_vectored(parts);
        let written = tokio::time::timeout(shared.config.patience, write).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        shared.counters.writes.fetch_add(1, Ordering::Relaxed);
        IoSlice::advance_slices(&mut parts, written);
    }
    shared
        .counters
        .sent
        .fetch_add(batch.len() as u64, Ordering::Relaxed);
    shared
        .counters
        .sent_bytes
        .fetch_add(bytes as u64, Ordering::Relaxed);
    Ok(())
}
