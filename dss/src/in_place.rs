//! Device I/O by the thread that waits for it.
//!
//! The ring pays when one thread has many operations on their way. A thread that has one, and does nothing meanwhile, is faster
//! in the system call itself: nobody has to be woken to take the completion, and nobody to be told.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use tokio::runtime::Handle;

thread_local! {
    static ALLOWED: Cell<bool> = const { Cell::new(false) };
}

/// What was allowed before, when it goes.
struct Before(bool);

impl Before {
    fn set(allowed: bool) -> Self {
        Self(ALLOWED.replace(allowed))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        ALLOWED.set(self.0);
    }
}

/// Waits for `work` on this thread, which must not be one of the runtime's: it blocks in the device I/O of `work`.
pub fn block_on<T>(runtime: &Handle, work: impl Future<Output = T>) -> T {
    let _before = Before::set(true);
    runtime.block_on(work)
}

/// Whether the thread may block.
pub(crate) fn is_allowed() -> bool {
    ALLOWED.get()
}

/// Several operations that go to devices at once, whoever waits for them.
pub(crate) async fn at_once<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let _before = Before::set(false);
        work.as_mut().poll(context)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_block_in_one_operation_and_not_in_several() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let seen = block_on(runtime.handle(), async {
            let alone = is_allowed();
            let several = at_once(async { is_allowed() }).await;
            let elsewhere = tokio::spawn(async { is_allowed() }).await.unwrap();
            (alone, several, is_allowed(), elsewhere)
        });
        assert_eq!(seen, (true, false, true, false));
        assert!(!is_allowed());
    }
}
