//! The device at the end of a run, as `vg check` reads it beside the nodes.

use super::volumes;
use crate::sim::Cluster;
use aquifer_dss::check::{Report, check};
use aquifer_dss::group::{GroupImage, StorageError};
use aquifer_engine::check::passes_beside_nodes;
use std::sync::Arc;

/// How often the device is read before it is called unsound: nodes write while it is read.
const ATTEMPTS: usize = 5;

/// Fails when the metadata, the control blocks or a redo stream on the device is not as it must be. A damaged copy of something
/// is none: a run cuts writes off.
pub async fn device_is_sound(cluster: &Cluster, volumes: bool) -> Result<(), String> {
    let mut trouble = String::new();
    for _ in 0..ATTEMPTS {
        trouble = match look(cluster, volumes).await {
            Ok(report) => {
                let mut wrongs = report.wrongs();
                match wrongs.next() {
                    None => return Ok(()),
                    Some(finding) => format!("{}: {}", finding.what, finding.detail),
                }
            }
            Err(error) => error.to_string(),
        };
    }
    Err(format!("the device is not sound: {trouble}"))
}

async fn look(cluster: &Cluster, cut: bool) -> Result<Report, StorageError> {
    let port = cluster.disk.port(None);
    let opener = volumes::opener(port.clone());
    let image = GroupImage::read(volumes::first(port, cut), &*opener).await?;
    Ok(check(&Arc::new(image), &passes_beside_nodes()).await)
}
