//! What directories name: in the order of names, for lists, and by hash, for look-ups.
//!
//! Rules: both always say the same; only lists show an order, so that it depends on nothing but the names.
//!
//! A look-up in a large catalogue costs what it misses in the processor's caches: here the group of the table, the entry and the name. The
//! tables are small, so that none holds an operation up when it grows.

use crate::FileId;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hashbrown::HashTable;

/// What a directory names, in the order of names.
pub type Entries = BTreeMap<Arc<str>, FileId>;

/// Tables of the index, as a power of two.
const TABLES_BITS: u32 = 8;

/// One name in a directory.
#[derive(Clone)]
struct Named {
    hash: u64,
    directory: FileId,
    name: Arc<str>,
    file: FileId,
    is_link: bool,
}

/// The names of all directories.
#[derive(Clone)]
pub(super) struct Names {
    directories: BTreeMap<FileId, Entries>,
    index: Vec<HashTable<Named>>,
}

/// The same on every node. Whoever makes files can choose names that meet in one place, and makes look-ups slow then.
fn hash(directory: FileId, name: &str) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word).wrapping_mul(u128::from(FACTOR));
        (product as u64 ^ (product >> 64) as u64).wrapping_add(word)
    };
    let (words, rest) = name.as_bytes().as_chunks::<8>();
    let hash = words.iter().fold(mix(FACTOR, directory.0), |hash, word| {
        mix(hash, u64::from_le_bytes(*word))
    });
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let hash = mix(hash, u64::from_le_bytes(last));
    mix(hash, name.len() as u64)
}

/// In the middle: hash tables use both ends of a hash.
const fn table_of(hash: u64) -> usize {
    (hash >> 32) as usize & ((1 << TABLES_BITS) - 1)
}

impl Default for Names {
    fn default() -> Self {
        Self {
            directories: BTreeMap::new(),
            index: (0..1 << TABLES_BITS).map(|_| HashTable::new()).collect(),
        }
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.directories == other.directories
    }
}

impl Eq for Names {}

impl core::fmt::Debug for Names {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.directories.fmt(f)
    }
}

impl Names {
    /// A directory without names.
    pub fn add_directory(&mut self, directory: FileId) {
        self.directories.entry(directory).or_default();
    }

    /// A directory that names nothing any more is gone.
    pub fn remove_directory(&mut self, directory: FileId) {
        let entries = self.directories.remove(&directory);
        assert!(
            entries.is_none_or(|entries| entries.is_empty()),
            "a directory is empty when it goes"
        );
    }

    /// What a directory names; `None` when it is none.
    pub fn of(&self, directory: FileId) -> Option<&Entries> {
        self.directories.get(&directory)
    }

    /// What a directory names so, and whether that is a symbolic link.
    pub fn find(&self, directory: FileId, name: &str) -> Option<(FileId, bool)> {
        let hash = hash(directory, name);
        let is_it = |named: &Named| named.directory == directory && *named.name == *name;
        let named = self.index[table_of(hash)].find(hash, is_it)?;
        Some((named.file, named.is_link))
    }

    /// Gives a free name; false, and nothing changed, when it is taken or the directory is none.
    pub fn insert(&mut self, directory: FileId, name: &str, file: FileId, is_link: bool) -> bool {
        let Some(entries) = self.directories.get_mut(&directory) else {
            return false;
        };
        if entries.contains_key(name) {
            return false;
        }
        let name: Arc<str> = name.into();
        entries.insert(name.clone(), file);
        let hash = hash(directory, &name);
        let named = Named {
            hash,
            directory,
            name,
            file,
            is_link,
        };
        self.index[table_of(hash)].insert_unique(hash, named, |named| named.hash);
        true
    }

    /// Takes a name away.
    pub fn remove(&mut self, directory: FileId, name: &str) {
        let entries = self.directories.get_mut(&directory);
        let listed = entries.and_then(|entries| entries.remove(name));
        let hash = hash(directory, name);
        let is_it = |named: &Named| named.directory == directory && *named.name == *name;
        let indexed = self.index[table_of(hash)].find_entry(hash, is_it);
        let indexed = indexed.ok().map(|entry| entry.remove().0.file);
        assert_eq!(listed, indexed, "lists and the index say the same");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn what_is_found_is_what_is_listed() {
        let mut names = Names::default();
        (1..=3).map(FileId).for_each(|id| names.add_directory(id));
        let mut draw = 3u64;
        let mut next = || {
            draw = draw
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            draw >> 33
        };
        for step in 0..5000 {
            let (directory, name) = (FileId(1 + next() % 3), format!("a name, {}", next() % 300));
            let taken = names.find(directory, &name);
            assert_eq!(
                taken.map(|found| found.0),
                names.of(directory).unwrap().get(&*name).copied()
            );
            if next() % 3 == 0 {
                names.remove(directory, &name);
                assert_eq!(names.find(directory, &name), None);
            } else {
                let added = names.insert(directory, &name, FileId(step), step % 2 == 0);
                assert_eq!(added, taken.is_none());
                let expected = taken.or(Some((FileId(step), step % 2 == 0)));
                assert_eq!(names.find(directory, &name), expected);
            }
        }
        assert!(!names.insert(FileId(9), "name", FileId(1), false), "no directory");
    }

    #[test]
    fn names_are_spread_over_the_tables() {
        let mut counts = alloc::vec![0; 1 << TABLES_BITS];
        for number in 0..100_000 {
            counts[table_of(hash(FileId(number / 1000), &format!("file{:04}", number % 1000)))] += 1;
        }
        let mean = 100_000 / counts.len();
        assert!(counts.iter().all(|count| *count > mean / 2 && *count < mean * 2));
    }
}
