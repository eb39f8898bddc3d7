//! From the first view to serving: the node's own files, its redo stream, its background tasks.

use super::Node;
use crate::Error;
use crate::streams::redo_path;
use crate::wal::{GroupFile, Pressure, RedoStream, WalError, format_stream, read_header};
use aquifer_dss::group::CreateOptions;
use aquifer_dss::seam::Timer;
use aquifer_dss_proto::catalog::FileKind;
use aquifer_dss_proto::defect::{Defect, planted};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The tree of the SQL layer's tables.
const CATALOG_PATH: &str = "/catalog";

/// Bring-up looks this often whether the leader has recovered this node's earlier life, and tries again after errors.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// The redo stream's header is written this often at least.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// Pages named to their dirty holders at a time because they pin the redo.
const PRESSURE_PAGES: usize = 64;

impl Node {
    pub(super) async fn bring_up(self: Arc<Self>) {
        while let Err(error) = self.try_bring_up().await {
            if *self.stopping.borrow() {
                return;
            }
            tracing::warn!(%error, "this node cannot serve yet; it tries again");
            self.runtime.sleep(LOOK_AGAIN * 4).await;
        }
        tracing::info!(node = self.config.id.get(), "serving");
        self.engine.serving.send_replace(true);
    }

    async fn try_bring_up(self: &Arc<Self>) -> Result<(), Error> {
        if self.redo.stream().is_none() {
            let stream = self.open_stream().await?;
            stream.set_epoch(self.rpc.view().epoch);
            self.redo.open(stream);
        }
        self.open_double_write().await?;
        self.status_files.create_own().await?;
        let range = self
            .status_files
            .take_sequences(self.config.sequence_range)
            .await?;
        self.txns.add_sequences(range);
        let catalog = self
            .engine
            .sizes
            .create(&self.group, CATALOG_PATH, FileKind::Tree)
            .await?;
        self.engine.format_tree(catalog).await?;
        self.engine.catalog.get_or_init(|| catalog);
        self.runtime
            .spawn("sequences", Box::pin(self.clone().take_sequences()));
        self.runtime
            .spawn("checkpoint", Box::pin(self.clone().checkpoint()));
        Ok(())
    }

    /// Opens the own stream once every change of the earlier life is on storage (NOD-2).
    async fn open_stream(&self) -> Result<Arc<RedoStream>, Error> {
        let failed = |error: WalError| Error::Unavailable(error.to_string());
        let (me, path) = (self.config.id, redo_path(self.config.id));
        if self.group.lookup(&path).await?.is_none() {
            // Named only once it has a header: a stream without one is then known to be damaged.
            let fresh = format!("{path}.new");
            let options = CreateOptions {
                size: self.config.redo_bytes,
                kind: FileKind::Redo,
                exclusive: false,
            };
            let id = self.group.create(&fresh, options).await?;
            let size = self.group.stat(id).await?.size;
            format_stream(&GroupFile::new(self.group.clone(), id, size), me)
                .await
                .map_err(failed)?;
            self.group.rename(&fresh, &path).await?;
        }
        let stat = self.group.stat_path(&path).await?;
        let file = Arc::new(GroupFile::new(self.group.clone(), stat.id, stat.size));
        let header = loop {
            let header = read_header(&*file, me).await.map_err(failed)?;
            if header.clean || planted(Defect::OpenUncleanStream) {
                break header;
            }
            self.runtime.sleep(LOOK_AGAIN).await;
        };
        let life = self.membership.incarnation();
        RedoStream::open_own(self.runtime.clone(), file, self.config.redo, header, life)
            .await
            .map_err(failed)
    }

    async fn take_sequences(self: Arc<Self>) {
        loop {
            self.engine.want_sequences.notified().await;
            if self.txns.wants_sequences() {
                match self.status_files.take_sequences(self.config.sequence_range).await {
                    Ok(range) => self.txns.add_sequences(range),
                    Err(error) => tracing::warn!(%error, "no transaction numbers could be taken"),
                }
            }
            self.engine.sequences_taken.send_modify(|count| *count += 1);
        }
    }

    /// Writes pages back by need: those that pin the redo, that somebody wants on storage, that are too many, or that are old. What is
    /// needed less is done slower, a batch at a time, so that commits find the device free.
    ///
    /// Runs from the first view on, before the own stream is open: a leader that redoes its own earlier life has to write
    /// those pages back, or the stream is never clean and the node never serves.
    pub(super) async fn clean_pages(self: Arc<Self>) {
        let mut clock = Timer::new(self.runtime.clone());
        loop {
            let stream = self.redo.stream();
            let Pressure { pages, haste } =
                stream.map_or_else(Pressure::default, |stream| stream.pressure(PRESSURE_PAGES));
            if !pages.is_empty() {
                self.pool.want_flush(&pages);
            }
            let written = self.pool.write_back(self.config.pool.write_batch).await;
            if written == 0 {
                self.pause_cleaner(&mut clock, self.config.clean_every, true)
                    .await;
            } else if haste < 100 && !self.pool.write_back_is_behind() {
                let pause = self.config.clean_every * (100 - haste) / 100;
                self.pause_cleaner(&mut clock, pause, false).await;
            }
        }
    }

    /// Until the cleaner should look again; with `idle` that is also when a page is wanted.
    async fn pause_cleaner(&self, clock: &mut Timer, pause: Duration, idle: bool) {
        let room = async {
            match self.redo.stream() {
                Some(stream) => stream.until_room_is_wanted().await,
                None => std::future::pending().await,
            }
        };
        let behind = async {
            if idle {
                self.pool.until_write_back_is_behind().await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            () = room => {}
            () = behind => {}
            () = clock.until(self.runtime.now() + pause) => {}
        }
    }

    async fn checkpoint(self: Arc<Self>) {
        let stream = self
            .redo
            .stream()
            .expect("opened before this task was started")
            .clone();
        let mut clock = Timer::new(self.runtime.clone());
        loop {
            clock.until(self.runtime.now() + CHECKPOINT_EVERY).await;
            if self.stopping.borrow().to_owned() || !self.brought_up.load(Ordering::Acquire) {
                return;
            }
            if let Err(error) = stream.checkpoint().await {
                tracing::error!(%error, "the redo horizon could not be written");
            }
        }
    }
}
