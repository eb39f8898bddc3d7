//! Whole drivers in virtual time: three nodes on one simulated disk, with crashes, pauses and partitions.

use super::*;
use crate::device::{CutPoint, Port, SimDevice, SimDisk, SimDiskOptions};
use crate::group::MetadataDevices;
use crate::seam::{
    BLOCK, BlockDevice, BoxFuture, FenceError, Fencer, LockState, ProcessIdentity, Runtime, Service, Tail,
    Transport,
};
use crate::testing::{TestHandle, TestRuntime};
use aquifer_dss_proto::ballot::BallotBlock;
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::label::ballot_offset;
use aquifer_dss_proto::membership::MetadataLegs;
use aquifer_dss_proto::{Epoch, HomeSlots, Incarnation, Instant, Member, NodeId, NodeSet, View};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const SLOTS: HomeSlots = HomeSlots::USUAL;

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

#[derive(Default)]
struct Life {
    dead: Option<String>,
    /// Flushes of the disk that had been submitted when it died.
    flushes_at_death: u64,
    paused: bool,
    wakers: Vec<Waker>,
}

/// The runtime of one life: its tasks rest while it is paused and end when it is dead.
struct LifeRuntime {
    handle: Arc<TestHandle>,
    life: Arc<Mutex<Life>>,
}

struct Gated {
    task: BoxFuture<'static, ()>,
    life: Arc<Mutex<Life>>,
}

impl Future for Gated {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut life = self.life.lock();
        if life.dead.is_some() {
            return Poll::Ready(());
        }
        if life.paused {
            life.wakers.push(context.waker().clone());
            return Poll::Pending;
        }
        drop(life);
        self.task.as_mut().poll(context)
    }
}

impl Runtime for LifeRuntime {
    fn now(&self) -> Instant {
        self.handle.now()
    }
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.handle.sleep_until(deadline)
    }
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.handle.spawn(
            name,
            Box::pin(Gated {
                task,
                life: self.life.clone(),
            }),
        );
    }
    fn random(&self) -> u64 {
        self.handle.random()
    }
    fn abort(&self, reason: &str) {
        self.life.lock().dead.get_or_insert(reason.to_owned());
    }
}

struct Started {
    id: u8,
    life: Arc<Mutex<Life>>,
    /// On the disk, and on its twin.
    ports: Vec<Port>,
    membership: Option<Arc<Membership>>,
}

#[derive(Default)]
struct Shared {
    /// By number of start, which is the pid too.
    lives: Vec<Started>,
    /// Who has the lock of a node: number of start.
    locks: BTreeMap<u8, usize>,
    cut: BTreeSet<(u8, u8)>,
    unkillable: BTreeSet<u8>,
    installs: Vec<(u8, Arc<View>, Vec<Member>)>,
}

#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) handle: Arc<TestHandle>,
    /// One, or the two legs of volume 0.
    pub(super) disks: Vec<SimDisk>,
    shared: Arc<Mutex<Shared>>,
}

struct Wire(Cluster, u8, usize);

impl Transport for Wire {
    fn send(&self, to: NodeId, _: Service, head: &[u8], _: Option<Tail>) {
        let head = head.to_vec();
        let (cluster, from, number) = (self.0.clone(), self.1, self.2);
        let runtime = cluster.handle.clone();
        runtime.spawn(
            "wire",
            Box::pin(async move {
                cluster.handle.sleep(Duration::from_micros(100)).await;
                let (target, incarnation) = {
                    let shared = cluster.shared.lock();
                    let Some(sender) = shared.lives[number].membership.clone() else {
                        return;
                    };
                    let up = |l: &&Started| {
                        l.id == to.get() && l.life.lock().dead.is_none() && !l.life.lock().paused
                    };
                    let target = shared.lives.iter().filter(up).find_map(|l| l.membership.clone());
                    if shared.cut.contains(&(from, to.get())) {
                        return;
                    }
                    (target, sender.incarnation())
                };
                if let Some(target) = target {
                    target.receive(node(from), incarnation, &head);
                }
            }),
        );
    }
}

struct Locks(Cluster, usize, Mutex<BTreeMap<NodeId, Incarnation>>);

impl Locks {
    fn holder(&self, id: NodeId) -> Option<usize> {
        let shared = self.0.shared.lock();
        let number = *shared.locks.get(&id.get())?;
        shared.lives[number].life.lock().dead.is_none().then_some(number)
    }
}

impl Fencer for Locks {
    fn hold(&self, id: NodeId) -> Result<(), FenceError> {
        if self.holder(id).is_some() {
            return Err(FenceError::SlotBusy(id));
        }
        self.0.shared.lock().locks.insert(id.get(), self.1);
        Ok(())
    }
    fn identity(&self) -> ProcessIdentity {
        ProcessIdentity {
            pid: self.1 as u32,
            ..ProcessIdentity::default()
        }
    }
    fn observe(&self, id: NodeId, incarnation: Incarnation) -> Result<LockState, FenceError> {
        let state = if self.holder(id).is_some() {
            LockState::Held
        } else {
            LockState::Free
        };
        if state == LockState::Held {
            self.2.lock().insert(id, incarnation);
        }
        Ok(state)
    }
    fn fence(
        &self,
        victim: NodeId,
        _: Incarnation,
        identity: ProcessIdentity,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), FenceError>> {
        Box::pin(async move {
            if self.0.shared.lock().unkillable.contains(&victim.get()) {
                self.0.handle.sleep_until(deadline).await;
                return Err(FenceError::StillAlive(victim));
            }
            self.0.kill_life(identity.pid as usize);
            Ok(())
        })
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, legs: u64) -> Self {
        let disk = |leg: u64| SimDisk::new(SimDiskOptions::new(8 << 20, seed ^ leg << 32));
        Self {
            handle: TestRuntime::new(seed),
            disks: (0..legs).map(disk).collect(),
            shared: Arc::default(),
        }
    }

    fn flushes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.counters().flushes).sum()
    }

    /// The devices of the metadata, as a node opens them.
    async fn metadata(
        runtime: &dyn Runtime,
        devices: &[Arc<SimDevice>],
    ) -> Result<Arc<MetadataDevices>, MembershipError> {
        let device = |leg: usize| {
            devices
                .get(leg)
                .map(|device| device.clone() as Arc<dyn BlockDevice>)
        };
        if devices.len() == 1 {
            return Ok(MetadataDevices::single(devices[0].clone(), SLOTS));
        }
        let metadata = MetadataDevices::new([device(0), device(1)], MetadataLegs::Both, SLOTS);
        metadata.set_legs(learn_decided(runtime, &metadata).await?.metadata);
        Ok(metadata)
    }

    pub(super) async fn start(&self, id: u8) -> Result<Arc<Membership>, MembershipError> {
        let life = Arc::new(Mutex::new(Life::default()));
        let runtime = Arc::new(LifeRuntime {
            handle: self.handle.clone(),
            life: life.clone(),
        });
        let devices: Vec<_> = self
            .disks
            .iter()
            .map(|disk| disk.attach(runtime.clone()))
            .collect();
        let number = {
            let mut shared = self.shared.lock();
            shared.lives.push(Started {
                id,
                life,
                ports: devices.iter().map(|device| device.port()).collect(),
                membership: None,
            });
            shared.lives.len() - 1
        };
        let wire = Arc::new(Wire(self.clone(), id, number));
        let locks = Arc::new(Locks(self.clone(), number, Mutex::default()));
        let config = MembershipConfig::new(node(id));
        let started = async {
            let metadata = Self::metadata(&*runtime, &devices).await?;
            Membership::start(runtime.clone(), metadata, wire, locks, config).await
        };
        let started = started.await;
        let membership = match started {
            Ok(membership) => membership,
            Err(error) => {
                self.shared.lock().lives[number].life.lock().dead = Some(error.to_string());
                return Err(error);
            }
        };
        self.shared.lock().lives[number].membership = Some(membership.clone());
        let (cluster, of) = (self.clone(), membership.clone());
        runtime.spawn(
            "events",
            Box::pin(async move {
                while let MembershipEvent::Install { view, dead, .. } = of.next_event().await {
                    cluster.check_install(&view, &dead);
                    of.installed(view.epoch);
                    cluster.shared.lock().installs.push((id, view, dead));
                }
            }),
        );
        Ok(membership)
    }

    /// One view per epoch; nobody who is excluded may still be alive.
    fn check_install(&self, view: &View, dead: &[Member]) {
        let shared = self.shared.lock();
        for (_, other, _) in &shared.installs {
            assert!(
                other.epoch != view.epoch || **other == *view,
                "two views of epoch {:?}",
                view.epoch
            );
        }
        for life in &shared.lives {
            let Some(membership) = &life.membership else {
                continue;
            };
            let member = Member {
                node: node(life.id),
                incarnation: membership.incarnation(),
            };
            if dead.contains(&member) {
                let ended = life.life.lock();
                assert!(ended.dead.is_some(), "{member:?} is alive");
                assert!(
                    self.flushes() > ended.flushes_at_death,
                    "HZ-10: nothing was flushed since {member:?} died"
                );
            }
        }
    }

    /// kill -9: connections close at once.
    fn kill_life(&self, number: usize) {
        let (ports, id, incarnation, others) = {
            let shared = self.shared.lock();
            let victim = &shared.lives[number];
            let mut life = victim.life.lock();
            if life.dead.replace("killed".into()).is_some() {
                return;
            }
            life.flushes_at_death = self.flushes();
            drop(life);
            let incarnation = victim.membership.as_ref().map(|m| m.incarnation());
            let up = |l: &&Started| l.life.lock().dead.is_none() && !shared.cut.contains(&(victim.id, l.id));
            let others: Vec<_> = shared
                .lives
                .iter()
                .filter(up)
                .filter_map(|l| l.membership.clone())
                .collect();
            (victim.ports.clone(), victim.id, incarnation, others)
        };
        for (disk, port) in self.disks.iter().zip(ports) {
            disk.kill(port);
        }
        for other in others {
            other.disconnected(node(id), incarnation.unwrap_or_default());
        }
    }

    pub(super) fn kill(&self, id: u8) {
        let number = self.shared.lock().lives.iter().rposition(|l| l.id == id).unwrap();
        self.kill_life(number);
    }

    pub(super) fn pause(&self, id: u8, paused: bool) {
        let shared = self.shared.lock();
        let mut life = shared.lives.iter().rfind(|l| l.id == id).unwrap().life.lock();
        life.paused = paused;
        life.wakers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn death(&self, id: u8) -> Option<String> {
        let shared = self.shared.lock();
        let life = shared.lives.iter().rfind(|l| l.id == id).unwrap().life.lock();
        life.dead.clone()
    }

    /// Of all who live.
    fn exclusions(&self) -> Exclusions {
        let shared = self.shared.lock();
        let up = shared.lives.iter().filter(|life| life.life.lock().dead.is_none());
        let mut all = Exclusions::default();
        for one in up.filter_map(|life| life.membership.as_ref()) {
            let one = one.exclusions();
            all.dead += one.dead;
            all.silent += one.silent;
            all.apart += one.apart;
        }
        all
    }

    /// Which legs count, as the living know; all that any of them thinks.
    pub(super) fn legs(&self) -> Vec<(u8, MetadataLegs)> {
        let shared = self.shared.lock();
        let up = shared.lives.iter().filter(|life| life.life.lock().dead.is_none());
        let known = up.filter_map(|life| Some((life.id, life.membership.as_ref()?.metadata.legs())));
        known.collect()
    }

    /// The port of a node's last life on a disk.
    pub(super) fn port(&self, id: u8, leg: usize) -> Port {
        let shared = self.shared.lock();
        let life = shared.lives.iter().rfind(|life| life.id == id).unwrap();
        life.ports[leg]
    }

    pub(super) fn cut(&self, from: u8, to: u8) {
        self.shared.lock().cut.insert((from, to));
    }

    /// Waits, at most `limit`, until the living among `ids` have installed a view of exactly `ids`; how long it took.
    pub(super) async fn settle(&self, ids: &[u8], limit: Duration) -> Duration {
        let want: NodeSet = ids.iter().map(|id| node(*id)).collect();
        let begun = self.handle.now();
        loop {
            let done = ids.iter().all(|id| {
                let shared = self.shared.lock();
                let life = shared.lives.iter().rfind(|l| l.id == *id).unwrap();
                life.membership.as_ref().is_some_and(|m| {
                    m.view().nodes() == want && m.view().incarnation(node(*id)) == Some(m.incarnation())
                })
            });
            let took = self.handle.now().since(begun);
            if done {
                return took;
            }
            if took > limit {
                let shared = self.shared.lock();
                for life in &shared.lives {
                    let state = life
                        .membership
                        .as_ref()
                        .map(|m| (m.view().nodes(), m.decided_epoch(), m.alarm()));
                    println!("node {}: {state:?}, dead {:?}", life.id, life.life.lock().dead);
                }
                panic!("no view of {ids:?} after {took:?}");
            }
            self.handle.sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn start_all(&self) {
        for id in [1, 2, 3] {
            self.start(id).await.unwrap();
        }
        self.settle(&[1, 2, 3], Duration::from_secs(5)).await;
        self.handle.sleep(Duration::from_secs(1)).await;
    }
}

pub(super) fn run_on<F: Future<Output = ()>>(legs: u64, test: impl Fn(Cluster) -> F) {
    for seed in 1..=5 {
        let cluster = Cluster::new(seed, legs);
        let handle = cluster.handle.clone();
        handle.block_on(test(cluster));
    }
}

fn run<F: Future<Output = ()>>(test: impl Fn(Cluster) -> F) {
    run_on(1, test);
}

pub(super) const SOON: Duration = Duration::from_secs(8);

#[test]
fn a_killed_node_is_out_within_milliseconds_and_may_come_back() {
    run(|cluster| async move {
        cluster.start_all().await;
        for victim in [3, 1, 2] {
            let rest: Vec<u8> = [1, 2, 3].into_iter().filter(|id| *id != victim).collect();
            cluster.kill(victim);
            let limit = Duration::from_millis(20);
            assert!(cluster.settle(&rest, SOON).await < limit);
            assert!(cluster.exclusions().dead > 0);
            cluster.start(victim).await.unwrap();
            cluster.settle(&[1, 2, 3], SOON).await;
            cluster.handle.sleep(Duration::from_secs(1)).await;
        }
    });
}

#[test]
fn a_paused_node_is_excluded_and_dead_before_anybody_acts() {
    run(|cluster| async move {
        cluster.start_all().await;
        cluster.pause(2, true);
        cluster.settle(&[1, 3], SOON).await;
        assert_eq!(cluster.death(2).as_deref(), Some("killed"));
        // Not heard comes before silent on the device.
        let (dead, silent, apart) = (0, 0, 1);
        assert_eq!(cluster.exclusions(), Exclusions { dead, silent, apart });
    });
}

#[test]
fn a_paused_node_aborts_when_it_goes_on_after_its_lease() {
    run(|cluster| async move {
        cluster.start_all().await;
        cluster.shared.lock().unkillable.insert(2);
        cluster.pause(2, true);
        cluster.handle.sleep(SOON).await;
        let installed = cluster
            .shared
            .lock()
            .installs
            .iter()
            .map(|(_, view, _)| view.nodes().len())
            .min();
        assert_eq!(installed.map(|n| n >= 1), Some(true));
        let one = cluster.shared.lock().lives[0].membership.clone().unwrap();
        assert!(
            one.view().contains(node(2)),
            "nobody acts while node 2 is unproven"
        );
        assert!(one.alarm().is_some());
        cluster.pause(2, false);
        cluster.settle(&[1, 3], SOON).await;
        assert!(cluster.death(2).is_some_and(|reason| reason != "killed"));
    });
}

#[test]
fn the_connected_majority_wins_a_partition_also_a_one_way_one() {
    for one_way in [true, false] {
        run(|cluster| async move {
            cluster.start_all().await;
            for other in [2, 3] {
                cluster.cut(1, other);
                if !one_way {
                    cluster.cut(other, 1);
                }
            }
            cluster.settle(&[2, 3], SOON).await;
            assert!(cluster.death(1).is_some());
            let (dead, silent, apart) = (0, 0, 1);
            assert_eq!(cluster.exclusions(), Exclusions { dead, silent, apart });
        });
    }
}

#[test]
fn a_stopped_or_crashed_cluster_starts_again() {
    run(|cluster| async move {
        cluster.start_all().await;
        for id in [1, 2, 3] {
            cluster.kill(id);
        }
        cluster.start(2).await.unwrap();
        cluster.start(3).await.unwrap();
        cluster.settle(&[2, 3], SOON).await;
        let dead = cluster.shared.lock().installs.last().unwrap().2.clone();
        assert_eq!(dead.len(), 3, "all three earlier lives");
        cluster.start(1).await.unwrap();
        cluster.settle(&[1, 2, 3], SOON).await;
    });
}

#[test]
fn leaving_is_clean_and_the_last_one_may_leave_too() {
    run(|cluster| async move {
        cluster.start_all().await;
        let all: Vec<_> = (0..3)
            .map(|i| cluster.shared.lock().lives[i].membership.clone().unwrap())
            .collect();
        all[0].leave().await.unwrap();
        cluster.settle(&[2, 3], SOON).await;
        assert!(
            cluster.shared.lock().installs.last().unwrap().2.is_empty(),
            "nobody died"
        );
        assert_eq!(cluster.death(1), None, "and nobody was killed");
        all[1].leave().await.unwrap();
        all[2].leave().await.unwrap();
        for id in 0..3 {
            cluster.kill_life(id);
        }
        cluster.start(1).await.unwrap();
        cluster.settle(&[1], SOON).await;
        assert!(
            cluster.shared.lock().installs.last().unwrap().2.is_empty(),
            "nobody died"
        );
    });
}

#[test]
fn a_second_process_of_a_node_fails_at_once_and_disturbs_nothing() {
    run(|cluster| async move {
        cluster.start_all().await;
        assert!(matches!(cluster.start(2).await, Err(MembershipError::SlotBusy(id)) if id == node(2)));
        cluster.shared.lock().lives.pop();
        cluster.handle.sleep(SOON).await;
        cluster.settle(&[1, 2, 3], SOON).await;
        let epoch = cluster
            .shared
            .lock()
            .installs
            .iter()
            .map(|(_, view, _)| view.epoch)
            .max();
        assert!(epoch.unwrap().0 <= 3, "no reform");
    });
}

#[test]
fn the_ceiling_of_scns_survives_its_node() {
    run(|cluster| async move {
        let one = cluster.start(1).await.unwrap();
        one.raise_scn_ceiling(500).await.unwrap();
        cluster.kill(1);
        let two = cluster.start(2).await.unwrap();
        let one = cluster.start(1).await.unwrap();
        assert_eq!(two.highest_scn_ceiling().await.unwrap(), 500);
        assert_eq!(one.highest_scn_ceiling().await.unwrap(), 500);
    });
}

/// The plan is made before the own block is brought up to date, which may take long on a slow disk; a peer may tell of the
/// decision meanwhile.
#[test]
fn a_proposal_for_an_epoch_that_was_decided_meanwhile_is_dropped() {
    run(async |cluster| {
        cluster.start_all().await;
        let membership = cluster.shared.lock().lives[0].membership.clone().unwrap();
        let decided = membership.inner.lock().core.decided().clone();
        match membership.run_ballot(&decided).await.unwrap() {
            super::ballots::Outcome::Learned(decree) => assert_eq!(decree, decided),
            _ => panic!("a decided epoch is not proposed again"),
        }
    });
}

/// Three nodes form a view, one is killed, the others go on; the power fails somewhere in that. Whether it did.
fn power_cut_at(point: CutPoint, seed: u64) -> bool {
    let cluster = Cluster::new(seed, 1);
    let handle = cluster.handle.clone();
    cluster.disks[0].cut_at(point);
    let all = cluster.clone();
    handle.block_on(async {
        let work = async {
            for id in [1, 2, 3] {
                // It hangs, or fails, when the power is gone.
                let _ = all.start(id).await;
            }
            all.settle(&[1, 2, 3], SOON).await;
            all.kill(3);
            all.settle(&[1, 2], SOON).await;
        };
        let dark = async {
            while all.disks[0].has_power() {
                all.handle.sleep(Duration::from_micros(10)).await;
            }
        };
        tokio::select! {
            biased;
            () = dark => {}
            () = work => {}
        }
    });
    let cut = !cluster.disks[0].has_power();
    let lives = cluster.shared.lock().lives.len();
    for number in 0..lives {
        cluster.kill_life(number);
    }
    cluster.disks[0].power_on();
    handle.block_on(async {
        for id in [3, 2, 1] {
            let started = cluster.start(id).await;
            assert!(started.is_ok(), "{point:?} seed {seed}: {:?}", started.err());
        }
        cluster.settle(&[1, 2, 3], SOON * 2).await;
    });
    cut
}

#[test]
fn a_power_cut_at_any_write_or_flush_leaves_one_view_per_epoch() {
    for point in [CutPoint::DuringWrite, CutPoint::DuringFlush, CutPoint::AfterFlush] {
        let mut number = 1;
        while power_cut_at(point(number), 900 + number) {
            number += 1;
        }
        assert!(number > 5, "only {number} points");
    }
}

/// Its own I/O fails for a while, from the operation `after` on, while it proposes: a block whose flush fails may have landed. As
/// everybody sees it, the block never goes back within an instance, so that no ballot number is used twice (MEM-1).
fn own_io_fails_after(after: u64) {
    run(move |cluster| async move {
        cluster.start_all().await;
        let port = cluster.shared.lock().lives[0].ports[0];
        cluster.disks[0].fail(port, after, 5);
        cluster.kill(3);
        let watched = async {
            let mut last = BallotBlock::default();
            loop {
                let bytes = cluster.disks[0].peek(ballot_offset(node(1)), BLOCK);
                let seen = super::slot::decode_ballot(&bytes).unwrap();
                let place =
                    |block: &BallotBlock| (block.instance, block.accepted, block.promised, block.decided);
                assert!(
                    seen.instance > last.instance
                        || (seen.accepted >= last.accepted
                            && seen.promised >= last.promised
                            && seen.decided >= last.decided),
                    "{:?}, then {:?}",
                    place(&last),
                    place(&seen)
                );
                last = seen;
                cluster.handle.sleep(Duration::from_micros(20)).await;
            }
        };
        let work = async {
            cluster.handle.sleep(Duration::from_millis(40)).await;
            cluster.disks[0].heal(port);
            cluster.settle(&[1, 2], SOON).await;
        };
        tokio::select! {
            biased;
            () = watched => {}
            () = work => {}
        }
    });
}

#[test]
fn a_node_whose_ballot_writes_fail_reads_its_own_block_before_it_goes_on() {
    for after in 0..20 {
        own_io_fails_after(after);
    }
}

/// MEM-11: a view that was never decided is not believed of anybody, whatever its epoch.
#[test]
fn announcements_of_what_was_not_decided_change_nothing() {
    run(|cluster| async move {
        cluster.start_all().await;
        let one = cluster.shared.lock().lives[0].membership.clone().unwrap();
        let decided = one.inner.lock().core.decided().clone();
        let epoch = decided.view.epoch.0;
        let alone = |epoch| {
            let mut decree = decided.clone();
            decree.view.epoch = Epoch(epoch);
            decree.view.members.retain(|member| member.node == node(2));
            decree.view.leader = node(2);
            decree.view.homes = vec![node(2); decree.view.homes.len()];
            assert!(decree.is_sound(SLOTS));
            postcard::to_allocvec(&super::types::Message::Announce(decree)).unwrap()
        };
        for id in [2, 9] {
            for forged in [epoch, epoch + 2, u64::MAX - 1, u64::MAX] {
                one.receive(node(id), Incarnation(1), &alone(forged));
                cluster.handle.sleep(Duration::from_millis(50)).await;
            }
            let bytes = alone(epoch + 2);
            for length in 0..bytes.len().min(64) {
                one.receive(node(id), Incarnation(1), &bytes[..length]);
            }
        }
        one.receive(node(9), Incarnation(1), &alone(epoch + 1));
        cluster.settle(&[1, 2, 3], SOON).await;
        assert_eq!(one.inner.lock().core.decided().view.epoch.0, epoch, "no reform");
    });
}

#[test]
fn each_rule_of_membership_is_missed_when_it_is_gone() {
    let paused: fn() = a_paused_node_is_excluded_and_dead_before_anybody_acts;
    assert!(fails_with(Defect::AnnounceUnfenced, paused));
    assert!(fails_with(Defect::ReadTailsBeforeFlush, paused));
    let cuts = a_power_cut_at_any_write_or_flush_leaves_one_view_per_epoch;
    assert!(fails_with(Defect::BallotBeforeBody, cuts));
    let failing = a_node_whose_ballot_writes_fail_reads_its_own_block_before_it_goes_on;
    assert!(fails_with(Defect::TrustOwnBallotMemory, failing));
}
