//! Shared things whose memory is used again once nobody has them any more.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Things looked at before another one is made: those that were given out first are free first.
const LOOKS: usize = 8;

/// Things that are shared, and those that were, in the order in which they were given out.
pub(crate) struct Recycled<T> {
    given: Mutex<VecDeque<Arc<T>>>,
    most: usize,
}

impl<T> Recycled<T> {
    /// Keeps `most` of them; what is in use beyond that is freed afterwards.
    pub fn new(most: usize) -> Self {
        Self {
            given: Mutex::new(VecDeque::with_capacity(most)),
            most,
        }
    }

    /// One that nobody else has. `None`: make another one.
    pub fn take(&self) -> Option<Arc<T>> {
        let mut given = self.given.lock();
        for _ in 0..LOOKS.min(given.len()) {
            let mut oldest = given.pop_front().expect("there are some");
            if Arc::get_mut(&mut oldest).is_some() {
                return Some(oldest);
            }
            given.push_back(oldest);
        }
        None
    }

    /// From now on it is shared, and comes again when its last user has dropped it.
    pub fn share(&self, thing: Arc<T>) -> Arc<T> {
        let mut given = self.given.lock();
        if given.len() < self.most {
            given.push_back(thing.clone());
        }
        thing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_comes_again_when_its_last_user_is_gone_and_not_before() {
        let recycled = Recycled::new(2);
        let next = |number| recycled.share(recycled.take().unwrap_or_else(|| Arc::new(number)));
        let (first, second, third) = (next(1), next(2), next(3));
        let kept = first.clone();
        drop((first, second));
        assert_eq!(*next(4), 2, "it is free again at once");
        let fourth = next(5);
        assert_eq!((*fourth, *kept, *third), (2, 1, 3));
        drop((fourth, kept, third));
        assert_eq!(recycled.given.lock().len(), 2, "the third was one too many");
    }
}
