//! `cluster status`: the verdict first, why, and the next command; then one row per node with the wrong lines marked.

use crate::admin::{AdminClient, Locator, NodeReport, StatusReport};
use crate::device;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Colour, OutputOptions, paint, print_line, table, with_schema};
use serde_json::{Value, json};
use std::time::Duration;

/// How long another member may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Options of `cluster status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusOptions {
    #[command(flatten)]
    locator: Locator,
    /// Show it again each second until interrupted.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    output: OutputOptions,
}

/// How a cluster is, in one word, one sentence and one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// "healthy", "degraded" or "down".
    pub verdict: &'static str,
    /// Why.
    pub why: String,
    /// What to type next; empty when there is nothing to do.
    pub next: String,
    /// Every member answers for its fair part of the directory, and preferred roles are taken.
    pub balanced: bool,
    /// Whether the death of one more node would leave a member.
    pub survives_one_more_failure: bool,
}

impl Verdict {
    /// Exit code of `cluster status`.
    pub fn exit(&self) -> Exit {
        match self.verdict {
            "healthy" => Exit::Done,
            "down" => Exit::Unavailable,
            _ => Exit::Degraded,
        }
    }

    fn colour(&self) -> Colour {
        match self.verdict {
            "healthy" => Colour::Green,
            "down" => Colour::Red,
            _ => Colour::Yellow,
        }
    }
}

/// The verdict on what one node reports.
pub fn judge(report: &StatusReport) -> Verdict {
    let members: Vec<&NodeReport> = report.nodes.iter().filter(|n| n.member).collect();
    let missing: Vec<&NodeReport> = report.nodes.iter().filter(|n| !n.member).collect();
    let most = members.iter().map(|n| n.homes).max().unwrap_or(0);
    let least = members.iter().map(|n| n.homes).min().unwrap_or(0);
    let balanced = most - least <= members.len();
    let survives_one_more_failure = members.len() >= 2;
    let with = |verdict, why: String, next: String| Verdict {
        verdict,
        why,
        next,
        balanced,
        survives_one_more_failure,
    };
    if members.is_empty() || !report.serving {
        return with(
            "down",
            format!("node {} is in no view and serves nothing", report.node),
            "aquifer cluster status --watch".into(),
        );
    }
    if let Some(alarm) = &report.alarm {
        return with(
            "degraded",
            alarm.clone(),
            "aquifer node fence N --confirm --device DEV".into(),
        );
    }
    if let Some(node) = missing.first() {
        let why = missing
            .iter()
            .map(|n| format!("node {} is {}", n.id, n.state))
            .collect::<Vec<_>>()
            .join(", ");
        let next = match node.state.as_str() {
            "joining" => "aquifer cluster status --watch".into(),
            _ => format!(
                "aquifer node start --id {} --device DEV --sql {} --peer {}",
                node.id, node.sql, node.peer
            ),
        };
        return with("degraded", why, next);
    }
    if !report.volumes_missing.is_empty() {
        let next = "aquifer vg status".into();
        return with("degraded", report.volumes_missing.join("; "), next);
    }
    if report.redo_outstanding > 0 {
        let why = format!("{} pages wait for redo", report.redo_outstanding);
        return with("degraded", why, "aquifer cluster status --watch".into());
    }
    if members.len() == 1 {
        let why = "one node only: its death stops the service".into();
        let next = "aquifer node start --id 2 --device DEV --sql ADDR --peer ADDR".into();
        return with("healthy", why, next);
    }
    with(
        "healthy",
        format!("all {} nodes are members", members.len()),
        String::new(),
    )
}

/// Runs it.
pub async fn run(options: StatusOptions) -> Outcome {
    loop {
        let (report, verdict) = look(&options.locator).await?;
        if options.watch && !options.output.json() {
            print_line("\x1b[H\x1b[2J")?;
        }
        if options.output.json() {
            print_line(&with_schema(object(&report, &verdict)).to_string())?;
        } else {
            print_line(&text(&report, &verdict))?;
        }
        if !options.watch {
            return Ok(verdict.exit());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Asks a node; when none answers and the device is known, what its slots say.
async fn look(locator: &Locator) -> Result<(StatusReport, Verdict), Failure> {
    let failure = match locator.connect(None).await {
        Ok(mut client) => {
            let mut report = client.status().await?;
            probe(&mut report).await;
            let verdict = judge(&report);
            return Ok((report, verdict));
        }
        Err(failure) => failure,
    };
    let Some(path) = locator
        .device
        .as_deref()
        .filter(|_| failure.exit == Exit::Unavailable)
    else {
        return Err(failure);
    };
    let mut report = StatusReport {
        nodes: device::read_slots(path).await?,
        ..StatusReport::default()
    };
    for node in &mut report.nodes {
        if node.state != "stopped" {
            node.state = "dead".into();
        }
        node.member = false;
        node.role.clear();
    }
    let why = match report.nodes.len() {
        0 => "no node ever ran here".into(),
        n => format!("none of {n} known nodes answers"),
    };
    let id = report.nodes.first().map_or(1, |n| n.id);
    let next = format!(
        "aquifer node start --id {id} --device {} --sql ADDR --peer ADDR",
        path.display()
    );
    let verdict = Verdict {
        verdict: "down",
        why,
        next,
        balanced: false,
        survives_one_more_failure: false,
    };
    Ok((report, verdict))
}

/// Asks every other member for its own lease and the volumes that it misses: nobody else knows them.
async fn probe(report: &mut StatusReport) {
    let mut missing = Vec::new();
    for node in report
        .nodes
        .iter_mut()
        .filter(|n| n.member && n.lease_left_ms.is_none())
    {
        let own = async { AdminClient::connect(&node.admin).await?.status().await };
        if let Ok(Ok(status)) = tokio::time::timeout(PROBE_LIMIT, own).await {
            node.lease_left_ms = status
                .nodes
                .iter()
                .find(|n| n.id == node.id)
                .and_then(|n| n.lease_left_ms);
            missing.extend(status.volumes_missing);
        }
    }
    report.volumes_missing.extend(missing);
}

fn object(report: &StatusReport, verdict: &Verdict) -> Value {
    json!({
        "verdict": verdict.verdict, "why": verdict.why, "next": verdict.next,
        "cluster": report.cluster, "uuid": report.uuid, "epoch": report.epoch, "leader": report.leader,
        "answered_by": report.node, "redo_outstanding": report.redo_outstanding,
        "nodes": report.nodes, "reform": report.reform,
        "balanced": verdict.balanced, "survives_one_more_failure": verdict.survives_one_more_failure,
    })
}

fn text(report: &StatusReport, verdict: &Verdict) -> String {
    let mut lines = vec![format!(
        "{}: {}",
        paint(verdict.colour(), &verdict.verdict.to_uppercase()),
        verdict.why
    )];
    if !verdict.next.is_empty() {
        lines.push(format!("next: {}", verdict.next));
    }
    if report.epoch > 0 {
        lines.push(format!(
            "cluster {}, epoch {}, storage leader node {}",
            report.cluster, report.epoch, report.leader
        ));
    }
    let heading = [
        "node",
        "state",
        "role",
        "preferred",
        "life",
        "lease ms",
        "homes",
        "sql",
        "",
    ];
    let plain = table(&heading, report.nodes.iter().map(row).collect());
    for line in plain.lines() {
        lines.push(if line.ends_with("<<<<") {
            paint(Colour::Red, line)
        } else {
            line.to_owned()
        });
    }
    let yes = |b| if b { "yes" } else { "no" };
    lines.push(format!(
        "balanced: {}, survives one more failure: {}",
        yes(verdict.balanced),
        yes(verdict.survives_one_more_failure)
    ));
    lines.join("\n")
}

fn row(node: &NodeReport) -> Vec<String> {
    let dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    vec![
        node.id.to_string(),
        node.state.clone(),
        dash(&node.role),
        dash(&node.preferred_role),
        node.incarnation.to_string(),
        node.lease_left_ms.map_or_else(|| "-".into(), |ms| ms.to_string()),
        node.homes.to_string(),
        dash(&node.sql),
        if node.member { String::new() } else { "<<<<".into() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(members: &[bool]) -> StatusReport {
        let nodes = members.iter().enumerate().map(|(i, member)| NodeReport {
            id: i as u8 + 1,
            member: *member,
            state: if *member { "member" } else { "dead" }.into(),
            homes: if *member { 100 } else { 0 },
            ..NodeReport::default()
        });
        StatusReport {
            node: 1,
            epoch: 3,
            serving: true,
            nodes: nodes.collect(),
            ..StatusReport::default()
        }
    }

    #[test]
    fn all_members_are_healthy() {
        let verdict = judge(&report(&[true, true, true]));
        assert_eq!((verdict.verdict, verdict.exit()), ("healthy", Exit::Done));
        assert!(verdict.survives_one_more_failure && verdict.balanced && verdict.next.is_empty());
    }

    #[test]
    fn a_dead_node_degrades_and_names_the_next_command() {
        let verdict = judge(&report(&[true, false, true]));
        assert_eq!((verdict.verdict, verdict.exit()), ("degraded", Exit::Degraded));
        assert!(verdict.next.starts_with("aquifer node start --id 2 "));
    }

    #[test]
    fn the_last_node_does_not_survive_one_more_failure() {
        let verdict = judge(&report(&[true, false, false]));
        assert!(!verdict.survives_one_more_failure);
    }

    #[test]
    fn redo_in_progress_is_degraded() {
        let mut report = report(&[true, true]);
        report.redo_outstanding = 7;
        assert_eq!(judge(&report).exit(), Exit::Degraded);
    }
}
