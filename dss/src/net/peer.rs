//! The outgoing side of one peer: dial, then write what is queued.

use super::batch::{Batch, Parts, Written, header_of};
use super::frame::{Refusal, encode_hello};
use super::stream::Stream;
use super::{Shared, read_hello};
use crate::seam::{Service, Tail};
use aquifer_dss_proto::NodeId;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Bytes that may wait for one peer.
const QUEUE_BYTES_MAX: usize = 64 << 20;
#[derive(Default)]
struct Waiting {
    connected: bool,
    batch: Batch,
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
    pub fn push(&self, service: Service, head: &[u8], tail: Option<Tail>) -> bool {
        let header = header_of(service, head, tail.as_ref());
        let mut waiting = self.waiting.lock();
        if !waiting.connected || waiting.batch.bytes() > QUEUE_BYTES_MAX {
            return false;
        }
        waiting.batch.push(&header, head, tail);
        let first = waiting.batch.frames() == 1;
        drop(waiting);
        if first {
            self.ready.notify_one();
        }
        true
    }

    fn connect(&self, connected: bool) {
        let mut waiting = self.waiting.lock();
        waiting.connected = connected;
        waiting.batch.clear();
    }

    /// Waits for frames and gives them for an empty batch, whose memory the next ones use.
    async fn take(&self, batch: &mut Batch) {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if waiting.batch.frames() > 0 {
                    return std::mem::swap(&mut waiting.batch, batch);
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
        let mut batch = Batch::default();
        loop {
            queue.take(&mut batch).await;
            if let Err(error) = write_batch(shared, &mut writer, &batch).await {
                return error.kind() == io::ErrorKind::TimedOut;
            }
            batch.clear();
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
    batch: &Batch,
) -> io::Result<()> {
    let (mut written, mut parts) = (Written::default(), Parts::new());
    loop {
        batch.next_parts(&written, &mut parts);
        if parts.slices().is_empty() {
            break;
        }
        let write = writer.write_vectored(parts.slices());
        let taken = tokio::time::timeout(shared.config.patience, write).await??;
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        shared.counters.writes.fetch_add(1, Ordering::Relaxed);
        batch.advance(&mut written, taken);
    }
    let counters = &shared.counters;
    counters.sent.fetch_add(batch.frames(), Ordering::Relaxed);
    counters
        .sent_bytes
        .fetch_add(batch.bytes() as u64, Ordering::Relaxed);
    Ok(())
}
