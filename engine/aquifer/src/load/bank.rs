//! The tables of the load and what a transfer is.

use crate::failure::Failure;
use crate::units::boottime;
use std::fmt::Write;
use tokio_postgres::Client;

/// How many rows the tables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Rows of `branches`: the hottest.
    pub branches: i64,
    /// Rows of `tellers`.
    pub tellers: i64,
    /// Rows of `accounts`.
    pub accounts: i64,
}

impl Scale {
    /// `factor` branches with 10 tellers and 1,000 accounts each.
    pub fn of(factor: u32) -> Self {
        let branches = i64::from(factor);
        Self {
            branches,
            tellers: branches * 10,
            accounts: branches * 1000,
        }
    }
}

/// Names of the tables with a balance, with their number of rows.
pub fn balance_tables(scale: Scale) -> [(&'static str, i64); 3] {
    [
        ("branches", scale.branches),
        ("tellers", scale.tellers),
        ("accounts", scale.accounts),
    ]
}

/// One transfer: the same delta on an account, a teller and a branch, and a history row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Key of its history row, made by the client.
    pub id: i64,
    /// Row of `accounts`.
    pub account: i64,
    /// Row of `tellers`.
    pub teller: i64,
    /// Row of `branches`.
    pub branch: i64,
    /// What is added.
    pub delta: i64,
}

/// Rows of one INSERT statement while loading.
const LOAD_BATCH: i64 = 250;

/// Makes and fills the tables.
pub async fn prepare(client: &Client, scale: Scale) -> Result<(), Failure> {
    let run = |sql: String| async move {
        client
            .batch_execute(&sql)
            .await
            .map_err(|e| Failure::failed(format!("loading the tables failed: {}", describe(&e))))
    };
    for (name, rows) in balance_tables(scale) {
        run(format!(
            "CREATE TABLE {name} (id bigint PRIMARY KEY, balance bigint NOT NULL)"
        ))
        .await?;
        let mut first = 1;
        while first <= rows {
            let last = rows.min(first + LOAD_BATCH - 1);
            let mut sql = format!("INSERT INTO {name} (id, balance) VALUES ");
            for id in first..=last {
                let separator = if id == first { "" } else { "," };
                write!(sql, "{separator}({id},0)").expect("a String takes every write");
            }
            run(sql).await?;
            first = last + 1;
        }
    }
    run("CREATE TABLE history (id bigint PRIMARY KEY, account bigint NOT NULL, teller bigint NOT NULL, branch bigint NOT NULL, delta bigint NOT NULL)".into()).await
}

/// A driver's error with the server's text.
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    }
}

/// A small random generator (xorshift64*), one per worker.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by the worker's number and the clock.
    pub fn new(worker: u64) -> Self {
        Self((boottime() ^ (worker + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    /// A number from 0 to `limit - 1`.
    pub fn below(&mut self, limit: i64) -> i64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 1;
        (word % u64::try_from(limit).expect("limits are positive")) as i64
    }

    /// A transfer under `id`.
    pub fn transfer(&mut self, id: i64, scale: Scale) -> Transfer {
        Transfer {
            id,
            account: 1 + self.below(scale.accounts),
            teller: 1 + self.below(scale.tellers),
            branch: 1 + self.below(scale.branches),
            delta: self.below(10_001) - 5000,
        }
    }
}
