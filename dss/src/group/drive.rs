//! Work that goes on when nobody waits for it any more.

use crate::seam::{BoxFuture, Runtime};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Work that was begun and must end: when the waiting is given up, a task of the node does the rest. So a write that is
/// dropped is still counted until the device is done with it, and no longer (HZ-7).
pub(super) struct Driven<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
    runtime: Arc<dyn Runtime>,
}

impl<T: Send + 'static> Driven<T> {
    pub(super) fn new(runtime: Arc<dyn Runtime>, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            work: Some(Box::pin(work)),
            runtime,
        }
    }
}

impl<T: Send + 'static> Future for Driven<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let work = self.work.as_mut().expect("it is not polled after its end");
        let result = std::task::ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(result)
    }
}

impl<T: Send + 'static> Drop for Driven<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let rest = async move {
                let _nobody_waits = work.await;
            };
            self.runtime.spawn("finish a write", Box::pin(rest));
        }
    }
}
