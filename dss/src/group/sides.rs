//! What the two legs of a volume have, and which of them is right: only a checksum tells, and it is in the bytes.
//!
//! Rules (MIR-n, README of this crate):
//! - MIR-13 bytes that a checksum refuses are read from the other leg; when they are right there, the leader writes them again
//!   (`mend.rs`), never over something newer;
//! - MIR-14 whoever writes bytes of one leg over those of the other, or to another place, asks the checksums that it can know.

use super::error::StorageError;
use super::in_flight::{Counted, NOBODY};
use super::places::{Access, Locate, Place, Use, locate, piece};
use super::volume_group::VolumeGroup;
use crate::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{Catalog, Extent, FileKind, Legs, Node, VolumeUnit};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::storage_message::Mend;
use futures_util::future::join;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whether bytes of a file are right, which are at this offset in it.
pub type Check<'a> = dyn Fn(u64, &[u8]) -> bool + Sync + 'a;

/// Knows the checksums in files. Storage itself has none for data.
pub trait Judge: Send + Sync + 'static {
    /// How many bytes have a checksum together, in a file of this kind; `None` when it cannot tell.
    fn chunk(&self, kind: FileKind) -> Option<usize>;
    /// What such bytes are, at this offset of the file.
    fn judge(&self, file: FileId, offset: u64, bytes: &[u8]) -> Quality;
}

/// What a checksum says of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quality {
    /// As they were written.
    Right,
    /// Never written: they may be anything.
    Unwritten,
    /// Something else than was written.
    Wrong,
}

/// A file that the judge knows.
#[derive(Clone)]
pub(super) struct Judged {
    judge: Arc<dyn Judge>,
    pub(super) file: FileId,
    pub(super) chunk: usize,
}

impl Judged {
    /// Which of two legs is right, when exactly one is; one of them where nothing was ever written.
    pub(super) fn right_one(&self, offset: u64, sides: [&[u8]; 2]) -> Option<u8> {
        if planted(Defect::CopyWithoutChecksum) {
            return None;
        }
        match sides.map(|bytes| self.judge.judge(self.file, offset, bytes)) {
            [Quality::Right, Quality::Right] => None,
            [Quality::Right, _] | [Quality::Unwritten, Quality::Unwritten] => Some(0),
            [_, Quality::Right] => Some(1),
            _ => None,
        }
    }
}

/// What both legs have of some bytes.
#[derive(Debug)]
pub struct Sides {
    places: Vec<Place>,
    bytes: [IoBuffer; 2],
}

impl Sides {
    /// The bytes of each leg.
    pub fn bytes(&self) -> [&[u8]; 2] {
        self.bytes.each_ref().map(|bytes| &**bytes)
    }

    /// Who finds which bytes right: the first leg of those that do, and whether the other does not.
    pub fn choose(&self, is_right: impl Fn(&[u8]) -> bool) -> Option<(u8, bool)> {
        match self.bytes().map(is_right) {
            [true, other] => Some((0, !other)),
            [false, true] => Some((1, true)),
            [false, false] => None,
        }
    }

    /// What is to be written again of `range`, when leg `right` has it right.
    fn mends(&self, right: u8, range: Range<usize>) -> Vec<Mend> {
        let (mut mends, mut begin) = (Vec::new(), 0);
        for place in &self.places {
            let (from, to) = (range.start.max(begin), range.end.min(begin + place.length));
            let differs = |at: &usize| {
                let [one, other] = self.bytes().map(|bytes| &bytes[*at..*at + BLOCK]);
                one != other
            };
            let blocks: Vec<usize> = (from..to).step_by(BLOCK).filter(differs).collect();
            if let (Some(first), Some(last)) = (blocks.first(), blocks.last()) {
                let range = *first..*last + BLOCK;
                mends.push(Mend {
                    volume: place.volume,
                    leg: 1 - right,
                    offset: place.offset + (first - begin) as u64,
                    length: u32::try_from(range.len()).expect("an operation has less than 4 GiB"),
                    found: self.bytes().map(|bytes| crc32c(&[&bytes[range.clone()]])),
                });
            }
            begin += place.length;
        }
        mends
    }
}

impl VolumeGroup {
    /// Names who knows the checksums in files; once.
    pub fn set_judge(&self, judge: Arc<dyn Judge>) {
        self.judge.get_or_init(|| judge);
    }

    /// As [`read_at`](Self::read_at), of bytes with checksums, one for each `chunk` of them: what is wrong on one leg of a volume comes
    /// from the other, and is written again. What is right nowhere comes as it is.
    pub async fn read_checked(
        &self,
        file: FileId,
        offset: u64,
        buffer: IoBuffer,
        chunk: usize,
        is_right: &Check<'_>,
    ) -> Result<IoBuffer, StorageError> {
        let mut read = self.read_at(file, offset, buffer).await?;
        if !self.with_catalog(Catalog::is_mirrored) {
            return Ok(read);
        }
        for begin in (0..read.len()).step_by(chunk) {
            let (at, range) = (offset + begin as u64, begin..read.len().min(begin + chunk));
            if is_right(at, &read[range.clone()]) {
                continue;
            }
            let Some(sides) = self.read_sides(file, at, range.len()).await? else {
                continue;
            };
            if let Some((right, other_is_wrong)) = sides.choose(|bytes| is_right(at, bytes)) {
                read[range].copy_from_slice(sides.bytes()[usize::from(right)]);
                if other_is_wrong {
                    tracing::warn!(file = file.0, offset = at, "the other side had it right");
                    self.mend(&sides, right, 0..sides.bytes[0].len());
                }
            }
        }
        Ok(read)
    }

    /// What each leg has of some bytes of a file; `None` where only one leg counts, and in a hole.
    pub async fn read_sides(
        &self,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> Result<Option<Sides>, StorageError> {
        let locate = |catalog: &Catalog| locate(catalog, Access::Named, file, offset, length);
        self.sides_located(file, &locate, length).await
    }

    /// What each leg has of some bytes of a volume.
    pub(super) async fn sides_of_place(
        &self,
        volume: u16,
        offset: u64,
        length: usize,
    ) -> Result<Option<Sides>, StorageError> {
        let locate = |catalog: &Catalog| Ok(vec![piece(catalog, volume, offset, length)]);
        self.sides_located(NOBODY, &locate, length).await
    }

    async fn sides_located(
        &self,
        file: FileId,
        locate: &Locate<'_>,
        length: usize,
    ) -> Result<Option<Sides>, StorageError> {
        if !self.with_catalog(Catalog::is_mirrored) {
            return Ok(None);
        }
        let flight = self.begin_io(Use::Read, file, locate).await?;
        let _counted = Counted {
            in_flight: &self.in_flight,
            file,
            generation: flight.generation(),
        };
        let has_two = |place: &Place| {
            place.legs == Legs::BOTH && self.with_catalog(|catalog| catalog.mirror(place.volume).is_some())
        };
        let places: Option<Vec<Place>> = flight.pieces().iter().map(|piece| piece.place).collect();
        let Some(places) = places.filter(|places| places.iter().all(has_two)) else {
            return Ok(None);
        };
        let (first, second) = join(
            self.read_side(0, &places, length),
            self.read_side(1, &places, length),
        )
        .await;
        Ok(match (first, second) {
            (Ok(first), Ok(second)) => Some(Sides {
                places,
                bytes: [first, second],
            }),
            // Who reads or writes it the usual way sees to a leg that fails.
            _ => None,
        })
    }

    async fn read_side(&self, leg: u8, places: &[Place], length: usize) -> Result<IoBuffer, StorageError> {
        let (mut bytes, mut done) = (IoBuffer::zeroed(length), 0);
        for place in places {
            let part = IoBuffer::zeroed(place.length);
            let part = self.read_leg((place.volume, leg), place.offset, part).await?;
            bytes[done..done + place.length].copy_from_slice(&part);
            done += place.length;
        }
        Ok(bytes)
    }

    /// Has bytes written again that one leg has right, and the other wrong by their checksum: `range` of what was read, in blocks.
    pub fn mend(&self, sides: &Sides, right: u8, range: Range<usize>) {
        for mend in sides.mends(right, range) {
            let Mend {
                volume,
                leg,
                offset,
                length,
                ..
            } = mend;
            tracing::error!(
                volume,
                side = leg,
                offset,
                length,
                "bytes of one side of a mirror are wrong, and right on the other"
            );
            self.mender.wrong.fetch_add(1, Ordering::Relaxed);
            self.ask_to_mend(mend);
        }
    }

    /// Reads a place of which units go elsewhere: what can be known to be right (MIR-14).
    pub(super) async fn read_place_judged(
        &self,
        file: FileId,
        in_file: u64,
        volume: u16,
        offset: u64,
        length: usize,
    ) -> Result<IoBuffer, StorageError> {
        let sides = match self.judged(file) {
            Some(judged) => {
                let sides = self.sides_of_place(volume, offset, length).await?;
                sides.map(|sides| (judged, sides))
            }
            None => None,
        };
        let Some((judged, sides)) = sides else {
            return self.read_place(volume, offset, IoBuffer::zeroed(length)).await;
        };
        let [mut bytes, other] = sides.bytes;
        for begin in (0..length).step_by(judged.chunk) {
            let range = begin..length.min(begin + judged.chunk);
            let both = [&bytes[range.clone()], &other[range.clone()]];
            if both[0] != both[1] && judged.right_one(in_file + begin as u64, both) == Some(1) {
                bytes[range.clone()].copy_from_slice(&other[range]);
            }
        }
        Ok(bytes)
    }

    /// The judge of a file, when it knows its checksums.
    pub(super) fn judged(&self, file: FileId) -> Option<Judged> {
        let judge = self.judge.get()?;
        let kind = self.with_catalog(|catalog| match &catalog.open_inode(file)?.node {
            Node::File { kind, .. } => Some(*kind),
            _ => None,
        })?;
        let chunk = judge.chunk(kind)?;
        Some(Judged {
            judge: judge.clone(),
            file,
            chunk,
        })
    }

    /// The file that has a unit, and the byte of it at which the unit begins.
    pub(super) fn file_of_unit(&self, (volume, unit): VolumeUnit) -> Option<(FileId, u64)> {
        self.with_catalog(|catalog| {
            catalog.inodes().find_map(|(file, inode)| {
                let Node::File { extents, .. } = &inode.node else {
                    return None;
                };
                let has =
                    |run: &&Extent| run.volume == volume && run.start <= unit && unit - run.start < run.count;
                let run = extents.iter().find(has)?;
                let in_file = u64::from(run.unit) + u64::from(unit - run.start);
                Some((file, in_file * catalog.au_bytes()))
            })
        })
    }
}

/// How often one leg of two had wrong bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MendCounts {
    /// Reads of this node that found something wrong on one leg and right on the other.
    pub wrong: u64,
    /// Bytes that this node wrote again, as the storage leader.
    pub mended_bytes: u64,
}

impl VolumeGroup {
    /// See [`MendCounts`].
    pub fn mend_counts(&self) -> MendCounts {
        MendCounts {
            wrong: self.mender.wrong.load(Ordering::Relaxed),
            mended_bytes: self.mender.mended_bytes.load(Ordering::Relaxed),
        }
    }
}
