//! `isocheck`: checks a list-append history, as Jepsen and the simulator write it, for isolation anomalies.

use aquifer_tests::isocheck::{Format, Model, check, read_history};
use clap::{Parser, ValueEnum};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Checks a list-append history for isolation anomalies.
///
/// The history is JSON lines or EDN: one map per event with process, type (invoke, ok, fail, info) and value, a list of
/// ["append", key, value] and ["r", key, list or null]. Exit codes: 0 the model allows it, 1 it does not, 2 it is no history.
#[derive(Parser)]
#[command(name = "isocheck")]
struct Arguments {
    /// The history; standard input when there is none, or `-`.
    file: Option<PathBuf>,
    /// What was promised.
    #[arg(long, default_value = "snapshot-isolation", value_parser = |name: &str| name.parse::<Model>(),
        help = format!("What was promised: {}", Model::NAMES.join(", ")))]
    model: Model,
    /// Also in real time: what a client was told before another transaction began comes before it (the strict- models).
    #[arg(long)]
    real_time: bool,
    /// How the history is written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How the verdict is written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum, Default)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bytes = match read(arguments.file.as_deref()) {
        Ok(bytes) => bytes,
        Err(error) => {
            let name = arguments.file.unwrap_or_else(|| "standard input".into());
            eprintln!("isocheck: {}: {error}", name.display());
            return ExitCode::from(2);
        }
    };
    let history = match read_history(&bytes, arguments.format) {
        Ok(history) => history,
        Err(bad) => {
            eprintln!("isocheck: {bad}");
            return ExitCode::from(2);
        }
    };
    let mut model = arguments.model;
    model.real_time |= arguments.real_time;
    let verdict = check(&history, model);
    let text = match arguments.output {
        Output::Text => verdict.to_string(),
        Output::Json => format!("{:#}\n", verdict.to_json()),
    };
    // Whoever reads may have seen enough (`| head`); the exit code says the rest.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(!verdict.is_valid()))
}

fn read(file: Option<&Path>) -> std::io::Result<Vec<u8>> {
    match file {
        Some(path) if path.as_os_str() != "-" => std::fs::read(path),
        _ => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes)?;
            Ok(bytes)
        }
    }
}
