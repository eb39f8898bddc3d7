//! One answer to one task that waits for it. Its memory is used again, because whoever misses a page waits so.

use crate::recycle::Recycled;
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Places for answers that are kept.
const KEPT: usize = 256;

struct State<T> {
    answer: Option<T>,
    waker: Option<Waker>,
    /// Somebody waits.
    asked: bool,
    /// Somebody may answer.
    open: bool,
}

impl<T> State<T> {
    const fn new() -> Self {
        Self {
            answer: None,
            waker: None,
            asked: true,
            open: true,
        }
    }
}

/// Makes questions.
pub(crate) struct Answers<T>(Recycled<Mutex<State<T>>>);

/// Gives the answer. Dropped without one, nobody waits any more.
pub(crate) struct Answer<T>(Arc<Mutex<State<T>>>);

/// Until the answer is here; `None` when there will be none.
pub(crate) struct Question<T>(Arc<Mutex<State<T>>>);

impl<T> Answers<T> {
    pub fn new() -> Self {
        Self(Recycled::new(KEPT))
    }

    pub fn ask(&self) -> (Answer<T>, Question<T>) {
        let state = match self.0.take() {
            Some(mut state) => {
                let again = Arc::get_mut(&mut state).expect("nobody else has it");
                *again.get_mut() = State::new();
                state
            }
            None => Arc::new(Mutex::new(State::new())),
        };
        let state = self.0.share(state);
        (Answer(state.clone()), Question(state))
    }
}

impl<T> Answer<T> {
    /// Who asked has gone.
    pub fn is_closed(&self) -> bool {
        !self.0.lock().asked
    }

    /// Gives the value back when who asked has gone.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if !state.asked {
            return Err(value);
        }
        state.answer = Some(value);
        Ok(())
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open = false;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Question<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        if state.answer.is_some() || !state.open {
            return Poll::Ready(state.answer.take());
        }
        let before = state.waker.replace(context.waker().clone());
        drop(state);
        // What it wakes may end with it.
        drop(before);
        Poll::Pending
    }
}

impl<T> Drop for Question<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.asked = false;
        let left = (state.answer.take(), state.waker.take());
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll<T>(question: &mut Question<T>, woken: &Arc<Woken>) -> Poll<Option<T>> {
        let waker = Waker::from(woken.clone());
        Pin::new(question).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn an_answer_comes_once_or_not_at_all() {
        let (answers, woken) = (Answers::new(), Arc::new(Woken::default()));
        for round in 0..10 {
            let (answer, mut question) = answers.ask();
            assert_eq!(poll(&mut question, &woken), Poll::Pending);
            assert!(!answer.is_closed());
            if round % 2 == 0 {
                answer.send(round).unwrap();
                assert_eq!(poll(&mut question, &woken), Poll::Ready(Some(round)));
            } else {
                drop(answer);
                assert_eq!(poll(&mut question, &woken), Poll::Ready(None));
            }
            assert_eq!(woken.0.load(Ordering::Relaxed), round + 1);
        }
    }

    #[test]
    fn an_answer_to_who_has_gone_comes_back_and_keeps_nothing_alive() {
        let (answers, woken) = (Answers::new(), Arc::new(Woken::default()));
        let (answer, mut question) = answers.ask();
        assert!(poll(&mut question, &woken).is_pending());
        drop(question);
        assert_eq!(Arc::strong_count(&woken), 1);
        assert!(answer.is_closed());
        let value = Arc::new(5);
        let weak: Weak<i32> = Arc::downgrade(&value);
        drop(answer.send(value).unwrap_err());
        let (answer, question) = answers.ask();
        answer.send(Arc::new(6)).unwrap();
        drop(question);
        assert!(weak.upgrade().is_none());
    }
}
