//! The [`Runtime`] of one life of a simulated node.

use super::random::Random;
use super::world::{Life, World};
use aquifer_dss::seam::{BoxFuture, Runtime};
use aquifer_dss_proto::Instant;
use parking_lot::Mutex;
use std::sync::Arc;

/// Clock, tasks and randomness of one life. A dead life's calls do nothing.
pub struct SimRuntime {
    world: Arc<World>,
    life: Life,
    random: Mutex<Random>,
}

impl SimRuntime {
    /// The runtime of `life`.
    pub fn new(world: Arc<World>, life: Life) -> Arc<Self> {
        let random = Random::fork(world.seed(), &format!("node {} {}", life.node, life.number));
        Arc::new(Self {
            world,
            life,
            random: Mutex::new(random),
        })
    }
}

impl Runtime for SimRuntime {
    fn now(&self) -> Instant {
        Instant(self.world.local_time(self.life.node))
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.world.sleep_local(self.life, deadline.0)
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.world.spawn(Some(self.life), name, task);
    }

    fn random(&self) -> u64 {
        self.random.lock().draw()
    }

    fn abort(&self, reason: &str) {
        self.world.abort(self.life, reason);
    }
}
