//! `aquifer-sim`: runs seeds of the simulator, in parallel, and prints what fails with the command that replays it.

use aquifer_dss_proto::defect::Defect;
use aquifer_tests::hunt::{Outcome, Pace, hunt};
use aquifer_tests::swarm::{Configuration, Layout, Overrides, Report, Subject, describe, run, run_recorded};
use aquifer_tests::workload::{Planted, WORKLOADS};
use clap::{Parser, ValueEnum};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs whole clusters in the deterministic simulator.
#[derive(Parser)]
#[command(name = "scripts/sim")]
struct Arguments {
    /// Runs this one seed and prints its report.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs that many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Seeds at the same time.
    #[arg(long, default_value = "2")]
    jobs: NonZeroUsize,
    /// Wall-clock seconds after which a seed has failed: it spins where the executor cannot see it.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Number of nodes, instead of a drawn one.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: Option<u8>,
    /// Workload, instead of a drawn one.
    #[arg(long, value_parser = WORKLOADS)]
    workload: Option<String>,
    /// No faults.
    #[arg(long)]
    calm: bool,
    /// Prints every event (also AQUIFER_TRACE=1).
    #[arg(long)]
    trace: bool,
    /// What the nodes run.
    #[arg(long, value_enum, default_value_t)]
    subject: SubjectName,
    /// A fault planted in the memory subject, to see that it is caught.
    #[arg(long)]
    plant: Option<String>,
    /// A defect planted in the nodes, to see that it is caught.
    #[arg(long, value_parser = |name: &str| Defect::named(name).ok_or("no defect of this name"))]
    defect: Option<Defect>,
    /// Volumes are added, drained and removed while the nodes serve.
    #[arg(long)]
    volumes: bool,
    /// The volume is mirrored; its second side breaks and returns while the nodes serve.
    #[arg(long, conflicts_with = "volumes")]
    mirror: bool,
    /// Writes the history of the one seed there, for `isocheck`, where the workload keeps one (append).
    #[arg(long, requires = "seed")]
    history: Option<PathBuf>,
    /// Starts no new seed after that many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Runs each seed twice and compares the digests.
    #[arg(long)]
    twice: bool,
    /// Goes on after a failure.
    #[arg(long)]
    keep_going: bool,
}

impl Arguments {
    fn pace(&self) -> Pace {
        Pace {
            jobs: self.jobs,
            limit: Duration::from_secs(self.limit),
        }
    }
}

#[derive(Clone, Copy, ValueEnum, Default)]
enum SubjectName {
    /// Whole nodes of the engine.
    #[default]
    Engine,
    /// The model database in memory.
    Memory,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let planted = match arguments.plant.as_deref().map(plant) {
        None => Planted::Nothing,
        Some(Some(planted)) => planted,
        Some(None) => {
            eprintln!("--plant knows LostUpdate, StaleRead, HalfCommit, LostCommit and DirtyAbort");
            return ExitCode::from(2);
        }
    };
    let overrides = Overrides {
        nodes: arguments.nodes,
        workload: arguments.workload.clone(),
        calm: arguments.calm,
        trace: arguments.trace,
        subject: match arguments.subject {
            SubjectName::Engine => Subject::Engine,
            SubjectName::Memory => Subject::Memory(planted),
        },
        defect: arguments.defect,
        layout: match (arguments.volumes, arguments.mirror) {
            (true, _) => Layout::Volumes,
            (_, true) => Layout::Mirror,
            _ => Layout::Whole,
        },
    };
    if arguments.trace {
        show_logs();
    }
    match arguments.seed {
        Some(seed) => one(seed, &arguments, overrides),
        None => many(&arguments, overrides),
    }
}

/// What the nodes log, among the events of the trace. `RUST_LOG` filters.
fn show_logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("debug"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

fn plant(name: &str) -> Option<Planted> {
    let all = [
        Planted::LostUpdate,
        Planted::StaleRead,
        Planted::HalfCommit,
        Planted::LostCommit,
        Planted::DirtyAbort,
    ];
    all.into_iter().find(|planted| format!("{planted:?}") == name)
}

fn one(seed: u64, arguments: &Arguments, overrides: Overrides) -> ExitCode {
    let configuration = Configuration::draw(seed, &overrides);
    println!("{configuration:#?}");
    let history = arguments.history.clone();
    let mut code = ExitCode::FAILURE;
    hunt(
        [seed],
        arguments.pace(),
        move |_| one_run(&configuration, history.as_deref()),
        |seed, outcome| {
            code = match outcome {
                Outcome::Ended(code) => code,
                Outcome::Lost => lost(seed, arguments, &overrides),
            };
            ControlFlow::Continue(())
        },
    );
    code
}

fn one_run(configuration: &Configuration, history: Option<&Path>) -> ExitCode {
    let (report, workload) = run_recorded(configuration);
    print_line(&report);
    if let Some(path) = history
        && let Err(error) = write_history(path, workload.history())
    {
        eprintln!("{}: {error}", path.display());
        return ExitCode::from(2);
    }
    if report.failure.is_some() {
        print!("{}", describe(&report));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Says that the run of a seed gave no result.
fn lost(seed: u64, arguments: &Arguments, overrides: &Overrides) -> ExitCode {
    println!(
        "seed {seed} failed: no result; it did not end within {} s, or the simulator itself panicked",
        arguments.limit
    );
    println!(
        "    replay: {} --trace",
        Configuration::draw(seed, overrides).replay()
    );
    ExitCode::FAILURE
}

fn write_history(path: &Path, history: Option<Vec<u8>>) -> std::io::Result<()> {
    let history = history.ok_or_else(|| std::io::Error::other("this workload keeps no history"))?;
    std::fs::write(path, history)
}

fn print_line(report: &Report) {
    let verdict = if report.failure.is_some() {
        "FAILED"
    } else {
        "passed"
    };
    let (lives, reason) = &report.aborts;
    println!(
        "seed {} ({}) {verdict}: {}; {} copy images; {} events, digest {:016x}, {:.1} virtual s, {lives} lives ended themselves{}",
        report.seed,
        report.sizes,
        report.summary,
        report.copies,
        report.digest.1,
        report.digest.0,
        report.virtual_time as f64 / 1e9,
        reason
            .as_ref()
            .map(|reason| format!(" (first: {reason})"))
            .unwrap_or_default(),
    );
}

fn many(arguments: &Arguments, overrides: Overrides) -> ExitCode {
    let begun = Instant::now();
    let late = || {
        arguments
            .seconds
            .is_some_and(|limit| begun.elapsed() > Duration::from_secs(limit))
    };
    let seeds = (arguments.from..arguments.from + arguments.seeds).take_while(|_| !late());
    let (twice, inside) = (arguments.twice, overrides.clone());
    let (mut passed, mut failed) = (0_u64, 0_u64);
    hunt(
        seeds,
        arguments.pace(),
        move |seed| attempt(seed, twice, &inside),
        |seed, outcome| {
            if outcome == Outcome::Lost {
                lost(seed, arguments, &overrides);
            }
            if outcome == Outcome::Ended(true) {
                passed += 1;
                return ControlFlow::Continue(());
            }
            failed += 1;
            if arguments.keep_going {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    );
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    println!(
        "seeds per minute: {:.0}",
        (passed + failed) as f64 / minutes.max(1e-6)
    );
    println!("simulation: {passed} passed, {failed} failed");
    if failed > 0 || passed == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn attempt(seed: u64, twice: bool, overrides: &Overrides) -> bool {
    let configuration = Configuration::draw(seed, overrides);
    let report = run(&configuration);
    let mut good = report.failure.is_none();
    if !good {
        print!("{}", describe(&report));
    }
    if twice {
        let again = run(&configuration);
        if again.digest != report.digest {
            println!(
                "seed {seed} is not deterministic: {:x?} and {:x?}",
                report.digest, again.digest
            );
            good = false;
        }
    }
    good
}
