//! SQL sessions over the PostgreSQL protocol.
//!
//! What is owned here is the path from a keyed statement to the tree: names and types are bound once, the plan is kept with the
//! prepared statement, and running it is a key encoding, one tree call and a row decoding. Rules:
//!
//! - SQL-1 Descriptors of tables are rows of the catalogue tree and are read through the transaction at each statement; whatever is
//!   cached (parsed descriptors, plans) is valid only while the descriptor's bytes are equal. So DDL needs no invalidation message.
//! - SQL-2 DML is always ours; a general engine only reads.
//! - SQL-3 A session touches the engine only through [`store::Store`]; it reads no clock but `Server::wall_clock`, starts no task and is
//!   deterministic. Sockets and tasks are in `wire` alone.
//! - SQL-4 Every failure leaves the session with a SQLSTATE; after an error in a block only ROLLBACK (or COMMIT, which answers ROLLBACK) goes on.
//! - SQL-5 A statement that writes rows of a table first has an intent on its descriptor (TXN-8) and is planned from what it then reads; a
//!   definition locks the descriptor, waits until nobody else has an intent on it, and only then reads the table's rows or lets it go.

pub mod catalog;
pub mod engine_store;
mod error;
mod exec;
mod expr;
mod key;
mod parse;
mod plan;
mod row;
mod session;
pub mod store;
mod system;
pub mod testing;
mod types;
mod wire;

pub use error::SqlError;
pub use session::{ColumnInfo, QueryResult, Server, Session, execute};
pub use system::{SystemView, SystemViews};
pub use types::{DataType, Value};
pub use wire::serve;
