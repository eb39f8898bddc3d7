//! Workloads and checkers against the model database: correct, everything passes; with a fault planted, it is caught.

use aquifer_tests::swarm::{Configuration, Overrides, Subject, run};
use aquifer_tests::workload::Planted;

fn overrides(workload: &str, planted: Planted) -> Overrides {
    Overrides {
        nodes: Some(3),
        workload: Some(workload.to_owned()),
        calm: planted != Planted::Nothing,
        trace: false,
        subject: Subject::Memory(planted),
    }
}

#[test]
fn a_correct_database_passes_every_workload_under_faults() {
    for workload in aquifer_tests::workload::WORKLOADS {
        for seed in 1..=6 {
            let report = run(&Configuration::draw(seed, &overrides(workload, Planted::Nothing)));
            assert_eq!(report.failure, None, "{workload} {seed}");
        }
    }
}

#[test]
fn every_run_is_deterministic() {
    for workload in aquifer_tests::workload::WORKLOADS {
        let configuration = Configuration::draw(3, &overrides(workload, Planted::Nothing));
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
        let failed = |seed| {
            run(&Configuration::draw(seed, &overrides(workload, planted)))
                .failure
                .is_some()
        };
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
}
