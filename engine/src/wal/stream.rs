//! Appending: the log buffer, group commit, retention and the header of a living stream.

use super::RedoFile;
use super::header::{RING_OFFSET, StreamHeader, WalError};
use crate::mtr::{Appended, RedoSink};
use aquifer_buffer_pool::Redo;
use aquifer_buffer_pool_proto::{Lsn, PageId, Psn, Stamp};
use aquifer_dss::seam::{BLOCK, IoBuffer, Runtime};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, Incarnation, NodeId};
use aquifer_engine_proto::group::{GroupStamp, encode_group, group_length};
use aquifer_engine_proto::{RedoRecord, Retention, RetentionEntry};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Sizes of a stream.
#[derive(Clone, Copy, Debug)]
pub struct RedoConfig {
    /// Appended bytes that are flushed even when nobody waits.
    pub flush_bytes: usize,
    /// Part of the ring kept for mini-transactions that have begun, in bytes; at most half of the ring counts.
    pub margin_bytes: u64,
    /// Log between the horizon and the end that recovery should not exceed by much: older pages are named by
    /// [`RedoStream::pressure`], from a third of the ring's room on at the latest.
    pub recovery_bytes: u64,
    /// A page is sampled once in this many bytes of log.
    pub sample_bytes: u64,
}

impl Default for RedoConfig {
    fn default() -> Self {
        Self {
            flush_bytes: 256 << 10,
            margin_bytes: 16 << 20,
            recovery_bytes: 32 << 20,
            sample_bytes: 1 << 20,
        }
    }
}

/// What the stream asks of those who write pages back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Pages that pin the horizon, oldest first.
    pub pages: Vec<PageId>,
    /// How soon: 0 there is time, 100 at once.
    pub haste: u32,
}

/// The log buffer and what hangs on positions. Positions are bytes of the stream.
struct Log {
    /// Where the next group goes.
    next: u64,
    /// End of the last group: `next` without padding.
    previous_end: u64,
    /// Of the last group, in whatever life.
    stamp: Stamp,
    /// Groups not yet handed to the device, from `pending_start` (at a block) on.
    pending: Vec<u8>,
    pending_start: u64,
    /// Somebody wants this to be durable.
    requested: u64,
    retention: Retention,
    /// What earlier lives of this node left when they were not clean: pins the horizon while this life lasts.
    earlier: Option<Lsn>,
    /// The horizon in the header on storage: space before it is free.
    durable_horizon: u64,
    /// Somebody waits for room.
    want_room: bool,
    /// No append any more.
    closed: bool,
}

impl Log {
    fn horizon(&self, durable: u64) -> u64 {
        // What is not durable yet lies behind: the horizon is a begin or an end of a durable group.
        let retained = self
            .retention
            .horizon()
            .filter(|_| !planted(Defect::RecycleRedoEarly));
        let kept = retained.map_or(durable, |lsn| lsn.0.min(durable));
        self.earlier
            .map_or(kept, |lsn| lsn.0.min(kept))
            .max(self.durable_horizon)
    }

    fn used(&self) -> u64 {
        self.next - self.durable_horizon
    }
}

/// A flush unit: `bytes` go to `start`; the last group ends at `end`.
struct Unit {
    start: u64,
    end: u64,
    bytes: Vec<u8>,
}

/// One node's redo stream, open for appending. Lock order: `header` (async) before `log`.
pub struct RedoStream {
    rt: Arc<dyn Runtime>,
    file: Arc<dyn RedoFile>,
    config: RedoConfig,
    stream: NodeId,
    incarnation: Incarnation,
    ring_bytes: u64,
    /// Where this life began.
    first: Lsn,
    epoch: AtomicU64,
    log: Mutex<Log>,
    durable: AtomicU64,
    /// Told when `durable` has risen.
    risen: Arc<Notify>,
    wake_writer: Notify,
    room: Notify,
    room_wanted: Notify,
    header: tokio::sync::Mutex<StreamHeader>,
}

impl RedoStream {
    /// Opens the stream of `header` for `incarnation` behind the sealed end of the life before, and starts its
    /// writer. The header is the one that was seen, and is not read again: beside a write that is under way, a mirrored volume may show
    /// what was there before to a later read (MIR-16). When the stream is not clean, the redo of the earlier lives stays: whoever recovers them marks it clean.
    pub async fn open_own(
        rt: Arc<dyn Runtime>,
        file: Arc<dyn RedoFile>,
        config: RedoConfig,
        mut header: StreamHeader,
        incarnation: Incarnation,
    ) -> Result<Arc<Self>, WalError> {
        let stream = header.stream;
        let earlier = (!header.clean).then_some(header.horizon);
        let first = header.begin_life(incarnation)?;
        header.write(&*file).await?;
        let previous_end = header.segments.last().expect("the life that begins").previous_end;
        let log = Log {
            next: first.0,
            previous_end: previous_end.0,
            stamp: header.stamp,
            pending: Vec::new(),
            pending_start: first.0,
            requested: 0,
            // A page that is changed without pause pins up to a sample of log.
            retention: Retention::new(config.sample_bytes.min(header.ring_bytes / 16)),
            earlier,
            durable_horizon: header.horizon.0,
            want_room: false,
            closed: false,
        };
        let this = Arc::new(Self {
            rt: rt.clone(),
            file,
            config,
            stream,
            incarnation,
            ring_bytes: header.ring_bytes,
            first,
            epoch: AtomicU64::new(0),
            log: Mutex::new(log),
            durable: AtomicU64::new(first.0),
            risen: Arc::default(),
            wake_writer: Notify::new(),
            room: Notify::new(),
            room_wanted: Notify::new(),
            header: tokio::sync::Mutex::new(header),
        });
        rt.spawn("redo writer", Box::pin(this.clone().run_writer()));
        Ok(this)
    }

    /// The view in which groups are written from now on.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// Appends the records of one mini-transaction as a group and gives its end and its stamp, which is above `pages`, the highest
    /// stamp in the pages changed (WAL-9). Synchronous, called under the latches of the pages, so that the order in the stream is
    /// the order of each page's changes. Never waits: whoever begins a mini-transaction has asked [`has_room`](Self::has_room) first.
    pub fn append(&self, records: &[RedoRecord], pages: Stamp) -> Appended {
        let length = group_length(records) as u64;
        let mut log = self.log.lock();
        assert!(!log.closed, "an append to a closed redo stream");
        let (lsn, end) = (log.next, log.next + length);
        if end.next_multiple_of(BLOCK as u64) - log.durable_horizon > self.ring_bytes {
            log.closed = true;
            self.rt
                .abort("the redo ring is full: a mini-transaction was begun without room");
            let (end, stamp) = (Lsn(u64::MAX), pages.next());
            return Appended { end, stamp };
        }
        log.stamp = log.stamp.max(pages).next();
        let stamp = GroupStamp {
            stream: self.stream,
            lsn: Lsn(lsn),
            previous_end: Lsn(log.previous_end),
            incarnation: self.incarnation,
            epoch: Epoch(self.epoch.load(Ordering::Acquire)),
            stamp: log.stamp,
        };
        encode_group(&mut log.pending, stamp, records);
        log.next = end;
        log.previous_end = end;
        for record in records {
            log.retention.changed(record.page, record.prev_psn, Lsn(lsn));
        }
        if log.pending.len() >= self.config.flush_bytes {
            log.requested = end;
            self.wake_writer.notify_one();
        }
        Appended {
            end: Lsn(end),
            stamp: stamp.stamp,
        }
    }

    /// Whether a mini-transaction may begin.
    pub fn has_room(&self) -> bool {
        self.has_room_in(&self.log.lock())
    }

    fn has_room_in(&self, log: &Log) -> bool {
        log.used() <= self.room()
    }

    /// Waits until a mini-transaction may begin.
    pub async fn wait_room(&self) {
        loop {
            let notified = self.room.notified();
            {
                let mut log = self.log.lock();
                if self.has_room_in(&log) {
                    return;
                }
                log.want_room = true;
            }
            self.room_wanted.notify_one();
            self.wake_writer.notify_one();
            notified.await;
        }
    }

    /// Up to `limit` pages, oldest first, to be written back (`Pool::want_flush`) because they pin the horizon. None while there is
    /// little log to keep: what is written late is written once for many changes. From then on the haste grows with the
    /// log, and reaches 100 well before mini-transactions have to wait for room.
    pub fn pressure(&self, limit: usize) -> Pressure {
        let log = self.log.lock();
        let most = (self.room() / 3).min(self.config.recovery_bytes);
        let kept = log.next - log.horizon(self.durable_position());
        if kept <= most && !log.want_room {
            return Pressure::default();
        }
        // A little further than needed, so that pages go in batches.
        let pages = log.retention.pinning(Lsn(log.next - most / 8 * 7), limit);
        let haste = if log.want_room {
            100
        } else {
            ((kept - most) * 100 / most).min(100) as u32
        };
        Pressure { pages, haste }
    }

    /// Log that fits before mini-transactions have to wait.
    fn room(&self) -> u64 {
        self.ring_bytes - self.config.margin_bytes.min(self.ring_bytes / 2)
    }

    /// Until a mini-transaction waits for room.
    pub async fn until_room_is_wanted(&self) {
        self.room_wanted.notified().await;
    }

    /// What this life changed and does not know to be on storage: told to the node that recovers (HZ-1).
    pub fn retention(&self) -> Vec<RetentionEntry> {
        self.log.lock().retention.entries()
    }

    /// Bytes of log between the horizon on storage and the end, and bytes of the ring.
    pub fn usage(&self) -> (u64, u64) {
        (self.log.lock().used(), self.ring_bytes)
    }

    /// Position behind the last group appended in this life, or its begin.
    pub fn end(&self) -> Lsn {
        Lsn(self.log.lock().previous_end).max(self.first)
    }

    /// Writes the present horizon to the header; space before it is reused only afterwards.
    pub async fn checkpoint(&self) -> Result<(), WalError> {
        let mut header = self.header.lock().await;
        let (horizon, stamp) = {
            let log = self.log.lock();
            if log.closed {
                return Ok(());
            }
            (log.horizon(self.durable_position()), log.stamp)
        };
        if header.horizon.0 < horizon {
            header.horizon = Lsn(horizon);
            header.stamp = stamp;
            if !planted(Defect::ReuseRingBeforeHeader) {
                header.write(&*self.file).await?;
            }
            let mut log = self.log.lock();
            log.durable_horizon = horizon;
            if self.has_room_in(&log) {
                log.want_room = false;
                drop(log);
                self.room.notify_waiters();
            }
        }
        Ok(())
    }

    /// Clean shutdown, after every page was written back: flushes, seals and marks the stream clean. Nothing can be
    /// appended afterwards. [`WalError::Needed`] when something is not on storage; the stream stays open then.
    pub async fn close_clean(&self) -> Result<(), WalError> {
        let end = self.end();
        self.wait(end).await;
        let mut header = self.header.lock().await;
        {
            let mut log = self.log.lock();
            if !log.retention.is_empty() || log.earlier.is_some() || log.previous_end > end.0 {
                return Err(WalError::Needed(self.stream));
            }
            log.closed = true;
            header.stamp = log.stamp;
        }
        header.segments.last_mut().expect("the present life").end = Some(end);
        header.horizon = end;
        header.clean = true;
        header.write(&*self.file).await
    }

    async fn run_writer(self: Arc<Self>) {
        loop {
            let notified = self.wake_writer.notified();
            let result = if let Some(unit) = self.take_unit() {
                self.write_unit(unit).await
            } else if self.checkpoint_is_due() {
                self.checkpoint().await
            } else {
                notified.await;
                continue;
            };
            if let Err(error) = result {
                // WAL-2: what is on the device is unknown now, and nothing may be reported durable any more.
                self.log.lock().closed = true;
                self.rt.abort(&format!("redo stream: {error}"));
                return;
            }
            if self.checkpoint_is_due()
                && let Err(error) = self.checkpoint().await
            {
                self.log.lock().closed = true;
                self.rt.abort(&format!("redo stream: {error}"));
                return;
            }
        }
    }

    fn durable_position(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    fn checkpoint_is_due(&self) -> bool {
        let log = self.log.lock();
        let gain = log.horizon(self.durable_position()) - log.durable_horizon;
        !log.closed && gain > 0 && (log.want_room || gain >= self.ring_bytes / 8)
    }

    /// Everything appended, when somebody wants it durable. The next unit begins at the next block.
    fn take_unit(&self) -> Option<Unit> {
        let mut log = self.log.lock();
        if log.closed || log.pending.is_empty() || log.requested <= self.durable_position() {
            return None;
        }
        let unit = Unit {
            start: log.pending_start,
            end: log.next,
            bytes: std::mem::take(&mut log.pending),
        };
        log.next = log.next.next_multiple_of(BLOCK as u64);
        log.pending_start = log.next;
        Some(unit)
    }

    async fn write_unit(&self, unit: Unit) -> Result<(), WalError> {
        assert!(
            unit.start.is_multiple_of(BLOCK as u64),
            "a flush unit begins at a block"
        );
        let mut at = unit.start;
        let mut rest = &unit.bytes[..];
        while !rest.is_empty() {
            let in_ring = at % self.ring_bytes;
            let piece = rest.len().min((self.ring_bytes - in_ring) as usize);
            let buffer = IoBuffer::copy_padded(&rest[..piece]);
            self.file
                .write_at(RING_OFFSET + in_ring, buffer)
                .await
                .map_err(WalError::Io)?;
            at += piece as u64;
            rest = &rest[piece..];
        }
        if !planted(Defect::DurableBeforeFlush) {
            self.file.flush().await.map_err(WalError::Io)?;
        }
        self.durable.store(unit.end, Ordering::Release);
        self.risen.notify_waiters();
        Ok(())
    }
}

impl RedoSink for RedoStream {
    fn append(&self, records: &[RedoRecord], pages: Stamp) -> Appended {
        Self::append(self, records, pages)
    }
}

impl Redo for RedoStream {
    fn durable(&self) -> Lsn {
        Lsn(self.durable_position())
    }

    fn request(&self, position: Lsn) {
        let mut log = self.log.lock();
        if position.0 > log.requested {
            log.requested = position.0;
            drop(log);
            self.wake_writer.notify_one();
        }
    }

    fn risen(&self) -> Arc<Notify> {
        self.risen.clone()
    }

    fn written_back(&self, by: NodeId, pages: &[(PageId, Psn)]) {
        if by == self.stream {
            let mut log = self.log.lock();
            for (page, psn) in pages {
                log.retention.written_back(*page, *psn);
            }
            drop(log);
            if self.checkpoint_is_due() {
                self.wake_writer.notify_one();
            }
        }
    }
}
