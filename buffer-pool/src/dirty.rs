//! The pages that this node has to write back, oldest first.
//!
//! A page takes its place when it becomes dirty here. Redo positions rise meanwhile, so this is the order of the first change since
//! storage had the page, which is what pins the redo. Writing back what is due looks at the front and never at all frames.
//!
//! Rules: a frame is in the list exactly when its page is dirty, its duty is here, and it is not being written; whoever changes one of
//! these tells the list while it has the frame's meta. The list's lock is the last in the lock order.

use crate::frame::Meta;
use aquifer_dss_proto::Instant;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Default)]
struct Ordered {
    /// Frames by their place, with the instant at which they took it.
    frames: BTreeMap<u64, (usize, Instant)>,
    /// Places of those that somebody wants on storage.
    wanted: BTreeSet<u64>,
    /// The place of each frame that has one.
    places: Vec<Option<u64>>,
    next: u64,
}

/// Dirty frames in order.
pub(crate) struct DirtyPages {
    ordered: Mutex<Ordered>,
    /// More dirty frames than this are too many.
    most: usize,
    /// A page is wanted, or there are too many.
    due: Notify,
}

impl DirtyPages {
    /// Of `frames` frames, half may be dirty: the others can be evicted without a write.
    pub fn new(frames: usize) -> Self {
        let ordered = Ordered {
            places: vec![None; frames],
            ..Ordered::default()
        };
        Self {
            ordered: Mutex::new(ordered),
            most: (frames / 2).max(1),
            due: Notify::new(),
        }
    }

    /// Something about frame `index` has changed: this is what is known of it now.
    pub fn note(&self, index: usize, meta: &Meta, now: Instant) {
        let to_write = meta.page.is_some() && meta.dirty && meta.duty && meta.writing.is_none();
        let mut ordered = self.ordered.lock();
        if !to_write {
            if let Some(place) = ordered.places[index].take() {
                ordered.frames.remove(&place);
                ordered.wanted.remove(&place);
            }
            return;
        }
        let mut too_many = false;
        let place = ordered.places[index].unwrap_or_else(|| {
            let place = ordered.next;
            ordered.next += 1;
            ordered.places[index] = Some(place);
            ordered.frames.insert(place, (index, now));
            too_many = ordered.frames.len() == self.most + 1;
            place
        });
        let newly_wanted = meta.flush_wanted && ordered.wanted.insert(place);
        drop(ordered);
        if newly_wanted || too_many {
            self.due.notify_one();
        }
    }

    /// Up to `limit` frames to write back now: those that are wanted; when one has been dirty for `longest`, all that will be soon; when too
    /// many are dirty, so many that it takes a while until it is so again.
    pub fn due(&self, limit: usize, now: Instant, longest: Duration) -> Vec<usize> {
        let ordered = self.ordered.lock();
        let wanted = ordered.wanted.iter().map(|place| ordered.frames[place].0);
        let mut due: Vec<usize> = wanted.take(limit).collect();
        let old = ordered
            .frames
            .first_key_value()
            .is_some_and(|(_, (_, since))| now.since(*since) >= longest);
        let count = ordered.frames.len();
        let beyond = if count > self.most {
            count - self.most * 7 / 8
        } else {
            0
        };
        let front = ordered
            .frames
            .iter()
            .enumerate()
            .take_while(|(rank, (_, (_, since)))| {
                *rank < beyond || (old && now.since(*since) >= longest * 3 / 4)
            });
        let rest = front.filter(|(_, (place, _))| !ordered.wanted.contains(place));
        let room = limit - due.len();
        due.extend(rest.take(room).map(|(_, (_, (index, _)))| *index));
        due
    }

    /// Up to `limit` frames, oldest first.
    pub fn oldest(&self, limit: usize) -> Vec<usize> {
        let ordered = self.ordered.lock();
        ordered
            .frames
            .values()
            .take(limit)
            .map(|(index, _)| *index)
            .collect()
    }

    /// Whether a page is wanted, or too many are dirty.
    pub fn is_behind(&self) -> bool {
        let ordered = self.ordered.lock();
        !ordered.wanted.is_empty() || ordered.frames.len() > self.most
    }

    /// How many frames are to be written back.
    pub fn len(&self) -> usize {
        self.ordered.lock().frames.len()
    }

    /// Until a page is wanted, or too many are dirty; at once when that happened since this was last awaited.
    pub async fn until_behind(&self) {
        self.due.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_buffer_pool_proto::{PageId, Psn};
    use aquifer_dss_proto::FileId;

    const LONGEST: Duration = Duration::from_secs(30);

    fn dirty(number: u32) -> Meta {
        let file = FileId(1);
        Meta {
            page: Some(PageId { file, number }),
            dirty: true,
            duty: true,
            ..Meta::default()
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn nothing_is_due_until_it_is_old_and_then_what_will_be_old_soon_goes_too() {
        let pages = DirtyPages::new(16);
        for (index, second) in [(3, 0), (1, 5), (2, 20)] {
            pages.note(index, &dirty(index as u32), at(second));
        }
        assert_eq!(pages.due(8, at(29), LONGEST), []);
        assert_eq!(pages.due(8, at(30), LONGEST), [3, 1]);
        assert_eq!(pages.due(1, at(30), LONGEST), [3]);
        assert_eq!(pages.oldest(2), [3, 1]);
    }

    #[test]
    fn what_is_wanted_goes_first_and_a_page_changed_again_keeps_its_place() {
        let pages = DirtyPages::new(16);
        for index in 0..4 {
            pages.note(index, &dirty(0), at(0));
        }
        pages.note(0, &dirty(0), at(9));
        let wanted = Meta {
            flush_wanted: true,
            ..dirty(0)
        };
        assert!(!pages.is_behind());
        pages.note(2, &wanted, at(9));
        assert!(pages.is_behind());
        assert_eq!(pages.due(9, at(10), LONGEST), [2]);
        assert_eq!(pages.due(2, at(30), LONGEST), [2, 0]);
    }

    #[test]
    fn what_is_written_or_given_up_has_no_place() {
        let pages = DirtyPages::new(16);
        for index in 0..3 {
            pages.note(index, &dirty(0), at(0));
        }
        let written = Meta {
            writing: Some(Psn(1)),
            flush_wanted: true,
            ..dirty(0)
        };
        pages.note(0, &written, at(1));
        pages.note(1, &Meta::default(), at(1));
        assert_eq!((pages.oldest(9), pages.len()), (vec![2], 1));
        pages.note(0, &dirty(0), at(2));
        assert_eq!(pages.oldest(9), [2, 0], "changed while it was written: behind");
    }

    #[test]
    fn half_of_the_frames_stay_clean() {
        let pages = DirtyPages::new(64);
        for index in 0..32 {
            pages.note(index, &dirty(0), at(0));
        }
        assert!(!pages.is_behind() && pages.due(64, at(1), LONGEST).is_empty());
        pages.note(32, &dirty(0), at(1));
        assert!(pages.is_behind());
        assert_eq!(pages.due(64, at(1), LONGEST), (0..5).collect::<Vec<_>>());
    }
}
