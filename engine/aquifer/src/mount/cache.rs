//! What the kernel may have of files in its page cache, as of which state of the catalogue.
//!
//! Rule MNT-1: pages are kept over an open only when the catalogue shows the file as it was when they were read, or as
//! this mount itself made it.

use aquifer_dss_proto::FileId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::mpsc::Sender;

/// The catalogue's state of a file: when its content changed, and its size.
pub type State = (u64, u64);

/// A file that the kernel may have pages of.
#[derive(Clone, Copy)]
struct Known {
    /// What its pages show.
    state: State,
    /// The last state for which they were asked to be dropped. That takes its time, so they count as old until an open
    /// has dropped them.
    dropped: State,
}

/// Files that the kernel may have pages of.
#[derive(Default)]
pub struct Seen {
    files: Mutex<BTreeMap<FileId, Known>>,
    drops: OnceLock<Sender<FileId>>,
}

/// Files that are remembered; of more than these the kernel reads again.
const FILES: usize = 1 << 16;

impl Seen {
    /// From now on pages of files that others changed are dropped by `drop_pages`, on a thread of its own: the kernel may
    /// have to wait for requests that are under way.
    pub fn follow(&self, drop_pages: impl Fn(FileId) + Send + 'static) {
        let (sender, receiver) = std::sync::mpsc::channel();
        if self.drops.set(sender).is_ok() {
            // It ends with the sender.
            std::thread::spawn(move || receiver.into_iter().for_each(drop_pages));
        }
    }

    /// A file is opened in this state: whether its pages are still right.
    pub fn open(&self, file: FileId, state: State) -> bool {
        let mut files = self.files.lock();
        if files.len() >= FILES {
            files.clear();
        }
        let known = Known {
            state,
            dropped: state,
        };
        files
            .insert(file, known)
            .is_some_and(|before| before.state == state)
    }

    /// This mount told the catalogue what it wrote: `before` became `after`.
    pub fn wrote(&self, file: FileId, before: State, after: State) {
        let mut files = self.files.lock();
        if let Some(known) = files.get_mut(&file).filter(|known| known.state == before) {
            known.state = after;
        }
    }

    /// A file that is looked at has this state: pages of another one are dropped.
    pub fn look(&self, file: FileId, state: State) {
        let mut files = self.files.lock();
        let Some(known) = files.get_mut(&file) else { return };
        if known.state != state && known.dropped != state {
            known.dropped = state;
            if let Some(drops) = self.drops.get() {
                // The thread is there as long as the mount.
                let _gone = drops.send(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_until_somebody_else_changes_the_file() {
        let (seen, file) = (Seen::default(), FileId(7));
        let dropped = std::sync::Arc::new(Mutex::new(0));
        let counter = dropped.clone();
        seen.follow(move |_| *counter.lock() += 1);
        assert!(!seen.open(file, (1, 10)), "nothing is known of it yet");
        assert!(seen.open(file, (1, 10)));
        seen.wrote(file, (1, 10), (2, 20));
        assert!(seen.open(file, (2, 20)), "its own writes are in the pages");
        seen.wrote(file, (1, 10), (3, 30));
        assert!(!seen.open(file, (3, 30)), "somebody else wrote in between");
        seen.look(file, (3, 30));
        seen.look(file, (4, 30));
        while *dropped.lock() == 0 {
            std::thread::yield_now();
        }
        seen.look(file, (4, 30));
        assert!(!seen.open(file, (4, 30)), "the drop may still be under way");
        assert_eq!(*dropped.lock(), 1);
    }
}
