//! Which redo must be kept: the oldest change of each page that is not known to be on storage.
//!
//! Rules:
//! - a record goes only when storage holds its page past it: an image with PSN `p` on storage contains exactly the
//!   records whose previous PSN is below `p` (HZ-5);
//! - the horizon is the oldest record kept, and never falls;
//! - a page that is changed without pause and written back again and again does not pin the horizon for ever: a
//!   sample is taken for each `sample_bytes` of log, and samples leave one by one.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::{Lsn, PageId, Psn};
use aquifer_dss_proto::defect::{Defect, planted};
use serde::{Deserialize, Serialize};

/// One page of the table, as told to a recoverer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetentionEntry {
    /// The page.
    pub page: PageId,
    /// PSN before the oldest change that may be missing on storage.
    pub first: Psn,
    /// PSN after the newest change.
    pub last: Psn,
    /// Position of the group with the oldest change.
    pub lsn: Lsn,
}

#[derive(Clone, Debug)]
struct Kept {
    /// (previous PSN, group position) of the first record of each sample, rising. Never empty.
    samples: Vec<(Psn, Lsn)>,
    /// PSN after the newest change.
    last: Psn,
}

/// The pages changed by one stream and not known to be on storage.
#[derive(Clone, Debug)]
pub struct Retention {
    pages: BTreeMap<PageId, Kept>,
    /// Pages by their oldest sample.
    oldest: BTreeSet<(Lsn, PageId)>,
    sample_bytes: u64,
}

impl Retention {
    /// An empty table that samples a page once per `sample_bytes` of log.
    pub fn new(sample_bytes: u64) -> Self {
        Self {
            pages: BTreeMap::new(),
            oldest: BTreeSet::new(),
            sample_bytes,
        }
    }

    /// A group at `lsn` changes `page` from `prev_psn` to the next PSN.
    pub fn changed(&mut self, page: PageId, prev_psn: Psn, lsn: Lsn) {
        let last = Psn(prev_psn.0 + 1);
        let Some(kept) = self.pages.get_mut(&page) else {
            self.pages.insert(
                page,
                Kept {
                    samples: alloc::vec![(prev_psn, lsn)],
                    last,
                },
            );
            self.oldest.insert((lsn, page));
            return;
        };
        assert!(
            last > kept.last,
            "PSN of page {page} fell from {:?} to {last:?}",
            kept.last
        );
        kept.last = last;
        let newest = kept.samples.last().expect("never empty").1;
        if lsn.0 - newest.0 >= self.sample_bytes {
            kept.samples.push((prev_psn, lsn));
        }
    }

    /// Storage holds `page` with `psn` (told after the flush): records before it may go.
    pub fn written_back(&mut self, page: PageId, psn: Psn) {
        let Some(kept) = self.pages.get_mut(&page) else {
            return;
        };
        let before = kept.samples[0].1;
        if kept.last <= psn || planted(Defect::ForgetNewerChanges) {
            self.pages.remove(&page);
            self.oldest.remove(&(before, page));
            return;
        }
        let gone = kept.samples[1..]
            .iter()
            .take_while(|(first, _)| *first <= psn)
            .count();
        if gone > 0 {
            kept.samples.drain(..gone);
            let after = kept.samples[0].1;
            self.oldest.remove(&(before, page));
            self.oldest.insert((after, page));
        }
    }

    /// Position of the oldest group that must be kept, if any must.
    pub fn horizon(&self) -> Option<Lsn> {
        self.oldest.first().map(|(lsn, _)| *lsn)
    }

    /// Up to `limit` pages whose oldest change lies before `before`, oldest first: what must be written back so
    /// that the horizon reaches `before`.
    pub fn pinning(&self, before: Lsn, limit: usize) -> Vec<PageId> {
        self.oldest
            .iter()
            .take_while(|(lsn, _)| *lsn < before)
            .take(limit)
            .map(|(_, page)| *page)
            .collect()
    }

    /// Everything kept, in order of page.
    pub fn entries(&self) -> Vec<RetentionEntry> {
        let entry = |(page, kept): (&PageId, &Kept)| {
            let (first, lsn) = kept.samples[0];
            RetentionEntry {
                page: *page,
                first,
                last: kept.last,
                lsn,
            }
        };
        self.pages.iter().map(entry).collect()
    }

    /// How many pages are kept.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::FileId;
    use aquifer_dss_proto::defect::fails_with;

    fn page(number: u32) -> PageId {
        PageId {
            file: FileId(1),
            number,
        }
    }

    #[test]
    fn horizon_is_the_oldest_change_not_on_storage() {
        let mut table = Retention::new(1000);
        assert_eq!(table.horizon(), None);
        table.changed(page(1), Psn(0), Lsn(100));
        table.changed(page(2), Psn(4), Lsn(200));
        table.changed(page(1), Psn(1), Lsn(300));
        assert_eq!(table.horizon(), Some(Lsn(100)));
        assert_eq!(table.pinning(Lsn(200), 9), [page(1)]);
        assert_eq!(table.pinning(Lsn(201), 9), [page(1), page(2)]);
        table.written_back(page(1), Psn(1));
        assert_eq!(
            table.horizon(),
            Some(Lsn(100)),
            "the second change is not on storage, the sample stays"
        );
        table.written_back(page(1), Psn(2));
        assert_eq!(table.horizon(), Some(Lsn(200)));
        table.written_back(page(2), Psn(5));
        assert!(table.is_empty() && table.horizon().is_none());
        table.written_back(page(2), Psn(5));
    }

    #[test]
    fn a_page_never_caught_does_not_pin_for_ever() {
        let mut table = Retention::new(1000);
        let mut behind = 0;
        for change in 0..1000u64 {
            table.changed(page(1), Psn(change), Lsn(change * 100));
            // Written back all the time, always five changes late.
            table.written_back(page(1), Psn(change.saturating_sub(5)));
            behind = change * 100 - table.horizon().unwrap().0;
            assert!(behind <= 2500, "{behind} bytes behind at change {change}");
        }
        assert!(behind > 0);
        let entry = table.entries()[0];
        assert_eq!(entry.last, Psn(1000));
        assert!(
            entry.first <= Psn(994),
            "a record at or past the PSN on storage is kept"
        );
    }

    #[test]
    fn someone_elses_changes_lie_between_ours() {
        let mut table = Retention::new(1000);
        table.changed(page(1), Psn(3), Lsn(0));
        table.changed(page(1), Psn(9), Lsn(5000));
        table.written_back(page(1), Psn(7));
        assert_eq!(
            table.entries()[0].first,
            Psn(3),
            "the sample may still cover a change at 7 or later"
        );
        table.written_back(page(1), Psn(9));
        assert_eq!(
            table.horizon(),
            Some(Lsn(5000)),
            "9 itself is not contained in an image with PSN 9"
        );
    }

    #[test]
    fn a_newer_change_is_missed_when_it_is_forgotten() {
        let table: fn() = horizon_is_the_oldest_change_not_on_storage;
        assert!(fails_with(Defect::ForgetNewerChanges, table));
    }
}
