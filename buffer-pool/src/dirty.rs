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
use std::time::Duration;
use tokio::sync::Notify;

/// Neighbours of a frame in a queue; the place behind the last frame is both ends.
#[derive(Clone, Copy)]
struct Links {
    before: usize,
    behind: usize,
}

/// Frames in the order in which they came, each once. Its memory does not change.
struct Queue {
    /// Of the frames in the queue, and, last, the first and last of them.
    links: Vec<Option<Links>>,
    length: usize,
}

impl Queue {
    fn new(frames: usize) -> Self {
        let mut links = vec![None; frames];
        links.push(Some(Links {
            before: frames,
            behind: frames,
        }));
        Self { links, length: 0 }
    }

    const fn ends(&self) -> usize {
        self.links.len() - 1
    }

    fn contains(&self, index: usize) -> bool {
        self.links[index].is_some()
    }

    fn at(&mut self, index: usize) -> &mut Links {
        self.links[index].as_mut().expect("neighbours are in the queue")
    }

    /// Whether it was not in the queue before.
    fn push(&mut self, index: usize) -> bool {
        if self.contains(index) {
            return false;
        }
        let ends = self.ends();
        let last = std::mem::replace(&mut self.at(ends).before, index);
        self.at(last).behind = index;
        self.links[index] = Some(Links {
            before: last,
            behind: ends,
        });
        self.length += 1;
        true
    }

    fn remove(&mut self, index: usize) {
        if let Some(Links { before, behind }) = self.links[index].take() {
            self.at(before).behind = behind;
            self.at(behind).before = before;
            self.length -= 1;
        }
    }

    /// First those that came first.
    fn iter(&self) -> impl Iterator<Item = usize> {
        let behind = |index: usize| self.links[index].expect("neighbours are in the queue").behind;
        let mut next = behind(self.ends());
        std::iter::from_fn(move || {
            let index = next;
            (index != self.ends()).then(|| {
                next = behind(index);
                index
            })
        })
    }
}

struct Ordered {
    frames: Queue,
    /// Those of them that somebody wants on storage.
    wanted: Queue,
    /// When each frame took its place, if it has one.
    since: Vec<Instant>,
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
            frames: Queue::new(frames),
            wanted: Queue::new(frames),
            since: vec![Instant::default(); frames],
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
            ordered.frames.remove(index);
            ordered.wanted.remove(index);
            return;
        }
        let mut too_many = false;
        if ordered.frames.push(index) {
            ordered.since[index] = now;
            too_many = ordered.frames.length == self.most + 1;
        }
        let newly_wanted = meta.flush_wanted && ordered.wanted.push(index);
        drop(ordered);
        if newly_wanted || too_many {
            self.due.notify_one();
        }
    }

    /// Adds up to `limit` frames to write back now: those that are wanted; when one has been dirty for `longest`, all that will be soon; when
    /// too many are dirty, so many that it takes a while until it is so again.
    pub fn due(&self, limit: usize, now: Instant, longest: Duration, due: &mut Vec<usize>) {
        let ordered = self.ordered.lock();
        due.extend(ordered.wanted.iter().take(limit));
        let dirty_for = |index: usize| now.since(ordered.since[index]);
        let old = ordered
            .frames
            .iter()
            .next()
            .is_some_and(|first| dirty_for(first) >= longest);
        let count = ordered.frames.length;
        let beyond = if count > self.most {
            count - self.most * 7 / 8
        } else {
            0
        };
        let front = ordered
            .frames
            .iter()
            .enumerate()
            .take_while(|(rank, index)| *rank < beyond || (old && dirty_for(*index) >= longest * 3 / 4));
        let rest = front.filter(|(_, index)| !ordered.wanted.contains(*index));
        let room = limit - ordered.wanted.length.min(limit);
        due.extend(rest.take(room).map(|(_, index)| index));
    }

    /// Adds up to `limit` frames, oldest first.
    pub fn oldest(&self, limit: usize, oldest: &mut Vec<usize>) {
        oldest.extend(self.ordered.lock().frames.iter().take(limit));
    }

    /// Whether a page is wanted, or too many are dirty.
    pub fn is_behind(&self) -> bool {
        let ordered = self.ordered.lock();
        ordered.wanted.length > 0 || ordered.frames.length > self.most
    }

    /// How many frames are to be written back.
    pub fn len(&self) -> usize {
        self.ordered.lock().frames.length
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

    fn due(pages: &DirtyPages, limit: usize, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        pages.due(limit, now, LONGEST, &mut due);
        due
    }

    fn oldest(pages: &DirtyPages, limit: usize) -> Vec<usize> {
        let mut oldest = Vec::new();
        pages.oldest(limit, &mut oldest);
        oldest
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
        assert_eq!(due(&pages, 8, at(29)), []);
        assert_eq!(due(&pages, 8, at(30)), [3, 1]);
        assert_eq!(due(&pages, 1, at(30)), [3]);
        assert_eq!(oldest(&pages, 2), [3, 1]);
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
        assert_eq!(due(&pages, 9, at(10)), [2]);
        assert_eq!(due(&pages, 2, at(30)), [2, 0]);
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
        assert_eq!((oldest(&pages, 9), pages.len()), (vec![2], 1));
        pages.note(0, &dirty(0), at(2));
        assert_eq!(oldest(&pages, 9), [2, 0], "changed while it was written: behind");
    }

    #[test]
    fn half_of_the_frames_stay_clean() {
        let pages = DirtyPages::new(64);
        for index in 0..32 {
            pages.note(index, &dirty(0), at(0));
        }
        assert!(!pages.is_behind() && due(&pages, 64, at(1)).is_empty());
        pages.note(32, &dirty(0), at(1));
        assert!(pages.is_behind());
        assert_eq!(due(&pages, 64, at(1)), (0..5).collect::<Vec<_>>());
    }
}
