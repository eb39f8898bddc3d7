//! Tests of the core of page ownership: traces that read as documentation, and seeded walks.
#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;
mod trace;
mod walk;
mod words;

use aquifer_dss_proto::defect::{Defect, plant};
use std::panic::catch_unwind;
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
    let writes: u64 = seeds.map(|seed| walk::run(seed, 1500)).sum();
    assert!(writes > 0, "the runs write");
    println!("{writes} writes");
}

/// The traces and the walks are not trusted unless a defect makes them fail.
#[test]
fn a_stale_invalidate_that_is_obeyed_is_caught() {
    plant(Some(Defect::ObeyStaleInvalidate));
    let failures = trace::run_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"), false);
    assert!(
        failures.iter().any(|f| f.contains("stale_invalidate.txt")),
        "{failures:?}"
    );
    let caught = (1..1000).find(|seed| catch_unwind(|| walk::run(*seed, 1500)).is_err());
    assert!(caught.is_some(), "no walk meets it");
}
