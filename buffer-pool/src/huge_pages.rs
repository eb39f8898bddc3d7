//! How much of the pool's memory the system put in huge pages: they are asked for, and may be refused or come later.

use crate::pool::Pool;
use std::ops::Range;

/// The memory of a pool's pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolMemory {
    /// Bytes of all frames.
    pub bytes: u64,
    /// Of these, how many are in huge pages now. Memory that was never used is in none.
    pub huge_bytes: u64,
}

impl Pool {
    /// The memory of the pages, as the kernel accounts for it now. Reads `/proc/self/smaps`, which takes a while for much memory.
    pub fn memory(&self) -> PoolMemory {
        let range = self.frames.address_range();
        let bytes = range.len() as u64;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        PoolMemory {
            bytes,
            // The kernel makes one area of neighbouring mappings: then more is counted than the pages.
            huge_bytes: huge_bytes(&smaps, &range).min(bytes),
        }
    }
}

/// Bytes in huge pages of the areas in `smaps` that overlap `range`.
fn huge_bytes(smaps: &str, range: &Range<usize>) -> u64 {
    let (mut inside, mut kib) = (false, 0);
    for line in smaps.lines() {
        if let Some(area) = area_of(line) {
            inside = area.start < range.end && range.start < area.end;
        } else if let Some(value) = line.strip_prefix("AnonHugePages:")
            && inside
        {
            let number = value.trim().trim_end_matches(" kB").trim();
            kib += number.parse::<u64>().unwrap_or(0);
        }
    }
    kib * 1024
}

/// The addresses of an area, when the line begins one.
fn area_of(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let parse = |address| usize::from_str_radix(address, 16).ok();
    Some(parse(start)?..parse(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SoloPool;

    const SMAPS: &str = "\
7f1000000000-7f1000800000 rw-p 00000000 00:00 0 
Size:               8192 kB
AnonHugePages:      4096 kB
VmFlags: rd wr mr mw me ac sd hg 
7f1000800000-7f1000a00000 rw-p 00000000 00:00 0 
AnonHugePages:      2048 kB
7f1000a00000-7f1000b00000 r-xp 00000000 08:01 99                         /usr/bin/x-y
AnonHugePages:         0 kB
";

    #[test]
    fn areas_that_overlap_the_pages_are_counted() {
        let counted =
            |from: usize, to: usize| huge_bytes(SMAPS, &(0x7f10_0000_0000 + from..0x7f10_0000_0000 + to));
        assert_eq!(counted(0, 0x80_0000), 4 << 20);
        assert_eq!(counted(0x40_0000, 0x80_0001), 6 << 20);
        assert_eq!(counted(0xa0_0000, 0xb0_0000), 0);
        assert_eq!(counted(0xb0_0000, 0xc0_0000), 0);
        assert_eq!(huge_bytes("no such file\n", &(0..1)), 0);
    }

    #[test]
    fn a_pool_says_how_much_memory_it_has() {
        let memory = SoloPool::new(64).pool.memory();
        assert_eq!(memory.bytes, 64 * 8192);
        assert!(memory.huge_bytes <= memory.bytes);
    }
}
