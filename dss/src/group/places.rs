//! Where the bytes of an operation are: its pieces, by the extent map and by what the catalogue says of legs.

use super::data::Begin;
use super::error::StorageError;
use crate::seam::BLOCK;
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{Catalog, Extent, FILE_BYTES, Legs, Node, UnitAccess, VolumeUnit, extents};

/// Bytes on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) volume: u16,
    /// Byte offset there.
    pub(super) offset: u64,
    pub(super) length: usize,
    /// All of them are written, any of them is read.
    pub(super) legs: Legs,
    /// The first unit, and how many.
    pub(super) units: (u32, u32),
}

/// A part of an operation: on one extent, or in one hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// `None` in a hole.
    pub(super) place: Option<Place>,
    pub(super) length: usize,
}
/// Where the bytes of an operation are.
pub(super) type Locate<'a> = dyn Fn(&Catalog) -> Result<Vec<Piece>, StorageError> + Sync + 'a;
/// Who looks at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Somebody who knows its id: it must have a name, and the range be inside.
    Named,
    /// A handle: a removed file is there as long as it is open, and the range may go past the end.
    Opened,
}

/// What is done with the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    /// A write to units that are nobody's: they get an owner when both legs were flushed, so it needs no intent.
    Fresh,
}
impl Place {
    /// In parts of at most `most` bytes.
    pub(super) fn parts(self, most: usize) -> impl Iterator<Item = Self> {
        (0..self.length).step_by(most).map(move |at| Self {
            offset: self.offset + at as u64,
            length: most.min(self.length - at),
            ..self
        })
    }
}

/// The pieces of an operation on a file.
pub(super) fn locate(
    catalog: &Catalog,
    access: Access,
    file: FileId,
    offset: u64,
    length: usize,
) -> Result<Vec<Piece>, StorageError> {
    let (size, extents) = content(catalog, access, file).ok_or(StorageError::NoSuchFile(file))?;
    let limit = match access {
        Access::Named => size.next_multiple_of(BLOCK as u64),
        Access::Opened => FILE_BYTES,
    };
    let end = offset
        .checked_add(length as u64)
        .filter(|end| *end <= limit)
        .ok_or(StorageError::OutsideFile {
            file,
            offset,
            length,
            size,
        })?;
    Ok(pieces(catalog, extents, offset, end))
}

/// Bytes of a volume as one piece; of two legs until it is looked what they are worth.
pub(super) fn piece(catalog: &Catalog, volume: u16, offset: u64, length: usize) -> Piece {
    let au_offset = catalog.volume(volume).expect("units are on a volume").au_offset;
    let unit = |offset: u64| {
        u32::try_from((offset - au_offset) / catalog.au_bytes()).expect("a volume has at most 2^26 units")
    };
    let first = unit(offset);
    let place = Place {
        volume,
        offset,
        length,
        legs: Legs::only(0),
        units: (first, unit(offset + length as u64 - 1) - first + 1),
    };
    Piece {
        place: Some(place),
        length,
    }
}

/// The pieces with the legs that they are on, cut where these change; or what has to be done first.
pub(super) fn resolve(catalog: &Catalog, what: Use, pieces: &[Piece]) -> Result<Vec<Piece>, Begin> {
    let mut resolved = Vec::with_capacity(pieces.len());
    let (mut torn, mut unmarked, mut waits) = (Vec::new(), Vec::new(), false);
    let mut of_volume = 0;
    for piece in pieces {
        let Some(place) = piece.place else {
            resolved.push(*piece);
            continue;
        };
        for part in place.by_unit(catalog) {
            let unit = part.units.0;
            let access = match what {
                Use::Read => catalog.read_access(part.volume, unit),
                Use::Write | Use::Fresh => catalog.write_access(part.volume, unit),
            };
            match access {
                UnitAccess::Legs(legs) => append(&mut resolved, Place { legs, ..part }),
                UnitAccess::Torn => torn.push((part.volume, unit)),
                UnitAccess::Wait => waits = true,
                UnitAccess::Unmarked if unmarked.is_empty() || of_volume == part.volume => {
                    of_volume = part.volume;
                    unmarked.push((unit, 1));
                }
                // Next time.
                UnitAccess::Unmarked => {}
            }
        }
    }
    if !torn.is_empty() {
        Err(Begin::Torn(torn))
    } else if waits {
        Err(Begin::Wait)
    } else if !unmarked.is_empty() {
        Err(Begin::Unmarked(of_volume, unmarked))
    } else {
        Ok(resolved)
    }
}

/// Puts a part behind the others; as one with the last when it goes on on the same legs.
fn append(pieces: &mut Vec<Piece>, part: Place) {
    if let Some(Piece {
        place: Some(last),
        length,
    }) = pieces.last_mut()
        && last.volume == part.volume
        && last.legs == part.legs
        && last.offset + last.length as u64 == part.offset
    {
        last.length += part.length;
        *length += part.length;
        last.units.1 = part.units.0 + part.units.1 - last.units.0;
        return;
    }
    pieces.push(Piece {
        place: Some(part),
        length: part.length,
    });
}

/// The units of mirrored volumes that pieces write on both legs.
pub(super) fn intents_of(catalog: &Catalog, pieces: &[Piece]) -> Vec<VolumeUnit> {
    let places = pieces.iter().filter_map(|piece| piece.place);
    let both = places.filter(|place| place.legs == Legs::BOTH && catalog.mirror(place.volume).is_some());
    let mut units: Vec<VolumeUnit> = both
        .flat_map(|place| (0..place.units.1).map(move |at| (place.volume, place.units.0 + at)))
        .collect();
    units.sort_unstable();
    units.dedup();
    units
}

impl Place {
    /// In parts, one for each unit.
    fn by_unit(self, catalog: &Catalog) -> impl Iterator<Item = Self> {
        let au_bytes = catalog.au_bytes();
        let start = catalog
            .volume(self.volume)
            .expect("units are on a volume")
            .au_offset;
        (0..self.units.1).map(move |at| {
            let unit = self.units.0 + at;
            let from = (start + u64::from(unit) * au_bytes).max(self.offset);
            let to = (start + (u64::from(unit) + 1) * au_bytes).min(self.offset + self.length as u64);
            Self {
                offset: from,
                length: (to - from) as usize,
                units: (unit, 1),
                ..self
            }
        })
    }
}

/// Size and extents of a file, when `access` may see it.
fn content(catalog: &Catalog, access: Access, file: FileId) -> Option<(u64, &[Extent])> {
    let inode = match access {
        Access::Named => catalog.inode(file),
        Access::Opened => catalog.open_inode(file),
    };
    match &inode?.node {
        Node::File { size, extents, .. } => Some((*size, extents)),
        _ => None,
    }
}

/// The bytes from `offset` up to `end` in pieces.
fn pieces(catalog: &Catalog, extents: &[Extent], offset: u64, end: u64) -> Vec<Piece> {
    let au_bytes = catalog.au_bytes();
    let (mut pieces, mut at) = (Vec::with_capacity(1), offset);
    let first =
        u32::try_from(offset / au_bytes).map_or(extents.len(), |unit| extents::position(extents, unit));
    let hole = |from: u64, to: u64| Piece {
        place: None,
        length: (to - from) as usize,
    };
    for extent in &extents[first..] {
        let start = u64::from(extent.unit) * au_bytes;
        let until = (u64::from(extent.end()) * au_bytes).min(end);
        if start >= end {
            break;
        }
        if at < start {
            pieces.push(hole(at, start));
            at = start;
        }
        let offset = catalog.offset_of(extent) + (at - start);
        pieces.push(piece(catalog, extent.volume, offset, (until - at) as usize));
        at = until;
    }
    if at < end {
        pieces.push(hole(at, end));
    }
    pieces
}

/// Whether units of this piece move now.
pub(super) fn is_frozen(catalog: &Catalog, piece: &Piece) -> bool {
    let Some(place) = piece.place.filter(|_| catalog.moves().next().is_some()) else {
        return false;
    };
    catalog.is_frozen(place.volume, place.units.0, place.units.1)
}
