//! The device at the end of a run, as `vg check` reads it beside the nodes.

use super::volumes;
use crate::sim::Cluster;
use crate::swarm::Layout;
use aquifer_dss::check::{Report, check};
use aquifer_dss::group::{GroupImage, StorageError};
use aquifer_engine::check::passes_beside_nodes;
use std::sync::Arc;

/// How often the device is read before it is called unsound: nodes write while it is read.
const ATTEMPTS: usize = 5;

/// Fails when the metadata, the control blocks or a redo stream on the device is not as it must be. A damaged copy of something
/// is none: a run cuts writes off.
pub async fn device_is_sound(cluster: &Cluster, layout: Layout) -> Result<(), String> {
    let mut trouble = String::new();
    for _ in 0..ATTEMPTS {
        trouble = match look(cluster, layout).await {
            Ok(report) => match report.wrongs().next() {
                None => return Ok(()),
                Some(finding) => format!("{}: {}", finding.what, finding.detail),
            },
            Err(error) => error.to_string(),
        };
    }
    Err(format!("the device is not sound: {trouble}"))
}

async fn look(cluster: &Cluster, layout: Layout) -> Result<Report, StorageError> {
    let (port, whole) = (cluster.disk.port(None), volumes::Broken::default());
    let opener = volumes::opener(port.clone(), &whole);
    let first = volumes::devices(&port, layout, &whole).swap_remove(0);
    let image = GroupImage::read(first, &*opener).await?;
    Ok(check(&Arc::new(image), &passes_beside_nodes()).await)
}
