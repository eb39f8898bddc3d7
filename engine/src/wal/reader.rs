//! Reading a stream from its horizon to its end: for recovery, and by anybody for a page's chain.

use super::RedoFile;
use super::header::{RING_OFFSET, StreamHeader, WalError, read_header};
use aquifer_buffer_pool_proto::Lsn;
use aquifer_dss::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::NodeId;
use aquifer_engine_proto::group::{GROUP_MAX, Group, Step, StreamCursor};

/// Bytes read at a time.
const CHUNK: u64 = 1 << 20;

/// Gives the groups of a stream one by one, from the horizon on, over all lives the header names.
pub struct StreamReader<'a> {
    file: &'a dyn RedoFile,
    header: StreamHeader,
    segment: usize,
    cursor: Option<StreamCursor>,
    /// Content of the stream from `start` (at a block) on.
    buffer: Vec<u8>,
    start: u64,
    end: Lsn,
    /// Where both sides of a mirrored volume were looked at last.
    looked_at: Option<Lsn>,
}

impl<'a> StreamReader<'a> {
    /// Reads the header.
    pub async fn open(file: &'a dyn RedoFile, stream: NodeId) -> Result<Self, WalError> {
        let header = read_header(file, stream).await?;
        let end = header.horizon;
        Ok(Self {
            file,
            header,
            segment: 0,
            cursor: None,
            buffer: Vec::new(),
            start: 0,
            end,
            looked_at: None,
        })
    }

    /// The header as read.
    pub const fn header(&self) -> &StreamHeader {
        &self.header
    }

    /// Behind the last group read; the stream's end once `next` gave `None`.
    pub const fn end(&self) -> Lsn {
        self.end
    }

    /// The next group, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Group>, WalError> {
        loop {
            let Some(segment) = self.header.segments.get(self.segment).copied() else {
                return Ok(None);
            };
            let mut cursor = match self.cursor {
                Some(cursor) => cursor,
                None => self.enter(segment.first),
            };
            // Nothing is further from the horizon than one lap.
            let lap = self.header.horizon.0 + self.header.ring_bytes;
            let limit = segment.end.map_or(lap, |end| end.0.min(lap));
            let position = cursor.position();
            if segment.end.is_some_and(|end| position >= end) {
                self.leave();
                continue;
            }
            let skip = ((position.0 - self.start) as usize).min(self.buffer.len());
            let have = self.start + self.buffer.len() as u64;
            let until = have.min(limit).max(position.0);
            let bytes = &self.buffer[skip..skip + (until - position.0) as usize];
            let before = cursor;
            let step = cursor.step(bytes, have >= limit);
            if matches!(step, Step::End) && self.find_on_a_side(before, limit).await? {
                continue;
            }
            self.cursor = Some(cursor);
            match step {
                Step::Group(group) => {
                    self.end = group.end;
                    return Ok(Some(group));
                }
                Step::More(length) => self.fill(position.0, length as u64, limit).await?,
                Step::End => {
                    if let Some(sealed) = segment.end {
                        return Err(WalError::Hole {
                            stream: self.header.stream,
                            position,
                            sealed,
                        });
                    }
                    self.end = position;
                    self.leave();
                }
            }
        }
    }

    fn enter(&mut self, first: Lsn) -> StreamCursor {
        let incarnation = self.header.segments[self.segment].incarnation;
        let position = first.max(self.header.horizon);
        self.start = position.0 / BLOCK as u64 * BLOCK as u64;
        self.buffer.clear();
        self.end = self.end.max(position);
        let cursor = StreamCursor::new(self.header.stream, incarnation, BLOCK as u64, position);
        self.cursor = Some(cursor);
        cursor
    }

    fn leave(&mut self) {
        self.segment += 1;
        self.cursor = None;
    }

    /// Drops what lies before `position` and reads on, so that `length` bytes from there are present or the limit is
    /// reached.
    async fn fill(&mut self, position: u64, length: u64, limit: u64) -> Result<(), WalError> {
        let keep = position / BLOCK as u64 * BLOCK as u64;
        let dropped = ((keep - self.start) as usize).min(self.buffer.len());
        self.buffer.drain(..dropped);
        self.start = keep;
        let limit = limit.next_multiple_of(BLOCK as u64);
        let target = (position + length.max(CHUNK))
            .next_multiple_of(BLOCK as u64)
            .min(limit);
        let mut at = self.start + self.buffer.len() as u64;
        while at < target {
            let in_ring = at % self.header.ring_bytes;
            let piece = (target - at).min(self.header.ring_bytes - in_ring);
            let buffer = IoBuffer::zeroed(piece as usize);
            let read = self
                .file
                .read_at(RING_OFFSET + in_ring, buffer)
                .await
                .map_err(WalError::Io)?;
            self.buffer.extend_from_slice(&read);
            at += piece;
        }
        Ok(())
    }
}

impl StreamReader<'_> {
    /// Looks for the next group on both sides of a mirrored volume, where one of them may have decayed; true when it is in the buffer now.
    async fn find_on_a_side(&mut self, cursor: StreamCursor, limit: u64) -> Result<bool, WalError> {
        let position = cursor.position();
        if self.looked_at.replace(position) == Some(position) {
            return Ok(false);
        }
        let from = position.0 / BLOCK as u64 * BLOCK as u64;
        let to = (position.0 + (GROUP_MAX + BLOCK) as u64).min(limit);
        let to = to.next_multiple_of(BLOCK as u64);
        let (mut parts, mut both, mut at) = (Vec::new(), [Vec::new(), Vec::new()], from);
        while at < to {
            let in_ring = at % self.header.ring_bytes;
            let length = (to - at).min(self.header.ring_bytes - in_ring) as usize;
            let sides = self.file.read_sides(RING_OFFSET + in_ring, length).await;
            let Some(sides) = sides.map_err(WalError::Io)? else {
                return Ok(false);
            };
            for (all, side) in both.iter_mut().zip(sides.bytes()) {
                all.extend_from_slice(side);
            }
            parts.push((at, sides));
            at += length as u64;
        }
        let skip = (position.0 - from) as usize;
        let group_of = |bytes: &Vec<u8>| match { cursor }.step(&bytes[skip..], true) {
            Step::Group(group) => Some(group.end),
            Step::More(_) | Step::End => None,
        };
        let (right, end, other_is_wrong) = match both.each_ref().map(group_of) {
            [Some(end), other] => (0, end, other.is_none()),
            [None, Some(end)] => (1, end, true),
            [None, None] => return Ok(false),
        };
        if other_is_wrong {
            let end = end.0.next_multiple_of(BLOCK as u64);
            for (at, sides) in &parts {
                let length = end.saturating_sub(*at).min(sides.bytes()[0].len() as u64);
                self.file.mend(sides, right, 0..length as usize);
            }
        }
        if from < self.start {
            self.start = from;
            self.buffer.clear();
        }
        self.buffer.truncate((from - self.start) as usize);
        self.buffer.extend_from_slice(&both[usize::from(right)]);
        Ok(true)
    }
}

/// The whole stream: header, groups from the horizon on, and its end (where it is to be sealed when it is not). Of a living
/// stream: what is on storage now.
pub async fn read_stream(
    file: &dyn RedoFile,
    stream: NodeId,
) -> Result<(StreamHeader, Vec<Group>, Lsn), WalError> {
    loop {
        let mut reader = StreamReader::open(file, stream).await?;
        let mut groups = Vec::new();
        let trouble = loop {
            match reader.next().await {
                Ok(Some(group)) => groups.push(group),
                Ok(None) => break None,
                Err(error @ WalError::Hole { .. }) => break Some(error),
                Err(error) => return Err(error),
            }
        };
        // The ring is written over only behind a later horizon that is durable (WAL-3). So what was read up to here was lapped
        // meanwhile exactly when the horizon is past it now, and then the end seen is none (WAL-10).
        if read_header(file, stream).await?.horizon > reader.end {
            continue;
        }
        if let Some(error) = trouble {
            return Err(error);
        }
        let end = reader.header.sealed_end().unwrap_or(reader.end);
        return Ok((reader.header, groups, end));
    }
}
