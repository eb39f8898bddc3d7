//! Whoever talks to a node on its peer address without being a peer of it is refused for a reason that is counted.

use super::rig::{Cluster, LIMIT, run};
use aquifer_dss_proto::envelope::crc32c;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Instant;

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// A connection to a peer address, as a node says it: `unix:PATH` or `HOST:PORT`.
fn connect(address: &str) -> Box<dyn Wire> {
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        return Box::new(stream);
    }
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    Box::new(stream)
}

/// What a peer says first (`dss/src/net/frame.rs`).
#[derive(Clone, Copy)]
struct Hello {
    version: u16,
    group: [u8; 16],
    node: u8,
    incarnation: u64,
}

impl Hello {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..8].copy_from_slice(b"AQUIFER\x01");
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10] = self.node;
        bytes[16..32].copy_from_slice(&self.group);
        bytes[32..40].copy_from_slice(&self.incarnation.to_le_bytes());
        let crc = crc32c(&[&bytes[..60]]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// A frame that announces a head and a tail of these lengths, and has these bytes.
fn frame(service: u8, announced: (u32, u32), head: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut bytes = announced.0.to_le_bytes().to_vec();
    bytes.extend(announced.1.to_le_bytes());
    bytes.extend([service, 0, 0, 0]);
    bytes.extend(crc32c(&[tail]).to_le_bytes());
    let crc = crc32c(&[&bytes, head]);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(head);
    bytes.extend(tail);
    bytes
}

fn group_of(cluster: &Cluster) -> [u8; 16] {
    let status = status(cluster, 1);
    let digits: String = status["uuid"].as_str().unwrap().replace('-', "");
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
    std::array::from_fn(byte)
}

fn status(cluster: &Cluster, id: u8) -> serde_json::Value {
    let admin = cluster.place.file(&format!("{id}.admin"));
    let status = run(&["cluster", "status", "-o", "json", "--admin", &admin]);
    serde_json::from_slice(&status.stdout).unwrap()
}

/// Each stranger by what he is refused for, and what he sends. `good` is a life that a slot names: everybody else comes no further.
fn strangers(good: Hello) -> Vec<(&'static str, Vec<u8>)> {
    let other_version = Hello { version: 3, ..good };
    let other_group = Hello {
        group: [0xAB; 16],
        ..good
    };
    let of_node = |node| Hello { node, ..good };
    let of_life = |incarnation| Hello { incarnation, ..good };
    let after_hello = |more: Vec<u8>| [good.bytes(), more].concat();
    let noise: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut altered = frame(3, (8, 0), &[1; 8], &[]);
    altered[20] ^= 1;
    vec![
        ("version", other_version.bytes()),
        ("group", other_group.bytes()),
        ("node", of_node(1).bytes()),
        ("stale", of_life(0).bytes()),
        ("unknown", of_life(good.incarnation + 1).bytes()),
        ("unknown", of_node(9).bytes()),
        ("garbage", of_node(65).bytes()),
        ("garbage", noise),
        ("garbage", after_hello(frame(9, (0, 0), &[], &[]))),
        ("garbage", after_hello(altered)),
        ("too_long", after_hello(frame(3, (u32::MAX, 0), &[1; 64], &[]))),
        (
            "too_long",
            after_hello(frame(3, (8, u32::MAX), &[1; 8], &[1; 64])),
        ),
        ("timeout", good.bytes()[..30].to_vec()),
        ("stalled", after_hello(frame(3, (4096, 0), &[1; 64], &[]))),
        ("stalled", after_hello(frame(3, (8, 8192), &[1; 8], &[1; 64]))),
    ]
}

/// A life that is in no view any more, and whose slot still names it.
fn a_dead_life(cluster: &mut Cluster) -> Hello {
    let one = cluster.session(1);
    let incarnation = one.one("select incarnation from aquifer.nodes where id = 3");
    let group = group_of(cluster);
    cluster.kill(&[3]);
    let begun = Instant::now();
    while one.one("select member from aquifer.nodes where id = 3") != "f" {
        assert!(begun.elapsed() < LIMIT, "the dead node stays a member");
    }
    Hello {
        version: 2,
        group,
        node: 3,
        incarnation: incarnation.parse().unwrap(),
    }
}

fn strangers_are_refused(cluster: &mut Cluster) {
    let dead = a_dead_life(cluster);
    let (one, two) = (cluster.session(1), cluster.session(2));
    one.one("create table t (id int primary key, v int)");
    one.one("insert into t values (1, 0)");
    let address = one.one("select peer from aquifer.nodes where id = 1");
    let before = one.counters();
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, bytes) in strangers(dead) {
        let mut stranger = connect(&address);
        // It may be closed before everything is written; then the rest of the reading says so too.
        let _ = stranger.write_all(&bytes);
        let mut answer = Vec::new();
        let begun = Instant::now();
        let _ = stranger.read_to_end(&mut answer);
        assert!(begun.elapsed() < LIMIT, "{reason}: the connection stays");
        *expected.entry(reason).or_default() += 1;
    }
    // Well-formed frames of somebody who is in no view: whatever they say changes nothing.
    let mut stranger = connect(&address);
    stranger.write_all(&dead.bytes()).unwrap();
    for service in 1..=4 {
        for byte in 0..=255 {
            stranger
                .write_all(&frame(service, (40, 0), &[byte; 40], &[]))
                .unwrap();
        }
    }
    drop(stranger);
    let after = one.counters();
    for (reason, count) in expected {
        let name = format!("net_refused_{reason}");
        assert_eq!(after[&name] - before[&name], count, "{name}");
    }
    assert_eq!(two.one("update t set v = 1 where id = 1; select v from t"), "1");
    assert_eq!(one.one("select v from t"), "1");
    let member = one.one("select member from aquifer.nodes where id = 2");
    assert_eq!(member, "t", "nobody else was excluded");
}

#[test]
fn strangers_are_refused_with_a_counted_reason_over_unix_sockets() {
    strangers_are_refused(&mut Cluster::of("strangers", 3));
}

#[test]
fn strangers_are_refused_with_a_counted_reason_over_tcp() {
    let mut cluster = Cluster::new("strangers-tcp");
    cluster.peers_over_tcp();
    cluster.start(&[1, 2, 3]);
    strangers_are_refused(&mut cluster);
}
