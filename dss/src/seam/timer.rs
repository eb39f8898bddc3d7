//! A timer that is set again and again: the steady path of a task that looks at a clock takes no memory.

use super::{BoxFuture, Runtime};
use aquifer_dss_proto::Instant;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a [`Timer`] is made of, where the runtime has something that can be used again.
pub trait Sleeper: Send {
    /// From now on it is about this deadline.
    fn set(&mut self, deadline: Instant);
    /// Whether the deadline is over, which may be seen late, never early.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()>;
}

/// One deadline at a time, as often as it is set.
pub struct Timer {
    runtime: Arc<dyn Runtime>,
    kind: Kind,
}

enum Kind {
    Again(Box<dyn Sleeper>),
    /// A future for each deadline, where the runtime has nothing better.
    Once(Option<BoxFuture<'static, ()>>),
}

impl Timer {
    /// One that is not set.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        let kind = runtime.sleeper().map_or(Kind::Once(None), Kind::Again);
        Self { runtime, kind }
    }

    /// From now on it is about this deadline.
    pub fn set(&mut self, deadline: Instant) {
        match &mut self.kind {
            Kind::Again(sleeper) => sleeper.set(deadline),
            Kind::Once(future) => *future = Some(self.runtime.sleep_until(deadline)),
        }
    }

    /// It is about no deadline until it is set again.
    pub fn forget(&mut self) {
        if let Kind::Once(future) = &mut self.kind {
            *future = None;
        }
    }

    /// Until the deadline that was set last.
    pub async fn over(&mut self) {
        std::future::poll_fn(|context| self.poll_over(context)).await;
    }

    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.kind {
            Kind::Again(sleeper) => sleeper.poll_over(context),
            Kind::Once(Some(future)) => future.as_mut().poll(context),
            Kind::Once(None) => Poll::Pending,
        }
    }

    /// Waits until `deadline`, from this call on; forgotten when the future is dropped.
    pub fn until(&mut self, deadline: Instant) -> Until<'_> {
        self.set(deadline);
        Until(self)
    }
}

/// Until a deadline. See [`Timer::until`].
pub struct Until<'a>(&'a mut Timer);

impl Future for Until<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_over(context)
    }
}

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}
