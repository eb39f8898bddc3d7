//! The command: notations, exit codes, and input that is no history.

use super::{event, verdict};
use std::fs::File;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

fn isocheck(arguments: &[&str], input: &str) -> Output {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "aq-isocheck-{}-{}",
        std::process::id(),
        LAST.fetch_add(1, Ordering::Relaxed)
    );
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, input).unwrap();
    // A file, not a pipe: the command may refuse its arguments, and end, before it reads anything.
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Command::new(env!("CARGO_BIN_EXE_isocheck"))
        .args(arguments)
        .stdin(Stdio::from(file))
        .output()
        .unwrap()
}

const SKEW: &str = r#"
{"process": 0, "type": "ok", "value": [["r", "x", []], ["append", "y", 1]]}
{"process": 1, "type": "ok", "value": [["r", "y", null], ["r", "y", []], ["append", "x", 1]], "time": 12, "index": 3}
"#;

/// As Jepsen writes it: with a nemesis, records, commas, and a vector around everything.
const EDN: &str = r#"
[{:type :invoke, :f :txn, :value [[:append 8 1] [:r :y nil]], :process 0, :time 10, :index 0}
 {:type :info, :f :start-partition, :value nil, :process :nemesis, :time 11, :index 1}
 #jepsen.history.Op{:index 2, :time 12, :type :ok, :process 0, :f :txn, :value [[:append 8 1] [:r :y []]]}
 ; the next one misses it
 {:type :invoke, :f :txn, :value [[:r 8 nil]], :process 1, :time 13, :index 3}
 {:type :ok, :f :txn, :value [[:r 8 nil]], :process 1, :time 14, :index 4}
 {:type :invoke, :f :txn, :value [[:r 8 nil]], :process 1, :time 15, :index 5}
 {:type :ok, :f :txn, :value [[:r 8 []]], :process 1, :time 16, :index 6}]
"#;

#[test]
fn exit_codes_say_what_was_found() {
    let valid = isocheck(&[], SKEW);
    assert_eq!(valid.status.code(), Some(0), "{valid:?}");
    let text = String::from_utf8(valid.stdout).unwrap();
    assert!(
        text.starts_with("valid for snapshot-isolation: 2 transactions, 2 committed"),
        "{text}"
    );
    let invalid = isocheck(&["--model", "serializable", "-"], SKEW);
    assert_eq!(invalid.status.code(), Some(1));
    let text = String::from_utf8(invalid.stdout).unwrap();
    assert!(text.contains("G2-item: a cycle"), "{text}");
    assert!(
        text.contains("T1 read x as empty, without 1, which T2 appended"),
        "{text}"
    );
    assert_eq!(
        isocheck(&["--model", "linearizable"], SKEW).status.code(),
        Some(2)
    );
    assert_eq!(isocheck(&["/nowhere/at/all"], "").status.code(), Some(2));
}

#[test]
fn edn_is_read_and_real_time_counts_when_asked_for() {
    assert_eq!(isocheck(&[], EDN).status.code(), Some(0));
    let stale = isocheck(&["--real-time", "-o", "json"], EDN);
    assert_eq!(stale.status.code(), Some(1));
    let verdict: serde_json::Value = serde_json::from_slice(&stale.stdout).unwrap();
    assert_eq!(verdict["valid"], false);
    assert_eq!(verdict["model"], "strict-snapshot-isolation");
    assert_eq!(verdict["anomalies"][0]["anomaly"], "stale-read");
    assert_eq!(
        verdict["anomalies"][0]["transactions"],
        serde_json::json!(["T3", "T1"])
    );
    assert_eq!(verdict["anomalies"][0]["steps"][1]["kind"], "realtime");
    assert_eq!(verdict["counts"]["committed"], 3);
}

#[test]
fn what_is_no_history_is_named_with_its_line() {
    let ok = r#"{"process": 0, "type": "ok", "value": [["append", "x", 1]]}"#;
    let invoke = r#"{"process": 0, "type": "invoke", "value": [["append", "x", 1]]}"#;
    for (input, line, word) in [
        (format!("{ok}\n{{\"process\": 0"), 2, "EOF"),
        (format!("{ok}\n{ok}"), 2, "again"),
        (
            format!("{invoke}\n\n{}", invoke.replace('1', "2")),
            3,
            "not complete",
        ),
        (
            format!("{invoke}\n{}", ok.replace('1', "2")),
            2,
            "other operations",
        ),
        ("{\"type\": \"ok\"}".to_owned(), 1, "no process"),
        ("{\"process\": 1}".to_owned(), 1, "no type"),
        (
            "{\"process\": 1, \"type\": \"done\"}".to_owned(),
            1,
            "none of invoke",
        ),
        (
            "{\"process\": 1, \"type\": \"ok\"}".to_owned(),
            1,
            "a list of operations",
        ),
        (ok.replace("append", "w"), 1, "append and r"),
        (ok.replace('1', "1.5"), 1, "an integer"),
        (ok.replace(", 1]", "]"), 1, "function, key and value"),
        ("\n [{:process 0".to_owned(), 2, "ends"),
        (
            "[{:process 0 :type :ok :value []}\n".to_owned(),
            2,
            "does not end",
        ),
        ("[] 7".to_owned(), 1, "follows"),
        ("7".to_owned(), 1, "is a map"),
    ] {
        let output = isocheck(&[], &input);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{input}: {said}");
        assert!(
            said.contains(&format!("line {line}: ")) && said.contains(word),
            "{input}: {said}"
        );
    }
}

#[test]
fn the_notation_of_these_tests_means_what_it_says() {
    assert_eq!(event(0, "3 ok ax1 rx rx[] rx[1,2]").micros.len(), 4);
    assert_eq!(verdict(&["3 fail ax1"], "read-committed").counts.refused, 1);
}
