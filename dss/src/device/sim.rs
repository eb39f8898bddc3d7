//! A simulated disk that several nodes share: deterministic, in memory, sparse, and it can lose power.
//!
//! Rules:
//! - a write is seen by every reader from its completion, and durable from a flush called after its completion;
//! - at a power cut each write that is not durable is kept, dropped or torn at 512 bytes, as the seed says;
//! - when a port dies (its node crashed), each of its writes in flight is applied, dropped or torn; what had
//!   completed stays visible;
//! - everything depends on the seed and on the order of calls alone.

use crate::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, Runtime};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const PAGE: u64 = 4096;
const SECTOR: usize = 512;
/// What is found where something was discarded.
const DISCARDED: u8 = 0xDD;
/// A discard takes as long as so many writes.
const DISCARD_TAKES: u32 = 64;

/// How a simulated disk is.
#[derive(Clone, Debug)]
pub struct SimDiskOptions {
    /// Bytes.
    pub size: u64,
    /// Smallest unit of I/O: 512 to 4096.
    pub block: u32,
    /// Decides every random choice.
    pub seed: u64,
    /// Shortest and longest time of an operation.
    pub latency: (Duration, Duration),
    /// What was discarded reads as zeros; as garbage otherwise.
    pub discards_to_zeros: bool,
}

impl SimDiskOptions {
    /// A disk of `size` bytes with latencies of 20 to 200 microseconds.
    pub fn new(size: u64, seed: u64) -> Self {
        let latency = (Duration::from_micros(20), Duration::from_micros(200));
        Self {
            size,
            block: 4096,
            seed,
            latency,
            discards_to_zeros: false,
        }
    }
}

/// One opener of the disk: one node's connection to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Port(pub u64);

/// When the power fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutPoint {
    /// When the nth write from now (1 is the next) is in flight.
    DuringWrite(u64),
    /// When the nth flush from now (1 is the next) is in flight: it has no effect of its own.
    DuringFlush(u64),
    /// Right after the nth flush from now has done its work, before its caller knows.
    AfterFlush(u64),
}

/// What happened on the disk so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCounters {
    /// Reads submitted.
    pub reads: u64,
    /// Writes submitted.
    pub writes: u64,
    /// Flushes submitted.
    pub flushes: u64,
}

type Pages = BTreeMap<u64, Arc<[u8; PAGE as usize]>>;

#[derive(Clone)]
struct Write {
    offset: u64,
    data: Arc<[u8]>,
}

struct State {
    options: SimDiskOptions,
    random: u64,
    visible: Pages,
    durable: Pages,
    /// Completed writes that no flush covers, in order of completion, numbered.
    unflushed: BTreeMap<u64, Write>,
    completed: u64,
    /// Submitted writes that are not complete, numbered in order of submission.
    in_flight: BTreeMap<u64, (Port, Write)>,
    submitted: u64,
    live: BTreeSet<Port>,
    next_port: u64,
    counters: DiskCounters,
    cut: Option<(CutPoint, DiskCounters)>,
    power: bool,
    /// The errno that operations of a port fail with, and how many still succeed before.
    failing: BTreeMap<Port, (u64, i32)>,
    slowdown: BTreeMap<Port, Duration>,
    /// What every operation of every port fails with.
    broken: Option<i32>,
}

/// The shared disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// A disk of zeros.
    pub fn new(options: SimDiskOptions) -> Self {
        Self::with_pages(options, Pages::new())
    }

    fn with_pages(options: SimDiskOptions, pages: Pages) -> Self {
        assert!(options.block.is_power_of_two() && (512..=4096).contains(&options.block));
        assert!(
            options.size.is_multiple_of(u64::from(options.block)),
            "a disk has whole blocks"
        );
        Self(Arc::new(Mutex::new(State {
            random: options.seed ^ 0x5EED_0D15_C000_0000,
            options,
            visible: pages.clone(),
            durable: pages,
            unflushed: BTreeMap::new(),
            completed: 0,
            in_flight: BTreeMap::new(),
            submitted: 0,
            live: BTreeSet::new(),
            next_port: 1,
            counters: DiskCounters::default(),
            cut: None,
            power: true,
            failing: BTreeMap::new(),
            slowdown: BTreeMap::new(),
            broken: None,
        })))
    }

    /// Another opener; time comes from `runtime`.
    pub fn attach(&self, runtime: Arc<dyn Runtime>) -> Arc<SimDevice> {
        let mut state = self.0.lock();
        let port = Port(state.next_port);
        state.next_port += 1;
        state.live.insert(port);
        Arc::new(SimDevice {
            disk: self.clone(),
            port,
            runtime,
        })
    }

    /// The opener's node crashed: its writes in flight are applied, dropped or torn, and it does no more I/O.
    pub fn kill(&self, port: Port) {
        self.0.lock().kill(port);
    }

    /// The nodes of all openers crashed.
    pub fn kill_all(&self) {
        let mut state = self.0.lock();
        for port in state.live.clone() {
            state.kill(port);
        }
    }

    /// The power fails: every opener is gone, and only what is durable is sure to be there when it comes back.
    pub fn power_cut(&self) {
        self.0.lock().power_cut();
    }

    /// The power is back after a cut; attach again.
    pub fn power_on(&self) {
        let mut state = self.0.lock();
        state.power = true;
        state.cut = None;
    }

    /// Whether the power is on.
    pub fn has_power(&self) -> bool {
        self.0.lock().power
    }

    /// Plans a power cut.
    pub fn cut_at(&self, point: CutPoint) {
        let mut state = self.0.lock();
        state.cut = Some((point, state.counters));
    }

    /// Makes the disk another size; what is past its end is not reachable.
    pub fn resize(&self, size: u64) {
        self.0.lock().options.size = size;
    }

    /// What happened so far.
    pub fn counters(&self) -> DiskCounters {
        self.0.lock().counters
    }

    /// After `after` more operations of `port`, all its operations fail with `errno`. [`heal`](Self::heal) ends it.
    pub fn fail(&self, port: Port, after: u64, errno: i32) {
        self.0.lock().failing.insert(port, (after, errno));
    }

    /// Every operation of every opener fails with `errno` from now on, until [`repair`](Self::repair): what is there stays.
    pub fn break_down(&self, errno: i32) {
        self.0.lock().broken = Some(errno);
    }

    /// Ends a break-down.
    pub fn repair(&self) {
        self.0.lock().broken = None;
    }

    /// Adds `delay` to every operation of `port`.
    pub fn slow_down(&self, port: Port, delay: Duration) {
        self.0.lock().slowdown.insert(port, delay);
    }

    /// Ends failures and delays of `port`.
    pub fn heal(&self, port: Port) {
        let mut state = self.0.lock();
        state.failing.remove(&port);
        state.slowdown.remove(&port);
    }

    /// Another disk with what is durable now, and another seed.
    pub fn durable_copy(&self, seed: u64) -> Self {
        let state = self.0.lock();
        Self::with_pages(
            SimDiskOptions {
                seed,
                ..state.options.clone()
            },
            state.durable.clone(),
        )
    }

    /// Another disk with what readers see now, and another seed.
    pub fn visible_copy(&self, seed: u64) -> Self {
        let state = self.0.lock();
        Self::with_pages(
            SimDiskOptions {
                seed,
                ..state.options.clone()
            },
            state.visible.clone(),
        )
    }

    /// Changes bytes behind everybody's back, durably: decay, or a test's damage.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.0.lock();
        store(&mut state.visible, offset, bytes);
        store(&mut state.durable, offset, bytes);
    }

    /// The bytes that readers see.
    pub fn peek(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        load(&self.0.lock().visible, offset, &mut bytes);
        bytes
    }
}

fn load(pages: &Pages, offset: u64, bytes: &mut [u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let inside = (at % PAGE) as usize;
        let count = (PAGE as usize - inside).min(bytes.len() - done);
        match pages.get(&(at / PAGE)) {
            Some(page) => bytes[done..done + count].copy_from_slice(&page[inside..inside + count]),
            None => bytes[done..done + count].fill(0),
        }
        done += count;
    }
}

fn store(pages: &mut Pages, offset: u64, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let inside = (at % PAGE) as usize;
        let count = (PAGE as usize - inside).min(bytes.len() - done);
        let page = pages
            .entry(at / PAGE)
            .or_insert_with(|| Arc::new([0; PAGE as usize]));
        Arc::make_mut(page)[inside..inside + count].copy_from_slice(&bytes[done..done + count]);
        done += count;
    }
}

impl State {
    /// splitmix64
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn latency(&mut self, port: Port) -> Duration {
        let (low, high) = self.options.latency;
        let span = high.saturating_sub(low).as_nanos() as u64;
        let extra = if span == 0 { 0 } else { self.draw() % (span + 1) };
        low + Duration::from_nanos(extra) + self.slowdown.get(&port).copied().unwrap_or_default()
    }

    fn kill(&mut self, port: Port) {
        self.live.remove(&port);
        let (dead, alive) = std::mem::take(&mut self.in_flight)
            .into_iter()
            .partition(|(_, (p, _))| *p == port);
        self.in_flight = alive;
        let dead: BTreeMap<u64, (Port, Write)> = dead;
        for (_, (_, write)) in dead {
            for part in self.survivors(&write) {
                self.complete(part);
            }
        }
    }

    /// What is left of a write that nobody waited for: all, nothing, or some of its sectors.
    fn survivors(&mut self, write: &Write) -> Vec<Write> {
        match self.draw() % 3 {
            0 => vec![write.clone()],
            1 => Vec::new(),
            _ => {
                let sectors = write.data.chunks(SECTOR).enumerate();
                let kept = sectors.filter(|_| self.draw().is_multiple_of(2));
                kept.map(|(index, sector)| Write {
                    offset: write.offset + (index * SECTOR) as u64,
                    data: sector.into(),
                })
                .collect()
            }
        }
    }

    fn complete(&mut self, write: Write) {
        store(&mut self.visible, write.offset, &write.data);
        self.completed += 1;
        self.unflushed.insert(self.completed, write);
    }

    fn power_cut(&mut self) {
        let unflushed = std::mem::take(&mut self.unflushed).into_values();
        let in_flight = std::mem::take(&mut self.in_flight)
            .into_values()
            .map(|(_, write)| write);
        for write in unflushed.chain(in_flight).collect::<Vec<_>>() {
            for part in self.survivors(&write) {
                store(&mut self.durable, part.offset, &part.data);
            }
        }
        self.visible = self.durable.clone();
        self.live.clear();
        self.failing.clear();
        self.cut = None;
        self.power = false;
    }

    /// Makes writes that completed up to number `through` durable.
    fn make_durable(&mut self, through: u64) {
        let later = self.unflushed.split_off(&(through + 1));
        for (_, write) in std::mem::replace(&mut self.unflushed, later) {
            store(&mut self.durable, write.offset, &write.data);
        }
    }

    fn reached(&self, point: CutPoint) -> bool {
        let Some((planned, since)) = self.cut else {
            return false;
        };
        let (writes, flushes) = (
            self.counters.writes - since.writes,
            self.counters.flushes - since.flushes,
        );
        planned == point
            && match point {
                CutPoint::DuringWrite(n) => writes == n,
                CutPoint::DuringFlush(n) => flushes == n,
                // Another flush may have begun while the nth was under way.
                CutPoint::AfterFlush(n) => flushes >= n,
            }
    }

    fn planned(&self) -> Option<CutPoint> {
        self.cut.map(|(point, _)| point)
    }

    /// Whether an operation of `port` may go on.
    fn admit(
        &mut self,
        port: Port,
        operation: &'static str,
        offset: u64,
        length: usize,
    ) -> Result<(), DeviceError> {
        if !self.live.contains(&port) {
            return Err(DeviceError::Fenced(format!(
                "port {} of the simulated disk is closed",
                port.0
            )));
        }
        let errno = match (self.broken, self.failing.get_mut(&port)) {
            (Some(errno), _) => errno,
            (None, None) => return Ok(()),
            (None, Some((left, _))) if *left > 0 => {
                *left -= 1;
                return Ok(());
            }
            (None, Some((_, errno))) => *errno,
        };
        let message = String::from("injected");
        Err(DeviceError::Io {
            operation,
            offset,
            length,
            errno,
            message,
        })
    }
}

/// One opener's view of a [`SimDisk`].
pub struct SimDevice {
    disk: SimDisk,
    port: Port,
    runtime: Arc<dyn Runtime>,
}

impl SimDevice {
    /// This opener, for [`SimDisk::kill`] and the like.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The disk.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn check(&self, operation: &'static str, offset: u64, length: usize) -> Result<(), DeviceError> {
        let Geometry { size, block } = self.geometry();
        let aligned = offset.is_multiple_of(u64::from(block)) && length.is_multiple_of(block as usize);
        match offset.checked_add(length as u64) {
            Some(end) if aligned && end <= size => Ok(()),
            _ => Err(DeviceError::OutOfRange {
                operation,
                offset,
                length,
            }),
        }
    }

    /// Starts an operation: how long it takes, or why it may not be.
    fn begin(&self, operation: &'static str, offset: u64, length: usize) -> Result<Duration, DeviceError> {
        let mut state = self.disk.0.lock();
        state.admit(self.port, operation, offset, length)?;
        Ok(state.latency(self.port))
    }

    fn still_open(&self, state: &State) -> Result<(), DeviceError> {
        if state.live.contains(&self.port) {
            return Ok(());
        }
        Err(DeviceError::Fenced(format!(
            "port {} of the simulated disk was closed",
            self.port.0
        )))
    }

    fn submit(&self, offset: u64, buffer: &IoBuffer) -> Result<u64, DeviceError> {
        let mut state = self.disk.0.lock();
        state.counters.writes += 1;
        state.submitted += 1;
        let number = state.submitted;
        let write = Write {
            offset,
            data: Arc::from(&buffer[..]),
        };
        state.in_flight.insert(number, (self.port, write));
        if state
            .planned()
            .is_some_and(|point| matches!(point, CutPoint::DuringWrite(_)) && state.reached(point))
        {
            state.power_cut();
        }
        self.still_open(&state)?;
        Ok(number)
    }

    /// Counts a flush; what it will make durable.
    fn submit_flush(&self) -> Result<u64, DeviceError> {
        let mut state = self.disk.0.lock();
        state.counters.flushes += 1;
        if state
            .planned()
            .is_some_and(|point| matches!(point, CutPoint::DuringFlush(_)) && state.reached(point))
        {
            state.power_cut();
        }
        self.still_open(&state)?;
        Ok(state.completed)
    }
}

impl BlockDevice for SimDevice {
    fn geometry(&self) -> Geometry {
        let state = self.disk.0.lock();
        Geometry {
            size: state.options.size,
            block: state.options.block,
        }
    }

    fn read(&self, offset: u64, mut buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.check("read", offset, buffer.len())?;
            let latency = self.begin("read", offset, buffer.len())?;
            self.disk.0.lock().counters.reads += 1;
            self.runtime.sleep(latency).await;
            let state = self.disk.0.lock();
            self.still_open(&state)?;
            load(&state.visible, offset, &mut buffer);
            Ok(buffer)
        })
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.check("write", offset, buffer.len())?;
            let latency = self.begin("write", offset, buffer.len())?;
            let number = self.submit(offset, &buffer)?;
            self.runtime.sleep(latency).await;
            let mut state = self.disk.0.lock();
            self.still_open(&state)?;
            let (_, write) = state
                .in_flight
                .remove(&number)
                .expect("a live port's write stays in flight");
            state.complete(write);
            drop(state);
            Ok(buffer)
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            let latency = self.begin("flush", 0, 0)?;
            let through = self.submit_flush()?;
            self.runtime.sleep(latency).await;
            let mut state = self.disk.0.lock();
            self.still_open(&state)?;
            state.make_durable(through);
            if state
                .planned()
                .is_some_and(|point| matches!(point, CutPoint::AfterFlush(_)) && state.reached(point))
            {
                state.power_cut();
            }
            self.still_open(&state)
        })
    }

    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            self.check("discard", offset, length)?;
            let latency = self.begin("discard", offset, length)?;
            let mut content = IoBuffer::zeroed(length);
            if !self.discards_to_zeros() {
                content.fill(DISCARDED);
            }
            let number = self.submit(offset, &content)?;
            self.runtime.sleep(latency * DISCARD_TAKES).await;
            let mut state = self.disk.0.lock();
            self.still_open(&state)?;
            let (_, write) = state
                .in_flight
                .remove(&number)
                .expect("a live port's discard stays in flight");
            state.complete(write);
            Ok(())
        })
    }

    fn discards_to_zeros(&self) -> bool {
        self.disk.0.lock().options.discards_to_zeros
    }
}
