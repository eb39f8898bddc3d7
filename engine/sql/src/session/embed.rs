//! Running statements from inside the process: the command line, demonstrations and tests.

use super::{Client, ColumnInfo, Session};
use crate::error::SqlError;
use crate::exec::Sink;
use crate::store::Store;
use crate::types::Value;
use bytes::Bytes;

/// What a statement answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueryResult {
    /// Columns; empty when the statement has no result.
    pub columns: Vec<ColumnInfo>,
    /// Rows.
    pub rows: Vec<Vec<Value>>,
    /// Tag: `SELECT 1`, `UPDATE 3`, `COMMIT`.
    pub tag: String,
}

#[derive(Default)]
struct Collector {
    done: Vec<QueryResult>,
    current: QueryResult,
}

impl Sink for Collector {
    fn row(&mut self, values: &[Value]) -> Result<(), SqlError> {
        self.current.rows.push(values.to_vec());
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), SqlError> {
        Ok(())
    }
}

impl Client for Collector {
    fn describe(&mut self, columns: &[ColumnInfo]) {
        self.current.columns = columns.to_vec();
    }

    fn complete(&mut self, tag: &str) {
        let mut result = std::mem::take(&mut self.current);
        result.tag = tag.to_owned();
        self.done.push(result);
    }

    fn empty(&mut self) {}

    fn warning(&mut self, sqlstate: &str, message: &str) {
        tracing::debug!(sqlstate, message, "warning of a statement");
    }

    fn copy_in_begin(&mut self, _columns: usize) {}

    async fn copy_in(&mut self) -> Result<Option<Bytes>, SqlError> {
        Err(SqlError::unsupported("COPY FROM STDIN without a client"))
    }

    fn copy_out_begin(&mut self, _columns: usize) {}

    fn copy_out(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).trim_end_matches('\n').to_owned();
        self.current.rows.push(vec![Value::Text(text)]);
    }

    fn copy_out_end(&mut self) {}
}

/// Runs all statements of a text, as a simple query does. At an error the results before it are lost, as their transaction is.
pub async fn execute<S: Store>(session: &mut Session<S>, text: &str) -> Result<Vec<QueryResult>, SqlError> {
    let mut collector = Collector::default();
    session.simple(text, &mut collector).await?;
    Ok(collector.done)
}
