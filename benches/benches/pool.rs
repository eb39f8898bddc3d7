//! A page that this node holds: reading it, and latching it to write. No message, no allocation.

use aquifer_buffer_pool::testing::SoloPool;
use aquifer_buffer_pool::{Lsn, Mode, PageId, Psn};
use aquifer_dss_proto::FileId;
use criterion::{Criterion, criterion_group, criterion_main};
use memmap2::MmapOptions;
use std::hint::black_box;

const FRAMES: usize = 131_200;

fn solo(pages: u32) -> SoloPool {
    let solo = SoloPool::new(FRAMES);
    for number in 0..pages {
        let page = page(number);
        let hold = solo
            .clock
            .block_on(solo.pool.acquire(page, Mode::Exclusive))
            .expect("storage in memory does not fail");
        let mut guard = solo.pool.write(page).expect("it is held");
        guard.bytes_mut()[100] = number as u8;
        guard.finish(Psn(1), Lsn(0));
        drop(hold);
    }
    solo
}

fn page(number: u32) -> PageId {
    PageId {
        file: FileId(7),
        number,
    }
}

fn local_hit(criterion: &mut Criterion) {
    let solo = solo(1);
    criterion.bench_function("pool/local hit, one hot page", |bencher| {
        bencher.iter(|| {
            let guard = solo.pool.read(black_box(page(0))).expect("it is held");
            black_box(guard.bytes()[100])
        });
    });
}

const PAGES: u32 = 131_072;

/// The next page of a walk; with a byte of the page before, it is known only then.
fn next(number: &mut u32, byte: u8) -> u32 {
    *number = number
        .wrapping_add(u32::from(byte))
        .wrapping_mul(1_664_525)
        .wrapping_add(1_013_904_223);
    ((u64::from(*number) * u64::from(PAGES)) >> 32) as u32
}

/// Over 1 GiB: each page known from the one before, as on the way down a tree; and all known beforehand.
fn spread(criterion: &mut Criterion, name: &str, read: impl Fn(u32) -> u8) {
    let (mut number, mut byte) = (0, 0);
    criterion.bench_function(
        &format!("{name}, random over 1 GiB, one after another"),
        |bencher| {
            bencher.iter(|| {
                byte = read(next(&mut number, byte));
                byte
            });
        },
    );
    criterion.bench_function(&format!("{name}, random over 1 GiB, independent"), |bencher| {
        bencher.iter(|| read(next(&mut number, 0)));
    });
}

fn local_hit_spread(criterion: &mut Criterion) {
    let solo = solo(PAGES);
    spread(criterion, "pool/local hit", |number| {
        let guard = solo.pool.read(black_box(page(number))).expect("it is held");
        guard.bytes()[100]
    });
}

/// What the memory itself costs: the same walks over an array of the same size.
fn array_spread(criterion: &mut Criterion) {
    let bytes = 8192;
    let mut array = MmapOptions::new()
        .len(PAGES as usize * bytes)
        .map_anon()
        .expect("memory");
    array.advise(memmap2::Advice::HugePage).ok();
    (0..PAGES as usize).for_each(|number| array[number * bytes + 100] = number as u8);
    spread(criterion, "array", |number| {
        array[black_box(number as usize) * bytes + 100]
    });
}

fn write_latch(criterion: &mut Criterion) {
    let solo = solo(1);
    criterion.bench_function("pool/write latch without a change", |bencher| {
        bencher.iter(|| {
            let mut guard = solo.pool.write(black_box(page(0))).expect("it is held");
            black_box(guard.bytes_mut()[101])
        });
    });
}

criterion_group!(benches, local_hit, local_hit_spread, array_spread, write_latch);
criterion_main!(benches);
