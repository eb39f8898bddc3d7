//! Recovery plan: which pages must be redone, up to which PSN, and with which records of which streams.
//!
//! Rules:
//! - REC-1 the target of a page is the highest PSN that any stream or any retention entry names for it;
//! - REC-2 records of a page form one chain by PSN across all streams: record `prev_psn = p` leads from `p` to `p + 1`;
//! - REC-3 a page is redone to its target exactly or not at all: a gap in the chain is an error, never skipped;
//! - REC-4 a base-free record (Format) may start the chain whatever the base is.

use crate::RedoRecord;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::{PageId, Psn, Stamp};
use aquifer_dss_proto::{NodeId, NodeSet};

/// One record of one page, as kept by the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRecord {
    /// Whose stream it is in.
    pub by: NodeId,
    /// Whether the operation needs no base (Format).
    pub base_free: bool,
    /// The stamp of its group.
    pub stamp: Stamp,
    /// The record.
    pub record: RedoRecord,
}

/// What is known of one page.
#[derive(Clone, Debug, Default)]
struct PagePlan {
    target: Psn,
    /// By PSN before the change.
    records: BTreeMap<Psn, PlannedRecord>,
    contributors: NodeSet,
}

/// The chain of a page is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {page} cannot be redone: no record leads from PSN {} towards {}", missing.0, target.0)]
pub struct Gap {
    /// The page.
    pub page: PageId,
    /// No record with this `prev_psn` is known.
    pub missing: Psn,
    /// Where the chain should have led.
    pub target: Psn,
}

/// Pages to recover for one view. Filled from the dead streams and from the retention entries of every stream; streams of
/// living nodes are added only when a chain has a gap without them.
#[derive(Clone, Debug, Default)]
pub struct RecoveryPlan {
    pages: BTreeMap<PageId, PagePlan>,
}

impl RecoveryPlan {
    /// A plan without pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// A record of a stream that is being recovered: names the page and raises its target (REC-1).
    pub fn add_dead_record(&mut self, record: PlannedRecord) {
        let RedoRecord { page, prev_psn, .. } = record.record;
        let plan = self.pages.entry(page).or_default();
        plan.target = plan.target.max(Psn(prev_psn.0 + 1));
        plan.contributors.insert(record.by);
        let old = plan.records.insert(prev_psn, record);
        assert!(
            old.is_none(),
            "two records of page {page} lead from PSN {}",
            prev_psn.0
        );
    }

    /// A retention entry: `by` changed `page` up to `psn`, and storage may be behind.
    pub fn add_retention(&mut self, page: PageId, psn: Psn, by: NodeId) {
        let plan = self.pages.entry(page).or_default();
        plan.target = plan.target.max(psn);
        plan.contributors.insert(by);
    }

    /// A record of a living node's stream: kept only for pages of the plan, and only up to their target.
    pub fn add_live_record(&mut self, record: PlannedRecord) {
        let RedoRecord { page, prev_psn, .. } = record.record;
        if let Some(plan) = self.pages.get_mut(&page)
            && prev_psn < plan.target
        {
            plan.contributors.insert(record.by);
            plan.records.entry(prev_psn).or_insert(record);
        }
    }

    /// The pages and their targets, in rising order.
    pub fn targets(&self) -> impl Iterator<Item = (PageId, Psn)> {
        self.pages.iter().map(|(page, plan)| (*page, plan.target))
    }

    /// The target of one page.
    pub fn target(&self, page: PageId) -> Option<Psn> {
        self.pages.get(&page).map(|plan| plan.target)
    }

    /// The highest PSN that `node`'s stream or retention names, for each page it changed.
    pub fn contributed_by(&self, node: NodeId) -> impl Iterator<Item = (PageId, Psn)> {
        self.pages
            .iter()
            .filter(move |(_, plan)| plan.contributors.contains(node))
            .map(|(page, plan)| (*page, plan.target))
    }

    /// Nodes that changed the page since it was last known on storage.
    pub fn contributors(&self, page: PageId) -> NodeSet {
        self.pages
            .get(&page)
            .map_or(NodeSet::EMPTY, |plan| plan.contributors)
    }

    /// The records that lead `page` from `base` to its target, in order; empty when `base` is there already.
    pub fn chain(&self, page: PageId, base: Psn) -> Result<Vec<&PlannedRecord>, Gap> {
        let Some(plan) = self.pages.get(&page) else {
            return Ok(Vec::new());
        };
        if base >= plan.target {
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        let mut psn = plan.target;
        while psn > base {
            let before = Psn(psn.0 - 1);
            let Some(record) = plan.records.get(&before) else {
                return Err(Gap {
                    page,
                    missing: before,
                    target: plan.target,
                });
            };
            records.push(record);
            if record.base_free {
                break; // REC-4
            }
            psn = before;
        }
        records.reverse();
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::FileId;

    fn page(number: u32) -> PageId {
        PageId {
            file: FileId(7),
            number,
        }
    }

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn record(number: u32, prev_psn: u64, by: u8, base_free: bool) -> PlannedRecord {
        PlannedRecord {
            by: node(by),
            base_free,
            stamp: Stamp(prev_psn + 1),
            record: RedoRecord {
                page: page(number),
                prev_psn: Psn(prev_psn),
                operation: alloc::vec![by],
            },
        }
    }

    #[test]
    fn chain_merges_streams_by_psn_and_ends_at_the_target() {
        let mut plan = RecoveryPlan::new();
        plan.add_dead_record(record(1, 6, 2, false));
        plan.add_dead_record(record(1, 4, 3, false));
        assert_eq!(plan.target(page(1)), Some(Psn(7)));
        let gap = plan.chain(page(1), Psn(4)).unwrap_err();
        assert_eq!(gap.missing, Psn(5));
        plan.add_live_record(record(1, 5, 1, false));
        plan.add_live_record(record(1, 7, 1, false));
        let by: Vec<u8> = plan
            .chain(page(1), Psn(4))
            .unwrap()
            .iter()
            .map(|r| r.by.get())
            .collect();
        assert_eq!(by, [3, 1, 2]);
        assert!(plan.chain(page(1), Psn(7)).unwrap().is_empty());
        assert!(plan.chain(page(1), Psn(9)).unwrap().is_empty());
    }

    #[test]
    fn base_free_record_starts_the_chain_on_any_base() {
        let mut plan = RecoveryPlan::new();
        plan.add_dead_record(record(1, 10, 2, true));
        plan.add_dead_record(record(1, 11, 2, false));
        assert_eq!(plan.chain(page(1), Psn(0)).unwrap().len(), 2);
        assert_eq!(plan.chain(page(1), Psn(11)).unwrap().len(), 1);
    }

    #[test]
    fn a_page_handed_to_the_dead_node_is_named_by_the_retention_of_a_living_one() {
        let mut plan = RecoveryPlan::new();
        plan.add_retention(page(3), Psn(8), node(1)); // HZ-1
        assert_eq!(plan.targets().collect::<Vec<_>>(), [(page(3), Psn(8))]);
        assert!(plan.contributors(page(3)).contains(node(1)));
        assert_eq!(plan.chain(page(3), Psn(7)).unwrap_err().missing, Psn(7));
    }
}
