//! The outgoing side of one peer: dial, then write what is queued.

use super::batch::{Batch, Parts, Written, header_of};
use super::frame::{HEADER, Refusal, encode_hello};
use super::ring::Writer;
use super::stream::Stream;
use super::{Shared, link, read_hello};
use crate::seam::{Service, Tail};
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
#[derive(Default)]
struct Waiting {
    connected: bool,
    batch: Batch,
    /// Where frames go, when not over the socket.
    memory: Option<Outlet>,
}

/// The way into memory.
struct Outlet {
    writer: Writer,
    /// By which the reader is told that there is something.
    socket: Arc<Stream>,
    /// What found no room at once, before all that waits, and how much of it is in the memory.
    batch: Batch,
    written: Written,
}

/// What became of what waited.
pub(super) struct Flushed {
    /// Something was taken.
    pub moved: bool,
    /// Nothing is left.
    pub all: bool,
}

/// What waits to be written to one peer.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Signalled when something begins to wait.
    pub ready: Notify,
    /// Signalled when the transport is started.
    pub begin: Notify,
}

impl Outlet {
    fn put(&mut self, parts: &[IoSlice<'_>]) -> Result<usize, Refusal> {
        let (written, tell) = self.writer.write(parts)?;
        if tell {
            self.socket.ring();
        }
        Ok(written)
    }

    /// Writes a frame before which nothing waits. Its length when it is whole in the memory; otherwise the rest waits.
    fn begin(&mut self, header: &[u8; HEADER], head: &[u8], tail: Option<Tail>) -> Option<usize> {
        let bytes = tail.as_deref().map_or(&[][..], |tail| &tail[..]);
        let whole = header.len() + head.len() + bytes.len();
        // Memory that is broken is found out by the task.
        let parts = [header, head, bytes].map(IoSlice::new);
        let begun = self.put(&parts).unwrap_or(0);
        if begun == whole {
            return Some(whole);
        }
        self.batch.push(header, head, tail);
        self.batch.advance(&mut self.written, begun);
        None
    }

    /// Writes what found no room before. Whether that was all.
    fn write(&mut self, moved: &mut bool) -> Result<bool, Refusal> {
        let mut parts = Parts::new();
        let mut promised = false;
        loop {
            self.batch.next_parts(&self.written, &mut parts);
            if parts.slices().is_empty() {
                return Ok(true);
            }
            let (taken, tell) = self.writer.write(parts.slices())?;
            if tell {
                self.socket.ring();
            }
            *moved |= taken > 0;
            self.batch.advance(&mut self.written, taken);
            if taken == 0 && promised {
                // Only a reader that breaks the rules takes room back.
                return Err(Refusal::Memory);
            }
            if taken == 0 && self.writer.waits()? {
                return Ok(false);
            }
            promised = taken == 0;
        }
    }
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
    pub fn push(&self, shared: &Shared, service: Service, head: &[u8], tail: Option<Tail>) -> bool {
        let header = header_of(service, head, tail.as_ref());
        let mut waiting = self.waiting.lock();
        if !waiting.connected || waiting.batch.bytes() > QUEUE_BYTES_MAX {
            return false;
        }
        let first = waiting.batch.frames() == 0;
        match &mut waiting.memory {
            // Nothing waits: straight into the memory.
            Some(outlet) if first && outlet.batch.frames() == 0 => {
                let whole = outlet.begin(&header, head, tail);
                drop(waiting);
                if let Some(bytes) = whole {
                    shared.sent_by_memory(1, bytes);
                    return true;
                }
            }
            _ => {
                waiting.batch.push(&header, head, tail);
                drop(waiting);
            }
        }
        if first {
            self.ready.notify_one();
        }
        true
    }

    fn connect(&self, connected: bool, memory: Option<(Writer, Arc<Stream>)>) {
        let mut waiting = self.waiting.lock();
        waiting.connected = connected;
        waiting.batch.clear();
        waiting.memory = memory.map(|(writer, socket)| Outlet {
            writer,
            socket,
            batch: Batch::default(),
            written: Written::default(),
        });
    }

    /// Writes what waits into the memory, as far as there is room.
    pub fn flush(&self, shared: &Shared) -> Result<Flushed, Refusal> {
        let mut waiting = self.waiting.lock();
        let Waiting { batch, memory, .. } = &mut *waiting;
        let outlet = memory.as_mut().expect("only a connection with memory is flushed");
        let mut moved = false;
        loop {
            let all = outlet.write(&mut moved)?;
            if !all {
                return Ok(Flushed { moved, all });
            }
            shared.sent_by_memory(outlet.batch.frames(), outlet.batch.bytes());
            outlet.batch.clear();
            outlet.written = Written::default();
            if batch.frames() == 0 {
                return Ok(Flushed { moved, all });
            }
            std::mem::swap(batch, &mut outlet.batch);
        }
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

/// A connection for which frames are queued. When it ends, also by an abort, nothing is queued any more, and nothing keeps it open.
struct Connected<'a>(&'a Queue);

impl<'a> Connected<'a> {
    fn new(queue: &'a Queue, memory: Option<(Writer, Arc<Stream>)>) -> Self {
        queue.connect(true, memory);
        Self(queue)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connect(false, None);
    }
}

/// Keeps a connection to `node` for ever.
pub(super) async fn dial(shared: Arc<Shared>, node: NodeId, address: String, queue: Arc<Queue>) {
    queue.begin.notified().await;
    let mut pause = Duration::from_millis(10);
    let mut told = None;
    loop {
        match connect(&shared, node, &address).await {
            Ok((stream, hello, memory)) => {
                shared.counters.connections.fetch_add(1, Ordering::Relaxed);
                pause = Duration::from_millis(10);
                told = None;
                let ended = if let Some(writer) = memory {
                    let stream = Arc::new(stream);
                    let _connected = Connected::new(&queue, Some((writer, stream.clone())));
                    link::carry(&shared, &stream, &queue).await
                } else {
                    let _connected = Connected::new(&queue, None);
                    carry(&shared, stream, &queue).await
                };
                if let Err(reason) = ended {
                    shared.refuse(reason, &address);
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
) -> Result<(Stream, super::Hello, Option<Writer>), Option<Refusal>> {
    let life = shared.life.get().expect("dialling begins after the start");
    let stream = tokio::time::timeout(super::HELLO_TIME, Stream::connect(address)).await;
    let mut stream = stream.map_err(|_| None)?.map_err(|_| None)?;
    stream
        .write_all(&encode_hello(&life.hello))
        .await
        .map_err(|_| None)?;
    let hello = read_hello(&mut stream).await?;
    shared.check(&hello, Some(node)).await?;
    let memory = link::give(shared, &mut stream, &hello).await?;
    Ok((stream, hello, memory))
}

/// Writes until the connection closes, or the peer takes nothing for too long.
async fn carry(shared: &Shared, stream: Stream, queue: &Queue) -> Result<(), Refusal> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        let mut batch = Batch::default();
        loop {
            queue.take(&mut batch).await;
            if let Err(error) = write_batch(shared, &mut writer, &batch).await {
                let late = error.kind() == io::ErrorKind::TimedOut;
                return if late { Err(Refusal::Stalled) } else { Ok(()) };
            }
            batch.clear();
        }
    };
    // A peer writes nothing here: whatever comes is the end.
    let mut nothing = [0; 1];
    tokio::select! {
        biased;
        _ = reader.read(&mut nothing) => Ok(()),
        ended = writing => ended,
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
