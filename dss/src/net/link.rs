//! A connection whose frames go through memory: the handshake for it, and both ends of it.
//!
//! Rules:
//! - the socket stays: its end is the end of the connection, and a byte on it tells the writer that there is room again;
//! - who sends copies into the ring itself, behind what waits; what finds no room waits for the writing task, which closes the
//!   connection when nothing is taken for too long;
//! - to the task that reads, the ring is a stream of bytes like the socket: bounds, limits of time and receivers are the same. What a peer
//!   wrote before its end is delivered first.

use super::frame::{Hello, Refusal};
use super::offer::{DECLINED, NOTHING, OFFER, Offer, TAKEN};
use super::peer::Queue;
use super::ring::{Reader, Writer};
use super::stream::Stream;
use super::{HELLO_TIME, Life, Shared, read_frames};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// The end that dialled offers memory to a peer of the same machine. `None`: the socket carries the frames.
pub(super) async fn give(
    shared: &Shared,
    stream: &mut Stream,
    peer: &Hello,
) -> Result<Option<Writer>, Option<Refusal>> {
    let Some(place) = shared.common_place(peer) else {
        return Ok(None);
    };
    let made = place
        .make(shared.config.me)
        .inspect_err(|error| told(peer, error))
        .ok();
    let offer = made.as_ref().map_or(NOTHING, |made| made.offer);
    stream.write_all(&offer.encode()).await.map_err(|_| None)?;
    let answer = timeout(HELLO_TIME, stream.read_u8()).await;
    let answer = answer.map_err(|_| Refusal::Timeout)?.map_err(|_| None)?;
    Ok(made.filter(|_| answer == TAKEN).map(|made| made.taken()))
}

/// The end that was dialled takes it. `None`: the socket carries the frames.
pub(super) async fn take(
    shared: &Shared,
    stream: &mut Stream,
    peer: &Hello,
) -> Result<Option<Reader>, Refusal> {
    let Some(place) = shared.common_place(peer) else {
        return Ok(None);
    };
    let mut bytes = [0; OFFER];
    let read = timeout(HELLO_TIME, stream.read_exact(&mut bytes)).await;
    if read.map_err(|_| Refusal::Timeout)?.is_err() {
        // Closed: whoever reads next finds that out.
        return Ok(None);
    }
    let offer = Offer::decode(&bytes)?;
    let opened = (offer != NOTHING).then(|| place.open(peer.node, &offer));
    let reader = opened.and_then(|reader| reader.inspect_err(|error| told(peer, error)).ok());
    let answer = if reader.is_some() { TAKEN } else { DECLINED };
    // When the connection is closed, whoever reads next finds that out.
    let _ = stream.write_u8(answer).await;
    Ok(reader)
}

/// Reads the frames that come through memory.
pub(super) async fn read(
    shared: &Shared,
    life: &Life,
    peer: &Hello,
    socket: Stream,
    reader: Reader,
) -> Result<(), Refusal> {
    let broken = Arc::new(AtomicBool::new(false));
    let memory = Memory {
        socket,
        reader,
        ended: false,
        broken: broken.clone(),
    };
    let by_memory = &shared.counters.received_by_memory;
    read_frames(shared, life, peer, memory, Some(by_memory)).await?;
    if broken.load(Ordering::Relaxed) {
        return Err(Refusal::Memory);
    }
    Ok(())
}

fn told(peer: &Hello, error: &io::Error) {
    let node = peer.node;
    tracing::warn!(%node, %error, "no memory in common with a node of this machine: frames go over the socket");
}

/// Writes what found no room at once, until the connection ends or is to be broken off.
pub(super) async fn carry(shared: &Shared, stream: &Stream, queue: &Queue) -> Result<(), Refusal> {
    let mut taken = Instant::now();
    loop {
        let flushed = queue.flush(shared)?;
        if flushed.moved {
            taken = Instant::now();
        }
        let late = async {
            if flushed.all {
                queue.ready.notified().await;
                Ok(())
            } else {
                let left = shared.config.patience.saturating_sub(taken.elapsed());
                tokio::time::sleep(left).await;
                Err(Refusal::Stalled)
            }
        };
        tokio::select! {
            biased;
            rung = poll_fn(|cx| stream.poll_rung(cx)) => if !rung { return Ok(()) },
            go_on = late => go_on?,
        }
        if flushed.all {
            taken = Instant::now();
        }
    }
}

/// What a peer writes into memory, as a stream of bytes.
struct Memory {
    socket: Stream,
    reader: Reader,
    /// The socket has come to its end.
    ended: bool,
    /// The peer broke the rules of the ring, which ends the stream.
    broken: Arc<AtomicBool>,
}

impl Memory {
    fn poll_bytes(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, Refusal>> {
        let mut promised = false;
        loop {
            let (count, tell) = self.reader.read(into)?;
            if tell {
                self.socket.ring();
            }
            // What the peer wrote before it ended is still there.
            if count > 0 || self.ended {
                return Poll::Ready(Ok(count));
            }
            if promised {
                // Only a writer that breaks the rules takes bytes back.
                return Poll::Ready(Err(Refusal::Memory));
            }
            promised = !self.reader.waits()?;
            if !promised && !ready!(self.socket.poll_rung(cx)) {
                self.ended = true;
            }
        }
    }
}

impl AsyncRead for Memory {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match ready!(me.poll_bytes(cx, into.initialize_unfilled())) {
            Ok(count) => into.advance(count),
            Err(_) => me.broken.store(true, Ordering::Relaxed),
        }
        Poll::Ready(Ok(()))
    }
}
