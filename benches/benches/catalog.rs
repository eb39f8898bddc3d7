//! Look-ups of names in a catalogue of a million files: the aim is 2 microseconds, warm. And what such a catalogue
//! costs in a checkpoint.

use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::catalog::{Catalog, FileOperation, NewNode, Operation, Origin, Record, Reply};
use aquifer_dss_proto::catalog::{Entry, ROOT};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

/// Directories, and files in each.
const DIRECTORIES: u64 = 1000;
const FILES: u64 = 1000;

fn record(number: u64, operation: FileOperation) -> Record {
    let origin = Origin {
        node: NodeId::new(1).expect("1 is a node"),
        session: 1,
        request: number,
        settled: number,
        time: 1_700_000_000_000_000_000 + number,
    };
    Record {
        origin: Some(origin),
        operation: Operation::Files(operation),
    }
}

fn make(entry: Entry, node: NewNode) -> FileOperation {
    FileOperation::Make {
        entry,
        node,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        exclusive: true,
    }
}

/// A million files with a unit each, below a thousand directories.
fn million() -> Catalog {
    let mut catalog = Catalog::new(64 << 10, &[1 << 21], 192 << 20);
    let mut number = 0;
    let mut apply = |operation| {
        number += 1;
        catalog
            .apply(number, &record(number, operation))
            .expect("there is room for a million files")
    };
    let Reply::Reservation(reservation) = apply(FileOperation::Reserve {
        units: (DIRECTORIES * FILES) as u32,
    }) else {
        panic!("a reservation is named");
    };
    for directory in 0..DIRECTORIES {
        let entry = Entry::new(ROOT, &format!("directory{directory:04}"));
        let Reply::File(directory) = apply(make(entry, NewNode::Directory)) else {
            panic!("a directory is named");
        };
        for file in 0..FILES {
            let entry = Entry::new(directory, &format!("file{file:04}"));
            let Reply::File(file) = apply(make(entry, NewNode::File)) else {
                panic!("a file is named");
            };
            apply(FileOperation::Attach {
                file,
                reservation,
                unit: 0,
                count: 1,
            });
        }
    }
    catalog
}

fn look_up(criterion: &mut Criterion) {
    let catalog = million();
    let bytes = catalog.encode().len();
    println!("{} inodes, {bytes} bytes in a checkpoint", catalog.inode_count());
    let mut draw = 1u64;
    criterion.bench_function("catalog/look up one of a million paths", |bencher| {
        bencher.iter_batched(
            || {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (directory, file) = ((draw >> 33) % DIRECTORIES, (draw >> 45) % FILES);
                format!("/directory{directory:04}/file{file:04}")
            },
            |path| black_box(catalog.lookup(&path)).is_ok(),
            criterion::BatchSize::SmallInput,
        );
    });
    criterion.bench_function("catalog/look up the same path", |bencher| {
        bencher.iter(|| catalog.lookup(black_box("/directory0500/file0500")).is_ok());
    });
    let mut checkpoint = criterion.benchmark_group("catalog/checkpoint of a million files");
    checkpoint.sample_size(10);
    checkpoint.bench_function("keep the state of now", |bencher| bencher.iter(|| catalog.cut()));
    let mut bytes = Vec::with_capacity(bytes);
    checkpoint.bench_function("encode all of it", |bencher| {
        bencher.iter(|| {
            bytes.clear();
            let mut cut = catalog.cut();
            while cut.encode_more(&mut bytes, 1 << 14) {}
            bytes.len()
        });
    });
    checkpoint.bench_function("copy the catalogue", |bencher| bencher.iter(|| catalog.clone()));
    checkpoint.finish();
}

criterion_group!(benches, look_up);
criterion_main!(benches);
