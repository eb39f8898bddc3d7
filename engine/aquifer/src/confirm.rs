//! Plans of changing commands: shown first, asked with default No, never waiting without a terminal.

use crate::failure::Failure;
use crate::output::note;
use std::io::{BufRead, IsTerminal, Write};

/// Options of every command that changes something.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ChangeOptions {
    /// Show the plan and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short = 'y', long)]
    pub yes: bool,
}

/// What to do after the plan was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Go,
    /// Only the plan was asked for.
    DryRun,
}

impl ChangeOptions {
    /// Prints the plan on stderr and decides. Without a terminal and without `--yes` it fails at once (exit 2).
    pub fn decide(self, title: &str, steps: &[String]) -> Result<Decision, Failure> {
        note(format!("Plan: {title}"));
        for (number, step) in steps.iter().enumerate() {
            note(format!("  {}. {step}", number + 1));
        }
        if self.dry_run {
            note("Nothing was changed (--dry-run).");
            return Ok(Decision::DryRun);
        }
        if self.yes {
            return Ok(Decision::Go);
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::usage(
                "this changes the cluster and there is no terminal to ask: add --yes, or --dry-run to see the plan only",
            ));
        }
        let mut stderr = std::io::stderr().lock();
        let _ = write!(stderr, "Go on? Yy/Nn (default=N) ");
        let _ = stderr.flush();
        let mut answer = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(|e| Failure::failed(format!("reading the answer failed: {e}")))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(Decision::Go),
            _ => Err(Failure::failed("not confirmed, nothing was changed")),
        }
    }
}
