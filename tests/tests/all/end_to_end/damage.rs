//! A page that is damaged on storage: who needs it is told which one, and everything else goes on.

use super::rig::Cluster;
use aquifer_buffer_pool_proto::PAGE_SIZE;
use aquifer_buffer_pool_proto::header::{self, Verdict};
use aquifer_dss_proto::envelope::crc32c;
use std::fs::File;
use std::os::unix::fs::FileExt;

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
            let verdict = || header::verify(page, header::page_id(page), |bytes| crc32c(&[bytes]));
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

#[test]
fn a_damaged_page_fails_its_statements_and_nothing_else() {
    let mut cluster = Cluster::of("damage", 2);
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
    let leaves = leaves_with(&device, MARKER.as_bytes());
    let page = leaves
        .iter()
        .find(|leaf| in_place(leaf))
        .expect("the page is on storage");
    damage(&device, page);
    cluster.start(&[1, 2]);
    assert_eq!(
        cluster.session(2).one("select v from hurt where id = 1"),
        MARKER,
        "put back from a double-write area"
    );
    cluster.stop_all();
    for leaf in leaves_with(&device, MARKER.as_bytes()) {
        damage(&device, &leaf);
    }
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
