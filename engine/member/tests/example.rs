//! The example runs, and a second member of the same number is refused, in the same process too.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use aquifer_dss::device::{OpenMode, create_sparse, open_device};
use aquifer_dss::group::{GroupOptions, VolumeGroup};
use aquifer_dss::seam::BlockDevice;
use aquifer_dss_proto::NodeId;
use aquifer_member::{Address, Member, MemberError, MemberOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A directory with a device.
fn place(name: &str) -> PathBuf {
    let place = std::env::temp_dir().join(format!("aq-member-{}-{name}", std::process::id()));
    std::fs::create_dir(&place).unwrap();
    let path = place.join("device");
    create_sparse(&path, 1 << 30).unwrap();
    runtime().block_on(async {
        let device = open_device(&path, OpenMode::Best).unwrap();
        let options = GroupOptions::default().sized_for(device.geometry().size);
        VolumeGroup::format(&*device, &options).await.unwrap();
    });
    place
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn the_example_does_what_it_says() {
    let place = place("example");
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(Path::parent).unwrap();
    let mut example = Command::new(profile.join("examples/pool"));
    example
        .arg(place.join("device"))
        .arg("7")
        .env("XDG_RUNTIME_DIR", &place);
    let done = example.output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let lines: Vec<&str> = said.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "32768 bytes inside the file, buffers begin with [0, 0, 3, 4]",
            "\"\\u{1}any bytes\\u{1}\""
        ]
    );
    std::fs::remove_dir_all(place).unwrap();
}

#[test]
fn a_second_member_of_the_same_number_is_refused() {
    let place = place("second");
    let node = NodeId::new(3).unwrap();
    let mut options = MemberOptions::new(node, vec![place.join("device")]);
    options.peer = Address::Unix(place.join("peer"));
    runtime().block_on(async {
        let member = Member::join(&options, LIMIT).await.unwrap();
        let second = Member::join(&options, LIMIT).await;
        assert!(matches!(second, Err(MemberError::SocketInUse(_))));
        let elsewhere = MemberOptions {
            peer: Address::Unix(place.join("other")),
            ..options.clone()
        };
        let second = Member::join(&elsewhere, LIMIT).await;
        assert!(matches!(second, Err(MemberError::SlotBusy { .. })));
        member.leave().await.unwrap();
    });
    std::fs::remove_dir_all(place).unwrap();
}
