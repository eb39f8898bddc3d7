//! Names of the catalogue: look-up, and the operations of the engine, which name files by absolute paths.

use super::inode::{Attributes, EXTENT_WEIGHT, Entry, INODE_WEIGHT, Inode, Node};
use super::{
    Catalog, Entries, FileKind, NAME_BYTES, OperationError, Outcome, PATH_BYTES, ROOT, Removed, Reply,
    extents,
};
use crate::FileId;
use crate::defect::{Defect, planted};
use alloc::string::String;
use alloc::vec::Vec;

/// Symbolic links that one look-up follows at most.
const LINKS: u32 = 40;

/// Whether a directory can have this name in it.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && name.len() <= NAME_BYTES && !name.contains(['/', '\0'])
}

/// What follows the first `/` of an absolute path, which is empty for the root.
fn below_root(path: &str) -> Result<&str, OperationError> {
    let rest = path
        .strip_prefix('/')
        .filter(|_| path.len() <= PATH_BYTES)
        .ok_or(OperationError::Invalid)?;
    if rest.is_empty() || rest.split('/').all(is_name) {
        Ok(rest)
    } else {
        Err(OperationError::Invalid)
    }
}

/// The names of an absolute path; the root has none.
fn names(path: &str) -> Result<Vec<&str>, OperationError> {
    let rest = below_root(path)?;
    Ok(if rest.is_empty() {
        Vec::new()
    } else {
        rest.split('/').collect()
    })
}

impl Catalog {
    /// The file or directory at an absolute path; symbolic links are followed.
    pub fn lookup(&self, path: &str) -> Result<FileId, OperationError> {
        self.walk(ROOT, below_root(path)?, true, &mut 0)
    }

    /// What is at an absolute path itself, also when that is a symbolic link; those on the way are followed.
    pub fn lookup_link(&self, path: &str) -> Result<FileId, OperationError> {
        self.walk(ROOT, below_root(path)?, false, &mut 0)
    }

    /// The directory of the last name of an absolute path, and that name; the directory must be there.
    pub fn locate(&self, path: &str) -> Result<Entry, OperationError> {
        let rest = below_root(path)?;
        let (above, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        if name.is_empty() {
            return Err(OperationError::Invalid);
        }
        let directory = self.walk(ROOT, above, true, &mut 0)?;
        self.entries_of(directory)?;
        Ok(Entry::new(directory, name))
    }

    fn walk(
        &self,
        start: FileId,
        path: &str,
        follow: bool,
        links: &mut u32,
    ) -> Result<FileId, OperationError> {
        let mut current = start;
        let mut names = path
            .split('/')
            .filter(|name| !matches!(*name, "" | "."))
            .peekable();
        while let Some(name) = names.next() {
            if name == ".." {
                // Only the target of a link has it.
                self.entries_of(current)?;
                current = self.inodes[&current].parent();
                continue;
            }
            let directory = current;
            let Some((found, is_link)) = self.names.find(directory, name) else {
                self.entries_of(directory)?;
                return Err(OperationError::NotFound);
            };
            current = found;
            if is_link
                && (follow || names.peek().is_some())
                && let Node::Symlink { target } = &self.inodes[&current].node
            {
                *links += 1;
                if *links > LINKS {
                    return Err(OperationError::TooManyLinks);
                }
                let base = if target.starts_with('/') { ROOT } else { directory };
                current = self.walk(base, target, true, links)?;
            }
        }
        Ok(current)
    }

    /// Names and ids in a directory, in the order of names.
    pub fn list(&self, path: &str) -> Result<Vec<(String, FileId)>, OperationError> {
        let entries = self.entries_of(self.lookup(path)?)?;
        Ok(entries.iter().map(|(name, id)| ((&**name).into(), *id)).collect())
    }

    /// What a directory names.
    pub fn entries_of(&self, directory: FileId) -> Result<&Entries, OperationError> {
        let entries = self.names.of(directory);
        entries.ok_or_else(|| {
            if self.inodes.contains_key(&directory) {
                OperationError::NotADirectory
            } else {
                OperationError::NotFound
            }
        })
    }

    /// Whether a directory names nothing.
    pub(super) fn is_empty(&self, directory: FileId) -> bool {
        self.names.of(directory).is_none_or(Entries::is_empty)
    }

    /// The absolute path of a file or directory, by the oldest of its names.
    pub fn path(&self, file: FileId) -> Option<String> {
        let mut names = Vec::new();
        let mut current = file;
        while current != ROOT {
            let entry = self.inodes.get(&current)?.names.first()?;
            names.push(entry.name.as_str());
            current = entry.directory;
        }
        let mut path = String::new();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        Some(if path.is_empty() { String::from("/") } else { path })
    }

    /// What a directory names so.
    pub fn child(&self, directory: FileId, name: &str) -> Result<Option<FileId>, OperationError> {
        match self.names.find(directory, name) {
            Some((file, _)) => Ok(Some(file)),
            None => self.entries_of(directory).map(|_| None),
        }
    }

    /// How deep the existing part of a path goes: (last that exists, names that are missing).
    fn resolve<'a>(&self, path: &[&'a str]) -> Result<(FileId, Vec<&'a str>), OperationError> {
        let mut current = ROOT;
        for (depth, name) in path.iter().enumerate() {
            match self.child(current, name)? {
                Some(next) => current = next,
                None => return Ok((current, path[depth..].to_vec())),
            }
        }
        Ok((current, Vec::new()))
    }

    /// A new inode under a name that is free.
    pub(super) fn insert(&mut self, entry: Entry, attributes: Attributes, node: Node) -> FileId {
        let mut id = FileId(self.next_file);
        self.next_file += 1;
        if planted(Defect::ReuseFileId) {
            id.0 = (1..)
                .find(|free| !self.inodes.contains_key(&FileId(*free)))
                .unwrap_or(id.0);
        }
        let inode = Inode {
            names: Vec::new(),
            attributes,
            node,
        };
        self.weight += inode.weight();
        if inode.node.is_directory() {
            self.names.add_directory(id);
        }
        self.inodes.insert(id, inode);
        self.add_name(id, entry, attributes.changed);
        id
    }

    /// One more name for an inode, which must be free.
    pub(super) fn add_name(&mut self, file: FileId, entry: Entry, time: u64) {
        self.weight += Entry::weight(&entry.name);
        let is_link = matches!(self.inodes[&file].node, Node::Symlink { .. });
        let free = self.names.insert(entry.directory, &entry.name, file, is_link);
        assert!(free, "a name is given once, in a directory");
        self.touch(entry.directory, time);
        self.inode_mut(file).names.push(entry);
    }

    /// Takes a name of an inode away.
    pub(super) fn take_name(&mut self, file: FileId, entry: &Entry, time: u64) {
        self.weight -= Entry::weight(&entry.name);
        self.names.remove(entry.directory, &entry.name);
        self.touch(entry.directory, time);
        self.inode_mut(file).names.retain(|name| name != entry);
    }

    /// A directory changed.
    fn touch(&mut self, directory: FileId, time: u64) {
        let attributes = &mut self.inode_mut(directory).attributes;
        (attributes.modified, attributes.changed) = (time, time);
    }

    pub(super) fn inode_mut(&mut self, file: FileId) -> &mut Inode {
        self.inodes.get_mut(&file).expect("looked up before")
    }

    /// Directories for `missing` below `parent`; the last one.
    fn make_directories(&mut self, parent: FileId, missing: &[&str], engine: bool, time: u64) -> FileId {
        missing.iter().fold(parent, |parent, name| {
            let attributes = Attributes::new(0o755, time);
            self.insert(Entry::new(parent, name), attributes, Node::directory(engine))
        })
    }

    fn weight_of_names(missing: &[&str]) -> usize {
        missing
            .iter()
            .map(|name| INODE_WEIGHT + Entry::weight(name))
            .sum()
    }

    pub(super) fn create(
        &mut self,
        time: u64,
        path: &str,
        size: u64,
        kind: FileKind,
        exclusive: bool,
    ) -> Outcome {
        let path = names(path)?;
        let (existing, missing) = self.resolve(&path)?;
        let Some((name, above)) = missing.split_last() else {
            return match self.inodes[&existing].node {
                Node::Directory { .. } => Err(OperationError::IsADirectory),
                _ if exclusive => Err(OperationError::AlreadyExists),
                Node::Symlink { .. } => Err(OperationError::Invalid),
                Node::File { .. } => Ok(Reply::File(existing)),
            };
        };
        self.entries_of(existing)?;
        self.require_size(size)?;
        self.require_room(Self::weight_of_names(&missing) + EXTENT_WEIGHT)?;
        let extents = if kind.is_engine() {
            self.take_units(size.div_ceil(self.au_bytes), 0)?
        } else {
            Vec::new()
        };
        let parent = self.make_directories(existing, above, kind.is_engine(), time);
        let mode = if kind.is_engine() { 0o600 } else { 0o644 };
        Ok(Reply::File(self.insert(
            Entry::new(parent, name),
            Attributes::new(mode, time),
            Node::File { kind, size, extents },
        )))
    }

    pub(super) fn allocate(&mut self, file: FileId, size: u64) -> Outcome {
        let inode = self.inode(file).ok_or(OperationError::NotFound)?;
        let Node::File {
            kind,
            size: old,
            ref extents,
        } = inode.node
        else {
            return Err(OperationError::IsADirectory);
        };
        if !kind.is_engine() {
            return Err(OperationError::Invalid);
        }
        if size <= old {
            return Ok(Reply::Done);
        }
        self.require_size(size)?;
        let end = extents::end(extents);
        let missing = size.div_ceil(self.au_bytes).saturating_sub(u64::from(end));
        let more = self.take_units(missing, end)?;
        self.change(file, |inode| {
            if let Node::File {
                size: current,
                extents,
                ..
            } = &mut inode.node
            {
                *current = size;
                more.into_iter().for_each(|run| extents::insert(extents, run));
            }
        });
        Ok(Reply::Done)
    }

    /// Changes an inode and keeps account of its weight.
    pub(super) fn change(&mut self, file: FileId, change: impl FnOnce(&mut Inode)) {
        let inode = self.inodes.get_mut(&file).expect("looked up before");
        let before = inode.weight();
        change(inode);
        self.weight = self.weight + inode.weight() - before;
    }

    pub(super) fn make_directory(&mut self, time: u64, path: &str) -> Outcome {
        let path = names(path)?;
        let (existing, missing) = self.resolve(&path)?;
        self.entries_of(existing)?;
        self.require_room(Self::weight_of_names(&missing))?;
        Ok(Reply::File(
            self.make_directories(existing, &missing, false, time),
        ))
    }

    pub(super) fn remove(&mut self, sequence: u64, time: u64, path: &str) -> Outcome {
        let file = self.lookup_link(path)?;
        if file == ROOT {
            return Err(OperationError::Invalid);
        }
        let entry = self.locate(path)?;
        self.remove_entry(sequence, time, file, &entry)
    }

    /// Takes a name away, and with the last one the inode.
    pub(super) fn remove_entry(&mut self, sequence: u64, time: u64, file: FileId, entry: &Entry) -> Outcome {
        if !self.is_empty(file) {
            return Err(OperationError::NotEmpty);
        }
        self.take_name(file, entry, time);
        let inode = self.inode_mut(file);
        inode.attributes.changed = time;
        if inode.names.is_empty() {
            self.vanish(sequence, file);
        }
        Ok(Reply::File(file))
    }

    /// An inode lost its last name: a file waits until nobody has it open, the rest goes.
    fn vanish(&mut self, sequence: u64, file: FileId) {
        if matches!(self.inodes[&file].node, Node::File { .. }) {
            self.bury(sequence, file, Removed::File);
        } else if let Some(inode) = self.inodes.remove(&file) {
            self.weight -= inode.weight();
            self.names.remove_directory(file);
        }
    }

    pub(super) fn rename(&mut self, time: u64, from: &str, to: &str) -> Outcome {
        let file = self.lookup_link(from)?;
        let target = names(to)?;
        let (existing, missing) = self.resolve(&target)?;
        let Some((name, above)) = missing.split_last() else {
            return Err(OperationError::AlreadyExists);
        };
        self.entries_of(existing)?;
        if file == ROOT || self.is_below(existing, file) {
            return Err(OperationError::Invalid);
        }
        self.require_room(Self::weight_of_names(&missing))?;
        let source = self.locate(from)?;
        let parent = self.make_directories(existing, above, false, time);
        self.move_name(file, &source, Entry::new(parent, name), time);
        Ok(Reply::File(file))
    }

    /// Gives an inode another name for one that it has.
    pub(super) fn move_name(&mut self, file: FileId, from: &Entry, to: Entry, time: u64) {
        self.take_name(file, from, time);
        self.add_name(file, to, time);
        self.inode_mut(file).attributes.changed = time;
    }

    /// Whether `inner` is `outer` or somewhere below it.
    pub(super) fn is_below(&self, inner: FileId, outer: FileId) -> bool {
        let mut current = inner;
        while current != outer {
            if current == ROOT {
                return false;
            }
            current = self.inodes[&current].parent();
        }
        true
    }
}
