//! What goes wrong during a run: drawn from the seed, healed at the end.

use super::cluster::Cluster;
use super::disk::PortFault;
use super::random::Random;
use aquifer_dss_proto::NodeId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often each fault is drawn, relative to the others; 0 is never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// kill -9 of one node.
    pub crash: u32,
    /// SIGSTOP of one node for a while (from far below to far above the lease).
    pub pause: u32,
    /// Two groups that do not hear each other.
    pub partition: u32,
    /// One direction between two nodes.
    pub one_way: u32,
    /// Messages lost at random.
    pub lossy: u32,
    /// A slow path of one node to the disk.
    pub slow_disk: u32,
    /// Errors of one node's path to the disk.
    pub disk_errors: u32,
    /// Power cut of everything.
    pub power_cut: u32,
    /// Clock rates change.
    pub clocks: u32,
    /// Kills and power cuts wait for a moment in which a write is in flight or not flushed.
    pub aimed: bool,
    /// Shortest time between two faults.
    pub pause_low: Duration,
    /// Longest time between two faults.
    pub pause_high: Duration,
    /// Longest duration of a fault.
    pub longest: Duration,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every fault now and then.
    pub fn all() -> Self {
        Self {
            crash: 10,
            pause: 5,
            partition: 5,
            one_way: 3,
            lossy: 3,
            slow_disk: 3,
            disk_errors: 1,
            power_cut: 1,
            clocks: 1,
            aimed: false,
            pause_low: Duration::from_millis(200),
            pause_high: Duration::from_secs(6),
            longest: Duration::from_secs(8),
        }
    }

    fn total(&self) -> u32 {
        self.weights().iter().sum()
    }

    fn weights(&self) -> [u32; 9] {
        [
            self.crash,
            self.pause,
            self.partition,
            self.one_way,
            self.lossy,
            self.slow_disk,
            self.disk_errors,
            self.power_cut,
            self.clocks,
        ]
    }
}

/// An aimed fault waits so long for its moment at most.
const AIM: Duration = Duration::from_millis(50);

/// Draws and does faults.
pub struct Nemesis {
    cluster: Arc<Cluster>,
    faults: Faults,
    random: Random,
}

impl Nemesis {
    /// The nemesis of `cluster`.
    pub fn new(cluster: Arc<Cluster>, faults: Faults) -> Self {
        let random = Random::fork(cluster.world.seed(), "nemesis");
        Self {
            cluster,
            faults,
            random,
        }
    }

    /// Does faults for `length` of virtual time, then heals everything.
    pub async fn run(mut self, length: Duration) {
        let world = self.cluster.world.clone();
        let end = world.now() + length.as_nanos() as u64;
        while world.now() < end && self.faults.total() > 0 {
            let rest = Duration::from_nanos(end - world.now());
            let pause = self
                .random
                .duration(self.faults.pause_low, self.faults.pause_high);
            world.sleep(pause.min(rest)).await;
            if world.now() < end {
                self.strike().await;
            }
        }
        let rest = Duration::from_nanos(end.saturating_sub(world.now()));
        world.sleep(rest).await;
        self.heal();
    }

    /// Ends every fault and starts every node.
    pub fn heal(&self) {
        let cluster = &self.cluster;
        cluster.world.record("nemesis", [0; 4], "everything heals");
        cluster.network.heal();
        cluster.network.set_lost(0);
        cluster.disk.heal();
        for node in cluster.nodes() {
            cluster.world.resume(*node);
            cluster.start(*node);
        }
    }

    fn any_node(&mut self) -> NodeId {
        *self.random.pick(self.cluster.nodes())
    }

    async fn strike(&mut self) {
        let mut draw = self.random.below(u64::from(self.faults.total())) as u32;
        let weights = self.faults.weights();
        let mut which = 0;
        while draw >= weights[which] {
            draw -= weights[which];
            which += 1;
        }
        match which {
            0 => {
                let node = self.any_node();
                self.aim(Some(node)).await;
                self.cluster.crash(node, "killed by the nemesis");
            }
            1 => self.stop_a_node(),
            2 => self.part().await,
            3 => self.part_one_way().await,
            4 => self.lose_messages().await,
            5 => self.slow_a_disk().await,
            6 => self.break_a_disk().await,
            7 => {
                self.aim(None).await;
                self.cluster.cut_power();
            }
            _ => {
                let node = self.any_node();
                let rate = self.random.below(2001) as i64 - 1000;
                self.cluster.world.set_clock_rate(node, rate);
            }
        }
    }

    /// When aimed: waits, not for long, until a write of `node` is in flight, or anybody's is not flushed.
    async fn aim(&mut self, node: Option<NodeId>) {
        if !self.faults.aimed || self.random.chance(200_000) {
            return;
        }
        let (world, disk) = (self.cluster.world.clone(), self.cluster.disk.clone());
        let end = world.now() + AIM.as_nanos() as u64;
        while world.now() < end {
            let hit = match node {
                Some(node) => world.life(node).is_some_and(|life| !disk.settled(life)),
                None => disk.unflushed() > 0,
            };
            if hit {
                return;
            }
            world.sleep(AIM / 1_000).await;
        }
    }

    /// How long a fault lasts: often short, sometimes beyond every lease.
    fn spell(&mut self) -> Duration {
        let longest = self.faults.longest.max(Duration::from_millis(20));
        let limit = if self.random.chance(600_000) {
            longest / 8
        } else {
            longest
        };
        self.random
            .duration(Duration::from_millis(10), limit.max(Duration::from_millis(11)))
    }

    fn stop_a_node(&mut self) {
        let (node, spell) = (self.any_node(), self.spell());
        let world = self.cluster.world.clone();
        let Some(life) = world.life(node) else { return };
        world.pause(node);
        let again = world.clone();
        world.after(spell, None, move || {
            if again.is_alive(life) {
                again.resume(node);
            }
        });
    }

    async fn part(&mut self) {
        let spell = self.spell();
        let mut left = BTreeSet::new();
        let mut right = BTreeSet::new();
        for node in self.cluster.nodes() {
            if self.random.chance(500_000) {
                left.insert(*node)
            } else {
                right.insert(*node)
            };
        }
        let holds = self.random.chance(300_000);
        self.cluster.network.split(&left, &right, holds);
        self.cluster.world.sleep(spell).await;
        self.cluster.network.heal();
    }

    async fn part_one_way(&mut self) {
        let spell = self.spell();
        let (from, to) = (self.any_node(), self.any_node());
        if from == to {
            return;
        }
        let holds = self.random.chance(300_000);
        self.cluster.network.block(from, to, holds);
        self.cluster.world.sleep(spell).await;
        self.cluster.network.heal();
    }

    async fn lose_messages(&mut self) {
        let spell = self.spell();
        let share = self.random.between(1_000, 200_000) as u32;
        self.cluster
            .world
            .record("nemesis", [share.into(), 0, 0, 0], "messages are lost");
        self.cluster.network.set_lost(share);
        self.cluster.world.sleep(spell).await;
        self.cluster.network.set_lost(0);
    }

    async fn slow_a_disk(&mut self) {
        let (node, spell) = (self.any_node(), self.spell());
        let delay = self
            .random
            .duration(Duration::from_millis(1), Duration::from_millis(800));
        self.cluster.disk.set_fault(node, PortFault { errors: 0, delay });
        self.cluster.world.sleep(spell).await;
        self.cluster.disk.set_fault(node, PortFault::default());
    }

    async fn break_a_disk(&mut self) {
        let (node, spell) = (self.any_node(), self.spell());
        let errors = self.random.between(10_000, 1_000_000) as u32;
        self.cluster.disk.set_fault(
            node,
            PortFault {
                errors,
                delay: Duration::ZERO,
            },
        );
        self.cluster.world.sleep(spell).await;
        self.cluster.disk.set_fault(node, PortFault::default());
    }
}
