//! The redo group: the records of one mini-transaction, applied whole or not at all.
//!
//! Rules:
//! - a group names its stream, its LSN and the life that wrote it, all under one CRC, so that bytes of an earlier
//!   lap of the ring or of an earlier life never parse (HZ-10);
//! - a group names the end of the group before it, so that nothing is read behind a gap, also when the gap reads
//!   as zeros (a torn first lap);
//! - everything is checked against its bounds before it is used: these bytes come from a device.
//!
//! Layout, little-endian: magic u32, crc32c u32 (of everything after it), length u32, count u16, stream u8,
//! reserved u8, lsn u64, previous end u64, incarnation u64, epoch u64, stamp u64; then `count` times file u64,
//! number u32, operation length u32, previous PSN u64, operation.

use crate::RedoRecord;
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::{Lsn, PageId, Psn, Stamp};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::{Epoch, FileId, Incarnation, NodeId};

/// Bytes of a group before its records.
pub const GROUP_HEADER: usize = 56;
/// Bytes of a record before its operation.
pub const RECORD_HEADER: usize = 24;
/// Longest group in bytes. An encoder asserts it, a parser refuses more.
pub const GROUP_MAX: usize = 1 << 20;
/// "AQRG".
const MAGIC: u32 = u32::from_le_bytes(*b"AQRG");

/// Where and by whom a group was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupStamp {
    /// The node whose stream it is.
    pub stream: NodeId,
    /// Position of its first byte.
    pub lsn: Lsn,
    /// End of the group before it in the stream. Equal to `lsn` unless padding lies between.
    pub previous_end: Lsn,
    /// The life that wrote it.
    pub incarnation: Incarnation,
    /// The view it was written in.
    pub epoch: Epoch,
    /// Above the stamps of all groups before it in the stream, and of the last changes of all pages it changes.
    pub stamp: Stamp,
}

/// A group as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Position, writer, epoch.
    pub stamp: GroupStamp,
    /// Position behind its last byte.
    pub end: Lsn,
    /// In the order of the changes.
    pub records: Vec<RedoRecord>,
}

/// Why bytes are not a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupError {
    /// They do not begin as a group does: padding, or never written.
    NotAGroup,
    /// They begin as a group, but more bytes are needed; the total length is named.
    Short(usize),
    /// Torn, or damaged.
    Damaged,
}

/// Bytes that `records` take as a group.
pub fn group_length(records: &[RedoRecord]) -> usize {
    GROUP_HEADER
        + records
            .iter()
            .map(|r| RECORD_HEADER + r.operation.len())
            .sum::<usize>()
}

/// Appends a group to `out`; gives its length. Panics when there is no record or the group is longer than
/// [`GROUP_MAX`]: whoever builds a mini-transaction keeps it small.
pub fn encode_group(out: &mut Vec<u8>, stamp: GroupStamp, records: &[RedoRecord]) -> usize {
    let length = group_length(records);
    assert!(!records.is_empty(), "a group has a record");
    assert!(length <= GROUP_MAX, "a redo group of {length} bytes");
    let count = u16::try_from(records.len()).expect("a record has 24 bytes at least, so fewer than 2^16 fit");
    let start = out.len();
    out.reserve(length);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[stamp.stream.get(), 0]);
    for word in [
        stamp.lsn.0,
        stamp.previous_end.0,
        stamp.incarnation.0,
        stamp.epoch.0,
        stamp.stamp.0,
    ] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for record in records {
        out.extend_from_slice(&record.page.file.0.to_le_bytes());
        out.extend_from_slice(&record.page.number.to_le_bytes());
        out.extend_from_slice(&(record.operation.len() as u32).to_le_bytes());
        out.extend_from_slice(&record.prev_psn.0.to_le_bytes());
        out.extend_from_slice(&record.operation);
    }
    let crc = crc32c(&[&out[start + 8..]]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    length
}

/// Parses the group at the front of `bytes`.
pub fn parse_group(bytes: &[u8]) -> Result<Group, GroupError> {
    if bytes.len() < 4 || u32_at(bytes, 0) != MAGIC {
        return Err(GroupError::NotAGroup);
    }
    if bytes.len() < GROUP_HEADER {
        return Err(GroupError::Short(GROUP_HEADER));
    }
    let length = u32_at(bytes, 8) as usize;
    if !(GROUP_HEADER + RECORD_HEADER..=GROUP_MAX).contains(&length) {
        return Err(GroupError::Damaged);
    }
    let Some(bytes) = bytes.get(..length) else {
        return Err(GroupError::Short(length));
    };
    if crc32c(&[&bytes[8..]]) != u32_at(bytes, 4) {
        return Err(GroupError::Damaged);
    }
    let stream = NodeId::new(bytes[14]).ok_or(GroupError::Damaged)?;
    let stamp = GroupStamp {
        stream,
        lsn: Lsn(u64_at(bytes, 16)),
        previous_end: Lsn(u64_at(bytes, 24)),
        incarnation: Incarnation(u64_at(bytes, 32)),
        epoch: Epoch(u64_at(bytes, 40)),
        stamp: Stamp(u64_at(bytes, 48)),
    };
    let count = usize::from(u16::from_le_bytes([bytes[12], bytes[13]]));
    let records = parse_records(&bytes[GROUP_HEADER..], count).ok_or(GroupError::Damaged)?;
    let end = Lsn(stamp
        .lsn
        .0
        .checked_add(length as u64)
        .ok_or(GroupError::Damaged)?);
    Ok(Group { stamp, end, records })
}

fn parse_records(mut bytes: &[u8], count: usize) -> Option<Vec<RedoRecord>> {
    let mut records = Vec::with_capacity(count.min(bytes.len() / RECORD_HEADER));
    for _ in 0..count {
        let header = bytes.get(..RECORD_HEADER)?;
        let page = PageId {
            file: FileId(u64_at(header, 0)),
            number: u32_at(header, 8),
        };
        let length = u32_at(header, 12) as usize;
        let prev_psn = Psn(u64_at(header, 16));
        let operation = bytes
            .get(RECORD_HEADER..RECORD_HEADER.checked_add(length)?)?
            .to_vec();
        bytes = &bytes[RECORD_HEADER + length..];
        records.push(RedoRecord {
            page,
            prev_psn,
            operation,
        });
    }
    (bytes.is_empty() && count > 0).then_some(records)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Walks one life's part of a stream: says where the next group must be and whether bytes found there are it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamCursor {
    /// Whose stream.
    pub stream: NodeId,
    /// The life whose part of the stream is walked.
    pub incarnation: Incarnation,
    /// Flush unit in bytes.
    pub block: u64,
    position: Lsn,
    /// At the start of a walk the group in front of the position is not known.
    chained: bool,
}

/// What the bytes at the cursor are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The next group; the cursor is behind it.
    Group(Group),
    /// This many bytes from the cursor's position are needed to tell.
    More(usize),
    /// The stream ends here: nothing behind this position may be used.
    End,
}

impl StreamCursor {
    /// A cursor at `position`, which is a group's begin or end.
    pub const fn new(stream: NodeId, incarnation: Incarnation, block: u64, position: Lsn) -> Self {
        Self {
            stream,
            incarnation,
            block,
            position,
            chained: false,
        }
    }

    /// End of the last group, or where the walk began.
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// Looks at `bytes`, the content of the stream from the position on. `complete` says that there is no more.
    pub fn step(&mut self, bytes: &[u8], complete: bool) -> Step {
        match self.group_at(bytes, 0) {
            Ok(group) => return self.take(group),
            Err(GroupError::Short(length)) => return Self::short(length, complete),
            Err(GroupError::Damaged) => return Step::End,
            Err(GroupError::NotAGroup) => {}
        }
        // Padding to the next block: zeros, and then a group that names this position as the end before it.
        let padding = (self.position.0.next_multiple_of(self.block) - self.position.0) as usize;
        if padding == 0 {
            return if bytes.len() < 4 {
                Self::short(GROUP_HEADER, complete)
            } else {
                Step::End
            };
        }
        if bytes.len() < padding + 4 {
            return Self::short(padding + GROUP_HEADER, complete);
        }
        if bytes[..padding].iter().any(|b| *b != 0) {
            return Step::End;
        }
        match self.group_at(bytes, padding) {
            Ok(group) => self.take(group),
            Err(GroupError::Short(length)) => Self::short(padding + length, complete),
            Err(_) => Step::End,
        }
    }

    const fn short(length: usize, complete: bool) -> Step {
        if complete { Step::End } else { Step::More(length) }
    }

    fn take(&mut self, group: Group) -> Step {
        self.position = group.end;
        self.chained = true;
        Step::Group(group)
    }

    fn group_at(&self, bytes: &[u8], skipped: usize) -> Result<Group, GroupError> {
        let group = parse_group(&bytes[skipped..])?;
        let stamp = group.stamp;
        let ours = stamp.stream == self.stream
            && (stamp.incarnation == self.incarnation || planted(Defect::ReadEarlierLife))
            && (stamp.lsn.0 == self.position.0 + skipped as u64 || planted(Defect::ReadEarlierLap));
        // The first group of a walk that lies exactly at the position needs no witness.
        let follows = stamp.previous_end == self.position
            || (!self.chained && skipped == 0)
            || planted(Defect::ReadBehindGap);
        if ours && follows {
            Ok(group)
        } else {
            Err(GroupError::Damaged)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use aquifer_dss_proto::defect::fails_with;

    fn node() -> NodeId {
        NodeId::new(3).unwrap()
    }

    fn record(number: u32, psn: u64, size: usize) -> RedoRecord {
        RedoRecord {
            page: PageId {
                file: FileId(7),
                number,
            },
            prev_psn: Psn(psn),
            operation: vec![number as u8; size],
        }
    }

    fn stamp(lsn: u64, previous_end: u64) -> GroupStamp {
        GroupStamp {
            stream: node(),
            lsn: Lsn(lsn),
            previous_end: Lsn(previous_end),
            incarnation: Incarnation(5),
            epoch: Epoch(9),
            stamp: Stamp(lsn + 1),
        }
    }

    #[test]
    fn a_group_comes_back_and_no_single_byte_may_change() {
        let records = vec![record(1, 4, 10), record(2, 0, 0), record(3, 8, 77)];
        let mut bytes = Vec::new();
        let length = encode_group(&mut bytes, stamp(4096, 4000), &records);
        assert_eq!(length, bytes.len());
        let group = parse_group(&bytes).unwrap();
        assert_eq!(
            (group.stamp, &group.records, group.end),
            (stamp(4096, 4000), &records, Lsn(4096 + length as u64))
        );
        for at in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                assert!(parse_group(&bad).is_err(), "byte {at} ^ {flip:#x} was accepted");
            }
            assert!(parse_group(&bytes[..at]).is_err());
        }
    }

    fn walk(bytes: &[u8], start: u64) -> (Vec<u64>, u64) {
        let mut cursor = StreamCursor::new(node(), Incarnation(5), 512, Lsn(start));
        let mut seen = Vec::new();
        loop {
            let from = &bytes[(cursor.position().0 as usize).min(bytes.len())..];
            match cursor.step(from, true) {
                Step::Group(group) => seen.push(group.stamp.lsn.0),
                Step::More(_) => unreachable!("complete"),
                Step::End => return (seen, cursor.position().0),
            }
        }
    }

    #[test]
    fn walk_crosses_padding_and_stops_at_gaps_and_strangers() {
        let mut bytes = Vec::new();
        let mut previous = 0;
        let mut put = |bytes: &mut Vec<u8>, pad: bool, size: usize| {
            let lsn = bytes.len() as u64;
            encode_group(bytes, stamp(lsn, previous), &[record(1, 1, size)]);
            previous = bytes.len() as u64;
            if pad {
                bytes.resize(bytes.len().next_multiple_of(512), 0);
            }
            lsn
        };
        // The second group ends exactly at a block, so that a lost one would look like padding.
        let first = put(&mut bytes, false, 28);
        let second = put(&mut bytes, false, 512 - 108 - 80);
        assert_eq!(bytes.len(), 512);
        let third = put(&mut bytes, true, 600);
        let fourth = put(&mut bytes, true, 5);
        assert_eq!(walk(&bytes, 0).0, [first, second, third, fourth]);
        assert_eq!(walk(&bytes, second).0, [second, third, fourth]);
        let mut gap = bytes.clone();
        gap[second as usize..512].fill(0);
        assert_eq!(
            walk(&gap, 0),
            (vec![first], second),
            "nothing is read behind a lost group"
        );
        assert_eq!(
            walk(&gap, second),
            (vec![], second),
            "also when the walk begins at the gap"
        );
        let mut stranger = bytes.clone();
        let mut other = Vec::new();
        let life = GroupStamp {
            incarnation: Incarnation(4),
            ..parse_group(&bytes[fourth as usize..]).unwrap().stamp
        };
        encode_group(&mut other, life, &[record(1, 1, 5)]);
        stranger[fourth as usize..fourth as usize + other.len()].copy_from_slice(&other);
        assert_eq!(
            walk(&stranger, 0).0,
            [first, second, third],
            "an earlier life never parses"
        );
    }

    #[test]
    fn a_group_of_an_earlier_lap_never_parses() {
        let mut bytes = Vec::new();
        // What stood here one lap of 4096 bytes ago, behind a group that ended where the one before ends now.
        encode_group(&mut bytes, stamp(4096, 4096), &[record(1, 1, 28)]);
        let here = u64::try_from(bytes.len()).unwrap();
        let old = GroupStamp {
            previous_end: Lsn(4096 + here),
            ..stamp(here, 0)
        };
        encode_group(&mut bytes, old, &[record(1, 2, 28)]);
        let mut cursor = StreamCursor::new(node(), Incarnation(5), 512, Lsn(4096));
        assert!(matches!(cursor.step(&bytes, true), Step::Group(_)));
        assert_eq!(cursor.step(&bytes[here as usize..], true), Step::End);
    }

    #[test]
    fn cursor_asks_for_more_bytes() {
        let mut bytes = Vec::new();
        encode_group(&mut bytes, stamp(0, 0), &[record(1, 1, 600)]);
        let mut cursor = StreamCursor::new(node(), Incarnation(5), 512, Lsn(0));
        assert_eq!(cursor.step(&[], false), Step::More(GROUP_HEADER));
        assert_eq!(cursor.step(&bytes[..60], false), Step::More(bytes.len()));
        assert!(matches!(cursor.step(&bytes, false), Step::Group(_)));
        assert_eq!(
            cursor.step(&[], false),
            Step::More((1024 - bytes.len()) + GROUP_HEADER)
        );
    }

    #[test]
    fn each_rule_of_the_walk_is_missed_when_it_is_gone() {
        let walk: fn() = walk_crosses_padding_and_stops_at_gaps_and_strangers;
        assert!(fails_with(Defect::ReadEarlierLife, walk));
        assert!(fails_with(Defect::ReadBehindGap, walk));
        let lap = a_group_of_an_earlier_lap_never_parses;
        assert!(fails_with(Defect::ReadEarlierLap, lap));
    }
}
