//! A process becomes a member again and again, beside another one, and nothing of its earlier lives is left. The only test of its process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use aquifer_dss::device::{OpenMode, create_sparse, open_device};
use aquifer_dss::group::{GroupOptions, VolumeGroup};
use aquifer_dss::seam::BlockDevice;
use aquifer_dss_proto::NodeId;
use aquifer_member::{Address, Member, MemberError, MemberOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const LIVES: usize = 20;

fn options(place: &Path, node: u8) -> MemberOptions {
    let mut options = MemberOptions::new(NodeId::new(node).unwrap(), vec![place.join("device")]);
    options.peer = Address::Unix(place.join(format!("{node}.peer")));
    options
}

/// Open descriptors, and mappings of memory that nodes have in common.
fn held() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (
        descriptors,
        maps.lines().filter(|line| line.contains("/dev/shm/")).count(),
    )
}

/// Waits until as much is held as is wanted.
async fn until_held(wanted: (usize, usize)) {
    let begun = Instant::now();
    while held() != wanted {
        assert!(begun.elapsed() < LIMIT, "{:?} are held, not {wanted:?}", held());
        tokio::task::yield_now().await;
    }
}

/// One life: joins, writes to a file, and leaves. What must be gone afterwards.
async fn live(place: &Path, life: usize) -> (Weak<VolumeGroup>, u64) {
    let member = Member::join(&options(place, 2), LIMIT).await.unwrap();
    let group = member.group();
    if life == 0 {
        group.mkdir("/lives").await.unwrap();
    }
    group.mkdir(&format!("/lives/{life}")).await.unwrap();
    let incarnation = member.node().membership().incarnation().0;
    let gone = Arc::downgrade(group);
    member.leave().await.unwrap();
    (gone, incarnation)
}

async fn lives(place: PathBuf) {
    let other = Member::join(&options(&place, 1), LIMIT).await.unwrap();
    let alone = held();
    let mut before = 0;
    for life in 0..LIVES {
        let (gone, incarnation) = live(&place, life).await;
        assert!(incarnation > before, "each life has a number of its own");
        before = incarnation;
        assert!(
            gone.upgrade().is_none(),
            "the volume group of life {life} is still there"
        );
        // Its own descriptors are closed, and the other end finds out.
        until_held(alone).await;
    }
    // Nor is anything left of a life that does not begin.
    let second = Member::join(&options(&place, 1), LIMIT).await;
    assert!(matches!(second, Err(MemberError::SocketInUse(_))));
    let elsewhere = MemberOptions {
        peer: Address::Unix(place.join("elsewhere.peer")),
        ..options(&place, 1)
    };
    let second = Member::join(&elsewhere, LIMIT).await;
    assert!(matches!(second, Err(MemberError::SlotBusy { .. })));
    let late = Member::join(&options(&place, 3), Duration::from_millis(1)).await;
    assert!(matches!(late, Err(MemberError::JoinLimit { .. })));
    until_held(alone).await;
    assert_eq!(other.group().list("/lives").await.unwrap().len(), LIVES);
    other.leave().await.unwrap();
}

#[test]
fn a_process_joins_again_and_nothing_of_its_earlier_lives_is_left() {
    let place = std::env::temp_dir().join(format!("aq-member-{}-again", std::process::id()));
    std::fs::create_dir(&place).unwrap();
    let path = place.join("device");
    create_sparse(&path, 1 << 30).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let device = open_device(&path, OpenMode::Best).unwrap();
        let options = GroupOptions::default().sized_for(device.geometry().size);
        VolumeGroup::format(&*device, &options).await.unwrap();
    });
    runtime.block_on(lives(place.clone()));
    std::fs::remove_dir_all(place).unwrap();
}
