//! Histories of the toy database: correct, the model that it keeps allows them; with a fault, it is found and named.

use super::toy::{Fault, generate};
use aquifer_tests::isocheck::{Anomaly, Format, History, Model, Verdict, check, read_events, write_events};

fn verdict(seed: u64, fault: Fault, model: &str) -> Verdict {
    let history = History::pair(generate(seed, 400, fault)).unwrap();
    check(&history, model.parse::<Model>().unwrap())
}

#[test]
fn a_correct_database_keeps_what_it_promises() {
    for seed in 1..=30 {
        for model in ["read-committed", "strict-snapshot-isolation"] {
            let verdict = verdict(seed, Fault::Nothing, model);
            assert!(verdict.is_valid(), "{seed}: {verdict}");
            assert!(verdict.counts.refused > 0 && verdict.counts.unknown + verdict.counts.unknown_seen > 0);
        }
        let verdict = verdict(seed, Fault::Serializable, "strict-serializable");
        assert!(verdict.is_valid(), "{seed}: {verdict}");
    }
}

#[test]
fn snapshot_isolation_is_not_taken_for_serializability() {
    for seed in 1..=10 {
        let verdict = verdict(seed, Fault::Nothing, "serializable");
        assert!(
            !verdict.is_valid() && verdict.has(Anomaly::G2Item),
            "{seed}: {verdict}"
        );
    }
}

#[test]
fn every_fault_is_found_and_named() {
    let found = |fault, model: &str, named: &[Anomaly]| {
        for seed in 1..=10 {
            let verdict = verdict(seed, fault, model);
            assert!(!verdict.is_valid(), "{fault:?} with seed {seed}: {verdict}");
            for anomaly in named {
                assert!(
                    verdict.has(*anomaly),
                    "{anomaly} of {fault:?} with seed {seed}: {verdict}"
                );
            }
        }
    };
    let si = "snapshot-isolation";
    found(Fault::LostUpdate, si, &[Anomaly::LostUpdate, Anomaly::GSingle]);
    found(
        Fault::DirtyAbort,
        "read-committed",
        &[Anomaly::AbortedRead, Anomaly::DirtyUpdate],
    );
    found(Fault::Intermediate, "read-committed", &[]);
    found(Fault::StaleSnapshot, "strict-snapshot-isolation", &[]);
    found(Fault::LostCommit, "strict-snapshot-isolation", &[]);
    found(
        Fault::ReadCommitted,
        si,
        &[Anomaly::NonRepeatableRead, Anomaly::GSingle],
    );
    found(Fault::TornSnapshot, si, &[Anomaly::GSingle]);
    found(Fault::Twice, "read-committed", &[Anomaly::DuplicateAppend]);
    found(Fault::HalfCommit, si, &[]);
}

#[test]
fn an_old_snapshot_breaks_real_time_only() {
    for seed in 1..=10 {
        let verdict = verdict(seed, Fault::StaleSnapshot, "snapshot-isolation");
        assert!(verdict.is_valid(), "{seed}: {verdict}");
    }
}

#[test]
fn read_committed_is_enough_for_who_asks_for_no_more() {
    for seed in 1..=10 {
        for fault in [Fault::StaleSnapshot, Fault::TornSnapshot] {
            let verdict = verdict(seed, fault, "read-committed");
            assert!(verdict.is_valid(), "{fault:?} with seed {seed}: {verdict}");
        }
    }
}

#[test]
fn a_history_is_written_as_it_is_read() {
    let events = generate(1, 50, Fault::Nothing);
    let mut bytes = Vec::new();
    write_events(&events, &mut bytes).unwrap();
    assert_eq!(read_events(&bytes, Format::Auto).unwrap(), events);
}

/// ISO-4. A search over pairs of transactions would take hours here.
#[test]
fn a_large_history_takes_no_longer_than_its_size() {
    for (fault, valid) in [(Fault::Nothing, true), (Fault::StaleSnapshot, false)] {
        let history = History::pair(generate(1, 30_000, fault)).unwrap();
        let verdict = check(&history, "strict-snapshot-isolation".parse::<Model>().unwrap());
        assert_eq!(verdict.is_valid(), valid);
    }
}
