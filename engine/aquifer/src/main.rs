//! `aquifer`: node daemon, admin command and benchmark driver in one binary.
//!
//! Rules: data on stdout, the rest on stderr; a failure is one line that says what to do next; exit codes are those of
//! [`failure::Exit`]; [`aquifer_member`] alone assembles a node from its production parts; everything that opens a device
//! without a node is in [`device`].

mod admin;
mod bench;
mod cli;
mod cluster;
mod config;
mod confirm;
mod daemon;
mod demo;
mod device;
mod doctor;
mod failure;
mod files;
mod inspect;
mod load;
mod mount;
mod node;
mod output;
mod reach;
mod sql;
mod units;
mod volume;

use clap::Parser;
use failure::{Exit, Outcome};
use std::process::ExitCode;

fn main() -> ExitCode {
    for line in config::unknown_variables(std::env::vars_os().filter_map(|(n, _)| n.into_string().ok())) {
        output::note(line);
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return code(if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            });
        }
    };
    match cli.run() {
        Ok(exit) => code(exit),
        Err(failure) => {
            output::note(format!("aquifer: {failure}"));
            code(failure.exit)
        }
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

/// Runs `work` on a runtime of its own.
fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| failure::Failure::failed(format!("cannot start the runtime: {e}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}
