//! Whole nodes under faults: seeds that once failed, and determinism.
//!
//! A pinned seed says what it found. It means something only while the swarm draws the same for it; the bug's own unit test
//! stays when it does not.

use aquifer_dss_proto::defect::Defect;
use aquifer_tests::swarm::{Configuration, Layout, Overrides, Report, Subject, run};

fn overrides(workload: &str, calm: bool) -> Overrides {
    Overrides {
        nodes: None,
        workload: Some(workload.to_owned()),
        calm,
        trace: false,
        subject: Subject::Engine,
        defect: None,
        layout: Layout::Whole,
    }
}

fn engine(seed: u64, workload: &str, calm: bool) -> Report {
    run(&Configuration::draw(seed, &overrides(workload, calm)))
}

fn passes(workload: &str, seeds: &[u64]) {
    for seed in seeds {
        let report = engine(*seed, workload, false);
        assert_eq!(report.failure, None, "{}", report.replay);
    }
}

/// A deletion was pruned without the version it hid, whose writer was not known at the node: the row came back.
#[test]
fn pruned_deletions_do_not_bring_rows_back() {
    passes("tree", &[1, 4, 6, 12]);
}

/// A repeated order to ship a copy waited for a write; meanwhile its node was granted the page Exclusive. When the order was obeyed at last, it
/// left the frame closed to writers for ever, and they asked again without end.
#[test]
fn an_order_of_an_earlier_conversion_does_not_outlive_an_upgrade() {
    passes("set", &[101_522]);
}

/// A single node was killed and led again: it waited for the pages of its own earlier life to be written back, but its cleaner
/// was started behind that, and it never served.
#[test]
fn a_node_that_recovers_itself_serves() {
    passes("tree", &[17, 31]);
}

/// A peer told of a decided view while its proposer was still writing its own block on a slow disk; it took that for a broken rule.
#[test]
fn a_view_decided_before_the_own_proposal_is_learned() {
    passes("tree", &[10_744]);
}

/// Writers beside somebody who copies their table to a new tree or empties it, and readers of the old tree: with a rule taken away the
/// same seeds fail.
#[test]
fn definitions_beside_writers_lose_nothing() {
    passes("definitions", &[1, 2, 4, 18]);
    let caught = |defect, seed| {
        let overrides = Overrides {
            defect: Some(defect),
            ..overrides("definitions", false)
        };
        let report = run(&Configuration::draw(seed, &overrides));
        assert!(report.failure.is_some(), "{}", report.replay);
    };
    caught(Defect::ChangeBesideIntents, 1);
    caught(Defect::RemoveTreeAtOnce, 18);
}

/// A recovery was superseded by a view while it wrote pages back to get a frame: the pages stayed marked as being written, nobody
/// wrote them, and two nodes waited for ever to be admitted.
#[test]
fn a_recovery_that_is_superseded_leaves_no_page_half_written() {
    passes("append", &[50_401]);
}

/// A leader redid a page for another home, wrote it back and released it before its Redone was there: the home took it for the owner
/// for ever (`release_before_redone.txt`).
#[test]
fn a_release_does_not_overtake_the_redo() {
    passes("tree", &[60_001]);
}

#[test]
fn a_seed_of_the_engine_is_one_run_with_and_without_faults() {
    for (workload, seed) in [("tree", 1), ("bank", 2), ("register", 3), ("set", 4)] {
        for calm in [true, false] {
            let (first, second) = (engine(seed, workload, calm), engine(seed, workload, calm));
            assert_eq!(first.digest, second.digest, "{}", first.replay);
        }
    }
}

/// A node whose writes failed had begun a new body over that of a view that was over: the check at the end called it missing.
#[test]
fn the_body_of_a_view_that_is_over_is_not_missed() {
    let overrides = Overrides {
        workload: None,
        ..overrides("bank", false)
    };
    let report = run(&Configuration::draw(958, &overrides));
    assert_eq!(report.failure, None, "{}", report.replay);
}

/// A leg of a mirrored volume breaks and returns: a node that was told of a broken leg did not start (1), one took a leg that was let in
/// while it started for an old copy (27, 30, 33).
#[test]
fn legs_break_and_return_beside_faults() {
    for seed in [1, 5, 27, 30, 33, 82] {
        let overrides = Overrides {
            workload: None,
            layout: Layout::Mirror,
            ..overrides("bank", false)
        };
        let report = run(&Configuration::draw(seed, &overrides));
        assert_eq!(report.failure, None, "{}", report.replay);
    }
}

/// Volumes that come and go: the last one that gave units was drained (65), a node started while a volume was removed (88), a recovery that
/// was superseded dropped a write, and the move of its units never ended (110, 180).
#[test]
fn volumes_come_and_go_beside_faults() {
    for seed in [51, 65, 88, 110, 180] {
        let overrides = Overrides {
            workload: None,
            layout: Layout::Volumes,
            ..overrides("bank", false)
        };
        let report = run(&Configuration::draw(seed, &overrides));
        assert_eq!(report.failure, None, "{}", report.replay);
    }
}
