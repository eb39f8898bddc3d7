//! Work of the storage leader that goes on step by step in a task of its own, for as long as there is some.

use super::volume_group::VolumeGroup;
use crate::seam::BoxFuture;
use std::sync::atomic::{AtomicBool, Ordering};

/// One kind of work. `State` is what a step leaves to the next one of the same task.
pub(super) struct Worker<State: 'static> {
    /// Name of the task.
    pub(super) name: &'static str,
    /// Whether its task is there.
    pub(super) running: fn(&VolumeGroup) -> &AtomicBool,
    /// Whether a leader has something to do.
    pub(super) is_needed: fn(&VolumeGroup) -> bool,
    /// One step; false when there is none, or this node does not lead.
    pub(super) step: for<'a> fn(&'a VolumeGroup, &'a mut State) -> BoxFuture<'a, bool>,
}

impl VolumeGroup {
    /// Starts a worker when this node leads and there is something to do.
    pub(super) fn wake<State: Default + Send>(&self, worker: &'static Worker<State>) {
        let needed = self.leading().is_some() && (worker.is_needed)(self);
        if !needed || (worker.running)(self).swap(true, Ordering::AcqRel) {
            return;
        }
        let group = self.itself.clone();
        let run = async move {
            let mut state = State::default();
            while let Some(group) = group.upgrade() {
                if !(worker.step)(&group, &mut state).await {
                    (worker.running)(&group).store(false, Ordering::Release);
                    // What came up meanwhile found the task running.
                    group.wake(worker);
                    return;
                }
            }
        };
        self.runtime.spawn(worker.name, Box::pin(run));
    }
}
