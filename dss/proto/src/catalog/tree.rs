//! Files and directories of the catalogue: names, look-up, and the operations on them.

use super::{Catalog, Extent, FileKind, Limbo, NAME_BYTES, OperationError, Outcome, PATH_BYTES, ROOT, Reply};
use crate::FileId;
use crate::defect::{Defect, planted};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Bytes an extent takes in a checkpoint at most.
pub(super) const EXTENT_WEIGHT: usize = 13;

/// A file or a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inode {
    /// Directory that names it; the root is its own parent.
    pub parent: FileId,
    /// Its name there.
    pub name: String,
    /// What it is.
    pub node: Node,
}

/// What an inode is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Node {
    /// A directory.
    Directory {
        /// What it names.
        entries: BTreeMap<String, FileId>,
    },
    /// A file.
    File {
        /// What it is for.
        kind: FileKind,
        /// Bytes.
        size: u64,
        /// Its units in order; they can be more than `size` needs.
        extents: Vec<Extent>,
    },
}

impl Inode {
    pub(super) fn root() -> Self {
        Self {
            parent: ROOT,
            name: String::new(),
            node: Node::Directory {
                entries: BTreeMap::new(),
            },
        }
    }

    /// Bytes it takes in a checkpoint at most, with its entry in the parent.
    pub(super) fn weight(&self) -> usize {
        let extents = match &self.node {
            Node::Directory { .. } => 0,
            Node::File { extents, .. } => extents.len() * EXTENT_WEIGHT,
        };
        72 + 2 * self.name.len() + extents
    }
}

/// Bytes an entry of limbo takes in a checkpoint at most.
pub(super) fn limbo_weight(limbo: &Limbo) -> usize {
    32 + limbo.extents.len() * EXTENT_WEIGHT
}

/// The names of an absolute path; the root has none.
fn names(path: &str) -> Result<Vec<&str>, OperationError> {
    let rest = path
        .strip_prefix('/')
        .filter(|_| path.len() <= PATH_BYTES)
        .ok_or(OperationError::Invalid)?;
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = rest.split('/').collect();
    let sound = |name: &&str| {
        !name.is_empty() && *name != "." && *name != ".." && name.len() <= NAME_BYTES && !name.contains('\0')
    };
    if names.iter().all(sound) {
        Ok(names)
    } else {
        Err(OperationError::Invalid)
    }
}

impl Catalog {
    /// The file or directory at an absolute path.
    pub fn lookup(&self, path: &str) -> Result<FileId, OperationError> {
        let mut current = ROOT;
        for name in names(path)? {
            current = self.child(current, name)?.ok_or(OperationError::NotFound)?;
        }
        Ok(current)
    }

    /// Names and ids in a directory, in the order of names.
    pub fn list(&self, path: &str) -> Result<Vec<(String, FileId)>, OperationError> {
        match &self.inodes[&self.lookup(path)?].node {
            Node::Directory { entries } => Ok(entries.iter().map(|(name, id)| (name.clone(), *id)).collect()),
            Node::File { .. } => Err(OperationError::NotADirectory),
        }
    }

    /// The absolute path of a file or directory.
    pub fn path(&self, file: FileId) -> Option<String> {
        let mut names = Vec::new();
        let mut current = file;
        while current != ROOT {
            let inode = self.inodes.get(&current)?;
            names.push(inode.name.as_str());
            current = inode.parent;
        }
        let mut path = String::new();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        Some(if path.is_empty() { String::from("/") } else { path })
    }

    fn child(&self, directory: FileId, name: &str) -> Result<Option<FileId>, OperationError> {
        match &self.inodes[&directory].node {
            Node::Directory { entries } => Ok(entries.get(name).copied()),
            Node::File { .. } => Err(OperationError::NotADirectory),
        }
    }

    /// How deep the existing part of a path goes: (last existing directory, names that are missing).
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

    fn link(&mut self, parent: FileId, name: &str, node: Node) -> FileId {
        let mut id = FileId(self.next_file);
        self.next_file += 1;
        if planted(Defect::ReuseFileId) {
            id.0 = (1..)
                .find(|free| !self.inodes.contains_key(&FileId(*free)))
                .unwrap_or(id.0);
        }
        let inode = Inode {
            parent,
            name: name.into(),
            node,
        };
        self.weight += inode.weight();
        self.inodes.insert(id, inode);
        self.entries(parent).insert(name.into(), id);
        id
    }

    fn entries(&mut self, directory: FileId) -> &mut BTreeMap<String, FileId> {
        match &mut self.inodes.get_mut(&directory).expect("a parent exists").node {
            Node::Directory { entries } => entries,
            Node::File { .. } => panic!("{directory:?} is a file and has no entries"),
        }
    }

    /// Directories for `missing` below `parent`; the last one.
    fn make_directories(&mut self, parent: FileId, missing: &[&str]) -> FileId {
        missing.iter().fold(parent, |parent, name| {
            self.link(
                parent,
                name,
                Node::Directory {
                    entries: BTreeMap::new(),
                },
            )
        })
    }

    fn weight_of_names(missing: &[&str]) -> usize {
        missing.iter().map(|name| 72 + 2 * name.len()).sum()
    }

    pub(super) fn create(&mut self, path: &str, size: u64, kind: FileKind, exclusive: bool) -> Outcome {
        let path = names(path)?;
        let (existing, missing) = self.resolve(&path)?;
        let Some((name, above)) = missing.split_last() else {
            return match self.inodes[&existing].node {
                Node::Directory { .. } => Err(OperationError::IsADirectory),
                Node::File { .. } if exclusive => Err(OperationError::AlreadyExists),
                Node::File { .. } => Ok(Reply::File(existing)),
            };
        };
        if matches!(self.inodes[&existing].node, Node::File { .. }) {
            return Err(OperationError::NotADirectory);
        }
        self.require_room(Self::weight_of_names(&missing) + EXTENT_WEIGHT)?;
        let mut extents = Vec::new();
        self.grow(&mut extents, size)?;
        let parent = self.make_directories(existing, above);
        Ok(Reply::File(self.link(
            parent,
            name,
            Node::File { kind, size, extents },
        )))
    }

    pub(super) fn make_directory(&mut self, path: &str) -> Outcome {
        let path = names(path)?;
        let (existing, missing) = self.resolve(&path)?;
        if matches!(self.inodes[&existing].node, Node::File { .. }) {
            return Err(OperationError::NotADirectory);
        }
        self.require_room(Self::weight_of_names(&missing))?;
        Ok(Reply::File(self.make_directories(existing, &missing)))
    }

    pub(super) fn remove(&mut self, sequence: u64, path: &str) -> Outcome {
        let file = self.lookup(path)?;
        if file == ROOT {
            return Err(OperationError::Invalid);
        }
        if matches!(&self.inodes[&file].node, Node::Directory { entries } if !entries.is_empty()) {
            return Err(OperationError::NotEmpty);
        }
        let inode = self.inodes.remove(&file).expect("looked up above");
        self.weight -= inode.weight();
        self.entries(inode.parent).remove(&inode.name);
        if let Node::File { extents, .. } = inode.node
            && !extents.is_empty()
        {
            let limbo = Limbo {
                sequence,
                file,
                extents,
            };
            self.weight += limbo_weight(&limbo);
            self.limbo.push(limbo);
        }
        Ok(Reply::File(file))
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Outcome {
        let file = self.lookup(from)?;
        let target = names(to)?;
        let (existing, missing) = self.resolve(&target)?;
        let Some((name, above)) = missing.split_last() else {
            return Err(OperationError::AlreadyExists);
        };
        if matches!(self.inodes[&existing].node, Node::File { .. }) {
            return Err(OperationError::NotADirectory);
        }
        if file == ROOT || self.is_below(existing, file) {
            return Err(OperationError::Invalid);
        }
        self.require_room(Self::weight_of_names(&missing))?;
        let parent = self.make_directories(existing, above);
        let inode = self.inodes.get_mut(&file).expect("looked up above");
        let (old_parent, old_name) = (inode.parent, core::mem::replace(&mut inode.name, (*name).into()));
        inode.parent = parent;
        self.weight = self.weight + 2 * name.len() - 2 * old_name.len();
        self.entries(old_parent).remove(&old_name);
        self.entries(parent).insert((*name).into(), file);
        Ok(Reply::File(file))
    }

    /// Whether `inner` is `outer` or somewhere below it.
    fn is_below(&self, inner: FileId, outer: FileId) -> bool {
        let mut current = inner;
        while current != outer {
            if current == ROOT {
                return false;
            }
            current = self.inodes[&current].parent;
        }
        true
    }
}
