//! Mirrored volumes: that both legs have the same bytes, where they must.

use super::{Pass, READ_AGAIN, Report};
use crate::group::GroupImage;
use crate::seam::{BLOCK, BlockDevice, BoxFuture, DeviceError, IoBuffer};
use aquifer_dss_proto::catalog::{Catalog, Extent, Node};
use std::sync::Arc;

/// Bytes of one read.
const PIECE: u64 = 1 << 20;
/// Differing blocks of a volume that are named; the rest is counted.
const NAMED: usize = 8;
const RETURN: &str = "make its device reachable and let it in again: `aquifer vg resync`";
const DIFFERENT: &str = "with a node running, `aquifer vg check --scrub` heals what a checksum decides and names the other files: without a \
     checksum nobody knows which side is right";

/// Every unit of a file, on both legs of its volume. Where somebody may be writing they are not compared.
pub(super) struct Mirrors;

/// What was found of one volume.
#[derive(Default)]
struct Found {
    compared: u64,
    passed_over: u64,
    /// Device offsets of blocks that differ.
    different: Vec<u64>,
}

impl Pass for Mirrors {
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for (volume, mirror) in image.catalog.mirrors() {
                let what = format!("sides of volume {volume}");
                if let Some(leg) = mirror.stale() {
                    let (units, bytes) = (mirror.dirty().units(), image.catalog.au_bytes());
                    let detail =
                        format!("side {leg} is not current: it lacks {units} units of {bytes} bytes");
                    report.degraded(what, detail, RETURN);
                    continue;
                }
                let legs = image.device(volume).cloned();
                let twin = image.twins.get(&volume).cloned();
                let twin = twin.unwrap_or_else(|| Err("it is not named".into()));
                match (legs, twin) {
                    (Ok(first), Ok(second)) => match compare(image, volume, [&*first, &*second]).await {
                        Ok(found) => found.report(what, report),
                        Err(error) => report.wrong(what, error.to_string(), RETURN),
                    },
                    (Err(reason), _) | (_, Err(reason)) => report.wrong(what, reason, RETURN),
                }
            }
        })
    }
}

impl Found {
    fn report(self, what: String, report: &mut Report) {
        let mut detail = format!(
            "{} units compared, {} passed over because they may be being written",
            self.compared, self.passed_over
        );
        if self.different.is_empty() {
            return report.sound(what, detail);
        }
        let named: Vec<String> = self.different.iter().take(NAMED).map(u64::to_string).collect();
        detail += &format!(
            "; {} blocks differ, at bytes {} of the devices",
            self.different.len(),
            named.join(", ")
        );
        report.wrong(what, detail, DIFFERENT);
    }
}

/// Units of files on a volume.
fn runs_of(catalog: &Catalog, volume: u16) -> Vec<Extent> {
    let mut runs = Vec::new();
    // What was removed may be being discarded on one side.
    let kept = catalog.inodes().filter(|(id, inode)| !inode.is_removed(*id));
    for (_, inode) in kept {
        if let Node::File { extents, .. } = &inode.node {
            runs.extend(extents.iter().filter(|run| run.volume == volume));
        }
    }
    runs
}

async fn compare(image: &GroupImage, volume: u16, legs: [&dyn BlockDevice; 2]) -> Result<Found, DeviceError> {
    let mut found = Found::default();
    let au = image.catalog.au_bytes();
    for run in runs_of(&image.catalog, volume) {
        for start in run.start..run.start + run.count {
            if image.catalog.may_differ(volume, start) {
                found.passed_over += 1;
                continue;
            }
            let unit = Extent {
                start,
                count: 1,
                ..run
            };
            let offset = image.catalog.offset_of(&unit);
            for at in (0..au).step_by(PIECE as usize) {
                let length = PIECE.min(au - at) as usize;
                compare_piece(legs, offset + at, length, &mut found.different).await?;
            }
            found.compared += 1;
        }
    }
    Ok(found)
}

async fn compare_piece(
    [first, second]: [&dyn BlockDevice; 2],
    offset: u64,
    length: usize,
    different: &mut Vec<u64>,
) -> Result<(), DeviceError> {
    let mut differing = Vec::new();
    for _ in 0..READ_AGAIN {
        let one = first.read(offset, IoBuffer::zeroed(length)).await?;
        let other = second.read(offset, IoBuffer::zeroed(length)).await?;
        let blocks = one.chunks(BLOCK).zip(other.chunks(BLOCK)).enumerate();
        let differ = blocks.filter(|(_, (one, other))| one != other);
        let now: Vec<u64> = differ.map(|(at, _)| offset + (at * BLOCK) as u64).collect();
        if now.is_empty() {
            return Ok(());
        }
        differing = now;
    }
    different.extend(differing);
    Ok(())
}
