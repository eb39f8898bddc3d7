//! The ring alone: against a queue, between two threads, and with an other end that breaks its rules.

use super::*;
use crate::testing::fuzz_rounds;
use std::collections::VecDeque;
use std::time::Duration;

/// Two mappings of one file that has no name any more.
fn regions() -> (Region, Region) {
    let path = format!(
        "/dev/shm/aquifer-ring-{}-{:p}",
        std::process::id(),
        &std::thread::current()
    );
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(BYTES as u64).unwrap();
    (Region::map(&file).unwrap(), Region::map(&file).unwrap())
}

/// Numbers below a limit.
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |limit| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % limit as u64) as usize
    }
}

#[test]
fn it_gives_what_it_was_given_around_its_end_and_when_it_is_full() {
    let (here, there) = regions();
    let (mut writer, mut reader) = (Writer::new(here), Reader::new(there));
    let (mut below, mut model, mut next) = (numbers(7), VecDeque::new(), 0u8);
    let mut full = 0;
    for round in 0..4000 * fuzz_rounds() {
        // More comes than goes, then more goes than comes.
        let (most_in, most_out) = if round / 100 % 2 == 0 {
            (40_000, 20_000)
        } else {
            (20_000, 40_000)
        };
        let bytes: Vec<u8> = (0..below(most_in))
            .map(|_| {
                next = next.wrapping_add(7);
                next
            })
            .collect();
        let cut = below(bytes.len() + 1);
        let (written, _) = writer.write(&[&bytes[..cut], &bytes[cut..]]).unwrap();
        assert_eq!(
            written,
            bytes.len().min(RING - model.len()),
            "as much as there is room for"
        );
        full += usize::from(written < bytes.len());
        model.extend(&bytes[..written]);
        let mut out = vec![0; below(most_out)];
        let (read, _) = reader.read(&mut out).unwrap();
        assert_eq!(read, out.len().min(model.len()), "all that is there");
        assert!(
            out[..read]
                .iter()
                .eq(model.drain(..read).collect::<Vec<_>>().iter()),
            "in order"
        );
    }
    assert!(full > 10, "it was full {full} times");
}

/// As a connection does it, with signals for bytes on the socket: who waits and is not told waits for the patience of the test.
#[test]
fn nobody_waits_while_there_is_something_to_do() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let (here, there) = regions();
    let (mut writer, mut reader) = (Writer::new(here), Reader::new(there));
    let (to_reader, for_reader) = std::sync::mpsc::channel();
    let (to_writer, for_writer) = std::sync::mpsc::channel();
    let total = 64 << 20;
    let writing = std::thread::spawn(move || {
        let (mut below, mut written) = (numbers(3), 0usize);
        let bytes: Vec<u8> = (0..=255).cycle().take(90_000).collect();
        while written < total {
            let length = (1 + below(80_000)).min(total - written);
            let from = written % 256;
            let (count, tell) = writer.write(&[&bytes[from..from + length]]).unwrap();
            written += count;
            if tell {
                to_reader.send(()).unwrap();
            }
            if count < length && writer.waits().unwrap() {
                for_writer.recv_timeout(PATIENCE).unwrap();
            }
        }
        to_reader
    });
    let (mut below, mut read, mut bytes) = (numbers(5), 0usize, vec![0; 70_000]);
    while read < total {
        let length = 1 + below(70_000);
        let (count, tell) = reader.read(&mut bytes[..length]).unwrap();
        if tell {
            // The writer may have finished.
            let _ = to_writer.send(());
        }
        assert!(
            bytes[..count]
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == (read + at) as u8)
        );
        read += count;
        if count == 0 && reader.waits().unwrap() {
            for_reader.recv_timeout(PATIENCE).unwrap();
        }
    }
    writing.join().unwrap();
}

/// Both ends, which have moved on by ten bytes.
fn moved_on() -> (Writer, Reader) {
    let (here, there) = regions();
    let (mut writer, mut reader) = (Writer::new(here), Reader::new(there));
    writer.write(&[&[1; 10][..]]).unwrap();
    reader.read(&mut [0; 10]).unwrap();
    (writer, reader)
}

#[test]
fn a_position_that_cannot_be_is_refused_by_both_ends() {
    // Too far, farther than there are numbers, and back.
    for lie in [RING as u64 + 11, u64::MAX, 1 << 63, 9] {
        let (_writer, mut reader) = moved_on();
        reader.region.position(WRITTEN).store(lie, Ordering::Relaxed);
        assert_eq!(reader.read(&mut [0; 10]), Err(Refusal::Memory));
        assert_eq!(reader.waits(), Err(Refusal::Memory));
    }
    // More than was written, and less than there is room to be behind.
    for lie in [11, RING as u64, 1 << 63, 10u64.wrapping_sub(RING as u64 + 1)] {
        let (mut writer, reader) = moved_on();
        reader.region.position(READ).store(lie, Ordering::Relaxed);
        assert_eq!(writer.write(&[&[1; 10][..]]), Err(Refusal::Memory));
        assert_eq!(writer.waits(), Err(Refusal::Memory));
    }
}
