//! Known-good histories, and ones that only a stronger model forbids.

use super::verdict;
use aquifer_tests::isocheck::Model;

fn allowed(lines: &[&str], models: &[&str]) {
    for model in models {
        let verdict = verdict(lines, model);
        assert!(verdict.is_valid(), "{lines:?}: {verdict}");
    }
}

#[test]
fn one_after_another() {
    let lines = [
        "0 invoke ax1 ry",
        "0 ok ax1 ry[]",
        "1 invoke rx ax2 rx ay1",
        "1 ok rx[1] ax2 rx[1,2] ay1",
        "0 invoke rx ry",
        "0 ok rx[1,2] ry[1]",
    ];
    allowed(&lines, &Model::NAMES);
}

#[test]
fn concurrent_transactions_may_be_ordered_either_way() {
    // The read began before the append was acknowledged: it may see it or not.
    for read in ["1 ok rx[]", "1 ok rx[1]"] {
        let lines = ["0 invoke ax1", "1 invoke rx", "0 ok ax1", read];
        allowed(&lines, &Model::NAMES);
    }
    // Two appends at once, in an order that is not that of their acknowledgements.
    let lines = [
        "0 invoke ax1",
        "1 invoke ax2",
        "0 ok ax1",
        "1 ok ax2",
        "2 invoke rx",
        "2 ok rx[2,1]",
    ];
    allowed(&lines, &Model::NAMES);
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let lines = [
        "0 invoke rx ry",
        "1 invoke ax1 ay1",
        "1 ok ax1 ay1",
        "2 invoke rx",
        "2 ok rx[1]",
        "0 ok rx[] ry[]",
    ];
    allowed(&lines, &Model::NAMES);
}

#[test]
fn an_unknown_outcome_may_have_happened_or_not() {
    for read in ["1 ok rx[]", "1 ok rx[1]"] {
        let lines = ["0 invoke ax1", "0 info ax1", "1 invoke rx", read];
        allowed(&lines, &Model::NAMES);
    }
    // It may happen at any later time.
    let lines = [
        "0 invoke ax1",
        "0 info ax1",
        "1 invoke rx",
        "1 ok rx[]",
        "1 invoke rx",
        "1 ok rx[1]",
    ];
    allowed(&lines, &Model::NAMES);
    // A process is never heard of again.
    let lines = ["0 invoke ax1 ax2", "1 invoke rx", "1 ok rx[1,2]"];
    allowed(&lines, &Model::NAMES);
}

#[test]
fn what_was_unknown_and_is_seen_has_happened_as_a_whole() {
    // T1 is seen in y by T2, which misses it in x.
    let lines = ["0 info ax1 ay1", "1 ok ry[1] rx[]"];
    assert!(!verdict(&lines, "snapshot-isolation").is_valid());
    // So has what it saw: T1 is known by T3 only, and T2 by T1 only.
    let lines = ["0 info az1 rx[1]", "1 info ax1 ap1", "2 ok rz[1] rp[]"];
    assert!(!verdict(&lines, "snapshot-isolation").is_valid());
    assert!(verdict(&lines[..2], "strict-serializable").is_valid());
}

#[test]
fn refused_transactions_leave_nothing() {
    let lines = [
        "0 invoke ax1",
        "0 fail ax1",
        "0 invoke ax2",
        "0 ok ax2",
        "1 invoke rx",
        "1 ok rx[2]",
    ];
    allowed(&lines, &Model::NAMES);
    // What a refused transaction has read does not count.
    allowed(&["0 fail rx[7]", "1 ok rx[]"], &Model::NAMES);
}

#[test]
fn appends_that_nobody_read_contradict_nothing() {
    let lines = [
        "0 invoke rx ax1",
        "0 ok rx[] ax1",
        "1 invoke ax2",
        "1 ok ax2",
        "2 invoke ax3 ax4",
        "2 ok ax3 ax4",
    ];
    allowed(&lines, &Model::NAMES);
    allowed(
        &["0 ok ax1", "1 ok rx[1] ax2", "2 ok ax3", "0 ok ay1 rx[1]"],
        &Model::NAMES,
    );
    // One append of a transaction was read, the next one was not.
    allowed(&["0 ok ax1 rx[1] ax2"], &Model::NAMES);
}

#[test]
fn each_model_allows_what_is_below_the_next() {
    // A write skew.
    allowed(
        &["0 ok rx[] ay1", "1 ok ry[] ax1"],
        &[
            "read-committed",
            "snapshot-isolation",
            "strict-snapshot-isolation",
        ],
    );
    // A lost update.
    allowed(
        &["0 ok rx[] ax1", "1 ok rx[] ax2", "2 ok rx[1,2]"],
        &["read-committed", "strict-read-committed"],
    );
    // An old snapshot.
    allowed(
        &["0 invoke ax1", "0 ok ax1", "1 invoke rx", "1 ok rx[]"],
        &[
            "read-committed",
            "strict-read-committed",
            "snapshot-isolation",
            "serializable",
        ],
    );
}

#[test]
fn nothing_at_all() {
    allowed(&[], &Model::NAMES);
    allowed(&["0 ok", "0 invoke", "0 info"], &Model::NAMES);
}
