//! What can still be read of a stream, also behind its horizon: for the rebuilding of a page.
//!
//! Behind the horizon nothing keeps the ring from being written over, also while it is read. A group that was written over does not
//! parse: it names its position, which only grows. Lives that the header does not name any more are told apart by the
//! chain: every group names the end of the one before it, also across lives (WAL-5).

use super::RedoFile;
use super::header::{RING_OFFSET, StreamHeader, WalError};
use super::reader::read_stream;
use aquifer_buffer_pool_proto::{Lsn, PageId, Stamp};
use aquifer_dss::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::{Incarnation, NodeId};
use aquifer_engine_proto::RedoRecord;
use aquifer_engine_proto::group::{GROUP_MAX, Group, parse_group};
use aquifer_engine_proto::rebuild::Reach;

/// Bytes read at a time.
const CHUNK: u64 = 1 << 20;

/// What a stream has of one page, with the stamps of the groups.
pub type PageRedo = Vec<(Stamp, RedoRecord)>;

/// The redo of `page` in a stream, as far back as it is readable without a gap, and how far that is.
pub async fn read_page_history(
    file: &dyn RedoFile,
    stream: NodeId,
    page: PageId,
) -> Result<(PageRedo, Reach), WalError> {
    let (header, groups, _) = read_stream(file, stream).await?;
    let mut needed = Run::new(page);
    groups.into_iter().for_each(|group| needed.add(group));
    // What the older part has to lead to, without a gap.
    let joint = needed.previous_end.unwrap_or_else(|| last_group_end(&header));
    let older = Walk::new(file, &header, page, joint).run().await?;
    let Some(older) = older else {
        let reach = match needed.first {
            _ if joint == Lsn(0) => Reach::Begin,
            Some(stamp) => Reach::Stamp(stamp),
            None => Reach::Nothing,
        };
        return Ok((needed.records, reach));
    };
    let mut records = older.records;
    records.append(&mut needed.records);
    let reach = match older.first {
        _ if older.previous_end == Some(Lsn(0)) => Reach::Begin,
        Some(stamp) => Reach::Stamp(stamp),
        None => Reach::Nothing,
    };
    Ok((records, reach))
}

/// Behind the last group of a stream that has none from its horizon on. The horizon is the begin or the end of a group, or the
/// begin of a life.
fn last_group_end(header: &StreamHeader) -> Lsn {
    let Some(life) = header.segments.last() else {
        return Lsn(0);
    };
    let end = life.end.unwrap_or(header.horizon).max(header.horizon);
    if end > life.first { end } else { life.previous_end }
}

/// Groups that follow each other without a gap.
struct Run {
    page: PageId,
    /// Stamp of the first one.
    first: Option<Stamp>,
    /// Where the one before the first ended.
    previous_end: Option<Lsn>,
    life: Incarnation,
    end: Lsn,
    records: PageRedo,
}

impl Run {
    const fn new(page: PageId) -> Self {
        Self {
            page,
            first: None,
            previous_end: None,
            life: Incarnation(0),
            end: Lsn(0),
            records: Vec::new(),
        }
    }

    fn add(&mut self, group: Group) {
        self.first.get_or_insert(group.stamp.stamp);
        self.previous_end.get_or_insert(group.stamp.previous_end);
        (self.life, self.end) = (group.stamp.incarnation, group.end);
        let stamp = group.stamp.stamp;
        let ours = group
            .records
            .into_iter()
            .filter(|record| record.page == self.page);
        self.records.extend(ours.map(|record| (stamp, record)));
    }

    const fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

/// Walks the ring from the oldest position it can have to `joint`.
struct Walk<'a> {
    file: &'a dyn RedoFile,
    stream: NodeId,
    ring_bytes: u64,
    page: PageId,
    joint: Lsn,
    /// Content from `start` (at a block) on.
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> Walk<'a> {
    fn new(file: &'a dyn RedoFile, header: &StreamHeader, page: PageId, joint: Lsn) -> Self {
        Self {
            file,
            stream: header.stream,
            ring_bytes: header.ring_bytes,
            page,
            joint,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// The last run of groups, when it leads to the joint.
    async fn run(mut self) -> Result<Option<Run>, WalError> {
        let written = self.joint.0.next_multiple_of(BLOCK as u64);
        let mut at = written.saturating_sub(self.ring_bytes);
        self.start = at;
        let mut run = Run::new(self.page);
        while at < self.joint.0 {
            self.fill(at, written).await?;
            if let Some(group) = self.group_behind(&run, at) {
                at = group.end.0;
                run.add(group);
            } else if run.is_empty() {
                at = (at + 1).next_multiple_of(BLOCK as u64);
            } else {
                // A gap: only a run behind it can lead to the joint. A flush unit begins at a block.
                at = at.next_multiple_of(BLOCK as u64);
                run = Run::new(self.page);
            }
        }
        Ok((!run.is_empty() && run.end == self.joint).then_some(run))
    }

    /// The group that follows the run, or with an empty run any that lies at `at`.
    fn group_behind(&self, run: &Run, at: u64) -> Option<Group> {
        if run.is_empty() {
            return self.group_at(at);
        }
        let padded = at.next_multiple_of(BLOCK as u64);
        let follows = |group: &Group| group.stamp.previous_end.0 == at && group.stamp.incarnation >= run.life;
        [at, padded]
            .into_iter()
            .filter_map(|place| self.group_at(place))
            .find(follows)
    }

    fn group_at(&self, at: u64) -> Option<Group> {
        let bytes = self.buffer.get(at.checked_sub(self.start)? as usize..)?;
        let group = parse_group(bytes).ok()?;
        let ours = group.stamp.stream == self.stream && group.stamp.lsn.0 == at && group.end <= self.joint;
        ours.then_some(group)
    }

    /// Has the longest group in the buffer that may begin at `at` or at the block behind it.
    async fn fill(&mut self, at: u64, written: u64) -> Result<(), WalError> {
        let wanted = (at + (GROUP_MAX + 2 * BLOCK) as u64).min(written);
        let mut have = self.start + self.buffer.len() as u64;
        if have >= wanted {
            return Ok(());
        }
        let keep = at / BLOCK as u64 * BLOCK as u64;
        self.buffer
            .drain(..((keep - self.start) as usize).min(self.buffer.len()));
        self.start = keep;
        have = have.max(keep);
        let target = (wanted + CHUNK).next_multiple_of(BLOCK as u64).min(written);
        while have < target {
            let in_ring = have % self.ring_bytes;
            let piece = (target - have).min(self.ring_bytes - in_ring).min(CHUNK);
            let read = self
                .file
                .read_at(RING_OFFSET + in_ring, IoBuffer::zeroed(piece as usize))
                .await
                .map_err(WalError::Io)?;
            self.buffer.extend_from_slice(&read);
            have += piece;
        }
        Ok(())
    }
}
