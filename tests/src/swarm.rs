//! One seed, one run: the seed draws the configuration, the faults and everything that happens.

use crate::sim::{
    Cluster, ClusterOptions, DiskOptions, Failure, Faults, Nemesis, NetworkOptions, Random, WorldOptions,
};
use crate::workload::{
    Client, EngineProgram, MemoryProgram, Planted, Sessions, Size, WORKLOADS, Workload, device_is_sound,
    workload,
};
use aquifer_buffer_pool::Locality;
use aquifer_dss_proto::defect::{Defect, plant};
use aquifer_dss_proto::membership::Timing;
use aquifer_dss_proto::{HomeSlots, PageSize};
use aquifer_engine_proto::page::Limits;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// What the nodes run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// Whole nodes.
    Engine,
    /// The model in memory, with a fault planted or not.
    Memory(Planted),
}

/// What the command line fixes; the rest is drawn.
#[derive(Clone, Debug)]
pub struct Overrides {
    /// Number of nodes.
    pub nodes: Option<u8>,
    /// Name of the workload.
    pub workload: Option<String>,
    /// No faults.
    pub calm: bool,
    /// Print the trace.
    pub trace: bool,
    /// What the nodes run.
    pub subject: Subject,
    /// The defect planted in them.
    pub defect: Option<Defect>,
    /// What the devices are.
    pub layout: Layout,
}

/// What the simulated disk is to the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Layout {
    /// One device.
    #[default]
    Whole,
    /// Several; operators add, drain and remove volumes meanwhile.
    Volumes,
    /// The two legs of a mirrored volume; operators break the second one and let it in again meanwhile.
    Mirror,
}

/// Everything a run is made from. A function of the seed and the overrides.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The seed.
    pub seed: u64,
    /// World, network, disk and number of nodes.
    pub cluster: ClusterOptions,
    /// What goes wrong.
    pub faults: Faults,
    /// Frames of each buffer pool.
    pub frames: usize,
    /// Bytes of each redo stream.
    pub redo_bytes: u64,
    /// Times of the nodes.
    pub tuning: Tuning,
    /// The workload.
    pub workload: String,
    /// Its size.
    pub size: Size,
    /// How long clients and nemesis work.
    pub length: Duration,
    /// Time after which an ended node comes back.
    pub restart: (Duration, Duration),
    overrides: Overrides,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How large everything was.
    pub sizes: String,
    /// Digest of the trace, and its number of events.
    pub digest: (u64, u64),
    /// Virtual nanoseconds it took.
    pub virtual_time: u64,
    /// What the clients did.
    pub summary: String,
    /// Copy images that came for readers, in the last lives of the nodes.
    pub copies: u64,
    /// How many lives ended themselves, with the reason of the first.
    pub aborts: (usize, Option<String>),
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// The last events, when it failed.
    pub recent: Vec<String>,
    /// The command that replays it.
    pub replay: String,
}

impl Configuration {
    /// Draws the configuration of `seed`.
    pub fn draw(seed: u64, overrides: &Overrides) -> Self {
        let mut random = Random::fork(seed, "configuration");
        let nodes = random.between(1, 5) as u8;
        let drawn = random.pick(&WORKLOADS[..4]).to_string();
        let world = WorldOptions {
            seed,
            fifo: random.chance(100_000),
            explained: if overrides.calm {
                |_| false
            } else {
                explained_by_faults
            },
            print: overrides.trace || WorldOptions::default().print,
            ..WorldOptions::default()
        };
        let network = draw_network(&mut random);
        let disk = draw_disk(&mut random, overrides.layout != Layout::Whole);
        let faults = if overrides.calm {
            Faults::none()
        } else {
            draw_faults(&mut random)
        };
        let frames = *random.pick(&[8, 12, 16, 32, 64, 256]);
        let clients = random.between(1, 8);
        let keys = *random.pick(&[4, 16, 64, 256]);
        let size = Size {
            clients,
            keys,
            value: *random.pick(&[64, 400, 1500]),
        };
        let longest = *random.pick(&[5, 10, 20]);
        let (mut drawn, mut nodes, mut tuning) = (drawn, nodes, Tuning::default());
        let mut later = Random::fork(seed, LATER);
        if later.chance(500_000) {
            if later.chance(400_000) {
                drawn = "append".to_owned();
            }
            if later.chance(500_000) {
                nodes = later.between(6, 7) as u8;
            }
            tuning = Tuning::draw(&mut later);
        }
        tuning.layout = overrides.layout;
        tuning.locality = draw_locality(&mut Random::fork(seed, "locality"));
        (tuning.page_size, tuning.home_slots) = draw_shape(&mut Random::fork(seed, SHAPE));
        if Random::fork(seed, "definitions").chance(80_000) {
            drawn = "definitions".to_owned();
        }
        let configuration = Self {
            seed,
            cluster: ClusterOptions {
                world,
                network,
                disk,
                nodes: overrides.nodes.unwrap_or(nodes),
            },
            faults,
            frames,
            redo_bytes: 4 << 20,
            tuning,
            workload: overrides.workload.clone().unwrap_or(drawn),
            size,
            length: Duration::from_secs(longest),
            restart: (
                Duration::from_millis(10),
                Duration::from_millis(random.between(20, 4_000)),
            ),
            overrides: overrides.clone(),
        };
        configuration.fitted()
    }

    /// With what follows from the rest of the draws.
    fn fitted(mut self) -> Self {
        if !self.overrides.calm && self.overrides.subject == Subject::Engine {
            self.stress_storage();
        }
        self.fit_pages();
        self
    }

    /// A third of the seeds is about what storage keeps: the power fails again and again, kills and cuts are aimed at moments
    /// in which something can be lost, and memory and redo are so small that pages are always on their way. It has random
    /// numbers of its own: the other seeds stay what they are.
    fn stress_storage(&mut self) {
        let mut random = Random::fork(self.seed, "storage");
        if !random.chance(333_000) {
            return;
        }
        self.faults.power_cut = 15;
        self.faults.crash = 15;
        self.faults.aimed = true;
        self.faults.pause_low = Duration::from_millis(100);
        self.faults.pause_high = Duration::from_millis(random.between(300, 2_500));
        self.frames = *random.pick(&[8, 12, 16, 32]);
        self.redo_bytes = *random.pick(&[256 << 10, 512 << 10, 1 << 20, 4 << 20]);
        self.size.keys = *random.pick(&[64, 256]);
        self.cluster.disk.latency_high = Duration::from_micros(*random.pick(&[400, 2_000, 5_000]));
        self.restart.1 = Duration::from_millis(random.between(20, 500));
    }

    /// What the drawn pages cannot do without: rows within their limits, and a redo stream that has room for splits of several.
    fn fit_pages(&mut self) {
        let page_size = self.tuning.page_size;
        // Keys and lists of values stand beside the value in its row.
        self.size.value = self.size.value.min(Limits::of(page_size).value * 4 / 5);
        self.redo_bytes = self.redo_bytes.max(16 * page_size.bytes() as u64);
    }

    /// The run in one line: how large everything is.
    pub fn sizes(&self) -> String {
        let Tuning {
            page_size,
            home_slots,
            ..
        } = self.tuning;
        format!(
            "{}, {} nodes, {} frames of {page_size}, {} slots, redo of {}K",
            self.workload,
            self.cluster.nodes,
            self.frames,
            home_slots.count(),
            self.redo_bytes >> 10
        )
    }

    /// The command that runs this again, byte for byte.
    pub fn replay(&self) -> String {
        let mut command = format!("scripts/sim --seed {}", self.seed);
        if let Some(nodes) = self.overrides.nodes {
            let _ = write!(command, " --nodes {nodes}");
        }
        if let Some(workload) = &self.overrides.workload {
            let _ = write!(command, " --workload {workload}");
        }
        if self.overrides.calm {
            command.push_str(" --calm");
        }
        if let Subject::Memory(planted) = self.overrides.subject {
            let _ = write!(command, " --subject memory");
            if planted != Planted::Nothing {
                let _ = write!(command, " --plant {planted:?}");
            }
        }
        if let Some(defect) = self.overrides.defect {
            let _ = write!(command, " --defect {}", defect.name());
        }
        match self.overrides.layout {
            Layout::Whole => {}
            Layout::Volumes => command.push_str(" --volumes"),
            Layout::Mirror => command.push_str(" --mirror"),
        }
        command
    }
}

/// Choices that seeds did not have at first are drawn apart, and leave half of the seeds as they were; with this label the
/// seeds that the tests pin are among those.
const LATER: &str = "later choices 313";

/// Page size and slots of the directory are drawn apart for the same reason; with this label the pinned seeds have the usual ones.
const SHAPE: &str = "shape 58453";

/// Half of the clusters are of the usual shape. Of few slots a home has none, or many pages share one; of many a view change has
/// something to do.
fn draw_shape(random: &mut Random) -> (PageSize, HomeSlots) {
    if random.chance(500_000) {
        return (PageSize::USUAL, HomeSlots::USUAL);
    }
    let page_size = *random.pick(&PageSize::ALL);
    let slots = *random.pick(&[1, 2, 16, 64, 1024, 65_536]);
    (page_size, HomeSlots::new(slots).expect("powers of two"))
}

/// What each node is told, the same for all of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Heartbeat, lease, grace and longest I/O.
    pub timing: Timing,
    /// The cleaner looks for pages to write this often.
    pub clean_every: Duration,
    /// It writes pages that have been dirty this long.
    pub clean_after: Duration,
    /// How far a scan may be ahead of itself, in pages.
    pub prefetch: usize,
    /// When slots of the directory move.
    pub locality: Option<Locality>,
    /// Size of a page.
    pub page_size: PageSize,
    /// Slots of the directory.
    pub home_slots: HomeSlots,
    /// What the devices are.
    pub layout: Layout,
    /// Whether somebody changes volumes while the nodes run.
    pub operators: bool,
    /// Whether bits decay on the second leg of a mirror. Not when a node's I/O on the first one may fail: then that is detached, and what has
    /// decayed is all there is.
    pub decays: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            clean_every: Duration::from_millis(50),
            clean_after: Duration::from_secs(1),
            prefetch: 8,
            locality: Some(Locality::default()),
            page_size: PageSize::USUAL,
            home_slots: HomeSlots::USUAL,
            layout: Layout::Whole,
            operators: true,
            decays: false,
        }
    }
}

impl Tuning {
    fn draw(random: &mut Random) -> Self {
        let usual = Timing::default();
        // A lease of 3 to 9 s: the times keep their proportions, which are what the protocol assumes.
        let stretch = *random.pick(&[1, 1, 2, 3]);
        Self {
            timing: Timing {
                heartbeat: usual.heartbeat * stretch,
                lease: usual.lease * stretch,
                grace: usual.grace * stretch,
                longest_io: usual.longest_io * stretch,
            },
            clean_every: Duration::from_millis(*random.pick(&[50, 50, 5, 500])),
            clean_after: Duration::from_secs(*random.pick(&[10, 10, 1, 30])),
            prefetch: 8,
            ..Self::default()
        }
    }
}

/// Of the seeds that are not as usual, most are such that a slot moves as soon as one node was alone with it for a moment.
fn draw_locality(random: &mut Random) -> Option<Locality> {
    if random.chance(600_000) {
        return Some(Locality::default());
    }
    let interval = Duration::from_millis(*random.pick(&[5, 20, 100, 500]));
    let requests = *random.pick(&[1, 1, 2, 4]);
    random.chance(900_000).then_some(Locality { interval, requests })
}

fn draw_network(random: &mut Random) -> NetworkOptions {
    let high = *random.pick(&[100, 500, 2_000, 10_000]);
    NetworkOptions {
        latency_low: Duration::from_micros(20),
        latency_high: Duration::from_micros(high),
        slow: *random.pick(&[0, 2_000, 20_000]),
        lost: *random.pick(&[0, 0, 1_000, 10_000]),
        closing_hint: *random.pick(&[1_000_000, 900_000, 300_000, 0]),
    }
}

/// Cut into slices, the disk is so much larger that each has room for what the nodes need.
fn draw_disk(random: &mut Random, sliced: bool) -> DiskOptions {
    let usual = DiskOptions::default();
    DiskOptions {
        size: if sliced { 4 * usual.size } else { usual.size },
        latency_high: Duration::from_micros(*random.pick(&[100, 400, 2_000])),
        slow: *random.pick(&[0, 1_000, 20_000]),
        seen_torn: *random.pick(&[0, 0, 10_000, 200_000]),
        ..usual
    }
}

/// Swarm testing: each run has its own subset of faults, because some faults hide others.
fn draw_faults(random: &mut Random) -> Faults {
    let mut faults = Faults::all();
    for weight in [
        &mut faults.crash,
        &mut faults.pause,
        &mut faults.partition,
        &mut faults.one_way,
        &mut faults.lossy,
        &mut faults.slow_disk,
        &mut faults.disk_errors,
        &mut faults.power_cut,
        &mut faults.clocks,
    ] {
        if random.chance(500_000) {
            *weight = 0;
        }
    }
    faults.pause_high = Duration::from_millis(random.between(400, 8_000));
    faults
}

/// Reasons for which a healthy node ends itself under faults: its storage failed, its lease ran out, or the others went on
/// without it. Anything else, a full redo ring or a journal that does not read back, is a broken invariant.
fn explained_by_faults(reason: &str) -> bool {
    let reasons = [
        "simulated input/output error",
        // It broke when the other one was out.
        "the leg is broken",
        "the lease is over",
        "the others have gone on",
        // The life before hangs in an operation on a slow disk, and its lock with it.
        "is already running",
    ];
    reasons.iter().any(|explained| reason.contains(explained))
}

/// Runs one seed.
pub fn run(configuration: &Configuration) -> Report {
    run_recorded(configuration).0
}

/// Runs one seed; answers also its workload, which may have the history.
pub fn run_recorded(configuration: &Configuration) -> (Report, Arc<dyn Workload>) {
    plant(configuration.overrides.defect);
    let sessions = Arc::new(Sessions::default());
    let (cluster, engine) = assemble(configuration, &sessions);
    let chosen = workload(&configuration.workload, configuration.size).expect("a workload of this name");
    let play = scenario(
        cluster.clone(),
        sessions.clone(),
        chosen.clone(),
        engine.clone(),
        configuration.clone(),
    );
    let prepared = cluster.clone();
    let program = engine.clone();
    let scenario = async move {
        if let Some(engine) = engine {
            engine.prepare(&prepared).await?;
        }
        play.await
    };
    let failure = match cluster.world.block_on(scenario) {
        Ok(Ok(())) => cluster.world.failure(),
        Ok(Err(message)) => Some(Failure {
            at: cluster.world.now(),
            message,
        }),
        Err(failure) => Some(failure),
    };
    let aborts = cluster.world.aborts();
    let report = Report {
        seed: configuration.seed,
        sizes: configuration.sizes(),
        digest: cluster.world.digest(),
        virtual_time: cluster.world.now(),
        summary: chosen.summary(),
        copies: program.map_or(0, |program| program.copies()),
        aborts: (aborts.len(), aborts.first().map(|(_, reason)| reason.clone())),
        recent: if failure.is_some() {
            cluster.world.recent()
        } else {
            Vec::new()
        },
        failure,
        replay: configuration.replay(),
    };
    sessions.close();
    cluster.shut_down();
    plant(None);
    (report, chosen)
}

fn assemble(
    configuration: &Configuration,
    sessions: &Arc<Sessions>,
) -> (Arc<Cluster>, Option<Arc<EngineProgram>>) {
    match configuration.overrides.subject {
        Subject::Memory(planted) => {
            let program = MemoryProgram::new(sessions.clone(), planted);
            (Cluster::new(configuration.cluster.clone(), program), None)
        }
        Subject::Engine => {
            let program = EngineProgram::new(
                sessions.clone(),
                configuration.frames,
                configuration.redo_bytes,
                Tuning {
                    decays: configuration.faults.disk_errors == 0,
                    ..configuration.tuning
                },
            );
            (
                Cluster::new(configuration.cluster.clone(), program.clone()),
                Some(program),
            )
        }
    }
}

async fn scenario(
    cluster: Arc<Cluster>,
    sessions: Arc<Sessions>,
    workload: Arc<dyn Workload>,
    engine: Option<Arc<EngineProgram>>,
    configuration: Configuration,
) -> Result<(), String> {
    let world = cluster.world.clone();
    let (low, high) = configuration.restart;
    cluster.set_restarts(Some((low, high.max(low))));
    cluster.start_all();
    let master = Client::new(cluster.clone(), sessions.clone(), u64::MAX);
    workload.prepare(master.clone()).await?;
    sessions.set_end(world.now() + configuration.length.as_nanos() as u64);
    let mut clients = Vec::new();
    for number in 0..configuration.size.clients {
        let client = Client::new(cluster.clone(), sessions.clone(), number);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let work = workload.run(client);
        let world = world.clone();
        cluster.world.spawn(
            None,
            "client",
            Box::pin(async move {
                let result = work.await;
                if let Err(message) = &result {
                    world.fail(message.clone());
                }
                let _ = sender.send(result);
            }),
        );
        clients.push(receiver);
    }
    let nemesis = Nemesis::new(cluster.clone(), configuration.faults.clone());
    nemesis.run(configuration.length).await;
    for client in clients {
        client.await.map_err(|_| "a client vanished".to_owned())??;
    }
    workload.check(master).await?;
    match engine {
        Some(engine) => {
            engine.scrub(&cluster).await?;
            device_is_sound(&cluster, configuration.tuning.layout).await
        }
        None => Ok(()),
    }
}

/// The failed run for a person: what, and how to see it again.
pub fn describe(report: &Report) -> String {
    let mut text = String::new();
    if let Some(failure) = &report.failure {
        let _ = writeln!(text, "seed {} ({}) failed {failure}", report.seed, report.sizes);
        for line in report.recent.iter().rev().take(12).rev() {
            let _ = writeln!(text, "    {line}");
        }
        let _ = writeln!(text, "    replay: {} --trace", report.replay);
    }
    text
}
