//! `bench tpcb`: the load of the demo without a kill, on one node and on several.

use super::figures::ratio;
use super::place::{Place, PlaceOptions};
use crate::failure::{Exit, Failure, Outcome};
use crate::load::{Load, LoadOptions, Scale, audit, connect, interruptible, prepare};
use crate::output::{OutputOptions, note, table};
use serde::Serialize;
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Options of `bench tpcb`.
#[derive(Clone, Debug, clap::Args)]
pub struct TpcbOptions {
    #[command(flatten)]
    place: PlaceOptions,
    /// Sizes of cluster to measure.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3], value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: Vec<u8>,
    /// Connections in all, shared out over the nodes.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Branches, with 10 tellers and 1,000 accounts each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// Seconds for each size.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    output: OutputOptions,
}

/// One size's result.
#[derive(Debug, Serialize)]
struct Run {
    nodes: u8,
    clients: usize,
    commits_per_second: f64,
    page_transfers_per_commit: f64,
    retried: u64,
    /// The audit after the run.
    sound: bool,
}

/// Runs it.
pub async fn run(options: TpcbOptions) -> Outcome {
    let place = options.place.make("tpcb")?;
    let runs = interruptible(async {
        let mut runs = Vec::new();
        for nodes in &options.nodes {
            runs.push(measure(&place, *nodes, &options).await?);
        }
        Ok(runs)
    })
    .await?;
    let first = runs.first().map_or(0.0, |r| r.commits_per_second);
    let sound = runs.iter().all(|r| r.sound);
    options.output.emit(json!({ "runs": runs, "sound": sound }), || {
        let rows = runs.iter().map(|r| {
            vec![
                r.nodes.to_string(),
                r.clients.to_string(),
                format!("{:.0}", r.commits_per_second),
                format!("{}", ratio(r.commits_per_second, first)),
                format!("{}", r.page_transfers_per_commit),
                r.retried.to_string(),
                if r.sound { "ok" } else { "WRONG" }.into(),
            ]
        });
        table(
            &[
                "nodes",
                "clients",
                "commits/s",
                "of first",
                "transfers/commit",
                "retried",
                "audit",
            ],
            rows.collect(),
        )
    })?;
    Ok(if sound { Exit::Done } else { Exit::Failed })
}

async fn measure(place: &Place, nodes: u8, options: &TpcbOptions) -> Result<Run, Failure> {
    let mut cluster = place.cluster(nodes).await?;
    let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|n| n.sql).collect();
    let scale = Scale::of(options.scale);
    let client = connect(addresses[0]).await.map_err(Failure::unavailable)?;
    prepare(&client, scale).await?;
    let clients = (usize::from(options.clients) / usize::from(nodes)).max(1);
    let before = transfers(&cluster).await?;
    let load = Load::start(&addresses, LoadOptions { clients, scale });
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let elapsed = began.elapsed();
    let result = load.finish().await?;
    let moved = transfers(&cluster).await? - before;
    let audit = audit(addresses[0], scale, &result).await?;
    cluster.stop().await;
    let commits = result.acknowledged.len() as f64;
    let run = Run {
        nodes,
        clients: clients * usize::from(nodes),
        commits_per_second: ratio(commits, elapsed.as_secs_f64()),
        page_transfers_per_commit: ratio(moved as f64, commits),
        retried: result.retried,
        sound: audit.passes(),
    };
    note(format!("{nodes} nodes: {:.0} commits/s", run.commits_per_second));
    Ok(run)
}

async fn transfers(cluster: &crate::load::LocalCluster) -> Result<u64, Failure> {
    let mut sum = 0;
    for (_, mut admin) in cluster.admins().await? {
        sum += admin.counters().await?.get("transfers_in");
    }
    Ok(sum)
}
