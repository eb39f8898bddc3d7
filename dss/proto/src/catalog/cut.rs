//! The catalogue of one moment, for a checkpoint: it costs little to take, stays as it is while operations go on, and becomes bytes piece by
//! piece, so that a catalogue of a million files keeps nobody waiting.

use super::image::{Content, ImageHead, ImageRest};
use super::inodes::Inodes;
use super::{Catalog, Inode};
use crate::FileId;
use alloc::vec::Vec;
use serde::Serialize;

/// What is to become bytes next.
enum Next {
    Head,
    Inodes(FileId),
    Rest,
    Nothing,
}

/// The state of a catalogue, which becomes the bytes that [`Catalog::decode`] reads.
pub struct CatalogCut {
    head: ImageHead,
    inodes: Inodes,
    rest: ImageRest,
    next: Next,
}

fn append<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    *bytes = postcard::to_extend(value, core::mem::take(bytes)).expect("plain data always encodes");
}

impl Catalog {
    /// The state of now.
    pub fn cut(&self) -> CatalogCut {
        CatalogCut {
            head: self.image_head(),
            inodes: self.inodes.clone(),
            rest: self.image_rest(),
            next: Next::Head,
        }
    }

    /// The bytes of a checkpoint's body.
    pub fn encode(&self) -> Vec<u8> {
        let (mut cut, mut bytes) = (self.cut(), Vec::new());
        while cut.encode_more(&mut bytes, usize::MAX) {}
        bytes
    }
}

impl CatalogCut {
    /// Appends the next bytes, those of at most so many inodes; false when that was all.
    pub fn encode_more(&mut self, bytes: &mut Vec<u8>, inodes: usize) -> bool {
        self.next = match self.next {
            Next::Head => {
                append(bytes, &self.head);
                // A sequence is its length and its elements.
                append(bytes, &self.inodes.len());
                Next::Inodes(FileId(0))
            }
            Next::Inodes(first) => self.encode_inodes(bytes, first, inodes),
            Next::Rest => {
                append(bytes, &self.rest);
                Next::Nothing
            }
            Next::Nothing => Next::Nothing,
        };
        !matches!(self.next, Next::Nothing)
    }

    fn encode_inodes(&self, bytes: &mut Vec<u8>, first: FileId, most: usize) -> Next {
        let mut last = None;
        for (id, inode) in self.inodes.from(first).take(most) {
            let Inode {
                names, attributes, ..
            } = inode;
            append(bytes, &(id, names, attributes, Content::from(&inode.node)));
            last = Some(id);
        }
        last.map_or(Next::Rest, |last| Next::Inodes(FileId(last.0 + 1)))
    }
}
