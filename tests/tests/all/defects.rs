//! The simulator catches what it is there for: with each planted defect some seed fails, and without it that seed passes.
//!
//! The seed named is where to look first. It moves when the swarm or the nodes change; then the first [`SEARCHED`] seeds are looked
//! through, and only when none of them fails has the simulator become too weak.

use aquifer_dss_proto::defect::Defect;
use aquifer_tests::sim::release_panics;
use aquifer_tests::swarm::{Configuration, Layout, Overrides, Report, Subject, run};

/// Seeds that are searched when the known one does not catch a defect any more.
const SEARCHED: u64 = 1000;

fn engine(seed: u64, defect: Option<Defect>) -> Report {
    let overrides = Overrides {
        nodes: None,
        workload: None,
        calm: false,
        trace: false,
        subject: Subject::Engine,
        defect,
        layout: Layout::Whole,
    };
    let report = run(&Configuration::draw(seed, &overrides));
    release_panics();
    report
}

fn caught(defect: Defect, known: u64) {
    let fails = |seed: &u64| engine(*seed, Some(defect)).failure.is_some();
    let Some(seed) = std::iter::once(known).chain(1..=SEARCHED).find(fails) else {
        panic!("{} is not caught any more by {SEARCHED} seeds", defect.name());
    };
    let clean = engine(seed, None);
    assert_eq!(clean.failure, None, "{}", clean.replay);
}

#[test]
fn recovery_without_the_retention_of_the_living_is_caught() {
    caught(Defect::RecoverDeadStreamsOnly, 21); // HZ-1
}

#[test]
fn a_surrender_during_a_write_is_caught() {
    caught(Defect::SurrenderWhileWriting, 16); // HZ-2
}

#[test]
fn a_notice_that_takes_newer_changes_is_caught() {
    caught(Defect::ForgetNewerChanges, 27); // HZ-5
}

#[test]
fn an_scn_before_committing_is_caught() {
    caught(Defect::ScnBeforeCommitting, 16); // HZ-13
}

#[test]
fn a_version_without_a_stamp_that_counts_as_aborted_is_caught() {
    caught(Defect::UnstampedIsAborted, 1); // HZ-12
}

#[test]
fn a_reader_that_does_not_wait_for_a_commit_is_caught() {
    caught(Defect::ReadPastCommitting, 5); // HZ-13
}

#[test]
fn copies_kept_for_later_snapshots_are_caught() {
    caught(Defect::KeepCopies, 2); // HZ-8
}

#[test]
fn a_copy_from_who_has_given_the_page_up_is_caught() {
    caught(Defect::CopyAfterGivingUp, 19); // HZ-8
}

#[test]
fn a_frame_that_is_lost_with_its_page_is_caught() {
    caught(Defect::KeepArrivingFrame, 16); // BUF-14
}

#[test]
fn redo_that_is_not_flushed_is_caught() {
    caught(Defect::DurableBeforeFlush, 3); // WAL-1
}

#[test]
fn an_early_acknowledgement_is_caught() {
    caught(Defect::AcknowledgeBeforeFlush, 1); // TXN-1
}

#[test]
fn a_leader_without_ceilings_is_caught() {
    caught(Defect::LeaderIgnoresCeilings, 1); // TXN-6
}

#[test]
fn pages_without_a_second_copy_are_caught() {
    caught(Defect::WriteInPlaceOnly, 327); // torn pages
}

#[test]
fn ring_space_reused_before_the_header_is_caught() {
    caught(Defect::ReuseRingBeforeHeader, 1); // WAL-3
}

#[test]
fn a_stream_marked_clean_early_is_caught() {
    caught(Defect::MarkStreamCleanEarly, 34); // REC-7
}

#[test]
fn a_stream_opened_before_its_recovery_is_caught() {
    caught(Defect::OpenUncleanStream, 3); // NOD-2, WAL-4
}
