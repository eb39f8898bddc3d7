//! Copy images (HZ-8): a reader under a snapshot has the bytes of a page that another node owns, and takes nothing from it.
//!
//! Rules: a copy is asked for after the reader's snapshot was taken, for that reader alone, and read by one step; it is read only
//! while it [stands](Pool::copy_stands). It is taken under the page's latch, so it never shows half a change of the page; of a
//! mini-transaction over several pages it may show a part, as to any reader that comes between.

use crate::images::Image;
use crate::pool::{Inner, Pool};
use aquifer_buffer_pool_proto::{PageId, Psn, Request};
use aquifer_dss::seam::Tail;
use aquifer_dss_proto::{Epoch, NodeId};
use std::sync::Arc;

/// The bytes of a page as its owner had them when it was asked.
#[derive(Clone, Debug)]
pub struct CopyImage {
    page: PageId,
    psn: Psn,
    /// The view in which it came.
    epoch: Epoch,
    image: Tail,
}

impl CopyImage {
    /// Which page.
    pub const fn page(&self) -> PageId {
        self.page
    }

    /// Its PSN.
    pub const fn psn(&self) -> Psn {
        self.psn
    }

    /// The page.
    pub fn bytes(&self) -> &[u8] {
        &self.image
    }
}

impl Pool {
    /// A copy of a page for a reader whose snapshot exists already, from the node that owns it. `None`: nobody owns it, it is read more than
    /// it is changed, it is possessed here, or the view changed; then [acquire](Pool::acquire) it. May be dropped at any time.
    pub async fn copy(self: &Arc<Self>, page: PageId) -> Option<CopyImage> {
        let answer = {
            let mut inner = self.lock();
            if inner.closed {
                return None;
            }
            let now = self.now();
            let request = inner.core.handle_ask_copy(now, page)?;
            let (answer, question) = self.copy_answers.ask();
            inner.readers.insert(request, answer);
            self.pump(&mut inner);
            question
        };
        answer.await.flatten()
    }

    /// Whether the copy may still be read: not after a view change, since its owner may have died with what it shows.
    pub fn copy_stands(&self, copy: &CopyImage) -> bool {
        self.lock().core.copy_stands(copy.epoch)
    }

    /// Owner: the bytes as they are now. Redo is not waited for: a reader uses versions only whose commit is durable.
    pub(crate) fn serve_copy(&self, inner: &mut Inner, page: PageId, to: NodeId, request: Request) {
        let copy = inner.core.may_copy(page).then(|| {
            let guard = self
                .read(page)
                .expect("possession is lowered under the core lock only");
            (self.image_of(guard.index), guard.psn())
        });
        inner.core.handle_copied(self.now(), page, to, request, copy);
    }

    pub(crate) fn copied(
        &self,
        inner: &mut Inner,
        page: PageId,
        request: Request,
        copy: Option<(Image, Psn)>,
    ) {
        let epoch = inner.core.view().epoch;
        // A reader that went away needs no answer.
        if let Some(reader) = inner.readers.remove(&request) {
            let copy = copy.map(|(image, psn)| CopyImage {
                page,
                psn,
                epoch,
                image: image.into_tail(),
            });
            drop(reader.send(copy));
        }
    }
}
