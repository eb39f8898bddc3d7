//! A page that is damaged on storage: who needs it is told which one, and everything else goes on.

use super::rig::Cluster;
use aquifer_buffer_pool_proto::header::{self, Verdict};
use std::fs::File;
use std::os::unix::fs::FileExt;

const PAGE_SIZE: usize = 8192;
const LEAF: u8 = 1;
const MARKER: &str = "marker-of-the-damaged-row";

/// Offsets and bytes of every whole leaf that has `marker`: the page in place, at a multiple of its size, and its images in
/// double-write areas, which begin behind a header block.
fn leaves_with(device: &File, marker: &[u8]) -> Vec<(u64, Vec<u8>)> {
    const STEP: usize = 4096;
    let mut found = Vec::new();
    let mut chunk = vec![0; (1 << 20) + PAGE_SIZE];
    let mut offset = 0;
    while device.read_exact_at(&mut chunk, offset).is_ok() {
        for at in (0..1 << 20).step_by(STEP) {
            let page = &chunk[at..at + PAGE_SIZE];
            let leaf = page[4] == header::PAGE_VERSION && page[5] == LEAF;
            let verdict = || header::verify(page, header::page_id(page));
            let has = || page.windows(marker.len()).any(|window| window == marker);
            if leaf && matches!(verdict(), Verdict::Valid(_)) && has() {
                found.push((offset + at as u64, page.to_vec()));
            }
        }
        offset += 1 << 20;
    }
    found
}

fn in_place(leaf: &(u64, Vec<u8>)) -> bool {
    leaf.0.is_multiple_of(PAGE_SIZE as u64)
}

fn damage(device: &File, (offset, page): &(u64, Vec<u8>)) {
    device.write_all_at(&[!page[6000]], offset + 6000).unwrap();
    device.sync_all().unwrap();
}

/// Hurts every byte sequence `marker` on the device: pages in place, images of them, and redo.
fn damage_all_of(device: &File, marker: &[u8]) -> usize {
    let mut places = Vec::new();
    let mut chunk = vec![0; (1 << 20) + marker.len()];
    let mut offset = 0;
    while device.read_exact_at(&mut chunk, offset).is_ok() {
        let found = chunk
            .windows(marker.len())
            .enumerate()
            .filter(|(_, window)| *window == marker);
        places.extend(found.map(|(at, _)| offset + at as u64));
        offset += 1 << 20;
    }
    for place in &places {
        device.write_all_at(&[!marker[0]], *place).unwrap();
    }
    device.sync_all().unwrap();
    places.len()
}

fn two_tables(name: &str) -> (Cluster, File) {
    let mut cluster = Cluster::of(name, 2);
    let session = cluster.session(1);
    for (table, word) in [("hurt", MARKER), ("well", "whole")] {
        session.one(&format!("create table {table} (id int primary key, v text)"));
        session.one(&format!("insert into {table} values (1, '{word}')"));
    }
    drop(session);
    cluster.stop_all();
    let device = File::options()
        .read(true)
        .write(true)
        .open(cluster.device())
        .unwrap();
    (cluster, device)
}

fn leaf_in_place(device: &File) -> (u64, Vec<u8>) {
    let leaves = leaves_with(device, MARKER.as_bytes());
    let page = leaves.into_iter().find(in_place);
    page.expect("the page is on storage")
}

#[test]
fn a_damaged_page_comes_back_from_redo_and_is_whole_in_place_again() {
    let (mut cluster, device) = two_tables("rebuild");
    let read = |cluster: &mut Cluster| {
        cluster.start(&[1, 2]);
        for node in [2, 1] {
            assert_eq!(
                cluster.session(node).one("select v from hurt where id = 1"),
                MARKER
            );
        }
        cluster.stop_all();
        leaf_in_place(&device)
    };
    let page = leaf_in_place(&device);
    damage(&device, &page);
    assert_eq!(read(&mut cluster).0, page.0, "from an image or from redo");
    for leaf in leaves_with(&device, MARKER.as_bytes()) {
        damage(&device, &leaf);
    }
    assert_eq!(
        read(&mut cluster).0,
        page.0,
        "from redo alone, over lives of both nodes"
    );
    for leaf in leaves_with(&device, MARKER.as_bytes()) {
        device.write_all_at(&[0xAA; 4096], leaf.0).unwrap();
    }
    assert_eq!(read(&mut cluster).0, page.0, "also when the bytes name no page");
    cluster.start(&[1, 2]);
    cluster
        .session(2)
        .one("update hurt set v = 'changed' where id = 1");
    cluster.kill(&[2]);
    assert_eq!(
        cluster.session(1).one("select v from hurt where id = 1"),
        "changed"
    );
    cluster.stop_all();
}

#[test]
fn a_page_that_cannot_be_rebuilt_fails_its_statements_and_nothing_else() {
    let (mut cluster, device) = two_tables("damage");
    let page = leaf_in_place(&device);
    let hurt = damage_all_of(&device, MARKER.as_bytes());
    assert!(hurt >= 2, "the page and its redo: {hurt}");
    cluster.start(&[1, 2]);
    let id = header::page_id(&page.1);
    for node in [1, 2] {
        let session = cluster.session(node);
        for statement in ["select * from hurt", "update hurt set v = 'x' where id = 1"] {
            let (state, message) = session.refused(statement);
            assert_eq!(state, "XX001", "{message}");
            let named = format!("page {} of file {}", id.number, id.file.0);
            assert!(message.contains(&named), "`{named}` is not in: {message}");
        }
        assert_eq!(session.one("select v from well where id = 1"), "whole");
        session.one(&format!("insert into well values ({}, 'after')", node + 1));
    }
    assert_eq!(cluster.session(1).one("select count(*) from well"), "3");
    cluster.stop_all();
}
