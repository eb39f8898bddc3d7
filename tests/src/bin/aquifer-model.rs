//! `aquifer-model`: explores the model of page ownership, one configuration after the other.

use aquifer_dss_proto::defect::Defect;
use aquifer_tests::model::{Configuration, configurations, explore, hunt, hunted};
use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

/// Seeds that the walks are given to meet a defect.
const SEEDS: u64 = 2000;

/// Explores the model of page ownership to exhaustion.
#[derive(Parser)]
#[command(name = "scripts/model")]
struct Arguments {
    /// Only configurations whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Gives a configuration up after that many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// A defect planted in the cores, to see that it is caught.
    #[arg(long, value_parser = |name: &str| Defect::named(name).ok_or("no defect of this name"))]
    defect: Option<Defect>,
    /// Shows what catches each defect of the page protocol, as a table.
    #[arg(long)]
    defects: bool,
    /// Adds to every budget that is not zero.
    #[arg(long, default_value_t = 0)]
    deeper: u8,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.defects {
        return defects();
    }
    let mut failed = false;
    println!("configuration          states  transitions  depth  seconds");
    for configuration in configurations() {
        if configuration.name.contains(&arguments.only) {
            failed |= !one(configuration, &arguments);
        }
    }
    ExitCode::from(u8::from(failed))
}

fn defects() -> ExitCode {
    println!("| defect | trace | model: configuration, states | walk: seeds |");
    println!("|---|---|---|---|");
    let mut failed = false;
    for defect in Defect::ALL.iter().filter(|d| hunted(**d)) {
        let hunt = hunt(*defect, SEEDS);
        let none = || "-".to_owned();
        let model = hunt
            .model
            .map(|(name, states, property)| format!("{name}, {states}: {property}"));
        let (trace, walk) = (hunt.trace, hunt.walk.map(|seed| seed.to_string()));
        failed |= trace.is_none() && model.is_none() && walk.is_none();
        let (trace, model, walk) = (
            trace.unwrap_or_else(none),
            model.unwrap_or_else(none),
            walk.unwrap_or_else(none),
        );
        println!("| {} | {trace} | {model} | {walk} |", defect.name());
    }
    ExitCode::from(u8::from(failed))
}

fn one(configuration: Configuration, arguments: &Arguments) -> bool {
    let mut model = configuration.model;
    model.defect = arguments.defect;
    model.budget = model.budget.deeper(arguments.deeper);
    let limit = arguments.seconds.map(Duration::from_secs);
    let outcome = explore(model, arguments.threads, limit);
    println!(
        "{:<20} {:>8} {:>12} {:>6} {:>8.1}{}",
        configuration.name,
        outcome.states,
        outcome.transitions,
        outcome.depth,
        outcome.took.as_secs_f64(),
        if outcome.exhausted { "" } else { "  not exhausted" }
    );
    for name in &outcome.never {
        println!("  never: {name}");
    }
    if !arguments.only.is_empty() {
        println!("  delivered: {}", outcome.delivered.join(", "));
    }
    if let Some((property, path)) = &outcome.failure {
        println!("  {property} does not hold:\n{path}");
    }
    outcome.failure.is_none()
}
