//! `node start --detach`: the same command again in a session of its own; this process waits until it is ready.

use crate::daemon::NodeSettings;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::print_line;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::process::{Command, Stdio};

/// Starts the node apart and returns when it serves, or with its failure.
pub fn run(settings: &NodeSettings) -> Outcome {
    let log = settings
        .log
        .as_ref()
        .ok_or_else(|| Failure::usage("--detach needs --log FILE: there is no terminal to write to"))?;
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(log)
        .map_err(|e| Failure::usage(format!("cannot write the log {}: {e}", log.display())))?;
    let start = file
        .seek(SeekFrom::End(0))
        .map_err(|e| Failure::failed(format!("{}: {e}", log.display())))?;
    let stderr = file
        .try_clone()
        .map_err(|e| Failure::failed(format!("{}: {e}", log.display())))?;
    let program =
        std::env::current_exe().map_err(|e| Failure::failed(format!("cannot find this program: {e}")))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1).filter(|a| a != "--detach"))
        .arg("--session")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|e| Failure::failed(format!("cannot start the node: {e}")))?;
    let output = child.stdout.take().expect("stdout was asked for as a pipe");
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|e| Failure::failed(format!("reading from the node failed: {e}")))?;
        if line.starts_with("node ") && line.contains(" ready") {
            print_line(&line)?;
            return Ok(Exit::Done);
        }
    }
    let status = child
        .wait()
        .map_err(|e| Failure::failed(format!("waiting for the node failed: {e}")))?;
    let mut said = String::new();
    let _ = file
        .seek(SeekFrom::Start(start))
        .and_then(|_| file.read_to_string(&mut said));
    let reason = said.lines().rev().find_map(|l| l.strip_prefix("aquifer: "));
    let reason = reason.map_or_else(
        || {
            format!(
                "the node ended before it was ready ({status}); see {}",
                log.display()
            )
        },
        str::to_owned,
    );
    Err(Failure::new(Exit::from_code(status.code().unwrap_or(1)), reason))
}
