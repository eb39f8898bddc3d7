//! The place of the membership in tests of groups: brings decrees about when a leg of volume 0 fails, or has everything again.

use super::mirror_tests::life;
use super::{MetadataDevices, VolumeGroup};
use crate::membership::{learn_decided, write_decree};
use crate::seam::Runtime;
use crate::testing::TestHandle;
use aquifer_dss_proto::HomeSlots;
use aquifer_dss_proto::membership::{Decree, MetadataLegs};
use parking_lot::Mutex;
use std::sync::Arc;

/// The groups that are open; all of them follow a decree.
#[derive(Clone, Default)]
pub(super) struct Decrees(Arc<Mutex<Vec<Arc<MetadataDevices>>>>);

impl Decrees {
    /// Decides for this group from now on.
    pub(super) fn follow(&self, runtime: &Arc<TestHandle>, group: &VolumeGroup) {
        let (metadata, all, clock) = (group.metadata(), self.clone(), runtime.clone());
        metadata.set_decides(true);
        self.0.lock().push(metadata.clone());
        let decide = async move {
            loop {
                metadata.news.notified().await;
                match (metadata.failed_leg(), metadata.legs()) {
                    (Some(lost), MetadataLegs::Both) => {
                        all.decree(&*clock, &metadata, MetadataLegs::Only(1 - lost)).await;
                    }
                    (None, MetadataLegs::Only(_)) if metadata.is_full() => {
                        all.decree(&*clock, &metadata, MetadataLegs::Both).await;
                    }
                    _ => {}
                }
            }
        };
        runtime.spawn("decide", Box::pin(decide));
    }

    /// Decides on the legs that counted before, as far as they are left, and records it on those that count. Nothing, when the power fails.
    async fn decree(&self, clock: &dyn Runtime, metadata: &MetadataDevices, legs: MetadataLegs) {
        let before = metadata.legs();
        let decided_on = (0..2).filter(|leg| legs.counts(*leg) && before.counts(*leg));
        let also = (0..2).filter(|leg| legs.counts(*leg) && !before.counts(*leg));
        let mut decree = Decree::none(HomeSlots::USUAL, legs);
        for leg in decided_on.chain(also) {
            let Ok(device) = metadata.device(leg) else {
                return;
            };
            let one = MetadataDevices::single(device, HomeSlots::USUAL);
            let Ok(known) = learn_decided(clock, &one).await else {
                return;
            };
            if known.view.epoch >= decree.view.epoch {
                decree.view = known.view.successor(vec![life(64)]);
            }
            if write_decree(&one.control(0).unwrap(), &decree).await.is_err() {
                return;
            }
        }
        for metadata in self.0.lock().iter() {
            metadata.set_legs(legs);
        }
    }
}
