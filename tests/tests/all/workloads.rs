//! Workloads and checkers against the model database: correct, everything passes; with a fault planted, it is caught.

use aquifer_tests::swarm::{Configuration, Layout, Overrides, Subject, run};
use aquifer_tests::workload::Planted;
use std::time::Duration;

fn overrides(workload: &str, planted: Planted) -> Overrides {
    Overrides {
        nodes: Some(3),
        workload: Some(workload.to_owned()),
        calm: planted != Planted::Nothing,
        trace: false,
        subject: Subject::Memory(planted),
        defect: None,
        layout: Layout::Whole,
    }
}

/// The run of `seed`, kept short: the model database copies what it reads, so long runs cost by the square.
fn configuration(seed: u64, workload: &str, planted: Planted) -> Configuration {
    let mut configuration = Configuration::draw(seed, &overrides(workload, planted));
    configuration.length = configuration.length.min(Duration::from_secs(2));
    configuration
}

#[test]
fn a_correct_database_passes_every_workload_under_faults() {
    for workload in aquifer_tests::workload::WORKLOADS {
        for seed in 1..=6 {
            let report = run(&configuration(seed, workload, Planted::Nothing));
            assert_eq!(report.failure, None, "{workload} {seed}");
        }
    }
}

#[test]
fn every_run_is_deterministic() {
    for workload in aquifer_tests::workload::WORKLOADS {
        let configuration = configuration(3, workload, Planted::Nothing);
        assert_eq!(
            run(&configuration).digest,
            run(&configuration).digest,
            "{workload}"
        );
    }
}

#[test]
fn planted_faults_are_caught() {
    let caught = |workload, planted| {
        let failed = |seed| run(&configuration(seed, workload, planted)).failure.is_some();
        assert!((1..=10).any(failed), "{workload} does not see {planted:?}");
    };
    caught("bank", Planted::LostUpdate);
    caught("bank", Planted::HalfCommit);
    caught("bank", Planted::LostCommit);
    caught("bank", Planted::StaleRead);
    caught("bank", Planted::DirtyAbort);
    caught("register", Planted::LostUpdate);
    caught("register", Planted::StaleRead);
    caught("register", Planted::LostCommit);
    caught("set", Planted::HalfCommit);
    caught("set", Planted::LostCommit);
    caught("set", Planted::StaleRead);
    caught("tree", Planted::HalfCommit);
    caught("tree", Planted::StaleRead);
    caught("append", Planted::LostUpdate);
    caught("append", Planted::StaleRead);
    caught("append", Planted::HalfCommit);
    caught("append", Planted::LostCommit);
    caught("append", Planted::DirtyAbort);
}
