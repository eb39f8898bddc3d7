//! `node stop N`: a clean stop, and the proof that it ended.

use crate::admin::Locator;
use crate::confirm::{ChangeOptions, Decision};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::note;
use std::time::{Duration, Instant};

/// Options of `node stop`.
#[derive(Clone, Debug, clap::Args)]
pub struct StopOptions {
    /// Which node.
    id: u8,
    #[command(flatten)]
    locator: Locator,
    /// How long it may take, in seconds.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Runs it.
pub async fn run(options: StopOptions) -> Outcome {
    crate::units::node_id(options.id)?;
    let mut client = options.locator.connect(Some(options.id)).await?;
    let status = client.status().await?;
    let left = status
        .nodes
        .iter()
        .filter(|n| n.member && n.id != options.id)
        .count();
    let mut steps = vec![
        format!(
            "node {} ends its sessions, writes its dirty pages and leaves the view",
            options.id
        ),
        format!("{left} members go on"),
    ];
    if left == 0 {
        steps.push("NOBODY SERVES AFTERWARDS: it is the last member".into());
    }
    if options
        .change
        .decide(&format!("stop node {}", options.id), &steps)?
        == Decision::DryRun
    {
        return Ok(Exit::Done);
    }
    client.stop().await?;
    // The node closes its admin connections when it has left; a connection that fails is the sign.
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    while !client.has_ended().await {
        if Instant::now() > deadline {
            return Err(Failure::new(
                Exit::Unknown,
                format!(
                    "node {} is still stopping after {} s; look at its log",
                    options.id, options.timeout
                ),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    note(format!("node {} has stopped", options.id));
    Ok(Exit::Done)
}
