//! The catalogue as bytes, for a checkpoint. What can be derived (free maps, entries of directories) is not stored
//! but built again and checked: bytes that pass the CRC and still contradict themselves are refused.

use super::claims::Claims;
use super::inodes::Inodes;
use super::mirrors::Mirrors;
use super::names::Names;
use super::tree::is_name;
use super::{
    Attributes, Catalog, Entry, Extent, FreeMap, HistoryEntry, Inode, Limbo, MOVES_MAX, Move, Node,
    PATH_BYTES, ROOT, Removed, Session, UNITS_MAX, VOLUMES_MAX, Volume, extents,
};
use crate::envelope::EnvelopeError;
use crate::{FileId, NodeId};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What a checkpoint stores of a catalogue, in this order (postcard).
#[derive(Deserialize)]
pub(super) struct CatalogImage {
    head: ImageHead,
    inodes: Vec<StoredInode>,
    rest: ImageRest,
}

type StoredInode = (FileId, Vec<Entry>, Attributes, Content<'static>);

/// What comes before the inodes.
#[derive(Serialize, Deserialize)]
pub(super) struct ImageHead {
    au_bytes: u64,
    capacity: u64,
    next_file: u64,
    volumes: Vec<StoredVolume>,
    moves: Vec<Move>,
    next_move: u64,
}

/// What comes behind the inodes.
#[derive(Serialize, Deserialize)]
pub(super) struct ImageRest {
    config: Vec<(String, String)>,
    limbo: Vec<Limbo>,
    claims: Claims,
    next_number: u64,
    sessions: Vec<(NodeId, Session)>,
    history: Vec<HistoryEntry>,
    mirrors: Mirrors,
}

/// A volume without what the files say already.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredVolume {
    entry: Volume,
    units: u32,
    cursor: u32,
}

/// An inode without what its children say already.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Content<'a> {
    Directory {
        engine: bool,
    },
    File {
        kind: super::FileKind,
        size: u64,
        extents: Cow<'a, [Extent]>,
    },
    Symlink {
        target: Cow<'a, str>,
    },
}

impl<'a> From<&'a Node> for Content<'a> {
    fn from(node: &'a Node) -> Self {
        match node {
            Node::Directory { engine } => Self::Directory { engine: *engine },
            Node::File { kind, size, extents } => Self::File {
                kind: *kind,
                size: *size,
                extents: Cow::Borrowed(extents),
            },
            Node::Symlink { target } => Self::Symlink {
                target: Cow::Borrowed(target),
            },
        }
    }
}

impl Content<'_> {
    /// `None` when it cannot be.
    fn build(self) -> Option<Node> {
        match self {
            Self::Directory { engine } => Some(Node::directory(engine)),
            Self::File { kind, size, extents } => {
                let extents = extents.into_owned();
                let sound = size <= super::FILE_BYTES && extents::are_sound(&extents);
                sound.then_some(Node::File { kind, size, extents })
            }
            Self::Symlink { target } => {
                let target = target.into_owned();
                let sound = !target.is_empty() && target.len() <= PATH_BYTES;
                sound.then_some(Node::Symlink { target })
            }
        }
    }
}

impl Catalog {
    pub(super) fn image_head(&self) -> ImageHead {
        let volume = |(map, entry): (&FreeMap, &Volume)| StoredVolume {
            entry: entry.clone(),
            units: map.units(),
            cursor: map.cursor(),
        };
        ImageHead {
            au_bytes: self.au_bytes,
            capacity: self.capacity as u64,
            next_file: self.next_file,
            volumes: self.volumes.iter().zip(&self.table).map(volume).collect(),
            moves: self.moves.clone(),
            next_move: self.next_move,
        }
    }

    pub(super) fn image_rest(&self) -> ImageRest {
        ImageRest {
            config: self
                .config
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            limbo: self.limbo.values().cloned().collect(),
            claims: self.claims.clone(),
            next_number: self.next_number,
            sessions: self
                .sessions
                .iter()
                .map(|(node, session)| (*node, session.clone()))
                .collect(),
            history: self.history.clone(),
            mirrors: self.mirrors.clone(),
        }
    }

    /// Builds the catalogue from a checkpoint's body. Any bytes are safe.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let image: CatalogImage = postcard::from_bytes(bytes).map_err(|_| EnvelopeError::Corrupt)?;
        image.build().ok_or(EnvelopeError::Corrupt)
    }
}

impl CatalogImage {
    fn build(self) -> Option<Catalog> {
        let Self { head, inodes, rest } = self;
        let is_sound = |volume: &StoredVolume| {
            volume.units <= UNITS_MAX && volume.entry.au_offset <= 1 << 60 && volume.entry.has_sound_paths()
        };
        if head.au_bytes == 0
            || head.next_file > 1 << 62
            || rest.next_number > 1 << 62
            || head.next_move > 1 << 62
            || head.moves.len() > MOVES_MAX
            || head.volumes.len() > VOLUMES_MAX
            || !head.volumes.iter().all(is_sound)
        {
            return None;
        }
        let volumes = head
            .volumes
            .iter()
            .map(|volume| FreeMap::new(volume.units, volume.cursor))
            .collect();
        let (inodes, names) = build_inodes(inodes, head.next_file)?;
        let mut catalog = Catalog {
            au_bytes: head.au_bytes,
            capacity: usize::try_from(head.capacity)
                .ok()
                .filter(|bytes| *bytes <= 1 << 40)?,
            weight: 0,
            next_file: head.next_file,
            volumes,
            table: head.volumes.into_iter().map(|volume| volume.entry).collect(),
            moves: head.moves,
            next_move: head.next_move,
            inodes,
            names,
            config: rest.config.into_iter().collect(),
            limbo: rest
                .limbo
                .into_iter()
                .map(|entry| (entry.number, entry))
                .collect(),
            claims: rest.claims,
            next_number: rest.next_number,
            sessions: rest
                .sessions
                .into_iter()
                .filter(|(node, _)| is_node(*node))
                .collect(),
            history: rest.history,
            mirrors: rest.mirrors,
        };
        catalog.check_limbo()?;
        catalog.check_claims()?;
        catalog.take_all_units()?;
        catalog.check_mirrors()?;
        catalog.weight = catalog.weigh();
        Some(catalog)
    }
}

fn is_node(node: NodeId) -> bool {
    NodeId::new(node.get()).is_some()
}

/// The inodes, and what directories name; `None` when names clash or somebody has no way to the root.
fn build_inodes(stored: Vec<StoredInode>, next_file: u64) -> Option<(Inodes, Names)> {
    let (mut inodes, mut names) = (Inodes::default(), Names::default());
    for (id, own, attributes, content) in stored {
        let node = content.build()?;
        let one_name = if id == ROOT {
            own.is_empty()
        } else {
            own.len() == 1
        };
        if node.is_directory() {
            if !one_name {
                return None;
            }
            names.add_directory(id);
        }
        let inode = Inode {
            names: own,
            attributes,
            node,
        };
        if id.0 >= next_file || inodes.insert(id, inode).is_some() {
            return None;
        }
    }
    for (id, inode) in inodes.iter() {
        let is_link = matches!(inode.node, Node::Symlink { .. });
        for entry in &inode.names {
            if !is_name(&entry.name) || !names.insert(entry.directory, &entry.name, id, is_link) {
                return None;
            }
        }
    }
    let has_root = inodes.get(&ROOT).is_some_and(|root| root.node.is_directory());
    let directories = inodes.values().filter(|inode| inode.node.is_directory()).count();
    (has_root && reachable(&inodes, &names) == directories).then_some((inodes, names))
}

/// How many directories have a way from the root: fewer than all means a cycle. What is no directory has as many names
/// as directories say, so it has a way when these have.
fn reachable(inodes: &Inodes, names: &Names) -> usize {
    let mut waiting = alloc::vec![ROOT];
    let mut count = 0;
    while let Some(id) = waiting.pop() {
        count += 1;
        let named = names.of(id).into_iter().flat_map(|entries| entries.values());
        waiting.extend(named.filter(|id| inodes[id].node.is_directory()));
    }
    count
}

impl Catalog {
    /// Exactly the files without a name wait in limbo, each once, and links without one are not there at all.
    pub(super) fn check_limbo(&self) -> Option<()> {
        let is_buried = |id: &FileId| {
            let inode = self.inodes.get(id);
            inode.is_some_and(|inode| inode.is_removed(*id) && matches!(inode.node, Node::File { .. }))
        };
        let files = self.limbo.values().filter(|limbo| limbo.what == Removed::File);
        let mut buried: Vec<FileId> = files.map(|limbo| limbo.file).collect();
        let entries = buried.len();
        buried.sort_unstable();
        buried.dedup();
        let removed = self
            .inodes
            .iter()
            .filter(|(id, inode)| inode.is_removed(*id))
            .count();
        let sound = buried.len() == entries && removed == entries && buried.iter().all(is_buried);
        let numbered = self.limbo.keys().all(|number| *number < self.next_number);
        (sound && numbered).then_some(())
    }

    /// Claims are of nodes that can be, on files that are there.
    pub(super) fn check_claims(&self) -> Option<()> {
        let is_file = |id: &FileId| {
            let inode = self.inodes.get(id);
            inode.is_some_and(|inode| matches!(inode.node, Node::File { .. }))
        };
        let reservations = &self.claims.reservations;
        let sound = self.claims.lives().all(|life| is_node(life.node))
            && self.claims.tails.keys().all(is_file)
            && self.claims.appending.keys().all(is_file)
            && reservations.keys().all(|number| *number < self.next_number)
            && reservations
                .values()
                .all(|reservation| !reservation.extents.is_empty());
        sound.then_some(())
    }

    /// Marks every unit that belongs to somebody as taken; `None` when two claim the same or one is outside.
    fn take_all_units(&mut self) -> Option<()> {
        let volumes = &mut self.volumes;
        let mut take = |extents: &[Extent]| -> Option<u64> {
            for extent in extents {
                let map = volumes.get_mut(usize::from(extent.volume))?;
                if extent.count == 0 || !map.take(extent.start, extent.count) {
                    return None;
                }
            }
            Some(extents::units(extents))
        };
        for inode in self.inodes.values() {
            if let Node::File { kind, size, extents } = &inode.node {
                let units = take(extents)?;
                if kind.is_engine() && units < size.div_ceil(self.au_bytes) {
                    return None;
                }
            }
        }
        for limbo in self.limbo.values() {
            if let Removed::Units(runs) = &limbo.what {
                take(runs)?;
            }
        }
        for reservation in self.claims.reservations.values() {
            take(&reservation.extents)?;
        }
        Self::take_spares(&mut self.volumes, &self.moves)
    }
}
