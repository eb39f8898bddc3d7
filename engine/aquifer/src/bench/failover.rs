//! `bench failover`: a node is killed and started again, several times, under load; medians of the take-over.

use super::figures::median;
use super::place::{Place, PlaceOptions};
use crate::failure::{Exit, Failure, Outcome};
use crate::load::{Load, LoadOptions, Scale, Takeover, Timeline, audit, connect, interruptible, prepare};
use crate::output::{OutputOptions, table};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

/// Load before each kill.
const WARM: Duration = Duration::from_secs(2);

/// Options of `bench failover`.
#[derive(Clone, Debug, clap::Args)]
pub struct FailoverOptions {
    #[command(flatten)]
    place: PlaceOptions,
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    /// How many kills; the victims take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    kills: u16,
    /// Connections to each node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Branches, with 10 tellers and 1,000 accounts each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    #[command(flatten)]
    output: OutputOptions,
}

/// A step of the timeline: its name and where it is.
type Step = (&'static str, fn(&Timeline) -> Option<f64>);

const STEPS: [Step; 6] = [
    ("detected_ms", |t| t.detected_ms),
    ("fenced_ms", |t| t.fenced_ms),
    ("view_ms", |t| t.view_ms),
    ("first_commit_ms", |t| t.first_commit_ms),
    ("recovered_ms", |t| t.recovered_ms),
    ("longest_pause_ms", |t| t.longest_pause_ms),
];

/// Runs it.
pub async fn run(options: FailoverOptions) -> Outcome {
    let place = options.place.make("failover")?;
    let (timelines, sound) = interruptible(measure(&place, &options)).await?;
    let medians: serde_json::Map<String, serde_json::Value> = STEPS
        .iter()
        .map(|(name, pick)| {
            (
                (*name).to_owned(),
                json!(median(timelines.iter().filter_map(pick))),
            )
        })
        .collect();
    let complete = timelines.iter().filter(|t| t.complete()).count();
    let object = json!({ "kills": timelines.len(), "complete": complete, "sound": sound, "median": medians, "timelines": timelines });
    options.output.emit(object, || {
        let rows = STEPS.iter().map(|(name, pick)| {
            let values: Vec<f64> = timelines.iter().filter_map(pick).collect();
            let worst = values.iter().copied().max_by(f64::total_cmp);
            let show = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.1}"));
            vec![
                name.trim_end_matches("_ms").replace('_', " "),
                show(median(values.into_iter())),
                show(worst),
            ]
        });
        let text = table(&["ms after the kill", "median", "worst"], rows.collect());
        format!(
            "{} kills, {complete} complete take-overs, audit {}\n{text}",
            timelines.len(),
            if sound { "ok" } else { "WRONG" }
        )
    })?;
    Ok(if sound && complete == timelines.len() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

async fn measure(place: &Place, options: &FailoverOptions) -> Result<(Vec<Timeline>, bool), Failure> {
    let mut cluster = place.cluster(options.nodes).await?;
    let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|n| n.sql).collect();
    let scale = Scale::of(options.scale);
    let client = connect(addresses[0]).await.map_err(Failure::unavailable)?;
    prepare(&client, scale).await?;
    let load = Load::start(
        &addresses,
        LoadOptions {
            clients: usize::from(options.clients),
            scale,
        },
    );
    let mut takeovers = Vec::new();
    for kill in 0..options.kills {
        tokio::time::sleep(WARM).await;
        let victim = options.nodes - (kill % u16::from(options.nodes)) as u8;
        let mut takeover = Takeover::inflict(&mut cluster, victim)?;
        takeover.observe(&cluster).await?;
        takeovers.push(takeover);
        cluster.restart(victim).await?;
    }
    let result = load.finish().await?;
    let audit = audit(addresses[0], scale, &result).await?;
    cluster.stop().await;
    Ok((
        takeovers.iter().map(|t| t.timeline(&result)).collect(),
        audit.passes(),
    ))
}
