//! Tests of the core of page ownership: traces that read as documentation, and seeded walks.
#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;
mod hostile;
mod trace;
mod walk;
mod words;

use cluster::Log;
use std::path::Path;

/// Every file of `tests/data` is a trace; `REWRITE=1` writes down what happens now instead of comparing.
#[test]
fn traces() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let rewrite = std::env::var_os("REWRITE").is_some();
    let failures = trace::run_directory(&directory, rewrite);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// DIR-1 to DIR-7 over seeds. `SEED=n` replays one run, `SEEDS=n` runs more.
#[test]
fn invariants_hold_over_seeds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("SEEDS").unwrap_or(1500),
    };
    let writes: u64 = seeds
        .map(|seed| walk::run(seed, 1500, Log(Some(Vec::new()))))
        .sum();
    assert!(writes > 0, "the runs write");
    println!("{writes} writes");
}
