//! PostgreSQL's own clients: psql and pgbench, on several nodes at once.

use super::rig::{Cluster, program};
use std::process::Output;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// One psql run: its commands are sent one by one in one session. Ends at the first error.
fn psql(cluster: &Cluster, node: u8, commands: &[&str]) -> Option<Output> {
    let mut psql = program("psql")?;
    psql.args([
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
    ]);
    psql.args(["-p", &cluster.nodes[&node].sql.port().to_string()]);
    for command in commands {
        psql.args(["-c", command]);
    }
    Some(psql.output().unwrap())
}

fn pgbench(cluster: &Cluster, node: u8, arguments: &[&str]) -> Option<std::process::Child> {
    let mut pgbench = program("pgbench")?;
    pgbench.args(["-p", &cluster.nodes[&node].sql.port().to_string()]);
    pgbench.args(arguments);
    pgbench.stdout(std::process::Stdio::piped());
    pgbench.stderr(std::process::Stdio::piped());
    Some(pgbench.spawn().unwrap())
}

#[test]
fn psql_sees_one_database_on_every_node() {
    let cluster = Cluster::of("psql", 2);
    let Some(made) = psql(
        &cluster,
        1,
        &[
            "create table t (id int primary key, v text)",
            "insert into t values (1, 'one')",
        ],
    ) else {
        return;
    };
    assert!(made.status.success(), "{}", text(&made.stderr));
    let at = |node, commands: &[&str]| psql(&cluster, node, commands).unwrap();
    assert_eq!(text(&at(2, &["select * from t"]).stdout), "1|one");
    let rolled_back = at(
        2,
        &[
            "begin",
            "update t set v = 'two'",
            "select v from t",
            "rollback",
            "select v from t",
        ],
    );
    assert_eq!(text(&rolled_back.stdout), "two\none");
    let committed = at(2, &["begin", "update t set v = 'three'", "commit"]);
    assert!(committed.status.success(), "{}", text(&committed.stderr));
    assert_eq!(text(&at(1, &["select v from t"]).stdout), "three");
    for (command, state) in [
        ("insert into t values (1, 'again')", "23505"),
        ("select 1 / 0", "22012"),
        ("selec", "42601"),
        ("select nothing from t", "42703"),
        ("select * from nowhere", "42P01"),
    ] {
        let failed = at(1, &[command]);
        assert!(!failed.status.success(), "{command}");
        let said = text(&failed.stderr);
        assert!(
            said.contains(&format!("ERROR:  {state}:")),
            "{command}: {said} is not {state}"
        );
    }
    let aborted = at(1, &["begin", "select 1 / 0"]);
    assert!(text(&aborted.stderr).contains("22012"));
    assert_eq!(text(&at(1, &["select v from t"]).stdout), "three");
}

#[test]
fn pgbench_runs_on_two_nodes_at_once_and_the_balances_agree() {
    let loads: [&[&str]; 3] = [
        &["-n", "-M", "prepared", "-c", "4", "-t", "60"],
        &["-n", "-M", "simple", "-c", "4", "-t", "40"],
        &["-n", "-S", "-c", "4", "-t", "200"],
    ];
    two_nodes_agree(Cluster::of("pgbench", 2), &loads, 2 * 4 * (60 + 40));
}

/// The tables are twenty times as large as memory, and eight sessions at each node want pages at once.
#[test]
fn pgbench_runs_with_64_pages_of_memory() {
    let mut cluster = Cluster::new("pgbench64");
    cluster.buffer = "512K";
    cluster.start(&[1, 2]);
    let loads: [&[&str]; 2] = [
        &["-n", "-M", "prepared", "-c", "8", "-t", "25"],
        &["-n", "-S", "-c", "8", "-t", "50"],
    ];
    two_nodes_agree(cluster, &loads, 2 * 8 * 25);
}

/// Each load runs on both nodes at once; all together make `transfers` transactions, and then all sums are equal.
fn two_nodes_agree(cluster: Cluster, loads: &[&[&str]], transfers: u32) {
    let Some(filling) = pgbench(&cluster, 1, &["-i", "-q", "-s", "1"]) else {
        return;
    };
    let filled = filling.wait_with_output().unwrap();
    assert!(filled.status.success(), "{}", text(&filled.stderr));
    for load in loads {
        let both = [1, 2].map(|node| pgbench(&cluster, node, load).unwrap());
        for run in both {
            let run = run.wait_with_output().unwrap();
            let said = text(&run.stderr) + &text(&run.stdout);
            assert!(run.status.success(), "{load:?}: {said}");
            assert!(
                said.contains("number of failed transactions: 0 "),
                "{load:?}: {said}"
            );
        }
    }
    let session = cluster.session(2);
    assert_eq!(
        session.one("select count(*) from pgbench_history"),
        transfers.to_string()
    );
    let sum = |column: &str, table: &str| session.one(&format!("select sum({column}) from pgbench_{table}"));
    let history = sum("delta", "history");
    for (column, table) in [
        ("abalance", "accounts"),
        ("tbalance", "tellers"),
        ("bbalance", "branches"),
    ] {
        assert_eq!(sum(column, table), history, "{table}");
    }
}
