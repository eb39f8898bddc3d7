//! Inodes by id, in chunks that copies of the map share: a copy costs one reference for 64 inodes, so that a checkpoint can keep the state of
//! one moment while operations go on. A chunk is copied when it is changed first after that.

use super::Inode;
use crate::FileId;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Index;

/// Ids of a chunk.
const CHUNK: u64 = u64::BITS as u64;

/// The inodes of which the ids have one quotient.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Chunk {
    /// A bit for each remainder that has an inode.
    present: u64,
    /// In the order of ids.
    inodes: Vec<Inode>,
}

impl Chunk {
    /// Where the inode is, or would be.
    const fn place(&self, bit: u64) -> usize {
        (self.present & (bit - 1)).count_ones() as usize
    }

    const fn has(&self, bit: u64) -> bool {
        self.present & bit != 0
    }
}

/// All inodes of a catalogue.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Inodes {
    chunks: BTreeMap<u64, Arc<Chunk>>,
    length: usize,
}

/// Which chunk an id is in, and its bit there.
const fn locate(file: FileId) -> (u64, u64) {
    (file.0 / CHUNK, 1 << (file.0 % CHUNK))
}

/// The inodes of a chunk with their ids.
fn of_chunk<'a>((number, chunk): (&'a u64, &'a Arc<Chunk>)) -> impl Iterator<Item = (FileId, &'a Inode)> {
    let first = number * CHUNK;
    let present = chunk.present;
    let ids = (0..CHUNK).filter(move |bit| present >> bit & 1 != 0);
    ids.map(move |bit| FileId(first + bit)).zip(&chunk.inodes)
}

impl Inodes {
    pub fn get(&self, file: &FileId) -> Option<&Inode> {
        let (number, bit) = locate(*file);
        let chunk = self.chunks.get(&number)?;
        chunk.has(bit).then(|| &chunk.inodes[chunk.place(bit)])
    }

    pub fn get_mut(&mut self, file: &FileId) -> Option<&mut Inode> {
        let (number, bit) = locate(*file);
        let chunk = self.chunks.get_mut(&number).filter(|chunk| chunk.has(bit))?;
        let place = chunk.place(bit);
        Some(&mut Arc::make_mut(chunk).inodes[place])
    }

    pub fn contains_key(&self, file: &FileId) -> bool {
        self.get(file).is_some()
    }

    /// What was there before.
    pub fn insert(&mut self, file: FileId, inode: Inode) -> Option<Inode> {
        if let Some(before) = self.get_mut(&file) {
            return Some(core::mem::replace(before, inode));
        }
        let (number, bit) = locate(file);
        let chunk = Arc::make_mut(self.chunks.entry(number).or_default());
        let place = chunk.place(bit);
        chunk.inodes.insert(place, inode);
        chunk.present |= bit;
        self.length += 1;
        None
    }

    pub fn remove(&mut self, file: &FileId) -> Option<Inode> {
        let (number, bit) = locate(*file);
        let chunk = self.chunks.get_mut(&number).filter(|chunk| chunk.has(bit))?;
        let chunk = Arc::make_mut(chunk);
        chunk.present &= !bit;
        let inode = chunk.inodes.remove(chunk.place(bit));
        if chunk.present == 0 {
            self.chunks.remove(&number);
        }
        self.length -= 1;
        Some(inode)
    }

    pub const fn len(&self) -> usize {
        self.length
    }

    /// In the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &Inode)> {
        self.chunks.iter().flat_map(of_chunk)
    }

    /// From `file` on, in the order of ids.
    pub fn from(&self, file: FileId) -> impl Iterator<Item = (FileId, &Inode)> {
        let chunks = self.chunks.range(file.0 / CHUNK..);
        chunks.flat_map(of_chunk).skip_while(move |(id, _)| *id < file)
    }

    pub fn values(&self) -> impl Iterator<Item = &Inode> {
        self.chunks.values().flat_map(|chunk| &chunk.inodes)
    }
}

impl Index<&FileId> for Inodes {
    type Output = Inode;
    fn index(&self, file: &FileId) -> &Inode {
        self.get(file).expect("the inode is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Attributes, Node};

    fn inode(mode: u16) -> Inode {
        Inode {
            names: Vec::new(),
            attributes: Attributes::new(mode, 0),
            node: Node::Symlink {
                target: "there".into(),
            },
        }
    }

    #[test]
    fn it_is_a_map_in_the_order_of_ids_and_a_copy_stays_as_it_was() {
        let (mut inodes, mut map) = (Inodes::default(), BTreeMap::new());
        let mut draw = 7u64;
        for step in 0..4000u16 {
            draw = draw
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let file = FileId((draw >> 33) % 700);
            if draw >> 63 == 0 {
                assert_eq!(inodes.insert(file, inode(step)), map.insert(file, inode(step)));
            } else {
                assert_eq!(inodes.remove(&file), map.remove(&file));
            }
            if step % 500 == 0 {
                let (copy, before) = (inodes.clone(), map.clone());
                for id in map.keys().copied().collect::<Vec<_>>() {
                    inodes.get_mut(&id).unwrap().attributes.uid = 5;
                    map.get_mut(&id).unwrap().attributes.uid = 5;
                }
                assert!(copy.iter().eq(before.iter().map(|(id, inode)| (*id, inode))));
            }
        }
        assert!(inodes.iter().eq(map.iter().map(|(id, inode)| (*id, inode))));
        assert!(inodes.values().eq(map.values()));
        assert_eq!(inodes.len(), map.len());
        for id in (0..701).map(FileId) {
            assert_eq!(inodes.get(&id), map.get(&id));
            assert!(
                inodes
                    .from(id)
                    .eq(map.range(id..).map(|(id, inode)| (*id, inode)))
            );
        }
    }
}
