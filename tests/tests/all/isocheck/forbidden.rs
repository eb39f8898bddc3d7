//! Known-bad histories: each anomaly is found, is named, and fails exactly the models that forbid it.

use super::verdict;
use aquifer_tests::isocheck::{Anomaly, Model};

/// `lines` shows `anomaly`; `fails` are the models that do not allow it.
fn shows(anomaly: Anomaly, lines: &[&str], fails: &[&str]) {
    for name in Model::NAMES {
        let verdict = verdict(lines, name);
        assert_eq!(
            !verdict.is_valid(),
            fails.contains(&name),
            "{name} and {lines:?}: {verdict}"
        );
        if fails.contains(&name) {
            assert!(verdict.has(anomaly), "{anomaly} in {lines:?}: {verdict}");
        }
    }
}

const EVERY: &[&str] = &Model::NAMES;
const FROM_SNAPSHOT: &[&str] = &[
    "snapshot-isolation",
    "serializable",
    "strict-snapshot-isolation",
    "strict-serializable",
];
const SERIALIZABLE: &[&str] = &["serializable", "strict-serializable"];
const STRICT: &[&str] = &[
    "strict-read-committed",
    "strict-snapshot-isolation",
    "strict-serializable",
];
const STRICT_FROM_SNAPSHOT: &[&str] = &["strict-snapshot-isolation", "strict-serializable"];

#[test]
fn a_value_that_nobody_appended() {
    shows(Anomaly::GarbageRead, &["0 ok ax1", "1 ok rx[1,9]"], EVERY);
    shows(
        Anomaly::GarbageRead,
        &["0 ok ax1", "1 ok rx[9]", "1 ok rx[1,2]"],
        EVERY,
    );
}

#[test]
fn an_append_that_was_applied_twice() {
    shows(
        Anomaly::DuplicateAppend,
        &["0 ok ax1", "0 ok ax2", "1 ok rx[1,2,1]"],
        EVERY,
    );
    shows(
        Anomaly::DuplicateAppend,
        &["0 ok ax1", "0 ok ax2", "1 ok rx[2,2]", "1 ok rx[1,2,3]"],
        EVERY,
    );
}

#[test]
fn orders_that_contradict_each_other() {
    let lines = ["0 ok ax1", "1 ok ax2", "2 ok rx[1,2]", "3 ok rx[2,1]"];
    shows(Anomaly::IncompatibleOrder, &lines, EVERY);
    // A list that became shorter in the middle: an append was overwritten.
    let lines = ["0 ok ax1", "1 ok ax2", "2 ok rx[1,2]", "3 ok ax3", "3 ok rx[1,3]"];
    shows(Anomaly::IncompatibleOrder, &lines, EVERY);
}

#[test]
fn an_own_append_that_is_not_read() {
    shows(Anomaly::Internal, &["0 ok ax1 rx[]"], EVERY);
    shows(
        Anomaly::Internal,
        &["0 ok rx[] ax1 ay1 ax2 rx[1]", "1 ok rx[1,2]"],
        EVERY,
    );
}

#[test]
fn g1a_aborted_read() {
    shows(Anomaly::AbortedRead, &["0 fail ax1", "1 ok rx[1]"], EVERY);
    shows(
        Anomaly::AbortedRead,
        &["0 fail ax1", "1 ok rx[1]", "1 ok ax2", "1 ok ax3", "1 ok rx[2,3]"],
        EVERY,
    );
}

#[test]
fn a_committed_append_on_top_of_a_refused_one() {
    let lines = ["0 fail ax1", "1 ok ax2", "2 ok rx[1,2]"];
    shows(Anomaly::DirtyUpdate, &lines, EVERY);
    shows(Anomaly::AbortedRead, &lines, EVERY);
}

#[test]
fn g1b_intermediate_read() {
    shows(
        Anomaly::IntermediateRead,
        &["0 ok ax1 ay1 ax2", "1 ok rx[1]", "1 ok rx[1,2]"],
        EVERY,
    );
    // The rest was never read by anybody.
    shows(Anomaly::IntermediateRead, &["0 ok ax1 ax2", "1 ok rx[1]"], EVERY);
}

#[test]
fn two_reads_of_one_transaction() {
    shows(
        Anomaly::NonRepeatableRead,
        &["0 ok ax1", "1 ok rx[] rx[1]"],
        FROM_SNAPSHOT,
    );
    shows(
        Anomaly::NonRepeatableRead,
        &["0 ok ax1", "1 ok rx[] ax2 rx[1,2]"],
        FROM_SNAPSHOT,
    );
}

#[test]
fn lost_update() {
    let lines = ["0 ok rx[] ax1", "1 ok rx[] ax2", "2 ok rx[1,2]"];
    shows(Anomaly::LostUpdate, &lines, FROM_SNAPSHOT);
    shows(Anomaly::GSingle, &lines, FROM_SNAPSHOT);
    // Nobody read what came of it.
    shows(
        Anomaly::LostUpdate,
        &["0 ok rx[] ax1", "1 ok rx[] ax2"],
        FROM_SNAPSHOT,
    );
}

#[test]
fn g0_write_cycle() {
    shows(
        Anomaly::G0,
        &["0 ok ax1 ay1", "1 ok ax2 ay2", "2 ok rx[1,2] ry[2,1]"],
        EVERY,
    );
    let three = [
        "0 ok ax1 az2",
        "1 ok ax2 ay1",
        "2 ok ay2 az1",
        "3 ok rx[1,2] ry[1,2] rz[1,2]",
    ];
    shows(Anomaly::G0, &three, EVERY);
}

#[test]
fn g1c_circular_information_flow() {
    shows(Anomaly::G1c, &["0 ok ax1 ry[1]", "1 ok ay1 rx[1]"], EVERY);
    shows(
        Anomaly::G1c,
        &["0 ok ax1 ry[1]", "1 ok ax2 ay1", "2 ok rx[1,2]"],
        EVERY,
    );
}

#[test]
fn g_single() {
    // Half of a transaction is read.
    shows(
        Anomaly::GSingle,
        &["0 ok ax1 ay1", "1 ok rx[] ry[1]"],
        FROM_SNAPSHOT,
    );
    let chain = ["0 ok ax1 ay1", "1 ok ry[1] az1", "2 ok rz[1] rx[]", "3 ok rx[1]"];
    shows(Anomaly::GSingle, &chain, FROM_SNAPSHOT);
}

#[test]
fn g_nonadjacent_is_the_long_fork() {
    let lines = ["0 ok ax1", "1 ok ay1", "2 ok rx[1] ry[]", "3 ok rx[] ry[1]"];
    shows(Anomaly::GNonadjacent, &lines, FROM_SNAPSHOT);
}

#[test]
fn g2_is_the_write_skew() {
    shows(Anomaly::G2Item, &["0 ok rx[] ay1", "1 ok ry[] ax1"], SERIALIZABLE);
    let lines = [
        "0 ok rx[] ay1",
        "1 ok ry[] az1",
        "2 ok rz[] ax1",
        "3 ok rx[1] ry[1] rz[1]",
    ];
    shows(Anomaly::G2Item, &lines, SERIALIZABLE);
    // The anomaly of a transaction that only reads.
    let lines = ["0 ok rx[] ry[] ax1", "1 ok ay1", "2 ok rx[] ry[1]", "3 ok rx[1]"];
    shows(Anomaly::G2Item, &lines, SERIALIZABLE);
}

#[test]
fn stale_read() {
    let lines = ["0 invoke ax1", "0 ok ax1", "1 invoke rx", "1 ok rx[]"];
    shows(Anomaly::StaleRead, &lines, STRICT_FROM_SNAPSHOT);
    // An acknowledged commit that is gone is no different (ISO-2).
    let lines = [
        "0 invoke ax1",
        "0 ok ax1",
        "0 invoke ax2",
        "0 ok ax2",
        "1 invoke rx",
        "1 ok rx[1]",
    ];
    shows(Anomaly::StaleRead, &lines, STRICT_FROM_SNAPSHOT);
}

#[test]
fn writes_against_real_time() {
    let lines = [
        "0 invoke ax1",
        "0 ok ax1",
        "1 invoke ax2",
        "1 ok ax2",
        "2 ok rx[2,1]",
    ];
    shows(Anomaly::G0RealTime, &lines, STRICT);
}

#[test]
fn reads_of_the_future() {
    let lines = ["0 invoke rx", "0 ok rx[1]", "1 invoke ax1", "1 ok ax1"];
    shows(Anomaly::G1cRealTime, &lines, STRICT);
}

#[test]
fn a_read_goes_back_behind_a_read() {
    // The append is not acknowledged yet; one client has seen it, another that begins later has not.
    let lines = [
        "0 invoke ax1",
        "1 invoke rx",
        "1 ok rx[1]",
        "2 invoke rx",
        "2 ok rx[]",
        "0 ok ax1",
    ];
    shows(Anomaly::GSingleRealTime, &lines, STRICT_FROM_SNAPSHOT);
    // The same of an unknown outcome.
    let lines = [
        "0 invoke ax1",
        "1 invoke rx",
        "1 ok rx[1]",
        "0 info ax1",
        "2 invoke rx",
        "2 ok rx[]",
    ];
    shows(Anomaly::GSingleRealTime, &lines, STRICT_FROM_SNAPSHOT);
}

#[test]
fn anti_dependencies_that_do_not_meet_and_real_time() {
    let lines = [
        "2 invoke ax1 az1",
        "3 invoke rz ry",
        "4 invoke ay1",
        "4 ok ay1",
        "1 invoke rx",
        "1 ok rx[]",
        "2 ok ax1 az1",
        "3 ok rz[1] ry[]",
    ];
    shows(Anomaly::GNonadjacentRealTime, &lines, STRICT_FROM_SNAPSHOT);
}

#[test]
fn anti_dependencies_that_meet_and_real_time() {
    let lines = [
        "2 invoke ax1 ry",
        "3 invoke ay1",
        "3 ok ay1",
        "1 invoke rx",
        "1 ok rx[]",
        "2 ok ax1 ry[]",
    ];
    shows(Anomaly::G2ItemRealTime, &lines, &["strict-serializable"]);
}

#[test]
fn the_cycle_is_minimal_and_told_in_words() {
    // The short cycle of T1 and T2 lies in a component of six.
    let lines = [
        "0 ok ax1 ay1 az1",
        "1 ok rx[] ry[1] ap1",
        "2 ok rp[1] rz[1] aq1",
        "3 ok rq[1] rz[1] ar1",
        "4 ok rr[1] rx[]",
        "5 ok rx[1]",
    ];
    let verdict = verdict(&lines, "snapshot-isolation");
    let cycle = verdict
        .findings
        .iter()
        .find(|finding| finding.anomaly == Anomaly::GSingle)
        .unwrap();
    let words: Vec<&str> = cycle.steps.iter().map(|step| step.words.as_str()).collect();
    assert_eq!(
        words,
        [
            "T2 read x as empty, without 1, which T1 appended",
            "T1 appended 1 to y, which T2 read"
        ]
    );
    assert!(
        verdict
            .to_string()
            .contains("T2 is line 2, process 1, committed: read x as [], read y as [1], append 1 to p")
    );
}

#[test]
fn real_time_steps_are_told_without_what_lies_between() {
    let lines = [
        "0 invoke ax1",
        "0 ok ax1",
        "3 invoke ay1",
        "3 ok ay1",
        "4 invoke ay2",
        "4 ok ay2",
        "1 invoke rx",
        "1 ok rx[]",
    ];
    let verdict = verdict(&lines, "strict-snapshot-isolation");
    let words: Vec<&str> = verdict.findings[0]
        .steps
        .iter()
        .map(|step| step.words.as_str())
        .collect();
    assert_eq!(
        words,
        [
            "T4 read x as empty, without 1, which T1 appended",
            "T1 had ended before T4 began"
        ]
    );
}
