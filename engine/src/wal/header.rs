//! The header of a redo stream: which lives wrote which part of it, and from where it is needed.
//!
//! Rules: two copies, written in turn and flushed; the valid copy with the higher generation counts. While the owner
//! lives only the owner writes it; when it is proven dead, only the node that recovers.

use super::RedoFile;
use aquifer_buffer_pool_proto::{Lsn, Stamp};
use aquifer_dss::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::envelope::crc32c;
use aquifer_dss_proto::{Incarnation, NodeId};

/// Bytes in front of the ring: the two copies of the header.
pub const RING_OFFSET: u64 = 2 * BLOCK as u64;
/// "AQRH".
const MAGIC: [u8; 4] = *b"AQRH";
const VERSION: u16 = 2;
const FIXED: usize = 48;
const SEGMENT: usize = 32;
/// Lives that a header can name.
const SEGMENTS_MAX: usize = (BLOCK - FIXED) / SEGMENT;
/// `end` of the life that is not sealed.
const OPEN: u64 = u64::MAX;

/// Why a stream cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The file could not be read or written.
    #[error("redo stream: {0}")]
    Io(String),
    /// Neither copy of the header is valid.
    #[error("redo stream {0} has no valid header")]
    NoHeader(NodeId),
    /// The last life has not been sealed: its stream is recovered first.
    #[error("redo stream {0} is not sealed: it must be recovered before it is appended to")]
    NotSealed(NodeId),
    /// A life that is not newer than the last one of the stream.
    #[error("redo stream {stream} was written by incarnation {} already", found.0)]
    OldIncarnation {
        /// Whose stream.
        stream: NodeId,
        /// The last life in it.
        found: Incarnation,
    },
    /// The groups end before the sealed end: the device lost what it had made durable.
    #[error("redo stream {stream} ends at {} although it was sealed at {}", position.0, sealed.0)]
    Hole {
        /// Whose stream.
        stream: NodeId,
        /// Where the groups end.
        position: Lsn,
        /// Where they should.
        sealed: Lsn,
    },
    /// Too many lives without a horizon that passes them.
    #[error("redo stream {0} names too many lives: recover it")]
    TooManyLives(NodeId),
    /// Something still needs the stream's redo.
    #[error("redo stream {0} is still needed")]
    Needed(NodeId),
}

/// The part of a stream that one life wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Which life.
    pub incarnation: Incarnation,
    /// Its first position, at a block.
    pub first: Lsn,
    /// Behind its last group; `None` while it is not sealed.
    pub end: Option<Lsn>,
    /// Behind the last group of all lives before it; 0 when there is none.
    pub previous_end: Lsn,
}

/// The header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamHeader {
    /// Whose stream.
    pub stream: NodeId,
    /// Counts the writes of the header.
    pub generation: u64,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Nothing before this is needed.
    pub horizon: Lsn,
    /// Nothing at all is needed: every change is on storage.
    pub clean: bool,
    /// No group of a sealed life, and none before the horizon, has a higher stamp: the next life goes on from here.
    pub stamp: Stamp,
    /// The lives from the horizon on, oldest first.
    pub segments: Vec<Segment>,
}

impl StreamHeader {
    /// Behind the last group; `None` while the last life is not sealed.
    pub fn sealed_end(&self) -> Option<Lsn> {
        self.segments.last().map_or(Some(self.horizon), |last| last.end)
    }

    /// Behind the last group of the sealed lives: unlike [`sealed_end`](Self::sealed_end) never the begin of a life without groups.
    fn last_group_end(&self) -> Lsn {
        self.segments.last().map_or(Lsn(0), |last| match last.end {
            Some(end) if end > last.first => end,
            _ => last.previous_end,
        })
    }

    fn encode(&self) -> IoBuffer {
        assert!(
            self.segments.len() <= SEGMENTS_MAX,
            "checked by whoever adds a life"
        );
        let mut block = IoBuffer::zeroed(BLOCK);
        block[0..4].copy_from_slice(&MAGIC);
        block[8..10].copy_from_slice(&VERSION.to_le_bytes());
        block[10] = self.stream.get();
        block[11] = u8::from(self.clean);
        block[12..16].copy_from_slice(&(self.segments.len() as u32).to_le_bytes());
        let mut at = 16;
        let mut put = |word: u64| {
            block[at..at + 8].copy_from_slice(&word.to_le_bytes());
            at += 8;
        };
        put(self.generation);
        put(self.ring_bytes);
        put(self.horizon.0);
        put(self.stamp.0);
        for segment in &self.segments {
            put(segment.incarnation.0);
            put(segment.first.0);
            put(segment.end.map_or(OPEN, |end| end.0));
            put(segment.previous_end.0);
        }
        let crc = crc32c(&[&block[8..]]);
        block[4..8].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads a copy of a header; any bytes are safe.
    pub fn decode(block: &[u8]) -> Option<Self> {
        let block = block.get(..BLOCK)?;
        let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
        let crc = u32::from_le_bytes(block[4..8].try_into().expect("four bytes"));
        if block[0..4] != MAGIC || crc32c(&[&block[8..]]) != crc || block[8..10] != VERSION.to_le_bytes() {
            return None;
        }
        let count = u32::from_le_bytes(block[12..16].try_into().expect("four bytes")) as usize;
        if count > SEGMENTS_MAX {
            return None;
        }
        let segment = |index: usize| {
            let at = FIXED + index * SEGMENT;
            let end = word(at + 16);
            Segment {
                incarnation: Incarnation(word(at)),
                first: Lsn(word(at + 8)),
                end: (end != OPEN).then_some(Lsn(end)),
                previous_end: Lsn(word(at + 24)),
            }
        };
        Some(Self {
            stream: NodeId::new(block[10])?,
            generation: word(16),
            ring_bytes: word(24),
            horizon: Lsn(word(32)),
            stamp: Stamp(word(40)),
            clean: block[11] != 0,
            segments: (0..count).map(segment).collect(),
        })
    }

    /// Writes the next generation over the older copy; durable when it returns.
    pub(super) async fn write(&mut self, file: &dyn RedoFile) -> Result<(), WalError> {
        // A life that ended at or before the horizon is not needed to read the stream, unless it is the last.
        let (horizon, last) = (self.horizon, self.segments.len().saturating_sub(1));
        let mut index = 0;
        self.segments.retain(|segment| {
            index += 1;
            index > last || segment.end.is_none_or(|end| end > horizon)
        });
        self.generation += 1;
        let offset = self.generation % 2 * BLOCK as u64;
        file.write_at(offset, self.encode()).await.map_err(WalError::Io)?;
        file.flush().await.map_err(WalError::Io)
    }

    /// Adds a life that begins at the block behind the sealed end.
    pub(super) fn begin_life(&mut self, incarnation: Incarnation) -> Result<Lsn, WalError> {
        let Some(end) = self.sealed_end() else {
            return Err(WalError::NotSealed(self.stream));
        };
        if let Some(last) = self.segments.last()
            && last.incarnation >= incarnation
        {
            return Err(WalError::OldIncarnation {
                stream: self.stream,
                found: last.incarnation,
            });
        }
        let first = Lsn(end.0.next_multiple_of(BLOCK as u64));
        let previous_end = self.last_group_end();
        if self.clean {
            self.horizon = first;
            self.segments.clear();
        }
        if self.segments.len() == SEGMENTS_MAX {
            return Err(WalError::TooManyLives(self.stream));
        }
        self.clean = false;
        self.segments.push(Segment {
            incarnation,
            first,
            end: None,
            previous_end,
        });
        Ok(first)
    }
}

/// Bytes written at a time when a stream is made.
const FILL_BYTES: u64 = 1 << 20;

/// Writes the whole file once. Where the device is a sparse file, a first write allocates and costs the file system a
/// journal commit with each flush; afterwards a flush unit only overwrites.
async fn fill(file: &dyn RedoFile) -> Result<(), WalError> {
    let mut at = 0;
    let mut zeros = IoBuffer::zeroed(FILL_BYTES.min(file.size()) as usize);
    while at + BLOCK as u64 <= file.size() {
        let length = FILL_BYTES.min(file.size() - at) as usize / BLOCK * BLOCK;
        if zeros.len() != length {
            zeros = IoBuffer::zeroed(length);
        }
        zeros = file.write_at(at, zeros).await.map_err(WalError::Io)?;
        at += length as u64;
    }
    file.flush().await.map_err(WalError::Io)
}

/// Makes an empty, clean stream of `file` for `stream`.
pub async fn format_stream(file: &dyn RedoFile, stream: NodeId) -> Result<(), WalError> {
    let ring_bytes = file.size().saturating_sub(RING_OFFSET) / BLOCK as u64 * BLOCK as u64;
    assert!(ring_bytes >= 4 * BLOCK as u64, "a redo file has room for a ring");
    let mut header = StreamHeader {
        stream,
        generation: 0,
        ring_bytes,
        horizon: Lsn(0),
        clean: true,
        stamp: Stamp(0),
        segments: Vec::new(),
    };
    fill(file).await?;
    header.write(file).await?;
    header.write(file).await
}

/// The whole copies on both sides of a mirrored volume. Of a copy that one side alone has whole the other gets it again.
async fn copies_of_sides(file: &dyn RedoFile) -> Result<Vec<StreamHeader>, WalError> {
    let sides = file
        .read_sides(0, RING_OFFSET as usize)
        .await
        .map_err(WalError::Io)?;
    let Some(sides) = sides else {
        return Ok(Vec::new());
    };
    let mut copies = Vec::new();
    for begin in [0, BLOCK] {
        let range = begin..begin + BLOCK;
        let both = sides
            .bytes()
            .map(|side| StreamHeader::decode(&side[range.clone()]));
        match both.each_ref().map(Option::is_some) {
            [true, false] => file.mend(&sides, 0, range),
            [false, true] => file.mend(&sides, 1, range),
            _ => {}
        }
        copies.extend(both.into_iter().flatten());
    }
    Ok(copies)
}

/// The header in force.
pub async fn read_header(file: &dyn RedoFile, stream: NodeId) -> Result<StreamHeader, WalError> {
    let both = file
        .read_at(0, IoBuffer::zeroed(RING_OFFSET as usize))
        .await
        .map_err(WalError::Io)?;
    let mut copies: Vec<StreamHeader> = both
        .chunks_exact(BLOCK)
        .filter_map(StreamHeader::decode)
        .collect();
    if copies.len() < 2 {
        copies.extend(copies_of_sides(file).await?);
    }
    let ring_fits = |header: &StreamHeader| {
        header.stream == stream
            && header.ring_bytes >= BLOCK as u64
            && header.ring_bytes.is_multiple_of(BLOCK as u64)
            && RING_OFFSET
                .checked_add(header.ring_bytes)
                .is_some_and(|end| end <= file.size())
    };
    copies
        .into_iter()
        .filter(ring_fits)
        .max_by_key(|header| header.generation)
        .ok_or(WalError::NoHeader(stream))
}

/// Seals the stream of a dead node at `end`, where [`StreamReader`](super::StreamReader) found its end. Whoever calls
/// this has proof that the node can write no more, and has flushed the device since (HZ-10). Nothing changes when it
/// was sealed before. `stamp` is that of the last group, or lower when none was read.
pub async fn seal(
    file: &dyn RedoFile,
    stream: NodeId,
    end: Lsn,
    stamp: Stamp,
) -> Result<StreamHeader, WalError> {
    let mut header = read_header(file, stream).await?;
    match header.sealed_end() {
        Some(sealed) => assert!(
            sealed == end,
            "stream {stream} sealed at {sealed:?}, then at {end:?}"
        ),
        None => {
            header
                .segments
                .last_mut()
                .expect("an unsealed stream has a life")
                .end = Some(end);
            header.stamp = header.stamp.max(stamp);
            if !planted(Defect::SealInMemoryOnly) {
                header.write(file).await?;
            }
        }
    }
    Ok(header)
}

/// Marks the sealed stream of a dead node as not needed: every change in it is on storage.
pub async fn mark_clean(file: &dyn RedoFile, stream: NodeId) -> Result<(), WalError> {
    let mut header = read_header(file, stream).await?;
    let Some(end) = header.sealed_end() else {
        return Err(WalError::NotSealed(stream));
    };
    if header.clean {
        return Ok(());
    }
    header.horizon = end;
    header.clean = true;
    header.write(file).await
}
