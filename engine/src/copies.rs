//! Steps of a reader under a snapshot over a copy of a leaf that another node owns: the reader takes nothing from a writer (HZ-8).
//!
//! Rules:
//! - CPY-1 a copy is asked for by a step whose snapshot exists already, read by that step alone, and gone when the step ends: to a later
//!   snapshot it would show too little;
//! - CPY-2 it is read only while it stands (not after a view change), and not after a wait for a row (HZ-13): then another one is asked for;
//! - CPY-3 one copy at a time, of a leaf: inner pages change seldom and are kept Shared by everybody;
//! - CPY-4 a step that does not end over its copy (what it leads to is not possessed, was never logged, or makes no sense) is run again with
//!   possession of that page. So every step ends, and no page is called damaged for what a copy said.
//!
//! Readers that go on to write, locks, the catalogue and status pages do without.

use crate::engine::{Engine, Runner};
use crate::mtr::{Pages, ReadPage};
use crate::transaction::Resolutions;
use crate::tree::Tree;
use crate::waits::WaitCause;
use crate::{Blocked, Error};
use aquifer_buffer_pool::{CopyImage, PageReadGuard, PageWriteGuard, Pool};
use aquifer_buffer_pool_proto::{PageId, PageSize};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_engine_proto::TreeId;
use parking_lot::Mutex;

/// The pages of this node, with a copy in the place of one that it does not possess.
pub(crate) struct Overlay<'p> {
    pool: &'p Pool,
    copy: Option<&'p CopyImage>,
}

/// A page of an [`Overlay`], held for reading.
pub(crate) enum OverlayRead<'a> {
    Possessed(PageReadGuard<'a>),
    Copied(&'a CopyImage),
}

impl ReadPage for OverlayRead<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Possessed(guard) => guard.bytes(),
            Self::Copied(copy) => copy.bytes(),
        }
    }
}

impl Pages for Overlay<'_> {
    type Read<'a>
        = OverlayRead<'a>
    where
        Self: 'a;
    type Write<'a>
        = PageWriteGuard<'a>
    where
        Self: 'a;

    fn page_size(&self) -> PageSize {
        self.pool.page_size()
    }

    fn read(&self, page: PageId) -> Result<OverlayRead<'_>, Blocked> {
        match self.copy.filter(|copy| copy.page() == page) {
            Some(copy) => Ok(OverlayRead::Copied(copy)),
            None => Pages::read(self.pool, page).map(OverlayRead::Possessed),
        }
    }

    fn write(&self, page: PageId) -> Result<PageWriteGuard<'_>, Blocked> {
        Pages::write(self.pool, page)
    }
}

/// What one step has and knows of copies.
#[derive(Default)]
struct Step {
    copy: Option<CopyImage>,
    /// Pages of which a copy was of no use.
    possess: Vec<PageId>,
}

impl Step {
    /// What is to be waited for, now that the step was blocked; `None`: nothing, it is run again without the copy.
    fn after(&mut self, blocked: Blocked) -> Option<Blocked> {
        match blocked {
            // The copy is not older than the snapshot, and the answer will be about both.
            Blocked::Status(_) => {}
            Blocked::Transaction(_) => self.copy = None, // CPY-2
            _ => {
                if let Some(copy) = self.copy.take() {
                    self.possess.push(copy.page()); // CPY-4
                    return None;
                }
            }
        }
        Some(blocked)
    }
}

/// The last copy, kept for readers that come later: with [`Defect::KeepCopies`] only.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<CopyImage>>);

impl Engine {
    /// As [`Engine::run`], for a step that reads `tree` under a snapshot that was taken before this call.
    pub(crate) async fn run_under_snapshot<T>(
        &self,
        runner: &mut Runner<'_>,
        tree: TreeId,
        mut run: impl FnMut(&Tree<'_, Overlay<'_>>, &Resolutions) -> Result<T, Blocked>,
    ) -> Result<T, Error> {
        let mut holds = Vec::new();
        let mut step = Step::default();
        loop {
            step.copy = step.copy.take().filter(|copy| self.pool.copy_stands(copy)); // CPY-2
            let result = {
                let overlay = Overlay {
                    pool: &self.pool,
                    copy: step.copy.as_ref(),
                };
                run(
                    &Tree::new(&overlay, self, &*self.sizes, tree, self.me),
                    runner.learned,
                )
            };
            let blocked = match result {
                Ok(done) => return Ok(done),
                Err(blocked) => step.after(blocked),
            };
            let Some(blocked) = blocked else { continue };
            if let Some(page) = self.copied_leaf(&blocked)
                && !step.possess.contains(&page)
            {
                step.copy = self.charge(WaitCause::PageCopy, self.ask_copy(page)).await;
                if step.copy.is_some() {
                    continue;
                }
            }
            self.wait(blocked, runner, &mut holds).await?;
        }
    }

    /// The page that a step lacks, if it is a leaf as far as one can tell, and may be read from a copy.
    fn copied_leaf(&self, blocked: &Blocked) -> Option<PageId> {
        let page = match blocked {
            Blocked::Leaf(page) => *page,
            _ => self.small.root(blocked)?,
        };
        (self.catalog.get() != Some(&TreeId(page.file))).then_some(page)
    }

    async fn ask_copy(&self, page: PageId) -> Option<CopyImage> {
        if planted(Defect::KeepCopies) {
            let mut kept = self.kept.0.lock().clone();
            kept.take_if(|kept| kept.page() != page || !self.pool.copy_stands(kept));
            if kept.is_some() {
                return kept;
            }
        }
        let copy = self.pool.copy(page).await;
        if planted(Defect::KeepCopies) {
            self.kept.0.lock().clone_from(&copy);
        }
        copy
    }
}
