//! A page whose bytes on storage are damaged, put together again from an older image and redo, if what comes out is provably
//! its newest version.
//!
//! Rules:
//! - RBD-1 the base is the newest whole image known, or a Format record; from there one record per PSN leads on, from any stream, to
//!   the highest PSN that any image or record names; stamps rise on the way from group to group. A gap, or two records for one PSN, is a refusal.
//! - RBD-2 the result, with stamp `s`, is the newest version when for every stream either nothing of it was ever overwritten, or the
//!   oldest group from which on it is read without a gap has a stamp of at most `s + 1`.
//!
//! Proof of RBD-2. Let there be a later change of the page, in group G of some stream. Along the changes of a page stamps
//! rise (WAL-9), so the stamp of G is above `s`. Along a stream stamps rise as well, over all its lives, so what was
//! overwritten there has stamps below that of the oldest group read, hence at most `s`: G was not overwritten, and was read. Then its
//! record names a PSN past the result, and the result would not have been the highest (RBD-1). What is not durable cannot be missing:
//! the page is read from storage, so nobody holds it, and an image was given up or written back only after its redo was durable (DIR-3).

use crate::recovery::PlannedRecord;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::{Psn, Stamp};
use aquifer_dss_proto::NodeId;

/// How far back a stream can still be read without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// To its begin: nothing of it was ever overwritten.
    Begin,
    /// To a group with this stamp.
    Stamp(Stamp),
    /// Nothing of it can be read, although something was written.
    Nothing,
}

/// Why a page was not rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotRebuilt {
    /// Neither an image nor a record.
    #[error("no double-write area has a whole image of it and no redo of it can be read")]
    NoTrace,
    /// The records do not join, or do not reach back to an image.
    #[error("no record leads from PSN {} towards {}", missing.0, target.0)]
    Gap {
        /// No record with this PSN before the change is known.
        missing: Psn,
        /// The highest PSN that is named.
        target: Psn,
    },
    /// Records that cannot all be true: damage that checksums do not show.
    #[error("its redo contradicts itself at PSN {}", .0.0)]
    Contradiction(Psn),
    /// A later change may have been recycled with the redo of `stream`.
    #[error(
        "its image at PSN {} has stamp {}, and redo of node {stream} is readable only from stamp {} on: a later change may be lost",
        psn.0, stamp.0, from.0
    )]
    NotProven {
        /// The stream that does not reach back far enough.
        stream: NodeId,
        /// Its oldest readable stamp; 2^64 - 1 when nothing can be read.
        from: Stamp,
        /// What could be made.
        psn: Psn,
        /// Its stamp.
        stamp: Stamp,
    },
}

/// How to make the newest version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt<'a> {
    /// PSN of the image to begin with; `None`: the first record needs no base.
    pub base: Option<Psn>,
    /// In order.
    pub records: Vec<&'a PlannedRecord>,
    /// PSN of the result.
    pub psn: Psn,
}

/// What can still be read of the past of one page.
#[derive(Clone, Debug, Default)]
pub struct PageHistory {
    image: Option<(Psn, Stamp)>,
    records: BTreeMap<Psn, PlannedRecord>,
    contradiction: Option<Psn>,
    streams: BTreeMap<NodeId, Reach>,
}

impl PageHistory {
    /// Of a page of which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// A whole image of the page; true when it is the newest so far, so that the caller keeps its bytes.
    pub fn add_image(&mut self, psn: Psn, stamp: Stamp) -> bool {
        let newer = self.image.is_none_or(|(known, _)| known < psn);
        if newer {
            self.image = Some((psn, stamp));
        }
        newer
    }

    /// A record of the page.
    pub fn add_record(&mut self, record: PlannedRecord) {
        let psn = record.record.prev_psn;
        if let Some(other) = self.records.insert(psn, record)
            && Some(&other) != self.records.get(&psn)
        {
            self.contradiction = Some(psn);
        }
    }

    /// All that can be read of a stream was added, and it reaches so far back.
    pub fn add_stream(&mut self, stream: NodeId, reach: Reach) {
        self.streams.insert(stream, reach);
    }

    /// The newest version, if it is proven to be that (RBD-2). Every stream of the cluster must have been added.
    pub fn newest(&self) -> Result<Rebuilt<'_>, NotRebuilt> {
        let (rebuilt, stamp) = self.highest()?;
        for (stream, reach) in &self.streams {
            let from = match reach {
                Reach::Begin => continue,
                Reach::Stamp(from) => *from,
                Reach::Nothing => Stamp(u64::MAX),
            };
            if from > stamp.next() {
                return Err(NotRebuilt::NotProven {
                    stream: *stream,
                    from,
                    psn: rebuilt.psn,
                    stamp,
                });
            }
        }
        Ok(rebuilt)
    }

    /// The version at `target`, which is known from elsewhere to be the newest: proof by itself.
    pub fn at(&self, target: Psn) -> Result<Rebuilt<'_>, NotRebuilt> {
        let (rebuilt, _) = self.highest()?;
        if rebuilt.psn < target {
            return Err(NotRebuilt::Gap {
                missing: rebuilt.psn,
                target,
            });
        }
        Ok(rebuilt)
    }

    /// The highest PSN that is named, and its stamp (RBD-1).
    fn highest(&self) -> Result<(Rebuilt<'_>, Stamp), NotRebuilt> {
        if let Some(psn) = self.contradiction {
            return Err(NotRebuilt::Contradiction(psn));
        }
        let image = self.image.map(|(psn, _)| psn);
        let recorded = self.records.keys().next_back().map(|psn| Psn(psn.0 + 1));
        let target = image.max(recorded).ok_or(NotRebuilt::NoTrace)?;
        let (mut psn, mut base, mut records) = (target, image, Vec::new());
        while image.is_none_or(|image| psn > image) {
            let missing = Psn(psn.0.saturating_sub(1));
            let record = self.records.get(&missing).filter(|_| psn > Psn(0));
            let record = record.ok_or(NotRebuilt::Gap { missing, target })?;
            records.push(record);
            psn = missing;
            if record.base_free {
                base = None;
                break;
            }
        }
        records.reverse();
        let mut stamp = self.image.filter(|_| base.is_some()).map(|(_, stamp)| stamp);
        for (index, record) in records.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| records[before]);
            let is_of_one_group = before.is_some_and(|b| (b.by, b.stamp) == (record.by, record.stamp));
            if stamp.is_some_and(|before| before >= record.stamp) && !is_of_one_group {
                return Err(NotRebuilt::Contradiction(record.record.prev_psn));
            }
            stamp = Some(record.stamp);
        }
        let psn = target;
        let rebuilt = Rebuilt { base, records, psn };
        Ok((rebuilt, stamp.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RedoRecord;
    use aquifer_buffer_pool_proto::PageId;
    use aquifer_dss_proto::FileId;

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn record(by: u8, prev_psn: u64, stamp: u64, base_free: bool) -> PlannedRecord {
        PlannedRecord {
            by: node(by),
            base_free,
            stamp: Stamp(stamp),
            record: RedoRecord {
                page: PageId {
                    file: FileId(7),
                    number: 1,
                },
                prev_psn: Psn(prev_psn),
                operation: Vec::new(),
            },
        }
    }

    fn history(image: Option<(u64, u64)>, records: &[PlannedRecord], reach: &[(u8, Reach)]) -> PageHistory {
        let mut history = PageHistory::new();
        if let Some((psn, stamp)) = image {
            assert!(history.add_image(Psn(psn), Stamp(stamp)));
        }
        records.iter().cloned().for_each(|r| history.add_record(r));
        reach
            .iter()
            .for_each(|(id, reach)| history.add_stream(node(*id), *reach));
        history
    }

    #[test]
    fn an_image_and_the_records_of_two_streams_lead_to_the_newest() {
        let records = [record(1, 8, 31, false), record(2, 9, 33, false)];
        let mut history = history(
            Some((8, 30)),
            &records,
            &[(1, Reach::Begin), (2, Reach::Stamp(Stamp(34)))],
        );
        assert!(
            !history.add_image(Psn(7), Stamp(20)),
            "an older image is not kept"
        );
        let rebuilt = history.newest().unwrap();
        assert_eq!(
            (rebuilt.base, rebuilt.psn, rebuilt.records.len()),
            (Some(Psn(8)), Psn(10), 2)
        );
    }

    #[test]
    fn a_format_needs_no_image_and_no_older_records() {
        let records = [record(1, 8, 31, true), record(1, 9, 33, false)];
        for image in [None, Some((3, 9))] {
            let history = history(image, &records, &[(1, Reach::Stamp(Stamp(31)))]);
            let rebuilt = history.newest().unwrap();
            assert_eq!(
                (rebuilt.base, rebuilt.psn, rebuilt.records.len()),
                (None, Psn(10), 2)
            );
        }
    }

    #[test]
    fn one_group_may_change_a_page_twice() {
        let begin = [(1, Reach::Begin), (2, Reach::Begin)];
        let of = |records: &[PlannedRecord]| {
            history(Some((565, 658)), records, &begin)
                .newest()
                .map(|made| made.psn)
        };
        let twice = |second_by| [record(2, 565, 659, false), record(second_by, 566, 659, false)];
        assert_eq!(of(&twice(2)), Ok(Psn(567)));
        assert_eq!(
            of(&twice(1)),
            Err(NotRebuilt::Contradiction(Psn(566))),
            "two streams cannot give one stamp to changes of a page"
        );
    }

    #[test]
    fn a_change_recycled_in_another_stream_refuses() {
        // Node 2 changed the page to PSN 11 in a group with stamp 35, and its stream was overwritten up to stamp 36.
        let records = [record(1, 8, 31, false), record(1, 9, 33, false)];
        let whole = history(Some((8, 30)), &records, &[(1, Reach::Begin), (2, Reach::Begin)]);
        assert!(whole.newest().is_ok());
        for reach in [Reach::Stamp(Stamp(36)), Reach::Stamp(Stamp(35)), Reach::Nothing] {
            let recycled = history(Some((8, 30)), &records, &[(1, Reach::Begin), (2, reach)]);
            let refused = recycled.newest().unwrap_err();
            assert!(
                matches!(refused, NotRebuilt::NotProven { stream, psn: Psn(10), .. } if stream == node(2))
            );
            assert!(recycled.at(Psn(10)).is_ok(), "a known target is proof by itself");
            assert!(recycled.at(Psn(11)).is_err());
        }
    }

    #[test]
    fn gaps_and_contradictions_refuse() {
        let begin = [(1, Reach::Begin)];
        let of = |image, records: &[PlannedRecord]| history(image, records, &begin).newest().unwrap_err();
        assert_eq!(of(None, &[]), NotRebuilt::NoTrace);
        let gap = of(Some((4, 9)), &[record(1, 5, 12, false)]);
        assert_eq!(
            (gap, Psn(6)),
            (
                NotRebuilt::Gap {
                    missing: Psn(4),
                    target: Psn(6)
                },
                Psn(6)
            )
        );
        assert!(matches!(
            of(None, &[record(1, 0, 12, false)]),
            NotRebuilt::Gap { .. }
        ));
        let twice = [record(1, 4, 10, false), record(2, 4, 11, false)];
        assert_eq!(of(Some((4, 9)), &twice), NotRebuilt::Contradiction(Psn(4)));
        let falling = [record(1, 4, 9, false)];
        assert_eq!(of(Some((4, 9)), &falling), NotRebuilt::Contradiction(Psn(4)));
    }
}
