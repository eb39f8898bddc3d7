//! The clock-and-tasks seam.

use super::Sleeper;
use aquifer_dss_proto::Instant;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Clock, timers, tasks and randomness of one node. In production tokio and CLOCK_BOOTTIME; in simulation virtual
/// time and one seed. Wake-ups between tasks use `tokio::sync`, which needs no runtime of its own.
/// Nothing else in a node may read a clock, draw a random number, start a thread or iterate a randomly ordered map.
pub trait Runtime: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Instant;
    /// Nanoseconds since 1970 by the clock on the wall, for the times of files and nothing else: it may jump, and
    /// nodes differ. A runtime without one takes its own time.
    fn wall_clock(&self) -> u64 {
        self.now().0
    }
    /// Waits until `deadline`; may be late (200 ms on a loaded machine), never early.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
    /// What a [`Timer`](super::Timer) is made of; `None` where each deadline takes a future of its own.
    fn sleeper(&self) -> Option<Box<dyn Sleeper>> {
        None
    }
    /// Starts a task of this node; it ends with the node's life.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);
    /// A random number.
    fn random(&self) -> u64;
    /// Ends this life of the node at once because going on would not be safe, saying why. In production the process
    /// aborts and this does not return; in simulation nothing the node does afterwards has any effect.
    fn abort(&self, reason: &str);

    /// Waits for `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }
}
