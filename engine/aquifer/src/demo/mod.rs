//! `aquifer demo`: the main job on one machine, from a sparse file to a verdict.
//!
//! Rules: everything goes through the front door (node processes, the PostgreSQL protocol, the admin channel); the origin
//! of the take-over timeline is the instant of the SIGKILL; exit 0 only on a pass.

mod progress;
mod report;

use crate::cluster::initialise;
use crate::failure::{Exit, Failure, Outcome};
use crate::load::{
    Audit, Load, LoadOptions, LoadResult, LocalCluster, LocalOptions, Scale, Takeover, audit, connect,
    interruptible, prepare,
};
use crate::output::{OutputOptions, note};
use crate::units::{parse_size, show_size};
use aquifer_dss::group::GroupOptions;
use progress::Progress;
use report::Report;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Options of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Directory for the device file and the logs [default: a temporary one].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A blank device to use instead of a sparse file.
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// How long the load runs.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    seconds: u64,
    /// Kill one node with SIGKILL half-way.
    #[arg(long)]
    kill: bool,
    /// Which node is killed [default: the last].
    #[arg(long, value_name = "N", requires = "kill")]
    victim: Option<u8>,
    /// Leave the nodes running afterwards.
    #[arg(long)]
    keep: bool,
    /// Connections to each node.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Branches, with 10 tellers and 1,000 accounts each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// Size of the sparse file.
    #[arg(long, default_value = "4G", value_parser = parse_size)]
    size: u64,
    /// Memory for pages of each node.
    #[arg(long, default_value = "64M")]
    buffer: String,
    #[command(flatten)]
    output: OutputOptions,
}

/// Files of one run. The directory is taken away when the demo made it and nothing is to be looked at.
struct Place {
    directory: PathBuf,
    device: PathBuf,
    made_directory: bool,
    made_device: bool,
}

impl Place {
    fn new(options: &DemoOptions) -> Result<Self, Failure> {
        let made_directory = options.dir.as_ref().is_none_or(|d| !d.exists());
        let directory = match &options.dir {
            Some(directory) => std::path::absolute(directory).map_err(Failure::usage)?,
            None => std::env::temp_dir().join(format!("aquifer-demo-{}", std::process::id())),
        };
        std::fs::create_dir_all(&directory)
            .map_err(|e| Failure::usage(format!("cannot make {}: {e}", directory.display())))?;
        let device = options
            .device
            .clone()
            .unwrap_or_else(|| directory.join("aquifer.img"));
        let device = std::path::absolute(device).map_err(Failure::usage)?;
        let made_device = !device.exists();
        if options.device.is_none() && !made_device {
            let shown = device.display();
            return Err(Failure::refused(format!(
                "{shown} is there from an earlier demo: stop its nodes and remove it, or choose another --dir"
            )));
        }
        Ok(Self {
            directory,
            device,
            made_directory,
            made_device,
        })
    }

    fn clean(&self) {
        if self.made_device {
            let _ = std::fs::remove_file(&self.device);
        }
        if self.made_directory {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// Runs it.
pub async fn run(options: DemoOptions) -> Outcome {
    if options.kill && options.nodes < 2 {
        return Err(Failure::usage(
            "--kill needs at least --nodes 2: somebody has to go on",
        ));
    }
    if options.victim.is_some_and(|v| v == 0 || v > options.nodes) {
        return Err(Failure::usage(format!("--victim must be 1 to {}", options.nodes)));
    }
    let place = Place::new(&options)?;
    let output = options.output;
    let result = interruptible(perform(&options, &place)).await;
    match result {
        Ok(report) => {
            output.emit(report.object(), || report.text())?;
            if report.passes() && !options.keep {
                place.clean();
            } else if !report.passes() {
                note(format!(
                    "device and logs are kept in {}",
                    place.directory.display()
                ));
            }
            Ok(if report.passes() { Exit::Done } else { Exit::Failed })
        }
        Err(failure) => {
            note(format!("logs are in {}", place.directory.display()));
            Err(failure)
        }
    }
}

/// Makes the group and starts the nodes.
async fn prepare_cluster(options: &DemoOptions, place: &Place) -> Result<LocalCluster, Failure> {
    let create = place.made_device.then_some(options.size);
    let group = GroupOptions {
        name: "demo".to_owned(),
        ..GroupOptions::default()
    };
    initialise(&place.device, &group, create).await?;
    note(format!(
        "volume group `demo` on {} ({}, sparse)",
        place.device.display(),
        show_size(options.size)
    ));
    let local = LocalOptions {
        device: place.device.clone(),
        logs: place.directory.clone(),
        buffer: options.buffer.clone(),
        keep: options.keep,
    };
    let started = Instant::now();
    let cluster = LocalCluster::start(local, options.nodes).await?;
    note(format!(
        "{} nodes ready after {:.1} s",
        options.nodes,
        started.elapsed().as_secs_f64()
    ));
    Ok(cluster)
}

async fn load_accounts(address: SocketAddr, scale: Scale) -> Result<(), Failure> {
    let client = connect(address).await.map_err(Failure::unavailable)?;
    prepare(&client, scale).await?;
    note(format!(
        "loaded {} accounts, {} tellers, {} branches",
        scale.accounts, scale.tellers, scale.branches
    ));
    Ok(())
}

async fn perform(options: &DemoOptions, place: &Place) -> Result<Report, Failure> {
    let mut cluster = prepare_cluster(options, place).await?;
    let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|n| n.sql).collect();
    let scale = Scale::of(options.scale);
    load_accounts(addresses[0], scale).await?;
    let load = Load::start(
        &addresses,
        LoadOptions {
            clients: usize::from(options.clients),
            scale,
        },
    );
    let mut progress = Progress::new(&cluster, load.board.clone()).await?;
    let half = Duration::from_secs(options.seconds) / 2;
    let began = Instant::now();
    let mut takeover = None;
    if options.kill {
        progress.run_until(began + half).await;
        let victim = options.victim.unwrap_or(options.nodes);
        takeover = Some(Takeover::inflict(&mut cluster, victim)?);
    }
    if let Some(takeover) = &mut takeover {
        let watch = takeover.observe(&cluster);
        tokio::pin!(watch);
        tokio::select! {
            result = &mut watch => result?,
            () = progress.run_until(began + half * 2) => watch.await?,
        }
    }
    progress.run_until(began + half * 2).await;
    let elapsed = began.elapsed();
    let transfers = progress.page_transfers();
    let trouble = load.board.trouble().map(str::to_owned);
    let result = load.finish().await?;
    let takeover = takeover.map(|takeover| takeover.timeline(&result));
    let audits = audit_all(&cluster, scale, &result).await?;
    let fallen = cluster.fallen();
    let sql: Vec<(u8, SocketAddr)> = cluster.alive().map(|n| (n.id, n.sql)).collect();
    let unclean = if options.keep {
        Vec::new()
    } else {
        cluster.stop().await
    };
    let report = Report {
        nodes: options.nodes,
        elapsed,
        result,
        audits,
        page_transfers: transfers,
        takeover,
        fallen,
        unclean,
        trouble,
        killed: options.kill,
    };
    if options.keep {
        explain(&cluster, &sql);
        cluster.release();
    }
    Ok(report)
}

async fn audit_all(
    cluster: &LocalCluster,
    scale: Scale,
    result: &LoadResult,
) -> Result<Vec<(u8, Audit)>, Failure> {
    let mut audits = Vec::new();
    for node in cluster.alive() {
        audits.push((node.id, audit(node.sql, scale, result).await?));
    }
    note(format!(
        "audited {} transfers through {} nodes",
        result.acknowledged.len(),
        audits.len()
    ));
    Ok(audits)
}

fn explain(cluster: &LocalCluster, sql: &[(u8, SocketAddr)]) {
    note("The nodes are left running. Connect with:");
    for (id, address) in sql {
        note(format!(
            "  psql \"host={} port={} user=aquifer dbname=aquifer\"    # node {id}",
            address.ip(),
            address.port()
        ));
    }
    if let Some(node) = cluster.alive().next() {
        note(format!("  aquifer cluster status --admin {}", node.admin));
        note(format!(
            "Stop one with `aquifer node stop N --yes --admin {}`.",
            node.admin
        ));
    }
}
