//! The shared disk: one image, one port per life of a node.
//!
//! Rules, as hard as [`BlockDevice`] allows:
//! - a write is seen by all ports when it completes; one that is in flight may be seen half done (torn at 512 bytes), if so
//!   configured;
//! - a write is durable when a flush that was called after its completion has completed. The cache is the device's:
//!   any port's flush covers all ports' writes;
//! - when a life ends, its writes in flight are done, torn or lost, but only when their time comes: until then the
//!   life is not settled, and its lock stays held;
//! - a power cut keeps, tears or loses each un-flushed write on its own;
//! - an error of a write leaves it done, torn or lost;
//! - a bit may decay.

use super::image::{Content, Image, Submitted};
use super::random::Random;
use super::trace::fingerprint;
use super::world::{Life, World};
use aquifer_dss::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer};
use aquifer_dss_proto::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// Longest discard that leaves zeros. What is longer is a whole volume that nobody looks at again.
const DISCARD_MAX: u64 = 64 << 20;
/// What a write can tear at.
const SECTOR: usize = 512;

/// How the disk behaves.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Size in bytes.
    pub size: u64,
    /// Block in bytes.
    pub block: u32,
    /// Shortest time of an operation.
    pub latency_low: Duration,
    /// Usual longest time.
    pub latency_high: Duration,
    /// Operations that take up to fifty times longer, in a million.
    pub slow: u32,
    /// Writes that others may see half done, in a million.
    pub seen_torn: u32,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            size: 256 << 20,
            block: 512,
            latency_low: Duration::from_micros(40),
            latency_high: Duration::from_micros(400),
            slow: 1_000,
            seen_torn: 0,
        }
    }
}

/// What is wrong with a port at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct PortFault {
    /// Operations that fail with EIO, in a million.
    pub errors: u32,
    /// Added to each operation.
    pub delay: Duration,
}

/// A write that completed.
struct Written {
    offset: u64,
    content: Content,
}

#[derive(Default)]
struct State {
    /// What a read sees.
    image: Image,
    /// What has been flushed.
    durable: Image,
    /// Completed writes since, oldest first, numbered.
    unflushed: BTreeMap<u64, Written>,
    next_write: u64,
    in_flight: BTreeMap<Life, u64>,
    faults: BTreeMap<NodeId, PortFault>,
    /// Operations in flight of an earlier power period have no effect.
    power: u64,
    counts: Counts,
}

/// Operations so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Reads completed.
    pub reads: u64,
    /// Writes completed.
    pub writes: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Operations answered with an error.
    pub errors: u64,
}

/// The disk that all nodes share.
pub struct SimDisk {
    world: Weak<World>,
    options: DiskOptions,
    random: Mutex<Random>,
    state: Mutex<State>,
    me: Weak<SimDisk>,
}

enum Fate {
    Done,
    Lost,
    /// Sectors done: one bit each, repeated.
    Torn(u64),
}

impl SimDisk {
    /// A blank disk.
    pub fn new(world: &Arc<World>, options: DiskOptions) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            world: Arc::downgrade(world),
            random: Mutex::new(Random::fork(world.seed(), "disk")),
            options,
            state: Mutex::default(),
            me: me.clone(),
        })
    }

    /// The device as `life` sees it; `None` is an administrator's port that has no faults.
    pub fn port(&self, life: Option<Life>) -> Arc<dyn BlockDevice> {
        Arc::new(SimPort {
            disk: self.me.upgrade().expect("called through an Arc"),
            life,
        })
    }

    /// Whether nothing that `life` started can reach the disk any more.
    pub fn settled(&self, life: Life) -> bool {
        self.state
            .lock()
            .in_flight
            .get(&life)
            .is_none_or(|count| *count == 0)
    }

    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.options.size
    }

    /// Completed writes that no flush covers.
    pub fn unflushed(&self) -> usize {
        self.state.lock().unflushed.len()
    }

    /// Sets what is wrong with the port of `node`.
    pub fn set_fault(&self, node: NodeId, fault: PortFault) {
        self.state.lock().faults.insert(node, fault);
        if let Some(world) = self.world.upgrade() {
            let fields = [
                node.get().into(),
                fault.errors.into(),
                fault.delay.as_millis() as u64,
                0,
            ];
            world.record("disk-fault", fields, "port fault set");
        }
    }

    /// No port has faults from now on.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Operations so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// A bit decays, in what is read and on the medium; nobody wrote it.
    pub fn decay(&self, offset: u64) {
        let mut state = self.state.lock();
        let State { image, durable, .. } = &mut *state;
        for image in [image, durable] {
            image.change(offset, 1, |bytes| bytes[0] ^= 0x10);
        }
        drop(state);
        if let Some(world) = self.world.upgrade() {
            world.record("decay", [offset, 0, 0, 0], "a bit decays");
        }
    }

    /// The power fails: un-flushed writes are each kept, torn or lost; operations in flight have no effect. The caller
    /// has ended all lives.
    pub fn cut_power(&self) {
        let mut random = self.random.lock();
        let mut state = self.state.lock();
        state.power += 1;
        state.in_flight.clear();
        let unflushed = std::mem::take(&mut state.unflushed);
        let total = unflushed.len() as u64;
        let mut kept = 0;
        for written in unflushed.into_values() {
            let fate = draw_fate(&mut random);
            kept += u64::from(!matches!(fate, Fate::Lost));
            apply(&mut state.durable, &written, &fate);
        }
        state.image = state.durable.clone();
        drop(state);
        if let Some(world) = self.world.upgrade() {
            world.record(
                "power-cut",
                [total, kept, 0, 0],
                "power cut: un-flushed writes kept, torn or lost",
            );
        }
    }

    fn delay(&self, life: Option<Life>) -> (Duration, u32) {
        let mut random = self.random.lock();
        let fault = life
            .and_then(|life| self.state.lock().faults.get(&life.node).copied())
            .unwrap_or_default();
        let mut delay = random.duration(self.options.latency_low, self.options.latency_high);
        if random.chance(self.options.slow) {
            delay *= random.between(2, 50) as u32;
        }
        (delay + fault.delay, fault.errors)
    }

    fn fails(&self, errors: u32) -> bool {
        let failed = self.random.lock().chance(errors);
        if failed {
            self.state.lock().counts.errors += 1;
        }
        failed
    }

    fn out_of_range(&self, operation: &'static str, offset: u64, length: usize) -> Option<DeviceError> {
        let block = u64::from(self.options.block);
        let inside = offset
            .checked_add(length as u64)
            .is_some_and(|end| end <= self.options.size);
        let aligned = offset.is_multiple_of(block) && (length as u64).is_multiple_of(block);
        (!inside || !aligned).then_some(DeviceError::OutOfRange {
            operation,
            offset,
            length,
        })
    }

    fn read(&self, life: Option<Life>, offset: u64, mut buffer: IoBuffer, answer: Answer<IoBuffer>) {
        let Some(world) = self.world.upgrade() else { return };
        let (delay, errors) = self.delay(life);
        let disk = self.me.clone();
        world.after(delay, None, move || {
            let Some(disk) = disk.upgrade() else { return };
            let Some(world) = disk.world.upgrade() else { return };
            if disk.fails(errors) {
                let _ = answer.send(Err(io_error("read", offset, buffer.len())));
                return;
            }
            let mut state = disk.state.lock();
            state.counts.reads += 1;
            state.image.copy_out(offset, &mut buffer);
            drop(state);
            world.record(
                "read",
                [
                    port_number(life),
                    offset,
                    buffer.len() as u64,
                    fingerprint(&buffer),
                ],
                "",
            );
            let _ = answer.send(Ok(buffer));
        });
    }

    fn write(&self, life: Option<Life>, offset: u64, what: Submitted, answer: Answer<Submitted>) {
        let Some(world) = self.world.upgrade() else { return };
        let (delay, errors) = self.delay(life);
        let power = {
            let mut state = self.state.lock();
            if let Some(life) = life {
                *state.in_flight.entry(life).or_default() += 1;
            }
            state.power
        };
        let early = what.len() > SECTOR && self.random.lock().chance(self.options.seen_torn);
        if early {
            self.write_early(&world, offset, &what, delay / 2, power);
        }
        let disk = self.me.clone();
        world.after(delay, None, move || {
            if let Some(disk) = disk.upgrade() {
                disk.finish_write(life, offset, what, errors, power, answer);
            }
        });
    }

    /// Lets others see some sectors of a write before it completes.
    fn write_early(&self, world: &Arc<World>, offset: u64, what: &Submitted, delay: Duration, power: u64) {
        let written = Written {
            offset,
            content: what.content(),
        };
        let sectors = self.random.lock().draw();
        let disk = self.me.clone();
        world.after(delay, None, move || {
            let Some(disk) = disk.upgrade() else { return };
            let mut state = disk.state.lock();
            if state.power == power {
                let torn = tear(&mut state.image, &written, sectors);
                state.keep(torn);
            }
        });
    }

    fn finish_write(
        &self,
        life: Option<Life>,
        offset: u64,
        what: Submitted,
        errors: u32,
        power: u64,
        answer: Answer<Submitted>,
    ) {
        let Some(world) = self.world.upgrade() else { return };
        if self.state.lock().power != power {
            return;
        }
        let failed = self.fails(errors);
        let ended = life.is_some_and(|life| !world.is_alive(life));
        let fate = if failed || ended {
            draw_fate(&mut self.random.lock())
        } else {
            Fate::Done
        };
        let written = Written {
            offset,
            content: what.content(),
        };
        let mut state = self.state.lock();
        if let Some(life) = life {
            let count = state
                .in_flight
                .get_mut(&life)
                .expect("counted when it was submitted");
            *count -= 1;
        }
        state.counts.writes += 1;
        match fate {
            Fate::Done => {
                apply(&mut state.image, &written, &Fate::Done);
                state.keep(vec![written]);
            }
            Fate::Torn(sectors) => {
                let torn = tear(&mut state.image, &written, sectors);
                state.keep(torn);
            }
            Fate::Lost => {}
        }
        drop(state);
        let fields = [port_number(life), offset, what.len() as u64, what.fingerprint()];
        let text = match (failed, ended) {
            (true, _) => "write failed",
            (_, true) => "write of an ended life settles",
            _ => "",
        };
        world.record("write", fields, text);
        let _ = answer.send(if failed {
            Err(io_error("write", offset, what.len()))
        } else {
            Ok(what)
        });
    }

    fn flush(&self, life: Option<Life>, answer: Answer<()>) {
        let Some(world) = self.world.upgrade() else { return };
        let (delay, errors) = self.delay(life);
        let (covers, power) = {
            let state = self.state.lock();
            (state.next_write, state.power)
        };
        let disk = self.me.clone();
        world.after(delay, None, move || {
            let Some(disk) = disk.upgrade() else { return };
            let Some(world) = disk.world.upgrade() else { return };
            if disk.fails(errors) {
                let _ = answer.send(Err(io_error("flush", 0, 0)));
                return;
            }
            let mut state = disk.state.lock();
            if state.power != power {
                return;
            }
            let later = state.unflushed.split_off(&covers);
            let durable = std::mem::replace(&mut state.unflushed, later);
            let count = durable.len() as u64;
            for written in durable.into_values() {
                apply(&mut state.durable, &written, &Fate::Done);
            }
            state.counts.flushes += 1;
            drop(state);
            world.record("flush", [port_number(life), count, 0, 0], "");
            let _ = answer.send(Ok(()));
        });
    }
}

impl State {
    fn keep(&mut self, writes: Vec<Written>) {
        for written in writes {
            self.unflushed.insert(self.next_write, written);
            self.next_write += 1;
        }
    }
}

type Answer<T> = oneshot::Sender<Result<T, DeviceError>>;

fn port_number(life: Option<Life>) -> u64 {
    life.map_or(0, |life| u64::from(life.node.get()))
}

fn io_error(operation: &'static str, offset: u64, length: usize) -> DeviceError {
    DeviceError::Io {
        operation,
        offset,
        length,
        errno: 5,
        message: "simulated input/output error".to_owned(),
    }
}

fn draw_fate(random: &mut Random) -> Fate {
    match random.below(10) {
        0..=4 => Fate::Done,
        5..=7 => Fate::Lost,
        _ => Fate::Torn(random.draw()),
    }
}

/// Writes the sectors of `written` that its fate leaves.
fn apply(image: &mut Image, written: &Written, fate: &Fate) {
    match fate {
        Fate::Done => image.write(written.offset, &written.content),
        Fate::Lost => {}
        Fate::Torn(sectors) => drop(tear(image, written, *sectors)),
    }
}

/// Writes some sectors; answers them as writes of their own.
fn tear(image: &mut Image, written: &Written, sectors: u64) -> Vec<Written> {
    let mut parts = Vec::new();
    for (index, start) in (0..written.content.len()).step_by(SECTOR).enumerate() {
        if sectors >> (index % 64) & 1 == 1 {
            let part = Written {
                offset: written.offset + start as u64,
                content: written.content.part(start, SECTOR),
            };
            image.write(part.offset, &part.content);
            parts.push(part);
        }
    }
    parts
}

/// The disk as one life sees it. A dead life's operations never complete and have no effect.
struct SimPort {
    disk: Arc<SimDisk>,
    life: Option<Life>,
}

impl SimPort {
    fn gone(&self) -> bool {
        let world = self.disk.world.upgrade();
        world.is_none_or(|world| self.life.is_some_and(|life| !world.is_alive(life)))
    }

    async fn answer<T>(receiver: oneshot::Receiver<Result<T, DeviceError>>) -> Result<T, DeviceError> {
        match receiver.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }

    async fn submit(&self, offset: u64, what: Submitted) -> Result<Submitted, DeviceError> {
        if let Some(error) = self.disk.out_of_range("write", offset, what.len()) {
            return Err(error);
        }
        let (sender, receiver) = oneshot::channel();
        if !self.gone() {
            self.disk.write(self.life, offset, what, sender);
        }
        Self::answer(receiver).await
    }
}

impl BlockDevice for SimPort {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.disk.options.size,
            block: self.disk.options.block,
        }
    }

    fn read(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            if let Some(error) = self.disk.out_of_range("read", offset, buffer.len()) {
                return Err(error);
            }
            let (sender, receiver) = oneshot::channel();
            if !self.gone() {
                self.disk.read(self.life, offset, buffer, sender);
            }
            Self::answer(receiver).await
        })
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            match self.submit(offset, Submitted::Bytes(buffer)).await? {
                Submitted::Bytes(buffer) => Ok(buffer),
                Submitted::Zeros(_) => unreachable!("a write is answered with what was submitted"),
            }
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            let (sender, receiver) = oneshot::channel();
            if !self.gone() {
                self.disk.flush(self.life, sender);
            }
            Self::answer(receiver).await
        })
    }

    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        if length > DISCARD_MAX {
            return Box::pin(async { Ok(()) });
        }
        // A life may end in the middle of it: like a write of something else.
        Box::pin(async move {
            let zeros = Submitted::Zeros(length as usize);
            self.submit(offset, zeros).await.map(drop)
        })
    }

    fn discards_to_zeros(&self) -> bool {
        true
    }
}
