//! What happened, as a running digest: two runs of one seed are the same run exactly when their digests agree.
//!
//! Rule: every delivered message, device operation, timer, poll and node event is recorded here, with numbers that depend
//! on the seed alone (never an address, a real time or an iteration order of a random map).

use super::random::mix;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};

/// Lines kept for the report of a failure.
const KEPT: usize = 400;

/// The digest and, when asked for, the text of a run.
#[derive(Debug)]
pub struct Trace {
    digest: u64,
    events: u64,
    print: bool,
    recent: VecDeque<(u64, &'static str, [u64; 4], String)>,
}

impl Trace {
    /// An empty trace; `print` writes each event to standard error.
    pub fn new(print: bool) -> Self {
        Self {
            digest: 0,
            events: 0,
            print,
            recent: VecDeque::new(),
        }
    }

    /// Records an event at virtual time `now` (nanoseconds).
    pub fn record(&mut self, now: u64, kind: &'static str, fields: [u64; 4], text: &str) {
        self.events += 1;
        let mut digest = mix(self.digest ^ now);
        for byte in kind.bytes().chain(text.bytes()) {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        for field in fields {
            digest = mix(digest ^ field);
        }
        self.digest = digest;
        if self.print && kind != "poll" {
            eprintln!("{:>14.6}ms {kind:<12} {fields:?} {text}", now as f64 / 1e6);
        }
        if kind != "poll" && kind != "timer" && !text.is_empty() {
            if self.recent.len() == KEPT {
                self.recent.pop_front();
            }
            self.recent.push_back((now, kind, fields, text.to_owned()));
        }
    }

    /// Digest of all events so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last events that carry a text, oldest first.
    pub fn recent(&self) -> Vec<String> {
        let line = |(now, kind, fields, text): &(u64, &str, [u64; 4], String)| {
            format!("{:>14.6}ms {kind:<12} {fields:?} {text}", *now as f64 / 1e6)
        };
        self.recent.iter().map(line).collect()
    }
}

/// [`fingerprint`] of so many zeros, which is computed once.
pub fn fingerprint_of_zeros(length: usize) -> u64 {
    static KNOWN: Mutex<BTreeMap<usize, u64>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock();
    *known
        .entry(length)
        .or_insert_with(|| fingerprint(&vec![0; length]))
}

/// A number that stands for `bytes`.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes"));
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    for byte in chunks.remainder() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(hash)
}
