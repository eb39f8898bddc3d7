//! The PostgreSQL protocol on a socket: start-up, simple and extended query, COPY. Messages are `pgwire`'s; the loop is ours.
//!
//! Answers are buffered and leave at Sync, Flush, the end of a simple query, or when the buffer is large: a statement costs one write.

mod client;
mod connection;

use crate::session::Server;
use crate::store::Store;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Serves clients until `shutdown` turns true; then every session is ended, its transaction rolled back.
pub async fn serve<S: Store>(
    listener: TcpListener,
    server: Arc<Server<S>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut sessions = JoinSet::new();
    let mut number = 0u32;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    number = number.wrapping_add(1);
                    if let Err(error) = socket.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY");
                    }
                    let (server, number) = (server.clone(), number);
                    sessions.spawn(async move {
                        if let Err(error) = connection::run(socket, server, number).await {
                            tracing::debug!(%error, %peer, "session ended");
                        }
                    });
                }
                // Out of descriptors or a client that went away in between: the next accept waits for the next client.
                Err(error) => tracing::warn!(%error, "a client could not be accepted"),
            },
            Some(ended) = sessions.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a session panicked");
            },
            changed = shutdown.changed() => if changed.is_err() || *shutdown.borrow() {
                break;
            },
        }
    }
    sessions.shutdown().await;
}
