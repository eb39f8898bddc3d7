//! What is wrong is refused in one line with its documented exit code, and hurts nobody who runs.

use super::rig::{Cluster, Place, ends, run};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::label::FORMAT_VERSION;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

/// Where the copies of the label are (docs/on-disk-format.md).
const COPIES: [u64; 2] = [0, 64 << 10];
const BLOCK: usize = 4096;

fn sparse(path: &str, size: u64) {
    File::create_new(path).unwrap().set_len(size).unwrap();
}

fn open(path: &str) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn block(path: &str, offset: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    open(path).read_exact_at(&mut block, offset).unwrap();
    block
}

fn start(device: &str, id: &str, place: &Place) -> std::process::Output {
    let peer = format!("unix:{}", place.file("x.peer"));
    let admin = place.file("x.admin");
    let sql = "127.0.0.1:0";
    run(&[
        "node", "start", "--id", id, "--device", device, "--sql", sql, "--peer", &peer, "--admin", &admin,
    ])
}

#[test]
fn devices_that_do_not_fit_are_refused() {
    let place = Place::new("devices");
    let (small, blank, absent) = (place.file("small"), place.file("blank"), place.file("absent"));
    sparse(&small, 1 << 20);
    sparse(&blank, 1 << 30);
    let init = |device: &str| run(&["cluster", "init", "--vg", "e2e", "--yes", device]);
    ends(&init(&small), 2, &["needs at least"]);
    ends(
        &start(&blank, "1", &place),
        2,
        &["has no volume group", "cluster init"],
    );
    ends(&start(&absent, "1", &place), 2, &["does not exist"]);
    ends(&start(&blank, "65", &place), 2, &["1 to 64"]);
    ends(&start(&blank, "0", &place), 2, &["1 to 64"]);
    let made = init(&blank);
    assert!(made.status.success());
    ends(&init(&blank), 6, &["has volume group", "--force"]);
    // A label of the next version, whole.
    let next = FORMAT_VERSION + 1;
    for offset in COPIES {
        let mut label = block(&blank, offset);
        label[8..12].copy_from_slice(&next.to_le_bytes());
        let length = u32::from_le_bytes(label[12..16].try_into().unwrap()) as usize;
        let crc = crc32c(&[&label[..16], &label[32..32 + length]]);
        label[16..20].copy_from_slice(&crc.to_le_bytes());
        open(&blank).write_all_at(&label, offset).unwrap();
    }
    ends(&start(&blank, "1", &place), 6, &[&format!("version {next}")]);
}

#[test]
fn a_damaged_copy_of_the_label_is_repaired_from_the_other() {
    let mut cluster = Cluster::new("label");
    let device = cluster.device();
    for offset in COPIES {
        let mut damaged = block(&device, offset);
        damaged[40] ^= 0x55;
        open(&device).write_all_at(&damaged, offset).unwrap();
        cluster.start(&[1]);
        cluster.stop_all();
        let [a, b] = COPIES.map(|offset| block(&device, offset));
        assert_eq!(a, b, "the copy at {offset} was not repaired");
    }
    for offset in COPIES {
        open(&device).write_all_at(&[0x55; 64], offset).unwrap();
    }
    let damaged = start(&device, "1", &cluster.place);
    assert!(matches!(damaged.status.code(), Some(2 | 6)), "{damaged:?}");
}

#[test]
fn a_second_life_a_taken_port_and_garbage_do_not_hurt_those_who_run() {
    let cluster = Cluster::of("hurt", 2);
    let session = cluster.session(1);
    session.one("create table t (id int primary key, v int)");
    session.one("insert into t values (1, 0)");

    let second = cluster.start_command(1, "-second").output().unwrap();
    ends(&second, 6, &["runs already"]);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (device, peer) = (cluster.device(), format!("unix:{}", cluster.place.file("y.peer")));
    let admin = cluster.place.file("y.admin");
    let busy = run(&[
        "node", "start", "--id", "3", "--device", &device, "--sql", &taken, "--peer", &peer, "--admin",
        &admin,
    ]);
    ends(&busy, 4, &[&taken, "in use"]);

    let mut noise = vec![0u8; 64 << 10];
    let mut state = 7u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 33) as u8;
    }
    for length in [1, 64, noise.len()] {
        let mut peer = UnixStream::connect(cluster.place.file("1.peer")).unwrap();
        // It may close before it has read everything.
        let _ = peer.write_all(&noise[..length]);
        let mut sql = std::net::TcpStream::connect(cluster.nodes[&1].sql).unwrap();
        let _ = sql.write_all(&noise[..length]);
        let _ = sql.shutdown(std::net::Shutdown::Write);
        let _ = sql.read_to_end(&mut Vec::new());
        let mut admin = UnixStream::connect(cluster.place.file("1.admin")).unwrap();
        let _ = admin.write_all(&noise[..length]);
        let _ = admin.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = admin.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("not an admin request"), "{answer}");
    }
    assert_eq!(session.one("select v from t where id = 1"), "0");
    let other = cluster.session(2);
    assert_eq!(other.one("update t set v = 1 where id = 1; select v from t"), "1");
    let status = run(&[
        "cluster",
        "status",
        "-o",
        "json",
        "--admin",
        &cluster.place.file("2.admin"),
    ]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["verdict"], "healthy", "{status:#}");
}

#[test]
fn a_node_that_says_nothing_is_given_up_and_not_taken_for_one_that_has_ended() {
    let cluster = Cluster::of("silent", 1);
    let admin = cluster.place.file("1.admin");
    cluster.signal(1, "STOP");
    let asked = |arguments: &[&str]| run(&[arguments, &["--admin", &admin]].concat());
    ends(&asked(&["cluster", "status"]), 4, &["does not answer"]);
    ends(
        &asked(&["fs", "mkdir", "/x"]),
        5,
        &["does not answer", "not known"],
    );
    cluster.signal(1, "CONT");
}

#[test]
fn the_locks_of_a_client_that_vanishes_are_free_again() {
    let cluster = Cluster::of("vanish", 2);
    let session = cluster.session(1);
    session.one("create table t (id int primary key, v int)");
    session.one("insert into t values (1, 0)");
    let doomed = cluster.session(1);
    doomed.one("begin; update t set v = 7 where id = 1");
    doomed.vanish();
    // It waits for the row at the other node, and gets it without anybody's commit.
    cluster.session(2).one("update t set v = v + 1 where id = 1");
    assert_eq!(session.one("select v from t"), "1");
}
