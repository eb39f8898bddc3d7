//! A node from its production parts.

use super::NodeSettings;
use crate::admin::{Counters, Reform, StatusReport};
use crate::failure::Failure;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A running node.
pub struct Running {}

fn missing() -> Failure {
    Failure::unavailable("the engine is not part of this build")
}

impl Running {
    /// Puts the parts together and starts them.
    pub async fn start(_settings: &NodeSettings, _sql: SocketAddr) -> Result<Self, Failure> {
        Err(missing())
    }

    /// Returns when the node serves.
    pub async fn ready(&self) -> Result<(), Failure> {
        Err(missing())
    }

    /// Serves SQL for ever.
    pub async fn serve_sql(self: Arc<Self>, _listener: TcpListener) {}

    /// For `status`.
    pub fn status(&self) -> StatusReport {
        StatusReport::default()
    }

    /// For `counters`.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// The last reform.
    pub fn timeline(&self) -> Option<Reform> {
        None
    }

    /// A configuration entry of the volume group.
    pub fn config(&self, _key: &str) -> Option<String> {
        None
    }

    /// Reads the metadata journal to its end.
    pub async fn catch_up(&self) -> Result<(), Failure> {
        Err(missing())
    }

    /// Returns when the node had to stop by itself, with the reason.
    pub async fn ended(&self) -> String {
        std::future::pending().await
    }

    /// Writes a configuration entry.
    pub async fn set_config(&self, _key: &str, _value: &str) -> Result<(), Failure> {
        Err(missing())
    }

    /// Clean stop.
    pub async fn stop(&self) -> Result<(), Failure> {
        Ok(())
    }
}
