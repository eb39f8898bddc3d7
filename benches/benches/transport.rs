//! What a page costs on its way between two nodes of one machine: 64 bytes one way and 8 KiB back, over the transports that could carry it.
//! Each end has a thread of its own. Busy processors make waiting dear and spinning worse: run it on an idle machine, and beside a load.

use criterion::{Criterion, criterion_group, criterion_main};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::thread::futex;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

const REQUEST: usize = 64;
const PAGE: usize = 8192;
/// Spins before it waits: about what a round trip takes.
const SPIN: Duration = Duration::from_micros(20);

fn filled(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|byte| byte as u8).collect()
}

/// Reads whole, without waiting in the kernel for the first `spin`. False at the end of the stream.
fn read_whole(stream: &UnixStream, bytes: &mut [u8], spin: Duration) -> bool {
    let mut read = 0;
    let begun = Instant::now();
    while read < bytes.len() {
        let spinning = !spin.is_zero() && begun.elapsed() < spin;
        let flags = if spinning {
            RecvFlags::DONTWAIT
        } else {
            RecvFlags::empty()
        };
        match recv(stream, &mut bytes[read..], flags) {
            Ok((_, 0)) => return false,
            Ok((_, some)) => read += some,
            Err(Errno::AGAIN) => std::hint::spin_loop(),
            Err(e) => panic!("{e}"),
        }
    }
    true
}

/// A socket between two threads that wait in the kernel, after `spin`.
fn threads(criterion: &mut Criterion, name: &str, spin: Duration) {
    let (mut here, mut there) = UnixStream::pair().expect("sockets");
    let answers = std::thread::spawn(move || {
        let (mut request, page) = ([0; REQUEST], filled(PAGE));
        while read_whole(&there, &mut request, spin) {
            there.write_all(&page).expect("the other end is there");
        }
    });
    let (request, mut page) = (filled(REQUEST), vec![0; PAGE]);
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            here.write_all(&request).expect("the other end is there");
            assert!(read_whole(&here, &mut page, spin), "the other end is there");
        });
    });
    drop(here);
    answers.join().expect("it ends with the stream");
}

/// A socket between tasks of two runtimes.
fn tasks(criterion: &mut Criterion, name: &str, runtime: impl Fn() -> Runtime) {
    let (here, there) = UnixStream::pair().expect("sockets");
    for stream in [&here, &there] {
        stream.set_nonblocking(true).expect("a socket");
    }
    let (mine, theirs) = (runtime(), runtime());
    let answers = std::thread::spawn(move || {
        theirs.block_on(async {
            let mut there = tokio::net::UnixStream::from_std(there).expect("a socket");
            // A task, as each connection of a node is one.
            let answering = tokio::spawn(async move {
                let (mut request, page) = ([0; REQUEST], filled(PAGE));
                while there.read_exact(&mut request).await.is_ok() {
                    there.write_all(&page).await.expect("the other end is there");
                }
            });
            answering.await.expect("it ends with the stream");
        });
    });
    let mut here = {
        let _inside = mine.enter();
        tokio::net::UnixStream::from_std(here).expect("a socket")
    };
    let (request, mut page) = (filled(REQUEST), vec![0; PAGE]);
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            mine.block_on(async {
                here.write_all(&request).await.expect("the other end is there");
                here.read_exact(&mut page).await.expect("the other end is there");
            });
        });
    });
    drop(here);
    answers.join().expect("it ends with the stream");
}

/// One direction of shared memory: bytes, and how many messages were put there.
struct Mailbox {
    messages: AtomicU32,
    words: Vec<AtomicU64>,
}

impl Mailbox {
    fn new(bytes: usize) -> Self {
        Self {
            messages: AtomicU32::new(0),
            words: (0..bytes / 8).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn put(&self, words: &[u64]) {
        for (place, word) in self.words.iter().zip(words) {
            place.store(*word, Ordering::Relaxed);
        }
        self.messages.fetch_add(1, Ordering::Release);
        futex::wake(&self.messages, futex::Flags::empty(), 1).expect("a futex");
    }

    /// Waits for a message after the `seen`-th, spinning at first.
    fn take(&self, seen: u32, words: &mut [u64], spin: Duration) {
        let begun = Instant::now();
        while self.messages.load(Ordering::Acquire) == seen {
            if !spin.is_zero() && begun.elapsed() < spin {
                std::hint::spin_loop();
            } else {
                // It may have come meanwhile: then it does not wait.
                let _ = futex::wait(&self.messages, futex::Flags::empty(), seen, None);
            }
        }
        for (word, place) in words.iter_mut().zip(&self.words) {
            *word = place.load(Ordering::Relaxed);
        }
    }
}

/// Memory that both ends see, and a futex. What lies between processes costs the same as between threads.
fn memory(criterion: &mut Criterion, name: &str, spin: Duration) {
    let boxes = Arc::new((Mailbox::new(REQUEST), Mailbox::new(PAGE)));
    let theirs = boxes.clone();
    let answers = std::thread::spawn(move || {
        let (mut request, page) = ([0; REQUEST / 8], [7; PAGE / 8]);
        let mut seen = 0;
        loop {
            theirs.0.take(seen, &mut request, spin);
            if request[0] == 0 {
                return;
            }
            seen = seen.wrapping_add(1);
            theirs.1.put(&page);
        }
    });
    let mut page = [0; PAGE / 8];
    let mut seen = 0;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            boxes.0.put(&[1; REQUEST / 8]);
            boxes.1.take(seen, &mut page, spin);
            seen = seen.wrapping_add(1);
        });
    });
    boxes.0.put(&[0; REQUEST / 8]);
    answers.join().expect("it was told to end");
}

fn transports(criterion: &mut Criterion) {
    let one = || {
        Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime")
    };
    let two = || {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).enable_io().build().expect("a runtime")
    };
    tasks(
        criterion,
        "transport/socket, tasks of a runtime with two threads",
        two,
    );
    tasks(
        criterion,
        "transport/socket, tasks of a runtime with one thread",
        one,
    );
    threads(criterion, "transport/socket, a thread", Duration::ZERO);
    threads(criterion, "transport/socket, a thread that spins", SPIN);
    memory(criterion, "transport/shared memory, futex", Duration::ZERO);
    memory(
        criterion,
        "transport/shared memory, spinning before the futex",
        SPIN,
    );
}

criterion_group!(benches, transports);
criterion_main!(benches);
