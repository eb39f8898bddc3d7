//! Serves SQL over the store in memory: for trying clients against the SQL layer alone. `cargo run -p aquifer-sql --example memory -- 127.0.0.1:5499`

use aquifer_sql::testing::MemoryStore;
use aquifer_sql::{Server, serve};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5499".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64)
    };
    let (_keep, shutdown) = tokio::sync::watch::channel(false);
    serve(
        listener,
        Arc::new(Server::new(MemoryStore::default(), clock)),
        shutdown,
    )
    .await;
    Ok(())
}
