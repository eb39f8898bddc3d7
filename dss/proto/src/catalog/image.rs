//! The catalogue as bytes, for a checkpoint. What can be derived (free maps, entries of directories) is not stored
//! but built again and checked: bytes that pass the CRC and still contradict themselves are refused.

use super::{Catalog, Extent, FreeMap, HistoryEntry, Inode, Limbo, Node, ROOT, Session, Volume};
use crate::envelope::EnvelopeError;
use crate::{FileId, NodeId};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What a checkpoint stores of a catalogue, in this order (postcard).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CatalogImage {
    au_bytes: u64,
    capacity: u64,
    next_file: u64,
    volumes: Vec<Volume>,
    inodes: Vec<(FileId, FileId, String, Content)>,
    config: Vec<(String, String)>,
    limbo: Vec<Limbo>,
    sessions: Vec<(NodeId, Session)>,
    history: Vec<HistoryEntry>,
}

/// An inode without what its children say already.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Content {
    Directory,
    File {
        kind: super::FileKind,
        size: u64,
        extents: Vec<Extent>,
    },
}

impl Catalog {
    /// The bytes of a checkpoint's body.
    pub fn encode(&self) -> Vec<u8> {
        let volume = |map: &FreeMap| Volume {
            units: map.units(),
            cursor: map.cursor(),
        };
        let inode = |(id, inode): (&FileId, &Inode)| {
            let content = match &inode.node {
                Node::Directory { .. } => Content::Directory,
                Node::File { kind, size, extents } => Content::File {
                    kind: *kind,
                    size: *size,
                    extents: extents.clone(),
                },
            };
            (*id, inode.parent, inode.name.clone(), content)
        };
        let image = CatalogImage {
            au_bytes: self.au_bytes,
            capacity: self.capacity as u64,
            next_file: self.next_file,
            volumes: self.volumes.iter().map(volume).collect(),
            inodes: self.inodes.iter().map(inode).collect(),
            config: self
                .config
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            limbo: self.limbo.clone(),
            sessions: self
                .sessions
                .iter()
                .map(|(node, session)| (*node, session.clone()))
                .collect(),
            history: self.history.clone(),
        };
        postcard::to_allocvec(&image).expect("plain data always encodes")
    }

    /// Builds the catalogue from a checkpoint's body. Any bytes are safe.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let image: CatalogImage = postcard::from_bytes(bytes).map_err(|_| EnvelopeError::Corrupt)?;
        image.build().ok_or(EnvelopeError::Corrupt)
    }
}

impl CatalogImage {
    fn build(self) -> Option<Catalog> {
        let units_fit = |volume: &Volume| volume.units <= 1 << 26;
        if self.au_bytes == 0
            || self.next_file > 1 << 62
            || self.volumes.len() > 64
            || !self.volumes.iter().all(units_fit)
        {
            return None;
        }
        let volumes = self
            .volumes
            .iter()
            .map(|volume| FreeMap::new(volume.units, volume.cursor))
            .collect();
        let mut catalog = Catalog {
            au_bytes: self.au_bytes,
            capacity: usize::try_from(self.capacity)
                .ok()
                .filter(|bytes| *bytes <= 1 << 40)?,
            weight: 0,
            next_file: self.next_file,
            volumes,
            inodes: inodes(self.inodes, self.next_file)?,
            config: self.config.into_iter().collect(),
            limbo: self.limbo,
            sessions: self
                .sessions
                .into_iter()
                .filter(|(node, _)| is_node(*node))
                .collect(),
            history: self.history,
        };
        catalog.take_units()?;
        catalog.weight = catalog.weigh();
        Some(catalog)
    }
}

fn is_node(node: NodeId) -> bool {
    NodeId::new(node.get()).is_some()
}

/// The inodes with the entries of their directories; `None` when names clash or somebody has no way to the root.
fn inodes(stored: Vec<(FileId, FileId, String, Content)>, next_file: u64) -> Option<BTreeMap<FileId, Inode>> {
    let mut inodes = BTreeMap::new();
    for (id, parent, name, content) in stored {
        let node = match content {
            Content::Directory => Node::Directory {
                entries: BTreeMap::new(),
            },
            Content::File { kind, size, extents } => Node::File { kind, size, extents },
        };
        if id.0 >= next_file || inodes.insert(id, Inode { parent, name, node }).is_some() {
            return None;
        }
    }
    let links: Vec<_> = inodes
        .iter()
        .map(|(id, inode)| (*id, inode.parent, inode.name.clone()))
        .collect();
    for (id, parent, name) in links {
        if id == ROOT {
            continue;
        }
        let Node::Directory { entries } = &mut inodes.get_mut(&parent)?.node else {
            return None;
        };
        if entries.insert(name, id).is_some() {
            return None;
        }
    }
    let root_is_sound = inodes
        .get(&ROOT)
        .is_some_and(|root| root.parent == ROOT && matches!(root.node, Node::Directory { .. }));
    (root_is_sound && reachable(&inodes) == inodes.len()).then_some(inodes)
}

/// How many inodes have a way from the root: fewer than all means a cycle.
fn reachable(inodes: &BTreeMap<FileId, Inode>) -> usize {
    let mut waiting = alloc::vec![ROOT];
    let mut count = 0;
    while let Some(id) = waiting.pop() {
        count += 1;
        if let Node::Directory { entries } = &inodes[&id].node {
            waiting.extend(entries.values().copied());
        }
    }
    count
}

impl Catalog {
    /// Marks the units of every file and of limbo as taken; `None` when two claim the same or one is outside.
    fn take_units(&mut self) -> Option<()> {
        let volumes = &mut self.volumes;
        let mut take = |extents: &[Extent]| -> Option<u64> {
            let mut units = 0;
            for extent in extents {
                let map = volumes.get_mut(usize::from(extent.volume))?;
                if extent.count == 0 || !map.take(extent.start, extent.count) {
                    return None;
                }
                units += u64::from(extent.count);
            }
            Some(units)
        };
        for inode in self.inodes.values() {
            if let Node::File { size, extents, .. } = &inode.node
                && take(extents)? < size.div_ceil(self.au_bytes)
            {
                return None;
            }
        }
        for limbo in &self.limbo {
            take(&limbo.extents)?;
        }
        Some(())
    }
}
