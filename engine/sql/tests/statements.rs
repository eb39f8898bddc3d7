//! Statements over the store in memory.

use aquifer_sql::testing::MemoryStore;
use aquifer_sql::{Server, Session, SqlError, execute};
use std::sync::Arc;

struct Client {
    session: Session<MemoryStore>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    fn new() -> Self {
        Self::of(&Arc::new(Server::new(MemoryStore::default(), || {
            1_795_000_000_000_000
        })))
    }

    /// Another client of a server.
    fn of(server: &Arc<Server<MemoryStore>>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime of one thread");
        Self {
            session: Session::new(server.clone()),
            runtime,
        }
    }

    fn run(&mut self, text: &str) -> Result<String, SqlError> {
        let results = self.runtime.block_on(execute(&mut self.session, text))?;
        let last = results.last().expect("every text has a statement");
        if last.columns.is_empty() {
            return Ok(last.tag.clone());
        }
        let line = |row: &Vec<aquifer_sql::Value>| {
            row.iter()
                .map(|value| value.to_text().unwrap_or("NULL".into()))
                .collect::<Vec<_>>()
                .join("|")
        };
        Ok(last.rows.iter().map(line).collect::<Vec<_>>().join(";"))
    }

    fn ok(&mut self, text: &str) -> String {
        self.run(text)
            .unwrap_or_else(|error| panic!("{text}: {} {error}", error.sqlstate))
    }

    fn state(&mut self, text: &str) -> &'static str {
        self.run(text).expect_err(text).sqlstate
    }
}

#[test]
fn expressions_answer_as_postgresql_does() {
    let mut client = Client::new();
    for (text, expected) in [
        ("select 1 + 2 * 3, 7 / 2, -7 % 3", "7|3|-1"),
        (
            "select 1.5 + 1, 1.50 * 2, 10 / 4.0",
            "2.5|3.00|2.5000000000000000",
        ),
        ("select 'a' || 'b' || 1, length('äö'), upper('x')", "ab1|2|X"),
        (
            "select null = 1, null is null, 1 in (2, null), 1 in (1, null)",
            "NULL|t|NULL|t",
        ),
        (
            "select coalesce(null, 3), nullif(1, 1), greatest(1, 5, 2)",
            "3|NULL|5",
        ),
        (
            "select case when 1 > 2 then 'a' else 'b' end, 'abc' like 'a%'",
            "b|t",
        ),
        (
            "select date '2024-01-31' + interval '1 month'",
            "2024-02-29 00:00:00",
        ),
        (
            "select '12'::int + 1, 3::text || 'x', 'abcdef'::char(3)",
            "13|3x|abc",
        ),
        (
            "select sum(i), count(*), min(i), max(i) from generate_series(1, 10) g(i) where i % 2 = 0",
            "30|5|2|10",
        ),
        (
            "select i % 3, count(*) from generate_series(1, 10) g(i) group by 1 having count(*) > 3 order by 1",
            "1|4",
        ),
    ] {
        assert_eq!(client.ok(text), expected, "{text}");
    }
    assert_eq!(client.state("select 2147483647 + 1"), "22003");
    assert_eq!(client.state("select 1 / 0"), "22012");
    assert_eq!(client.state("selec 1"), "42601");
    assert_eq!(
        client.state("select nothing from generate_series(1, 2) g(i)"),
        "42703"
    );
    assert_eq!(client.state("select * from missing"), "42P01");
}

#[test]
fn rows_are_found_by_key_range_and_filter() {
    let mut client = Client::new();
    client.ok("create table t (a int, b text, c numeric(8,2) default 1.5, primary key (a, b))");
    client.ok("insert into t values (1, 'x', 10), (1, 'y', 20), (2, 'x', 30), (3, 'z', null)");
    client.ok("insert into t (a, b) values (4, 'w')");
    assert_eq!(client.ok("select c from t where a = 1 and b = 'y'"), "20.00");
    assert_eq!(client.ok("select b from t where a = 1 order by b desc"), "y;x");
    assert_eq!(
        client.ok("select a, b from t where a > 1 and a <= 3 order by a, b"),
        "2|x;3|z"
    );
    assert_eq!(client.ok("select a from t where c is null"), "3");
    assert_eq!(
        client.ok("select a from t order by c desc nulls last limit 2 offset 1"),
        "1;1"
    );
    assert_eq!(
        client.ok("update t set c = c + 1 where a = 1 returning b, c"),
        "x|11.00;y|21.00"
    );
    assert_eq!(client.ok("update t set a = a + 10 where a <= 2"), "UPDATE 3");
    assert_eq!(
        client.ok("select a, b from t order by a, b"),
        "3|z;4|w;11|x;11|y;12|x"
    );
    assert_eq!(client.ok("delete from t where a > 10 and b = 'x'"), "DELETE 2");
    assert_eq!(client.ok("select count(*) from t"), "3");
    assert_eq!(client.state("insert into t values (3, 'z', 1)"), "23505");
    assert_eq!(client.state("insert into t values (null, 'z', 1)"), "23502");
    assert_eq!(
        client.ok("insert into t values (3, 'z', 1) on conflict do nothing"),
        "INSERT 0 0"
    );
    let upsert =
        "insert into t values (3, 'z', 7) on conflict (a, b) do update set c = excluded.c + 1 returning c";
    assert_eq!(client.ok(upsert), "8.00");
}

#[test]
fn a_failed_block_goes_on_only_after_its_end() {
    let mut client = Client::new();
    client.ok("create table t (a serial primary key, b int)");
    client.ok("begin");
    client.ok("insert into t (b) values (1)");
    client.ok("savepoint s");
    client.ok("insert into t (b) values (2)");
    assert_eq!(client.state("insert into t values (1, 5)"), "23505");
    assert_eq!(client.state("select 1"), "25P02");
    client.ok("rollback to s");
    client.ok("insert into t (b) values (3)");
    assert_eq!(client.ok("commit"), "COMMIT");
    assert_eq!(client.ok("select b from t order by a"), "1;3");
    client.ok("begin");
    assert_eq!(client.state("select 1 / 0"), "22012");
    assert_eq!(client.ok("commit"), "ROLLBACK");
    assert_eq!(client.ok("select 1"), "1");
}

#[test]
fn definitions_are_transactional() {
    let mut client = Client::new();
    client.ok("create table t (a int, b text)");
    client.ok("insert into t select i, 'r' || i from generate_series(1, 3000) g(i)");
    client.ok("alter table t add primary key (a)");
    assert_eq!(client.ok("select b from t where a = 2999"), "r2999");
    client.ok("begin; truncate t; insert into t values (1, 'new')");
    assert_eq!(client.ok("select count(*) from t"), "1");
    client.ok("rollback");
    assert_eq!(client.ok("select count(*) from t"), "3000");
    client.ok("alter table t add column c int default 7");
    assert_eq!(client.ok("select c from t where a = 1"), "7");
    assert_eq!(client.state("create table t (a int)"), "42P07");
    client.ok("drop table if exists t, missing");
    assert_eq!(client.state("select * from t"), "42P01");
}

/// Rows are written by transactions that have an intent on the table's descriptor, and definitions wait for those. The store in memory refuses
/// instead of waiting.
#[test]
fn definitions_and_writers_of_one_table_keep_each_other_out() {
    let server = Arc::new(Server::new(MemoryStore::default(), || 0));
    let (mut writer, mut definer) = (Client::of(&server), Client::of(&server));
    writer.ok("create table t (a int, b text)");
    writer.ok("create table other (a int primary key)");
    writer.ok("insert into t values (1, 'x')");
    let definitions = [
        "truncate t",
        "drop table t",
        "alter table t add primary key (a)",
        "alter table t add column c int",
    ];
    let writes = [
        "insert into t values (2, 'y')",
        "update t set b = 'z' where a = 5",
        "delete from t where a = 5",
        "select * from t for update",
        "insert into other select a from t where a = 5",
    ];
    for definition in definitions {
        for write in writes {
            writer.ok("begin");
            writer.ok(write);
            assert_eq!(definer.state(definition), "55P03", "{definition} beside {write}");
            writer.ok("rollback");
            definer.ok("begin");
            definer.ok(definition);
            assert_eq!(writer.state(write), "55P03", "{write} beside {definition}");
            definer.ok("rollback");
        }
        writer.ok("begin; select * from t; insert into other values (7)");
        definer.ok(&format!("begin; {definition}; rollback"));
        writer.ok("rollback");
    }
    // A transaction is in nobody's way but its own.
    writer.ok("begin; insert into t values (2, 'y'); alter table t add primary key (a); insert into t values (3, 'z'); commit");
    assert_eq!(definer.ok("select a from t order by a"), "1;2;3");
    definer.ok("begin; insert into t values (4, 'w'); truncate t; insert into t values (5, 'v'); commit");
    assert_eq!(writer.ok("select a from t"), "5");
}
