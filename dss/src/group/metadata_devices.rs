//! The devices of the metadata: one, or the two legs of a mirrored volume 0, of which the decree of the view says which count.
//!
//! Rules:
//! - META-1 what is written is on every leg that counts before anybody is told. Where one of two fails, it waits until a decree has dropped
//!   that leg: from then on nobody believes it, whoever may still see it (MEM-13);
//! - META-6 a leg that returns gets what is written while everything is copied to it. Before a decree is asked for that makes it count, nothing is
//!   told any more that it has not;
//! - META-2 a failure here never decides anything: the members do, by ballot, and this node follows.

use super::control::ControlBlocks;
use super::error::StorageError;
use super::open_volumes::OpenVolumes;
use crate::in_place::at_once;
use crate::seam::{BlockDevice, DeviceError, IoBuffer};
use aquifer_dss_proto::HomeSlots;
use aquifer_dss_proto::membership::MetadataLegs;
use futures_util::future::join;
use parking_lot::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, watch};

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    legs: MetadataLegs,
    fill: Fill,
    /// Somebody brings decrees about when a leg fails.
    decides: bool,
}

/// See the module. One per open group; the group and the membership share it.
pub struct MetadataDevices {
    /// What there is before a group is open, or without one.
    devices: RwLock<[Option<Arc<dyn BlockDevice>>; 2]>,
    /// What the group has open: a leg that it closes is not used for the metadata either.
    volumes: OnceLock<Arc<OpenVolumes>>,
    slots: HomeSlots,
    state: watch::Sender<State>,
    /// The operator answers for a leg being lost, before a decree says so.
    given_up: AtomicBool,
    /// A bit for each leg that failed and still counts.
    failed: AtomicU8,
    /// Told when whoever decides has something to do.
    pub(crate) news: Notify,
}

/// What a leg that does not count has of the metadata.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// Nothing of use.
    Nothing,
    /// What is written goes there too; the rest is being copied.
    Copying(u8),
    /// Everything, and nobody is told of what it has not: it may count at any time.
    Full(u8),
}

/// What the two legs gave.
pub(super) type OfEach<T> = [Result<T, DeviceError>; 2];

impl MetadataDevices {
    /// The devices that there are, by leg, of a group whose directory has `slots`; `legs` count until a decree says another thing.
    pub fn new(
        devices: [Option<Arc<dyn BlockDevice>>; 2],
        legs: MetadataLegs,
        slots: HomeSlots,
    ) -> Arc<Self> {
        Arc::new(Self {
            devices: RwLock::new(devices),
            volumes: OnceLock::new(),
            slots,
            state: watch::Sender::new(State {
                legs,
                fill: Fill::Nothing,
                decides: false,
            }),
            given_up: AtomicBool::new(false),
            failed: AtomicU8::new(0),
            news: Notify::new(),
        })
    }

    /// The one device of a volume that is not mirrored.
    pub fn single(device: Arc<dyn BlockDevice>, slots: HomeSlots) -> Arc<Self> {
        Self::new([Some(device), None], MetadataLegs::Only(0), slots)
    }

    /// Slots of the group's directory.
    pub const fn home_slots(&self) -> HomeSlots {
        self.slots
    }

    /// Which legs count.
    pub fn legs(&self) -> MetadataLegs {
        self.state.borrow().legs
    }

    /// A decree says which legs count from now on.
    pub fn set_legs(&self, legs: MetadataLegs) {
        self.failed.store(0, Ordering::Release);
        self.state.send_if_modified(|state| {
            // A leg that was full counts now, or the decree that was asked for has lost.
            let ends_fill = state.legs != legs || matches!(state.fill, Fill::Full(_));
            if ends_fill {
                (state.legs, state.fill) = (legs, Fill::Nothing);
            }
            ends_fill
        });
    }

    /// The operator answers for a leg being lost: his word stands for it in the next ballot, which drops it (META-5).
    pub(super) fn give_up(&self, leg: u8) {
        self.set_legs(MetadataLegs::Only(1 - leg));
        self.given_up.store(true, Ordering::Release);
    }

    /// The legs that count when a life starts, after `decided`. A leg that is given up is still to be dropped: that leg.
    pub(crate) fn begin(&self, decided: MetadataLegs) -> Option<u8> {
        match (self.legs(), decided) {
            (MetadataLegs::Only(leg), MetadataLegs::Both) if self.given_up.swap(false, Ordering::AcqRel) => {
                Some(1 - leg)
            }
            _ => {
                self.set_legs(decided);
                None
            }
        }
    }

    /// Whether somebody brings decrees about when a leg fails. Without, a failure is final.
    pub fn set_decides(&self, decides: bool) {
        self.state.send_modify(|state| state.decides = decides);
    }

    /// The devices are those that the group has open from now on. A leg that it did not open stays as it is, in case it counts still.
    pub(super) fn follow(&self, volumes: &Arc<OpenVolumes>) {
        for (leg, device) in (0..).zip(self.devices.write().iter_mut()) {
            device.take_if(|_| volumes.get((0, leg)).is_some());
        }
        self.volumes.get_or_init(|| volumes.clone());
    }

    /// The device of a leg.
    pub fn device(&self, leg: u8) -> Result<Arc<dyn BlockDevice>, DeviceError> {
        let open = self.volumes.get().and_then(|volumes| volumes.get((0, leg)));
        let device = match open {
            Some(open) => Some(open.device().clone()),
            None => self.devices.read()[usize::from(leg)].clone(),
        };
        device.ok_or_else(|| DeviceError::Io {
            operation: "open",
            offset: 0,
            length: 0,
            errno: libc::ENXIO,
            message: format!("side {leg} of volume 0 is not open here"),
        })
    }

    /// The control blocks of a leg.
    pub fn control(&self, leg: u8) -> Result<ControlBlocks, DeviceError> {
        Ok(ControlBlocks::new(self.device(leg)?, self.slots))
    }

    /// A leg that failed while both count, if there is one.
    pub fn failed_leg(&self) -> Option<u8> {
        let failed = self.failed.load(Ordering::Acquire);
        (0..2).find(|leg| failed & (1 << leg) != 0)
    }

    /// One of two legs failed: whoever decides is told.
    pub fn leg_failed(&self, leg: u8, error: &DeviceError) {
        let State { legs, decides, .. } = *self.state.borrow();
        // While it is looked which legs there are, and count, none has failed.
        if legs != MetadataLegs::Both || !decides {
            return;
        }
        if self.failed.fetch_or(1 << leg, Ordering::AcqRel) & (1 << leg) == 0 {
            tracing::error!(leg, %error, "a side of volume 0 failed under the metadata: the other one shall go on alone");
        }
        self.news.notify_one();
    }

    /// The leg that an operation failed on alone, which is told; an error when it failed on both.
    pub(super) fn one_failed<T>(&self, done: OfEach<T>) -> Result<(u8, DeviceError), DeviceError> {
        match done {
            [Err(_), Err(error)] => Err(error),
            [Err(error @ DeviceError::Io { .. }), Ok(_)] => Ok((0, error)),
            [Ok(_), Err(error @ DeviceError::Io { .. })] => Ok((1, error)),
            [Err(error), Ok(_)] | [Ok(_), Err(error)] => Err(error),
            [Ok(_), Ok(_)] => unreachable!("nothing failed"),
        }
        .inspect(|(leg, error)| self.leg_failed(*leg, error))
    }

    /// Has a leg dropped whose device goes; done when the other one counts alone.
    pub(super) async fn drop_leg(&self, leg: u8) -> Result<(), DeviceError> {
        if self.legs() != MetadataLegs::Both {
            return Ok(());
        }
        let detached = DeviceError::Io {
            operation: "detach",
            offset: 0,
            length: 0,
            errno: 0,
            message: "it is taken out".into(),
        };
        self.leg_failed(leg, &detached);
        self.outlive(leg, detached).await
    }

    /// Waits until a decree says that the other leg goes on alone (META-1).
    pub(super) async fn outlive(&self, leg: u8, error: DeviceError) -> Result<(), DeviceError> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !state.decides || state.legs != MetadataLegs::Both);
        let legs = match settled.await {
            Ok(state) => state.legs,
            Err(_) => return Err(error),
        };
        match legs {
            MetadataLegs::Only(only) if only != leg => Ok(()),
            _ => Err(error),
        }
    }

    /// Runs `work` on every leg that counts; the leg that failed alone, which whoever decides is told.
    async fn on_each<W, F>(&self, work: W) -> Result<Option<(u8, DeviceError)>, DeviceError>
    where
        W: Fn(Arc<dyn BlockDevice>) -> F,
        F: Future<Output = Result<(), DeviceError>>,
    {
        let on = |leg| {
            let device = self.device(leg);
            async { work(device?).await }
        };
        if let MetadataLegs::Only(leg) = self.legs() {
            return on(leg).await.map(|()| None);
        }
        match at_once(join(on(0), on(1))).await {
            (Ok(()), Ok(())) => Ok(None),
            (first, second) => self.one_failed([first, second]).map(Some),
        }
    }

    /// Runs `work` on every leg that counts; done when all of them have it, or a decree dropped the one that failed.
    async fn on_all<W, F>(&self, work: W) -> Result<(), DeviceError>
    where
        W: Fn(Arc<dyn BlockDevice>) -> F,
        F: Future<Output = Result<(), DeviceError>>,
    {
        let State { legs, fill, .. } = *self.state.borrow();
        let (Fill::Copying(returning) | Fill::Full(returning)) = fill else {
            return match self.on_each(work).await? {
                None => Ok(()),
                Some((leg, error)) => self.outlive(leg, error).await,
            };
        };
        let on = |leg| {
            let device = self.device(leg);
            async { work(device?).await }
        };
        let (counts, also) = at_once(join(on(1 - returning), on(returning))).await;
        counts?;
        match also {
            Ok(()) => Ok(()),
            Err(error) => self.lose_returning(legs, returning, error).await,
        }
    }

    /// A leg that was returning failed. When it may count at any time, nobody is told before a decree says whether it does.
    async fn lose_returning(
        &self,
        legs: MetadataLegs,
        leg: u8,
        error: DeviceError,
    ) -> Result<(), DeviceError> {
        tracing::warn!(leg, %error, "a side of volume 0 that was returning failed");
        self.state.send_if_modified(|state| {
            let copying = state.fill == Fill::Copying(leg);
            if copying {
                state.fill = Fill::Nothing;
            }
            copying
        });
        let mut state = self.state.subscribe();
        let settled =
            state.wait_for(|state| !state.decides || state.legs != legs || state.fill != Fill::Full(leg));
        let settled = settled.await.map(|state| *state);
        match settled {
            Ok(state) if state.legs == MetadataLegs::Both => {
                self.leg_failed(leg, &error);
                self.outlive(leg, error).await
            }
            Ok(state) if state.fill != Fill::Full(leg) => Ok(()),
            _ => Err(error),
        }
    }

    /// A leg that does not count gets what is written from now on.
    pub(super) fn begin_fill(&self, leg: u8) {
        self.state.send_modify(|state| {
            if state.legs == MetadataLegs::Only(1 - leg) {
                state.fill = Fill::Copying(leg);
            }
        });
    }

    /// All else was copied to the leg, durably: it may count from now on. False when it failed meanwhile.
    pub(super) fn end_fill(&self, leg: u8) -> bool {
        let full = self.state.send_if_modified(|state| {
            let full = state.fill == Fill::Copying(leg);
            if full {
                state.fill = Fill::Full(leg);
            }
            full
        });
        self.news.notify_one();
        full
    }

    /// Gives a fill up that is not complete.
    pub(super) fn abandon_fill(&self) {
        self.state.send_if_modified(|state| {
            let copying = matches!(state.fill, Fill::Copying(_));
            if copying {
                state.fill = Fill::Nothing;
            }
            copying
        });
    }

    /// Whether the leg that does not count may count at any time: whoever decides is to say so.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.state.borrow().fill, Fill::Full(_))
    }

    /// Waits until a leg that was filled counts, or is not full any more.
    pub(super) async fn until_settled(&self) {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !state.decides || !matches!(state.fill, Fill::Full(_)));
        drop(settled.await);
    }

    /// Writes one block on every leg that counts, for those who decide: a leg that fails is an error at once.
    pub(crate) async fn write_block(&self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let write = |device: Arc<dyn BlockDevice>| async move {
            let written = device.write(offset, IoBuffer::copy_padded(bytes)).await;
            written.map(drop)
        };
        self.on_each(write).await?.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// As [`flush`](Self::flush), for those who decide: a leg that fails is an error at once.
    pub(crate) async fn flush_or_fail(&self) -> Result<(), DeviceError> {
        let flush = |device: Arc<dyn BlockDevice>| async move { device.flush().await };
        self.on_each(flush).await?.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// What each leg that counts gives. Where one of two fails, whoever decides is told, and the other's is all.
    pub(crate) async fn read_each<T, W, F>(&self, work: W) -> Result<Vec<(u8, T)>, DeviceError>
    where
        W: Fn(ControlBlocks) -> F,
        F: Future<Output = Result<T, DeviceError>>,
    {
        let on = |leg| {
            let control = self.control(leg);
            async { work(control?).await }
        };
        if let MetadataLegs::Only(leg) = self.legs() {
            return Ok(vec![(leg, on(leg).await?)]);
        }
        match join(on(0), on(1)).await {
            (Ok(first), Ok(second)) => Ok(vec![(0, first), (1, second)]),
            (Ok(first), Err(error)) => {
                self.leg_failed(1, &error);
                Ok(vec![(0, first)])
            }
            (Err(error), Ok(second)) => {
                self.leg_failed(0, &error);
                Ok(vec![(1, second)])
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// What every leg that counts gives; of two one may fail, when a decree drops it. A leg that is not open here gives nothing: it came
    /// back, or was replaced, and this node has not read that yet, for which it needs the other one.
    pub(super) async fn each<T, W, F>(&self, work: W) -> Result<Vec<(u8, T)>, StorageError>
    where
        W: Fn(Arc<dyn BlockDevice>) -> F,
        F: Future<Output = Result<T, StorageError>>,
    {
        let on = |leg| {
            let device = self.device(leg);
            async { work(device?).await }
        };
        loop {
            let only = match self.legs() {
                MetadataLegs::Only(leg) => Some(leg),
                MetadataLegs::Both => (0..2).find(|leg| self.device(1 - leg).is_err()),
            };
            if let Some(leg) = only {
                return Ok(vec![(leg, on(leg).await?)]);
            }
            let (leg, error) = match at_once(join(on(0), on(1))).await {
                (Ok(first), Ok(second)) => return Ok(vec![(0, first), (1, second)]),
                (Err(StorageError::Device(error @ DeviceError::Io { .. })), Ok(_)) => (0, error),
                (Ok(_), Err(StorageError::Device(error @ DeviceError::Io { .. }))) => (1, error),
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            self.leg_failed(leg, &error);
            self.outlive(leg, error).await?;
        }
    }

    /// Writes whole blocks on every leg that counts. Durable after [`flush`](Self::flush).
    pub(super) async fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let write = |device: Arc<dyn BlockDevice>| async move {
            let written = device.write(offset, IoBuffer::copy_padded(bytes)).await;
            written.map(drop)
        };
        self.on_all(write).await
    }

    /// Makes what was written durable on every leg that counts.
    pub async fn flush(&self) -> Result<(), DeviceError> {
        self.on_all(|device| async move { device.flush().await }).await
    }
}
