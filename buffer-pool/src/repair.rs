//! Pages that are damaged on storage: the store makes the newest version of them, if it can.
//!
//! Rule BUF-9: a rebuilt page counts as being written back from the moment it is installed until it is in place and flushed, so that
//! nobody else has it, or writes it, before that (HZ-2). Bytes in place are judged damaged only by who was granted the page from storage: anybody
//! else may see the middle of a write.

use crate::config::PoolError;
use crate::pool::{Pool, count};
use aquifer_buffer_pool_proto::{ImageInfo, Mode, PageId, Psn, header};
use aquifer_dss::seam::IoBuffer;
use std::sync::Arc;

/// A page as storage has it, or had it.
pub(crate) struct Loaded {
    pub bytes: IoBuffer,
    pub info: ImageInfo,
    /// It was damaged in place: to be written there.
    pub rebuilt: bool,
}

/// What a doubt about a page in memory comes to.
enum Doubt {
    /// It is in this frame, and nobody else gets it until the repair ends.
    Begun(usize),
    /// Somebody repairs or writes it already.
    Busy,
    /// It is another one now, or no longer here.
    Unfounded,
    /// It came without content from a member that called it dirty: storage is not what is wrong.
    Beyond,
}

impl Pool {
    /// Reads a page that was granted from storage; where it is damaged, has it rebuilt.
    pub(crate) async fn load(&self, page: PageId) -> Result<Loaded, PoolError> {
        match self.fetch(page).await {
            Ok((bytes, info)) => Ok(Loaded {
                bytes,
                info,
                rebuilt: false,
            }),
            Err(PoolError::Corrupt(_)) => {
                let (bytes, psn) = self.rebuilt(page).await.ok_or(PoolError::Corrupt(page))?;
                let info = ImageInfo {
                    psn,
                    ..ImageInfo::default()
                };
                Ok(Loaded {
                    bytes,
                    info,
                    rebuilt: true,
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn rebuilt(&self, page: PageId) -> Option<(IoBuffer, Psn)> {
        match self.store.rebuild(page).await {
            Ok(bytes) => {
                assert_eq!(
                    bytes.len(),
                    self.config.page_size.bytes(),
                    "a rebuilt page is whole"
                );
                assert_eq!(
                    header::page_id(&bytes),
                    page,
                    "a rebuilt page is the one asked for"
                );
                count(&self.figures.rebuilt);
                let psn = header::psn(&bytes);
                Some((bytes, psn))
            }
            Err(reason) => {
                tracing::error!(
                    file = page.file.0,
                    page = page.number,
                    reason,
                    "a damaged page cannot be rebuilt; statements that need it fail"
                );
                None
            }
        }
    }

    /// The core lock is held, and the page was installed in frame `index` just now.
    pub(crate) fn begin_repair(self: &Arc<Self>, index: usize, page: PageId, mut image: IoBuffer) {
        let psn = header::psn(&image);
        let mut meta = self.frames.frame(index).meta.lock();
        meta.writing = Some(psn); // BUF-9
        self.dirty.note(index, &meta, self.now());
        drop(meta);
        let pool = self.clone();
        let task = async move {
            header::seal(&mut image, pool.epoch());
            if let Err(error) = pool.store.write_batch(&[(page, Arc::new(image))]).await {
                // It stays as it is in place; redo and images that it was made of may serve again.
                tracing::error!(%error, %page, "a rebuilt page could not be written in place");
            }
            pool.end_repair(index, page, psn);
        };
        self.runtime.spawn("pool-repair", Box::pin(task));
    }

    fn end_repair(self: &Arc<Self>, index: usize, page: PageId, psn: Psn) {
        let mut inner = self.lock();
        let mut meta = self.frames.frame(index).meta.lock();
        assert_eq!(
            (meta.page, meta.writing),
            (Some(page), Some(psn)),
            "HZ-2: a page stays while it is written"
        );
        meta.writing = None;
        self.dirty.note(index, &meta, self.now());
        drop(meta);
        self.pump(&mut inner);
        drop(inner);
        self.changed.notify_waiters();
    }

    /// The page was taken for one that was never formatted, because its bytes on storage name another page or none, and the caller
    /// knows better. True when it may be another one now: look again. False when nothing is known of it, and it is corrupt.
    pub async fn doubt(self: &Arc<Self>, page: PageId) -> Result<bool, PoolError> {
        let hold = self.acquire(page, Mode::Exclusive).await?;
        let begun = self.begin_doubt(page);
        drop(hold);
        let index = match begun {
            Doubt::Begun(index) => index,
            Doubt::Unfounded => return Ok(true),
            Doubt::Beyond => return Ok(false),
            Doubt::Busy => {
                // Who looks again before that finds the same, and would take the thread from whoever repairs the page.
                self.written(page).await;
                return Ok(true);
            }
        };
        let pool = self.clone();
        let rebuild = async move {
            let rebuilt = pool.rebuilt(page).await;
            let known = rebuilt.is_some();
            if let Some((bytes, psn)) = rebuilt {
                pool.replace(index, &bytes, psn);
            }
            pool.end_repair(index, page, Psn(0));
            known
        };
        Ok(self.to_the_end("pool-repair", rebuild).await)
    }

    fn begin_doubt(&self, page: PageId) -> Doubt {
        let inner = self.lock();
        let possessed = inner.core.possessed(page) == Some(Mode::Exclusive);
        let Some(index) = self.table.get(page).filter(|_| possessed) else {
            return Doubt::Unfounded;
        };
        let frame = self.frames.frame(index);
        let mut meta = frame.meta.lock();
        if frame.psn() != Psn(0) {
            return Doubt::Unfounded;
        }
        if meta.writing.is_some() {
            return Doubt::Busy;
        }
        if meta.dirty {
            return Doubt::Beyond;
        }
        meta.writing = Some(Psn(0)); // nobody else gets it meanwhile, and it is clean
        Doubt::Begun(index)
    }

    /// Until no write or repair of the page is in flight here.
    async fn written(&self, page: PageId) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let writing = {
                let _inner = self.lock();
                let index = self.table.get(page);
                index.is_some_and(|index| self.frames.frame(index).meta.lock().writing.is_some())
            };
            if !writing {
                return;
            }
            changed.await;
        }
    }

    /// Puts the newest version over a page that this node alone has and has not changed, to be written back like a change.
    fn replace(&self, index: usize, bytes: &IoBuffer, psn: Psn) {
        let frame = self.frames.frame(index);
        frame.latch();
        if frame.psn() == Psn(0) {
            self.frames.fill(index, bytes);
            frame.set_psn(psn);
            let mut meta = frame.meta.lock();
            meta.dirty = true;
            meta.duty = true;
            meta.flush_wanted = true;
            self.dirty.note(index, &meta, self.now());
        }
        frame.unlatch_exclusive();
    }
}
