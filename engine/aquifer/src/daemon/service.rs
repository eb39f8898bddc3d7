//! Answers admin requests from the running node.

use super::assemble::Running;
use super::history;
use super::volumes;
use crate::admin::{AdminService, Request};
use crate::failure::Failure;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Notify;

/// The admin service of a node.
pub struct NodeService {
    running: Arc<Running>,
    stop: Arc<Notify>,
}

impl NodeService {
    /// Over a running node; `stop` is notified when a client asks for a stop.
    pub fn new(running: Arc<Running>, stop: Arc<Notify>) -> Self {
        Self { running, stop }
    }
}

impl AdminService for NodeService {
    async fn handle(&self, request: Request) -> Result<Value, Failure> {
        let value = match request {
            Request::Status => serde_json::to_value(self.running.status()),
            Request::Counters => serde_json::to_value(self.running.counters()),
            Request::Timeline => serde_json::to_value(self.running.timeline()),
            Request::History { limit } => {
                serde_json::to_value(history::read(&self.running, limit.min(10_000)).await?)
            }
            Request::Files { request } => return crate::files::handle(self.running.group(), request).await,
            Request::Volumes => serde_json::to_value(volumes::report(&self.running)),
            Request::VolumeAdd {
                path,
                force,
                failure_group,
                twin,
            } => {
                let added = volumes::add(&self.running, &path, force, failure_group, twin);
                serde_json::to_value(added.await?)
            }
            Request::VolumeReplaceSide { volume, path, force } => {
                serde_json::to_value(volumes::replace_side(&self.running, volume, &path, force).await?)
            }
            Request::VolumeResize { volume, bytes } => {
                serde_json::to_value(volumes::resize(&self.running, volume, bytes).await?)
            }
            Request::VolumeDrain { volume, drain } => {
                serde_json::to_value(volumes::drain(&self.running, volume, drain).await?)
            }
            Request::VolumeRemove { volume } => {
                serde_json::to_value(volumes::remove(&self.running, volume).await?)
            }
            Request::VolumeDetach { volume, leg } => {
                serde_json::to_value(volumes::detach(&self.running, volume, leg).await?)
            }
            Request::VolumeResync { volume } => {
                serde_json::to_value(volumes::resync(&self.running, volume).await?)
            }
            Request::VolumeScrub { run } => serde_json::to_value(volumes::scrub(&self.running, run)?),
            Request::Stop => {
                self.stop.notify_one();
                Ok(Value::Null)
            }
        };
        value.map_err(Failure::failed)
    }
}
