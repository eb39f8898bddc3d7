//! The runtime of production: tokio's tasks and timers, CLOCK_BOOTTIME, the kernel's randomness.

use crate::seam::{BoxFuture, Runtime, Sleeper};
use aquifer_dss_proto::Instant;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::runtime::Handle;

/// [`Runtime`] over tokio. Time goes on while the machine sleeps, as leases need it.
pub struct TokioRuntime {
    handle: Handle,
}

impl TokioRuntime {
    /// Of the tokio runtime that this is called in.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn current() -> Self {
        Self {
            handle: Handle::current(),
        }
    }

    /// Of the given tokio runtime.
    pub const fn new(handle: Handle) -> Self {
        Self { handle }
    }
}

/// Nanoseconds of CLOCK_BOOTTIME.
fn boot_time() -> Instant {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Instant(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// A timer of tokio's, set again whenever its clock, which stops while the machine sleeps, was too early.
struct TokioSleeper {
    timer: Pin<Box<tokio::time::Sleep>>,
    deadline: Instant,
}

impl TokioSleeper {
    fn set_again(&mut self, left: Duration) {
        self.timer.as_mut().reset(tokio::time::Instant::now() + left);
    }
}

impl Sleeper for TokioSleeper {
    fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.set_again(deadline.since(boot_time()));
    }

    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let left = self.deadline.since(boot_time());
            if left == Duration::ZERO {
                return Poll::Ready(());
            }
            ready!(self.timer.as_mut().poll(context));
            self.set_again(left);
        }
    }
}

impl Runtime for TokioRuntime {
    fn now(&self) -> Instant {
        boot_time()
    }

    fn wall_clock(&self) -> u64 {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let handle = self.handle.clone();
        Box::pin(async move {
            // tokio's clock stops while the machine sleeps; look again after each of its sleeps.
            loop {
                let left = deadline.since(boot_time());
                if left == Duration::ZERO {
                    return;
                }
                let timer = {
                    let _context = handle.enter();
                    tokio::time::sleep(left)
                };
                timer.await;
            }
        })
    }

    fn sleeper(&self) -> Option<Box<dyn Sleeper>> {
        let _context = self.handle.enter();
        Some(Box::new(TokioSleeper {
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            deadline: Instant(0),
        }))
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        drop(self.handle.spawn(task));
    }

    fn random(&self) -> u64 {
        let mut bytes = [0u8; 8];
        crate::random_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn abort(&self, reason: &str) {
        tracing::error!(reason, "aborting");
        eprintln!("aquifer: aborting: {reason}");
        std::process::abort();
    }
}
