//! Reading ahead of a scan that goes from leaf to leaf: while it shows the rows of one, storage reads the next ones.
//!
//! Rules (ENG-4): a scan that stays within its first leaf asks for nothing; the first time that it moves on it asks for one leaf, then for twice
//! as many each time until it is as far ahead as the pool lets it. Rows come in batches: a scan that begins where the last one of its
//! transaction stopped goes on with what was asked for. Where another node owns the leaves nothing is asked for during the next ones: their
//! reader has copies of them.

use super::read::KeyRange;
use crate::engine::Engine;
use aquifer_engine_proto::TreeId;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Leaves owned by another node, until it is tried again.
const REST: usize = 32;

/// How far a scan is ahead of itself.
#[derive(Default)]
pub(super) struct ReadAhead {
    /// Tree and direction.
    scan: Option<(TreeId, bool)>,
    /// Where it stopped, when it may go on from there.
    stopped_at: Option<Bound<Vec<u8>>>,
    /// Leaves to be ahead.
    window: usize,
    /// Leaves that it has not come to, of those that it was ahead of itself.
    left: usize,
    owned_elsewhere: Arc<AtomicBool>,
}

impl ReadAhead {
    /// For a scan of this range: this one, if the scan goes on where it stopped, or else a new one.
    pub(super) fn going_on(self, tree: TreeId, range: &KeyRange, reverse: bool) -> Self {
        let from = if reverse { &range.1 } else { &range.0 };
        if self.scan == Some((tree, reverse)) && self.stopped_at.as_ref() == Some(from) {
            return self;
        }
        Self {
            scan: Some((tree, reverse)),
            ..Self::default()
        }
    }

    /// The scan ends here for now.
    pub(super) fn stopped_at(mut self, bound: Bound<Vec<u8>>) -> Self {
        self.stopped_at = Some(bound);
        self
    }

    /// The scan has come to another leaf, the first of this range.
    pub(super) fn turn(&mut self, engine: &Engine, lower: Bound<&[u8]>, upper: Bound<&[u8]>) {
        self.left = self.left.saturating_sub(1);
        if self.owned_elsewhere.swap(false, Ordering::Relaxed) {
            (self.window, self.left) = (0, REST);
        }
        if self.left > self.window / 2 {
            return;
        }
        let Some((tree, reverse)) = self.scan else { return };
        self.window = (2 * self.window).max(1).min(engine.pool.prefetch_window());
        if self.window == 0 {
            return;
        }
        let pages = engine.tree(tree).pages_ahead(lower, upper, reverse, self.window);
        self.left = pages.len();
        engine.pool.prefetch(&pages, &self.owned_elsewhere);
    }
}
