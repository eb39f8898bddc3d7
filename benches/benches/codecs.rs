//! Checksums and encodings of what goes to the device.

use aquifer_buffer_pool_proto::{Lsn, PageId, Psn, Stamp};
use aquifer_dss_proto::catalog::{FileKind, Operation, Record};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::journal::{Tail, decode_entry, encode_entry};
use aquifer_dss_proto::label::Uuid;
use aquifer_dss_proto::{Epoch, FileId, Incarnation, NodeId};
use aquifer_engine_proto::RedoRecord;
use aquifer_engine_proto::group::{GroupStamp, encode_group, parse_group};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn checksum(criterion: &mut Criterion) {
    let page = vec![0x5a_u8; 8192];
    let mut group = criterion.benchmark_group("crc32c");
    group.throughput(Throughput::Bytes(page.len() as u64));
    group.bench_function("8 KiB page", |bencher| {
        bencher.iter(|| crc32c(&[black_box(&page)]))
    });
    group.finish();
}

fn journal(criterion: &mut Criterion) {
    let group = Uuid([3; 16]);
    let tail = Tail::first(group);
    let record = |number: u64| Record {
        origin: None,
        operation: Operation::Create {
            path: format!("/tables/{number}"),
            size: 1 << 20,
            kind: FileKind::Tree,
            exclusive: true,
        },
    };
    let records: Vec<Record> = (0..8).map(record).collect();
    criterion.bench_function("journal/encode an entry of 8 records", |bencher| {
        bencher.iter(|| encode_entry(group, &tail, 0, Epoch(1), black_box(&records)));
    });
    let (bytes, _) = encode_entry(group, &tail, 0, Epoch(1), &records);
    criterion.bench_function("journal/decode an entry of 8 records", |bencher| {
        bencher.iter(|| decode_entry(black_box(&bytes), group, &tail, 0).expect("it was encoded just now"));
    });
}

fn redo(criterion: &mut Criterion) {
    let stamp = GroupStamp {
        stream: NodeId::new(1).expect("1 is a node id"),
        lsn: Lsn(4096),
        previous_end: Lsn(4096),
        incarnation: Incarnation(1),
        epoch: Epoch(1),
        stamp: Stamp(1),
    };
    let record = |number: u32| RedoRecord {
        page: PageId {
            file: FileId(7),
            number,
        },
        prev_psn: Psn(41),
        operation: vec![9; 60],
    };
    let records: Vec<RedoRecord> = (0..4).map(record).collect();
    let mut out = Vec::with_capacity(4096);
    criterion.bench_function("redo/encode a group of 4 records", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode_group(&mut out, stamp, black_box(&records))
        });
    });
    out.clear();
    encode_group(&mut out, stamp, &records);
    criterion.bench_function("redo/parse a group of 4 records", |bencher| {
        bencher.iter(|| parse_group(black_box(&out)).expect("it was encoded just now"));
    });
}

criterion_group!(benches, checksum, journal, redo);
criterion_main!(benches);
