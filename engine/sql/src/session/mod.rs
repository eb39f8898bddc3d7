//! A session: its transaction, prepared statements and settings.
//!
//! Several statements of one simple query, and everything between two Syncs, are one implicit transaction unless a block is open. After an
//! error in a block nothing runs until its end; without savepoints the engine's transaction is rolled back at once, so that its locks go.

mod copy;
mod ddl;
mod embed;
mod prepared;
mod settings;
mod utility;

pub use embed::{QueryResult, execute};
pub(crate) use prepared::Prepared;
pub(crate) use settings::REPORTED;

use crate::catalog::{TABLE_PREFIX, Table};
use crate::error::SqlError;
use crate::exec::{Counters, Run, Sink};
use crate::plan::Plan;
use crate::store::{Committed, Isolation, Store, StoreTransaction};
use crate::system::{SystemView, SystemViews, ViewContext};
use crate::types::{DataType, Value};
use aquifer_engine_proto::TreeId;
use bytes::Bytes;
use settings::Settings;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

/// What `version()` answers.
pub(crate) const VERSION_TEXT: &str = "PostgreSQL 15.0 (Aquifer 0.1)";

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
}

/// Who is at the other end of a session.
pub(crate) trait Client: Sink {
    /// A result with these columns follows.
    fn describe(&mut self, columns: &[ColumnInfo]);
    /// A statement is done.
    fn complete(&mut self, tag: &str);
    /// The text had no statement.
    fn empty(&mut self);
    /// Something worth telling that is no error.
    fn warning(&mut self, sqlstate: &str, message: &str);
    /// COPY FROM STDIN begins.
    fn copy_in_begin(&mut self, columns: usize);
    /// The next piece of data, `None` at its end.
    fn copy_in(&mut self) -> impl Future<Output = Result<Option<Bytes>, SqlError>> + Send;
    /// COPY TO STDOUT begins.
    fn copy_out_begin(&mut self, columns: usize);
    /// A line of it.
    fn copy_out(&mut self, line: &[u8]);
    /// Its end.
    fn copy_out_end(&mut self);
}

/// What all sessions of a node share.
pub struct Server<S: Store> {
    pub(crate) store: S,
    pub(crate) counters: Counters,
    pub(crate) views: SystemViews,
    wall_clock: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl<S: Store> Server<S> {
    /// A server over a store. `wall_clock` gives microseconds since 1970-01-01 UTC; it is what `now()` shows.
    pub fn new(store: S, wall_clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self {
            store,
            counters: Counters::default(),
            views: SystemViews::standard(),
            wall_clock: Box::new(wall_clock),
        }
    }

    /// Adds a computed view, such as `aquifer.nodes`.
    #[must_use]
    pub fn with_view(mut self, view: SystemView) -> Self {
        self.views.add(view);
        self
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    fn now(&self) -> i64 {
        (self.wall_clock)() - crate::types::datetime::UNIX_TO_2000_DAYS * crate::types::datetime::DAY
    }
}

/// State that ReadyForQuery tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Idle,
    InBlock,
    Failed,
}

struct Savepoint<T: StoreTransaction> {
    name: String,
    point: T::Savepoint,
    created: usize,
    dropped: usize,
}

/// A running transaction.
struct Open<T: StoreTransaction> {
    /// `None` once it failed and was rolled back.
    transaction: Option<T>,
    /// Begun by BEGIN.
    block: bool,
    failed: bool,
    /// Whether a statement has run, after which the isolation level is settled.
    started: bool,
    now: i64,
    savepoints: Vec<Savepoint<T>>,
    /// Trees made by this transaction: dropped when it does not commit.
    created: Vec<TreeId>,
    /// Trees that go when it has committed and older snapshots are gone.
    dropped: Vec<TreeId>,
}

/// A session.
pub struct Session<S: Store> {
    pub(crate) server: Arc<Server<S>>,
    open: Option<Open<S::Transaction>>,
    settings: Settings,
    /// Descriptors as last read: valid while the bytes are equal (SQL-1).
    tables: BTreeMap<String, (Vec<u8>, Arc<Table>)>,
}

impl<S: Store> Session<S> {
    /// A session that has done nothing yet.
    pub fn new(server: Arc<Server<S>>) -> Self {
        Self {
            server,
            open: None,
            settings: Settings::default(),
            tables: BTreeMap::new(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        match &self.open {
            Some(open) if open.failed => Status::Failed,
            Some(open) if open.block => Status::InBlock,
            _ => Status::Idle,
        }
    }

    fn begin_with(&mut self, block: bool, isolation: Isolation) -> &mut Open<S::Transaction> {
        self.open.insert(Open {
            transaction: Some(self.server.store.begin(isolation)),
            block,
            failed: false,
            started: false,
            now: self.server.now(),
            savepoints: Vec::new(),
            created: Vec::new(),
            dropped: Vec::new(),
        })
    }

    /// The running transaction, begun implicitly if there is none.
    fn opened(&mut self) -> &mut Open<S::Transaction> {
        if self.open.is_none() {
            let isolation = self.settings.isolation();
            self.begin_with(false, isolation);
        }
        self.open.as_mut().expect("begun above")
    }

    fn transaction(&mut self) -> Result<&mut S::Transaction, SqlError> {
        self.opened().transaction.as_mut().ok_or_else(aborted)
    }

    /// Begins a statement: refuses it in a failed block.
    async fn begin_statement(&mut self) -> Result<(), SqlError> {
        let open = self.opened();
        if open.failed {
            return Err(aborted());
        }
        open.started = true;
        open.transaction.as_mut().ok_or_else(aborted)?.statement().await?;
        Ok(())
    }

    /// Ends an implicit transaction that went well: at the end of a simple query, and at Sync.
    pub(crate) async fn finish_implicit(&mut self) -> Result<(), SqlError> {
        if self.open.as_ref().is_some_and(|open| !open.block) {
            self.commit().await?;
        }
        Ok(())
    }

    /// Commits; true when it is durable, false when it had failed and was rolled back.
    async fn commit(&mut self) -> Result<bool, SqlError> {
        let Some(mut open) = self.open.take() else {
            return Ok(true);
        };
        let outcome = match open.transaction.take() {
            Some(transaction) if !open.failed => transaction.commit().await,
            Some(transaction) => transaction.rollback().await.map(|()| Committed::RolledBack),
            None => Ok(Committed::RolledBack),
        };
        let committed = matches!(outcome, Ok(Committed::Yes));
        // When the outcome is not known nothing is dropped: a file that leaks is better than a table without rows.
        if committed {
            open.dropped
                .iter()
                .for_each(|tree| self.server.store.retire_tree(*tree));
        } else if !matches!(outcome, Err(crate::store::StoreError::OutcomeUnknown(_))) {
            Self::drop_trees(&self.server, open.created).await;
        }
        outcome?;
        Ok(committed)
    }

    pub(super) async fn drop_trees(server: &Server<S>, trees: Vec<TreeId>) {
        for tree in trees {
            if let Err(error) = server.store.drop_tree(tree).await {
                tracing::warn!(%error, tree = tree.0.0, "a tree that was not committed could not be removed");
            }
        }
    }

    /// Rolls back whatever is open.
    pub async fn rollback(&mut self) -> Result<(), SqlError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let outcome = match open.transaction {
            Some(transaction) => transaction.rollback().await,
            None => Ok(()),
        };
        Self::drop_trees(&self.server, open.created).await;
        outcome.map_err(SqlError::from)
    }

    /// A statement failed: an implicit transaction ends, a block is marked.
    pub(crate) async fn fail(&mut self) {
        let Some(open) = self.open.as_mut() else { return };
        if !open.block {
            if let Err(error) = self.rollback().await {
                tracing::debug!(%error, "rolling back after an error failed too");
            }
            return;
        }
        open.failed = true;
        if open.savepoints.is_empty()
            && let Some(transaction) = open.transaction.take()
        {
            let created = std::mem::take(&mut open.created);
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(%error, "rolling back after an error failed too");
            }
            Self::drop_trees(&self.server, created).await;
        }
    }

    /// A table's descriptor as this statement sees it.
    async fn table(&mut self, name: &str) -> Result<Option<Arc<Table>>, SqlError> {
        let catalog = self.server.store.catalog_tree();
        let bytes = self.transaction()?.get(catalog, &Table::key_of(name)).await?;
        self.decoded(name, bytes)
    }

    /// The descriptor of a table whose rows this statement writes: the newest one, and it stays so until the transaction ends (SQL-5).
    async fn written_table(&mut self, name: &str) -> Result<Option<Arc<Table>>, SqlError> {
        let catalog = self.server.store.catalog_tree();
        let bytes = self.transaction()?.intend(catalog, &Table::key_of(name)).await?;
        self.decoded(name, bytes)
    }

    fn decoded(&mut self, name: &str, bytes: Option<Vec<u8>>) -> Result<Option<Arc<Table>>, SqlError> {
        let Some(bytes) = bytes else {
            self.tables.remove(name);
            return Ok(None);
        };
        if let Some((known, table)) = self.tables.get(name)
            && *known == bytes
        {
            return Ok(Some(table.clone()));
        }
        let table = Arc::new(Table::decode(&bytes)?);
        self.tables.insert(name.to_owned(), (bytes, table.clone()));
        Ok(Some(table))
    }

    /// All tables, for the views.
    async fn all_tables(&mut self) -> Result<ViewContext, SqlError> {
        let catalog = self.server.store.catalog_tree();
        let range = crate::plan::prefix_range(TABLE_PREFIX.to_vec());
        let keys = crate::plan::Keys::Range(range);
        let mut cursor = crate::exec::Cursor::new(catalog, keys, false);
        let mut tables = Vec::new();
        loop {
            let pairs = cursor.next(self.transaction()?).await?;
            if pairs.is_empty() {
                return Ok(ViewContext { tables });
            }
            for (_, bytes) in pairs {
                tables.push(Arc::new(Table::decode(&bytes)?));
            }
        }
    }

    /// Runs a plan in the running statement.
    async fn run_plan<K: Sink>(
        &mut self,
        plan: &Plan,
        parameters: &[Value],
        sink: &mut K,
    ) -> Result<u64, SqlError> {
        let needs_views =
            matches!(plan, Plan::Select(select) if matches!(select.source, crate::plan::Source::View(_)));
        let views = if needs_views {
            self.all_tables().await?
        } else {
            ViewContext::default()
        };
        let open = self.open.as_mut().ok_or_else(aborted)?;
        let mut run = Run {
            store: &self.server.store,
            transaction: open.transaction.as_mut().ok_or_else(aborted)?,
            counters: &self.server.counters,
            parameters,
            now: open.now,
            views,
        };
        run.run(plan, sink).await
    }
}

fn aborted() -> SqlError {
    SqlError::new(
        "25P02",
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}
