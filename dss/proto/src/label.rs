//! The label of a volume and the layout of volume 0: where everything is before the first allocation unit.
//!
//! Rules: a label is written in two copies and believed only with the right magic, version and CRC (DSS-1); the
//! newer generation of two good copies wins. All sizes and offsets of areas are in the label or fixed here.

use crate::envelope::{EnvelopeError, open_block, seal_block};
use crate::membership::MetadataLegs;
use crate::{BLOCK_BYTES, HomeSlots, NodeId, PageSize};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// "AQLABEL\0" as a little-endian number.
pub const LABEL_MAGIC: u64 = u64::from_le_bytes(*b"AQLABEL\0");
/// Version of the whole on-disk format.
pub const FORMAT_VERSION: u32 = 5;
/// Byte offsets of the two copies of the label.
pub const LABEL_OFFSETS: [u64; 2] = [0, 64 << 10];
/// Byte offset of node 1's slot; one block per node.
pub const SLOTS_OFFSET: u64 = 128 << 10;
/// Byte offset of node 1's ballot block; one block per node.
pub const BALLOTS_OFFSET: u64 = 384 << 10;
/// Byte offset of node 1's first ballot body; two per node.
pub const BODIES_OFFSET: u64 = 640 << 10;
/// Byte offset of the metadata journal on volume 0 at least.
pub const JOURNAL_OFFSET_LEAST: u64 = 4 << 20;

/// 16 random bytes that name a group or a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Uuid(pub [u8; 16]);

impl core::fmt::Display for Uuid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl core::fmt::Debug for Uuid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// What a volume says of itself. Sizes in bytes, offsets from the start of the volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Label {
    /// Names the volume group.
    pub group: Uuid,
    /// Name of the group, for people.
    pub name: String,
    /// Names this volume.
    pub volume_uuid: Uuid,
    /// Position of this volume in the group; 0 has the metadata.
    pub volume: u16,
    /// Grows when the label is rewritten.
    pub generation: u64,
    /// Size of the volume when it was formatted.
    pub size: u64,
    /// Size of an allocation unit.
    pub au_bytes: u64,
    /// Where allocation unit 0 starts.
    pub au_offset: u64,
    /// How many allocation units there are.
    pub au_count: u32,
    /// Size of the journal: a multiple of `segment_bytes`. 0 on other volumes than 0.
    pub journal_bytes: u64,
    /// Size of a journal segment: a multiple of a block.
    pub segment_bytes: u64,
    /// Size of each of the two checkpoints, which follow the journal.
    pub checkpoint_bytes: u64,
    /// Size of a page: see [`page_size`](Self::page_size).
    pub page_bytes: u32,
    /// Slots of the directory: see [`slots`](Self::slots).
    pub home_slots: u32,
    /// Devices of the volume: 1, or 2 when it is mirrored.
    pub legs: u8,
    /// Which leg of the volume this device is: 0, or 1 of a mirrored one.
    pub leg: u8,
    /// How often this leg was let into its volume: lower than the catalogue says, it is an old copy.
    pub leg_generation: u64,
}

impl Label {
    /// The label as one block.
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_allocvec(self).expect("a label of bounded strings fits memory");
        seal_block(LABEL_MAGIC, FORMAT_VERSION, &body)
    }

    /// Reads a label; any bytes are safe.
    pub fn decode(block: &[u8]) -> Result<Self, EnvelopeError> {
        let body = open_block(LABEL_MAGIC, FORMAT_VERSION, block)?;
        let label: Self = postcard::from_bytes(body).map_err(|_| EnvelopeError::Corrupt)?;
        if label.is_sound() {
            Ok(label)
        } else {
            Err(EnvelopeError::Corrupt)
        }
    }

    /// Whether the figures fit each other, so that no later arithmetic can overflow or divide by zero.
    fn is_sound(&self) -> bool {
        let block = BLOCK_BYTES as u64;
        let limit = 1u64 << 60;
        let figures = [
            self.au_offset,
            self.journal_bytes,
            self.checkpoint_bytes,
            self.segment_bytes,
        ];
        figures
            .iter()
            .all(|figure| *figure <= limit && figure % block == 0)
            && self.size <= limit
            && self.au_bytes >= block
            && self.au_bytes.is_power_of_two()
            && self.au_bytes <= 64 << 20
            && self.au_offset.is_multiple_of(self.au_bytes)
            && self.au_offset + u64::from(self.au_count) * self.au_bytes <= self.size
            && PageSize::new(self.page_bytes as usize).is_some()
            && HomeSlots::new(self.home_slots as usize).is_some()
            && matches!(self.legs, 1 | 2)
            && self.leg < self.legs
            && (self.volume != 0 || self.has_sound_journal())
    }

    fn has_sound_journal(&self) -> bool {
        self.segment_bytes >= 2 * BLOCK_BYTES as u64
            && self.journal_bytes.is_multiple_of(self.segment_bytes)
            && self.journal_bytes / self.segment_bytes >= 8
            && self.checkpoint_bytes >= 2 * BLOCK_BYTES as u64
            && self.checkpoint_offset(1) + self.checkpoint_bytes <= self.au_offset
    }

    /// Size of a page of the files that hold pages.
    pub fn page_size(&self) -> PageSize {
        PageSize::new(self.page_bytes as usize).expect("a label is decoded or planned with a page size")
    }

    /// Slots of the directory.
    pub fn slots(&self) -> HomeSlots {
        HomeSlots::new(self.home_slots as usize)
            .expect("a label is decoded or planned with a number of slots")
    }

    /// Which legs have the metadata of a group that nobody has been a member of.
    pub const fn metadata_legs(&self) -> MetadataLegs {
        if self.legs == 2 {
            MetadataLegs::Both
        } else {
            MetadataLegs::Only(0)
        }
    }

    /// Byte offset of the metadata journal.
    pub fn journal_offset(&self) -> u64 {
        journal_offset(self.slots())
    }

    /// Byte offset of checkpoint 0 or 1.
    pub fn checkpoint_offset(&self, which: usize) -> u64 {
        self.journal_offset() + self.journal_bytes + (which as u64 & 1) * self.checkpoint_bytes
    }
}

/// Byte offset of a node's slot.
pub const fn slot_offset(node: NodeId) -> u64 {
    SLOTS_OFFSET + (node.index() * BLOCK_BYTES) as u64
}

/// Byte offset of a node's ballot block.
pub const fn ballot_offset(node: NodeId) -> u64 {
    BALLOTS_OFFSET + (node.index() * BLOCK_BYTES) as u64
}

/// Bytes of one ballot body: a home takes one, and there is room for all members as well.
pub const fn body_bytes(slots: HomeSlots) -> usize {
    let twice = 2 * slots.count();
    if twice < 16 << 10 { 16 << 10 } else { twice }
}

/// Byte offset of a node's ballot body 0 or 1.
pub const fn body_offset(slots: HomeSlots, node: NodeId, which: usize) -> u64 {
    BODIES_OFFSET + ((node.index() * 2 + (which & 1)) * body_bytes(slots)) as u64
}

/// Byte offset of the metadata journal: at 4 MiB, or at the next multiple of it behind the ballot bodies.
pub const fn journal_offset(slots: HomeSlots) -> u64 {
    let bodies = 2 * NodeId::MAX as u64 * body_bytes(slots) as u64;
    (BODIES_OFFSET + bodies).next_multiple_of(JOURNAL_OFFSET_LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Decree, MetadataLegs};
    use crate::{Incarnation, Member};

    #[test]
    fn any_decree_fits_its_body_and_the_bodies_end_before_the_journal() {
        let life = |node| Member {
            node,
            incarnation: Incarnation(u64::MAX),
        };
        let lives: Vec<Member> = (1..=NodeId::MAX).filter_map(NodeId::new).map(life).collect();
        for slots in (0..=16).filter_map(|power| HomeSlots::new(1 << power)) {
            let decree = Decree {
                view: Decree::none(slots, MetadataLegs::Both)
                    .view
                    .successor(lives.clone()),
                dead: [lives.clone(), lives.clone()].concat(),
                left: lives.clone(),
                founding: true,
                metadata: MetadataLegs::Both,
            };
            assert!(decree.is_sound(slots));
            assert!(HomeSlots::new(2 * slots.count()).is_none_or(|twice| !decree.is_sound(twice)));
            let bytes = postcard::to_allocvec(&decree).expect("plain data").len();
            assert!(
                4 + bytes <= body_bytes(slots),
                "{slots:?}: {bytes} and their length"
            );
            let last = NodeId::new(NodeId::MAX).expect("the last node");
            let end = body_offset(slots, last, 1) + body_bytes(slots) as u64;
            assert!(end <= journal_offset(slots), "{slots:?}: bodies end at {end}");
        }
        assert_eq!(journal_offset(HomeSlots::USUAL), JOURNAL_OFFSET_LEAST);
        assert_eq!(journal_offset(HomeSlots::MOST), 20 << 20);
    }
}
