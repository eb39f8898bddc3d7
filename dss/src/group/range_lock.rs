//! Locks on ranges of one file, among the tasks of this node.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The ranges of a file that somebody works on.
#[derive(Default)]
pub(super) struct RangeLock {
    held: Mutex<Vec<(u64, u64)>>,
    fewer: Notify,
}

/// A locked range; free again when this goes.
pub(super) struct Range<'a> {
    lock: &'a RangeLock,
    from: u64,
    to: u64,
}

impl RangeLock {
    /// Waits until nobody else has a byte from `from` up to `to`.
    pub(super) async fn lock(&self, from: u64, to: u64) -> Range<'_> {
        loop {
            // Before the look, so that nothing is missed between the two.
            let fewer = self.fewer.notified();
            {
                let mut held = self.held.lock();
                if !held.iter().any(|range| range.0 < to && from < range.1) {
                    held.push((from, to));
                    return Range { lock: self, from, to };
                }
            }
            fewer.await;
        }
    }

    /// The whole file.
    pub(super) async fn lock_all(&self) -> Range<'_> {
        self.lock(0, u64::MAX).await
    }
}

impl RangeLock {
    /// Frees a range that was kept.
    pub(super) fn unlock(&self, (from, to): (u64, u64)) {
        drop(Range { lock: self, from, to });
    }
}

impl Range<'_> {
    /// Keeps the range locked without this, until [`RangeLock::unlock`].
    pub(super) fn keep(self) -> (u64, u64) {
        let kept = (self.from, self.to);
        std::mem::forget(self);
        kept
    }
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock();
        let at = held.iter().position(|range| *range == (self.from, self.to));
        held.swap_remove(at.expect("a range that is held is listed"));
        drop(held);
        self.lock.fewer.notify_waiters();
    }
}
