//! Status files: `/status/N` says which transactions of node N committed, and which sequence numbers it has taken.
//!
//! Page 0 holds the sequence, the pages after it the outcomes ([`status_place`]). A commit record is a change of such
//! a page in the node's redo, so the recovery of status pages is the recovery of transactions.

use crate::engine::{Engine, Runner};
use crate::mtr::{Mtr, ReadPage};
use crate::space::storage;
use crate::transaction::{Resolutions, StatusStore};
use crate::{Blocked, Error};
use aquifer_buffer_pool::{Lsn, Scn};
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::catalog::FileKind;
use aquifer_engine_proto::page::{
    PageContent, PageOperation, STATUS_ABORTED, kind_of, sequence_of, status_of,
};
use aquifer_engine_proto::{TreeId, TxnId, status_place};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};

/// Path of the status file of `node`.
pub fn status_path(node: NodeId) -> String {
    format!("/status/{node}")
}

/// [`StatusStore`] over the buffer pool.
#[derive(Default)]
pub struct StatusFiles {
    engine: OnceLock<Weak<Engine>>,
    files: Mutex<BTreeMap<NodeId, TreeId>>,
}

impl StatusFiles {
    /// Names the engine whose pool is read.
    pub fn attach(&self, engine: &Arc<Engine>) {
        let set = self.engine.set(Arc::downgrade(engine)).is_ok();
        assert!(set, "status files belong to one engine");
    }

    fn engine(&self) -> Result<Arc<Engine>, Error> {
        let engine = self.engine.get().and_then(Weak::upgrade);
        engine.ok_or_else(|| Error::Unavailable("it is stopping".to_owned()))
    }

    async fn file(&self, engine: &Engine, node: NodeId) -> Result<Option<TreeId>, Error> {
        if let Some(file) = self.files.lock().get(&node) {
            return Ok(Some(*file));
        }
        let found = engine
            .group
            .lookup(&status_path(node))
            .await
            .map_err(storage)?
            .map(TreeId);
        if let Some(file) = found {
            self.files.lock().insert(node, file);
        }
        Ok(found)
    }

    async fn read_entry(&self, txn: TxnId) -> Result<Option<Scn>, Error> {
        let engine = self.engine()?;
        let node = txn
            .node()
            .ok_or(Error::State("a row names a transaction of no node"))?;
        let Some(file) = self.file(&engine, node).await? else {
            return Ok(None);
        };
        let place = status_place(txn, engine.group.page_size());
        let (number, index) = (place.page, usize::from(place.index));
        if number >= page_count(&engine, file) && number >= engine.sizes.learn(&engine.group, file).await? {
            return Ok(None);
        }
        let id = file.page(number);
        let mut learned = Resolutions::new();
        let mut runner = Runner {
            txn: None,
            learned: &mut learned,
        };
        let scn = engine
            .run(&mut runner, false, |_| {
                let guard = engine
                    .pool
                    .read(id)
                    .map_err(|miss| Blocked::Page(miss.page, miss.mode))?;
                let bytes = ReadPage::bytes(&guard);
                let corrupt = |_| Blocked::Corrupt(id);
                match kind_of(bytes).map_err(corrupt)? {
                    None => Ok(Scn(0)),
                    Some(_) => status_of(bytes, index).map_err(corrupt),
                }
            })
            .await?;
        Ok((scn != Scn(0) && scn != STATUS_ABORTED).then_some(scn))
    }

    async fn write_entries(&self, commits: Vec<(TxnId, Scn)>) -> Result<Lsn, Error> {
        let engine = self.engine()?;
        let file = self.file(&engine, engine.me).await?.ok_or(Error::NoSuchTree)?;
        let place_of = |txn: &TxnId| status_place(*txn, engine.group.page_size());
        let numbers: BTreeSet<u32> = commits.iter().map(|(txn, _)| place_of(txn).page).collect();
        let mut learned = Resolutions::new();
        let mut runner = Runner {
            txn: None,
            learned: &mut learned,
        };
        let end = engine
            .run(&mut runner, true, |_| {
                let mut mtr = enough_space(
                    &engine,
                    file,
                    *numbers.last().expect("a commit has a transaction"),
                )?;
                let mut held = BTreeMap::new();
                for number in &numbers {
                    held.insert(*number, mtr.hold(file.page(*number))?);
                }
                let mut fresh = Vec::new();
                for page in held.values() {
                    if kind_of(mtr.bytes(*page))
                        .map_err(|_| Blocked::Corrupt(mtr.id(*page)))?
                        .is_none()
                    {
                        fresh.push(*page);
                    }
                }
                for page in fresh {
                    mtr.change(page, &PageOperation::Format(PageContent::Status))?;
                }
                for (txn, scn) in &commits {
                    let place = place_of(txn);
                    mtr.change(
                        held[&place.page],
                        &PageOperation::SetStatus {
                            index: place.index,
                            scn: *scn,
                        },
                    )?;
                }
                Ok(mtr.commit(&*engine))
            })
            .await?;
        Ok(end.expect("a commit record was written"))
    }

    /// Makes this node's status file if it has none.
    pub async fn create_own(&self) -> Result<(), Error> {
        let engine = self.engine()?;
        let file = engine
            .sizes
            .create(&engine.group, &status_path(engine.me), FileKind::Status)
            .await?;
        self.files.lock().insert(engine.me, file);
        Ok(())
    }

    /// Takes `count` sequence numbers that were never taken before; durable when this returns.
    pub async fn take_sequences(&self, count: u64) -> Result<Range<u64>, Error> {
        let engine = self.engine()?;
        let file = self.file(&engine, engine.me).await?.ok_or(Error::NoSuchTree)?;
        let mut learned = Resolutions::new();
        let mut runner = Runner {
            txn: None,
            learned: &mut learned,
        };
        let (first, end) = engine
            .run(&mut runner, true, |_| {
                let mut mtr = Mtr::new(&*engine.pool);
                let page = mtr.hold(file.page(0))?;
                let corrupt = |_| Blocked::Corrupt(file.page(0));
                let first = match kind_of(mtr.bytes(page)).map_err(corrupt)? {
                    None => {
                        // Number 0 is never given: no transaction has the id of an empty field.
                        mtr.change(page, &PageOperation::Format(PageContent::Sequence { next: 1 }))?;
                        1
                    }
                    Some(_) => sequence_of(mtr.bytes(page)).map_err(corrupt)?,
                };
                mtr.change(page, &PageOperation::SetSequence { next: first + count })?;
                Ok((first, mtr.commit(&*engine)))
            })
            .await?;
        engine.durable(end).await;
        Ok(first..first + count)
    }
}

/// A mini-transaction, if the file has page `last`.
fn enough_space(
    engine: &Engine,
    file: TreeId,
    last: u32,
) -> Result<Mtr<'_, aquifer_buffer_pool::Pool>, Blocked> {
    if last >= page_count(engine, file) {
        return Err(Blocked::Space(file));
    }
    Ok(Mtr::new(&*engine.pool))
}

fn page_count(engine: &Engine, file: TreeId) -> u32 {
    crate::tree::FileSpace::pages(&*engine.sizes, file)
}

impl StatusStore for StatusFiles {
    fn read(&self, txn: TxnId) -> BoxFuture<'_, Result<Option<Scn>, Error>> {
        Box::pin(self.read_entry(txn))
    }

    fn write(&self, commits: Vec<(TxnId, Scn)>) -> BoxFuture<'_, Result<Lsn, Error>> {
        Box::pin(self.write_entries(commits))
    }
}
