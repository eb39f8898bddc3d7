//! `aquifer doctor`: whether this machine and device can carry a node.

mod checks;

use crate::failure::{Exit, Outcome};
use crate::output::{Colour, OutputOptions, paint, table};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// Options of `doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorOptions {
    /// Device to look at; nothing is written to it.
    #[arg(long, env = "AQUIFER_DEVICE", value_name = "DEV")]
    device: Option<PathBuf>,
    #[command(flatten)]
    output: OutputOptions,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it must be.
    Ok,
    /// A node runs, but slower or less safely.
    Warning,
    /// A node cannot run.
    Bad,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found, and what to do about it.
    pub found: String,
}

impl Check {
    fn new(name: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self {
            name,
            level,
            found: found.into(),
        }
    }
}

/// Runs it.
pub async fn run(options: DoctorOptions) -> Outcome {
    let device = options.device.clone();
    let checks = tokio::task::spawn_blocking(move || checks::all(device.as_deref()))
        .await
        .map_err(|e| crate::failure::Failure::failed(format!("a check failed: {e}")))?;
    let worst = checks
        .iter()
        .map(|c| c.level)
        .max_by_key(|l| *l as u8)
        .unwrap_or(Level::Ok);
    let verdict = match worst {
        Level::Ok => "ready",
        Level::Warning => "usable",
        Level::Bad => "unfit",
    };
    options
        .output
        .emit(json!({ "verdict": verdict, "checks": checks }), || {
            let rows = checks
                .iter()
                .map(|c| vec![mark(c.level), c.name.to_owned(), c.found.clone()]);
            format!("{verdict}\n{}", table(&["", "check", "found"], rows.collect()))
        })?;
    Ok(match worst {
        Level::Ok => Exit::Done,
        Level::Warning => Exit::Degraded,
        Level::Bad => Exit::Failed,
    })
}

fn mark(level: Level) -> String {
    match level {
        Level::Ok => "ok".into(),
        Level::Warning => paint(Colour::Yellow, "warning"),
        Level::Bad => paint(Colour::Red, "BAD"),
    }
}
