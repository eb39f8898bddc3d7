//! The other side: fio with io_uring.

use super::{Kind, Work};
use crate::failure::Failure;
use serde_json::Value;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// That fio is there.
pub fn require() -> Result<(), Failure> {
    let version = std::process::Command::new("fio").arg("--version").output();
    match version {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Failure::usage(
            "fio is not installed, and it is what the pool is compared with: apt install fio",
        )),
    }
}

/// One turn on the bytes `range` of `path`.
pub async fn run(path: &Path, range: Range<u64>, kind: Kind, turn: Duration) -> Result<Work, Failure> {
    let pattern = match (kind.random, kind.write) {
        (true, false) => "randread",
        (true, true) => "randwrite",
        (false, false) => "read",
        (false, true) => "write",
    };
    let mut command = Command::new("fio");
    command
        .arg("--name=bench")
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--offset={}", range.start))
        .arg(format!("--size={}", range.end - range.start))
        .arg(format!("--rw={pattern}"))
        .arg(format!("--bs={}", kind.bytes))
        .arg(format!("--iodepth={}", kind.depth))
        .arg(format!("--runtime={}", turn.as_secs()))
        .args([
            "--time_based",
            "--direct=1",
            "--ioengine=io_uring",
            "--norandommap",
            "--randrepeat=0",
        ])
        .args(["--output-format=json", "--allow_file_create=0"]);
    if kind.durable {
        command.arg("--sync=dsync");
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("starting a process does not panic")
        .map_err(|e| Failure::failed(format!("fio cannot be started: {e}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::failed(format!("fio failed: {}", text.trim())));
    }
    figures(&output.stdout, kind.write)
        .ok_or_else(|| Failure::failed("fio's answer has no count of operations and no time"))
}

/// Operations and seconds from fio's JSON, which may have a line of text before it.
fn figures(answer: &[u8], write: bool) -> Option<Work> {
    let begin = answer.iter().position(|byte| *byte == b'{')?;
    let answer: Value = serde_json::from_slice(&answer[begin..]).ok()?;
    let job = &answer["jobs"][0];
    let side = &job[if write { "write" } else { "read" }];
    let seconds = side["runtime"].as_f64()? / 1000.0;
    Some(Work {
        operations: side["total_ios"].as_f64()?,
        seconds,
        processor: (job["usr_cpu"].as_f64()? + job["sys_cpu"].as_f64()?) / 100.0 * seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found() {
        let answer = b"note: both\n{\"jobs\":[{\"usr_cpu\":10.0,\"sys_cpu\":30.0,\"read\":{\"total_ios\":500,\"runtime\":250},\"write\":{}}]}";
        let work = figures(answer, false).unwrap();
        assert_eq!((work.per_second(), work.processor), (2000.0, 0.1));
        assert!(figures(answer, true).is_none() && figures(b"", false).is_none());
    }
}
