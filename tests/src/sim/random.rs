//! Random numbers from one seed. Integer arithmetic only, so that a seed means the same on every machine.

use std::time::Duration;

/// xoshiro256**, seeded by splitmix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

/// One step of splitmix64: also a good 64-bit mixer.
pub const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut state = [0; 4];
        let mut last = seed;
        for word in &mut state {
            last = mix(last);
            *word = last;
        }
        Self { state }
    }

    /// An independent sequence, named by `label`, so that one part's draws do not shift another's.
    pub fn fork(seed: u64, label: &str) -> Self {
        let mut hash = mix(seed);
        for byte in label.bytes() {
            hash = mix(hash ^ u64::from(byte));
        }
        Self::new(hash)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// 0 to `limit - 1`; `limit` is above 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "a range has a member");
        ((u128::from(self.draw()) * u128::from(limit)) >> 64) as u64
    }

    /// `low` to `high`, both possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "{low} <= {high}");
        low + self.below((high - low).saturating_add(1).max(1))
    }

    /// A duration from `low` to `high`.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.between(low.as_nanos() as u64, high.as_nanos() as u64))
    }

    /// True `parts` times in a million.
    pub fn chance(&mut self, parts_per_million: u32) -> bool {
        parts_per_million > 0 && self.below(1_000_000) < u64::from(parts_per_million)
    }

    /// One of `items`, which is not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}
