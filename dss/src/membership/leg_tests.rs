//! Volume 0 is mirrored: one leg of it is lost while nodes live, die and come back.

use super::MembershipError;
use super::tests::{Cluster, SOON, run_on};
use crate::seam::Runtime;
use aquifer_dss_proto::defect::{Defect, fails_with};
use aquifer_dss_proto::membership::MetadataLegs;
use std::time::Duration;

impl Cluster {
    /// Waits until every living node knows that these legs count.
    async fn agree(&self, legs: MetadataLegs, limit: Duration) {
        let begun = self.handle.now();
        while !self.legs().iter().all(|(_, known)| *known == legs) {
            let took = self.handle.now().since(begun);
            assert!(took < limit, "{:?} after {took:?}, not {legs:?}", self.legs());
            self.handle.sleep(Duration::from_millis(1)).await;
        }
    }

    fn alive(&self) -> Vec<u8> {
        self.legs().iter().map(|(id, _)| *id).collect()
    }
}

#[test]
fn a_leg_that_fails_is_dropped_and_nobody_stops() {
    for lost in [0u8, 1] {
        run_on(2, |cluster| async move {
            cluster.start_all().await;
            cluster.agree(MetadataLegs::Both, SOON).await;
            cluster.disks[usize::from(lost)].break_down(libc::EIO);
            let left = MetadataLegs::Only(1 - lost);
            cluster.agree(left, Duration::from_secs(1)).await;
            assert_eq!(cluster.alive(), [1, 2, 3]);
            // What it says by now is old: it is back, and nobody looks at it.
            cluster.disks[usize::from(lost)].repair();
            for victim in [2, 1, 3] {
                let rest: Vec<u8> = [1, 2, 3].into_iter().filter(|id| *id != victim).collect();
                cluster.kill(victim);
                cluster.settle(&rest, SOON).await;
                cluster.start(victim).await.unwrap();
                cluster.settle(&[1, 2, 3], SOON).await;
            }
            cluster.agree(left, SOON).await;
        });
    }
}

#[test]
fn a_leg_and_a_node_that_are_lost_at_once_are_both_survived() {
    for (lost, victim) in [(0u8, 1), (0, 3), (1, 1), (1, 2)] {
        run_on(2, |cluster| async move {
            cluster.start_all().await;
            cluster.disks[usize::from(lost)].break_down(libc::EIO);
            cluster.kill(victim);
            let rest: Vec<u8> = [1, 2, 3].into_iter().filter(|id| *id != victim).collect();
            cluster.settle(&rest, SOON).await;
            cluster.agree(MetadataLegs::Only(1 - lost), SOON).await;
            assert_eq!(cluster.alive(), rest);
        });
    }
}

#[test]
fn a_cluster_that_starts_again_believes_the_leg_that_counts() {
    run_on(2, |cluster| async move {
        cluster.start_all().await;
        cluster.disks[0].break_down(libc::EIO);
        cluster.agree(MetadataLegs::Only(1), SOON).await;
        for id in [1, 2, 3] {
            cluster.kill(id);
        }
        cluster.start_all().await;
        cluster.agree(MetadataLegs::Only(1), SOON).await;
        for id in [1, 2, 3] {
            cluster.kill(id);
        }
        // The dropped one is back and says "both"; the other one, which would know better, is gone.
        cluster.disks[0].repair();
        cluster.disks[1].break_down(libc::EIO);
        assert!(cluster.start(1).await.is_err(), "an old leg was believed");
    });
}

#[test]
fn of_two_nodes_that_each_see_another_leg_one_goes_on() {
    run_on(2, |cluster| async move {
        cluster.start_all().await;
        cluster.disks[0].fail(cluster.port(1, 0), 0, libc::EIO);
        cluster.disks[1].fail(cluster.port(2, 1), 0, libc::EIO);
        cluster.handle.sleep(Duration::from_secs(20)).await;
        let legs = cluster.legs();
        let gone = match legs.first() {
            Some((_, MetadataLegs::Only(0))) => 1,
            Some((_, MetadataLegs::Only(1))) => 2,
            other => panic!("nothing was decided, or nobody is left: {other:?}"),
        };
        let rest: Vec<u8> = [1, 2, 3].into_iter().filter(|id| *id != gone).collect();
        cluster.settle(&rest, SOON).await;
        assert_eq!(cluster.alive(), rest);
        assert!(legs.iter().all(|(_, known)| *known == legs[0].1), "{legs:?}");
    });
}

/// Two nodes, each with another leg and without a network between them: nobody goes on while the other one could as well.
fn a_split_is_never_two_clusters() {
    run_on(2, |cluster| async move {
        for id in [1, 2] {
            cluster.start(id).await.unwrap();
        }
        cluster.settle(&[1, 2], SOON).await;
        cluster.handle.sleep(Duration::from_secs(1)).await;
        cluster.cut(1, 2);
        cluster.cut(2, 1);
        cluster.disks[0].fail(cluster.port(1, 0), 0, libc::EIO);
        cluster.disks[1].fail(cluster.port(2, 1), 0, libc::EIO);
        let begun = cluster.handle.now();
        while cluster.handle.now().since(begun) < Duration::from_secs(15) {
            cluster.handle.sleep(Duration::from_millis(1)).await;
            let legs = cluster.legs();
            let decided = legs.iter().any(|(_, legs)| *legs != MetadataLegs::Both);
            assert!(
                !decided || legs.len() < 2,
                "somebody lives beside a decision: {legs:?}"
            );
        }
        // Whose lease was over first is dead for certain, and the other one may have gone on, or not.
        assert!(cluster.alive().len() < 2);
    });
}

#[test]
fn a_split_with_a_leg_on_each_side_is_never_two_clusters() {
    a_split_is_never_two_clusters();
}

#[test]
fn a_node_that_starts_does_not_drop_a_leg() {
    run_on(2, |cluster| async move {
        cluster.disks[1].break_down(libc::EIO);
        let started = cluster.start(1).await;
        assert!(matches!(started, Err(MembershipError::Device(_))));
    });
}

#[test]
fn each_rule_of_two_legs_is_missed_when_it_is_gone() {
    for defect in [Defect::BallotOnOneLeg, Defect::SkipSilentMembers] {
        assert!(fails_with(defect, a_split_is_never_two_clusters), "{defect:?}");
    }
}
