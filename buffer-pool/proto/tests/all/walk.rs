//! Seeded walks: several cores over a bad network, with crashes, view changes, eviction and write-back. At the end the
//! network is good and every request must be granted (DIR-7).

use super::cluster::{Cluster, Log, Packet, id};
use super::words;
use aquifer_buffer_pool_proto::{Mode, PageId};
use aquifer_dss_proto::{FileId, Incarnation, Instant, NodeId, NodeSet};

/// Numbers of a seed.
pub struct Random(pub u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

struct Walk {
    seed: u64,
    numbers: Random,
    cluster: Cluster,
    /// Copies that the network keeps for long: they arrive many conversions later (HZ-4).
    late: Vec<Packet>,
    writes: u64,
}

impl Walk {
    fn new(seed: u64, log: Log) -> Self {
        let mut walk = Self {
            seed,
            numbers: Random::new(seed),
            cluster: Cluster::new(1, Vec::new()),
            late: Vec::new(),
            writes: 0,
        };
        let pages = (0..1 + walk.random(3)).map(|n| PageId {
            file: FileId(7),
            number: n as u32 * 64,
        });
        let pages = pages.collect();
        let count = 2 + walk.random(3) as u8;
        walk.cluster = Cluster::new(count, pages);
        walk.cluster.log = log;
        walk
    }

    fn random(&mut self, below: u64) -> u64 {
        self.numbers.below(below)
    }

    fn any_node(&mut self) -> NodeId {
        let nodes: Vec<NodeId> = self.cluster.nodes.keys().copied().collect();
        nodes[self.random(nodes.len() as u64) as usize]
    }

    fn deliver(&mut self) {
        if self.cluster.net.is_empty() {
            return;
        }
        let at = self.random(self.cluster.net.len() as u64) as usize;
        let packet = match self.random(20) {
            0 => self.cluster.net[at].clone(),
            1 | 2 => {
                let packet = self.cluster.net.remove(at);
                self.late.push(packet.clone());
                packet
            }
            3 => {
                self.cluster.net.remove(at);
                return;
            }
            _ => self.cluster.net.remove(at),
        };
        self.hand_over(packet);
    }

    fn deliver_late(&mut self) {
        let epoch = self.cluster.view().epoch;
        self.late.retain(|packet| packet.envelope.epoch == epoch);
        // Some are always kept back, so that a copy is late by many conversions.
        if self.late.len() > 3 {
            let at = self.random(self.late.len() as u64) as usize;
            let packet = self.late.remove(at);
            self.hand_over(packet);
        }
    }

    fn hand_over(&mut self, packet: Packet) {
        let cluster = &mut self.cluster;
        let pages = &cluster.pages;
        cluster.log.note(|| {
            let text = words::message(pages, &packet.envelope.message);
            format!("{} has from {}: {text}", packet.to, packet.from)
        });
        cluster.deliver(packet);
    }

    fn work(&mut self, node: NodeId) {
        let count = self.cluster.nodes[&node].work.len() as u64;
        if count > 0 {
            let at = self.random(count) as usize;
            self.cluster.do_work(node, at);
        }
    }

    fn use_page(&mut self, node: NodeId, page: PageId) {
        let mode = if self.random(2) == 0 {
            Mode::Shared
        } else {
            Mode::Exclusive
        };
        let held = self.cluster.frame(node, page).map(|f| f.mode);
        if held == Some(Mode::Exclusive) && mode == Mode::Exclusive {
            self.cluster.change(node, page);
            self.writes += 1;
        } else if held.is_none_or(|held| held < mode) {
            self.cluster.acquire(node, page, mode);
        }
    }

    fn read_under_snapshot(&mut self, node: NodeId, page: PageId) {
        if self.cluster.frame(node, page).is_none() {
            self.cluster.ask_copy(node, page);
        }
    }

    fn write_back(&mut self, node: NodeId, page: PageId) {
        if !self.cluster.end_write_back(node, page) {
            self.cluster.begin_write_back(node, page);
        }
    }

    fn kill(&mut self, node: NodeId) {
        if self.cluster.nodes.len() < 2 || !self.cluster.installed_everywhere() {
            return;
        }
        let life = self.cluster.nodes[&node].life;
        let landed = self.random(2) == 0;
        self.cluster.kill(node, |_| landed);
        // Here it comes back at once in one run of four.
        if self.cluster.stream_is_empty(node) && self.random(4) == 0 {
            self.cluster.start_node(node, Incarnation(life.0 + 1));
        }
        self.cluster.change_view(NodeSet::of(node));
    }

    fn join(&mut self) {
        if !self.cluster.installed_everywhere() || self.cluster.nodes.len() >= 4 {
            return;
        }
        let cluster = &mut self.cluster;
        let free = |n: &u8| !cluster.nodes.contains_key(&id(*n)) && cluster.stream_is_empty(id(*n));
        if let Some(n) = (1..=4).find(free) {
            let life = Incarnation(cluster.view().epoch.0 + 10);
            cluster.start_node(id(n), life);
            cluster.change_view(NodeSet::EMPTY);
        }
    }

    /// Some home, if it still answers for the page, hands it over to anybody.
    fn move_slot(&mut self, page: PageId) {
        let to = self.any_node();
        for home in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
            if self.cluster.nodes[&home].core.answers_for(page) && home != to {
                self.cluster.move_slot(home, page, to);
            }
        }
    }

    fn tick(&mut self, node: NodeId) {
        self.cluster.now = Instant(self.cluster.now.0 + 1_000_000);
        self.cluster.tick(node);
        if node == self.cluster.view().leader {
            self.cluster.take_redo();
        }
    }

    fn step(&mut self) {
        let node = self.any_node();
        let at = self.random(self.cluster.pages.len() as u64) as usize;
        let page = self.cluster.pages[at];
        match self.random(1000) {
            0..400 => self.deliver(),
            400..450 => self.deliver_late(),
            450..650 => self.work(node),
            650..780 => self.use_page(node, page),
            780..800 => self.move_slot(page),
            800..840 => drop(self.cluster.evict(node, page)),
            840..880 => self.write_back(node, page),
            880..920 => self.tick(node),
            920..950 => self.cluster.install(node),
            950..965 => self.cluster.flush_redo(node, page),
            965..970 => self.cluster.want_flush(node, page),
            970..980 => drop(self.cluster.analyse()),
            980..990 => drop(self.cluster.recovered()),
            _ => match self.random(8) {
                0 => self.kill(node),
                1 => self.join(),
                _ => self.read_under_snapshot(node, page),
            },
        }
    }

    /// DIR-7: with a good network every request is granted, and recovery ends.
    fn settle(&mut self) {
        for _ in 0..6000 {
            for node in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
                self.cluster.install(node);
                self.work(node);
                self.tick(node);
                self.cluster.want_again(node);
            }
            self.cluster.end_all_writes();
            for packet in core::mem::take(&mut self.cluster.net) {
                self.hand_over(packet);
            }
            self.cluster.analyse();
            self.cluster.recovered();
            if self.cluster.is_settled() {
                return;
            }
        }
        panic!("DIR-7: {}", self.cluster.unserved());
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Some(log) = self.cluster.log.0.take() else {
                return;
            };
            let from = log.len().saturating_sub(120);
            eprintln!("seed {}:\n{}", self.seed, log[from..].join("\n"));
        }
    }
}

/// One walk; gives how many changes were made. Panics when a rule is broken, and prints what led there if it keeps a log.
pub fn run(seed: u64, steps: u64, log: Log) -> u64 {
    let mut walk = Walk::new(seed, log);
    for _ in 0..steps {
        walk.step();
    }
    walk.settle();
    walk.writes
}
