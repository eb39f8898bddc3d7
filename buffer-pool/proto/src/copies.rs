//! Copy images: a reader under a snapshot has the bytes of a page that another node owns, and the owner keeps it (HZ-8).
//!
//! Rules: only the Exclusive holder serves, what it has at that moment, so that a copy is as new as the page was when it was asked for;
//! a question has one answer, which is no answer to a later one; everything outstanding dies with the epoch. Nothing of it changes the
//! directory or a possession: questions are numbered only so that each finds its answer, and the home may send the question to
//! whoever it believes to be the owner, also in the middle of a conversion: who has given the page up says so.

use crate::directory::State;
use crate::message::{Message, Request};
use crate::ownership::{Contents, Key, Output, Ownership};
use crate::page::{Mode, PageId, Psn};
use crate::possession::Local;
use alloc::collections::BTreeMap;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, Instant, NodeId};
use core::time::Duration;

/// Copies of a page that an owner serves between two of its changes. A page that is read more often than that is better Shared.
const COPIES_PER_CHANGE: u8 = 4;
/// How long it serves them without a change. A page that is not changed for longer costs its next writer little, measured by what it
/// does in that time, when readers take it Shared.
const COPIES_FOR: Duration = Duration::from_millis(10);

/// What a node has asked for.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Questions {
    last: u64,
    open: BTreeMap<Request, PageId>,
}

/// How many copies an owner served at a PSN, and since when.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Served {
    psn: Psn,
    copies: u8,
    since: Instant,
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    /// Asks for a copy of a page that this node does not possess. The answer is [`Output::Copied`] with this number; `None`: there will be
    /// none, take possession.
    pub fn handle_ask_copy(&mut self, now: Instant, page: PageId) -> Option<Request> {
        self.now = now;
        if !self.serving() || self.possessed(page).is_some() {
            return None;
        }
        self.questions.last += 1;
        let request = Request {
            number: self.questions.last,
            ..Request::default()
        };
        self.questions.open.insert(request, page);
        let home = self.home(page);
        self.repeat(Key::Copy(request), home, Message::AskCopy { page, request });
        self.drain();
        Some(request)
    }

    /// Owner: whether a copy of the page may be served now. The driver asks, takes the bytes and calls [`Self::handle_copied`] without
    /// handling anything between.
    pub fn may_copy(&self, page: PageId) -> bool {
        let owned = |local: &&Local| local.held.is_some_and(|held| held.mode == Mode::Exclusive);
        let Some(local) = self.pages.get(&page).filter(owned) else {
            return false;
        };
        let Served { psn, copies, since } = local.served;
        let (info, _) = self.contents.info(page);
        // What is on storage as it is has not been changed for a while.
        info.dirty && (psn != info.psn || (copies < COPIES_PER_CHANGE && self.now < since + COPIES_FOR))
    }

    /// Owner: answers [`Output::CopyWanted`] with the bytes and their PSN, or with none when it [may not](Self::may_copy).
    pub fn handle_copied(
        &mut self,
        now: Instant,
        page: PageId,
        to: NodeId,
        request: Request,
        copy: Option<(I, Psn)>,
    ) {
        self.now = now;
        match copy {
            Some((image, psn)) => {
                if let Some(local) = self.pages.get_mut(&page) {
                    if local.served.psn != psn || local.served.copies == 0 {
                        let (copies, since) = (0, now);
                        local.served = Served { psn, copies, since };
                    }
                    local.served.copies += 1;
                }
                self.send(to, Message::Copy { page, request, psn }, Some(image));
            }
            None => self.send(to, Message::NoCopy { page, request }, None),
        }
        self.drain();
    }

    /// Whether a copy that came in `epoch` may still be read: a later view may have lost what it shows (a change without durable
    /// redo, with its owner).
    pub fn copy_stands(&self, epoch: Epoch) -> bool {
        epoch == self.epoch() || planted(Defect::CopyAcrossView)
    }

    /// Home: sends the question on to the owner, if there is one. In the middle of a conversion that is the owner from before it: it
    /// holds the page until it surrenders it, and nobody else changes the page before.
    pub(crate) fn on_ask_copy(&mut self, from: NodeId, page: PageId, request: Request) {
        let known = self.entries.get(&page).filter(|_| self.answers_for(page));
        let settled = known.filter(|e| matches!(e.state, State::Idle | State::Converting { .. }));
        match settled.and_then(|e| e.owner).filter(|owner| *owner != from) {
            Some(owner) => {
                let to = from;
                self.send(owner, Message::CopyWanted { page, to, request }, None);
            }
            None => self.send(from, Message::NoCopy { page, request }, None),
        }
    }

    pub(crate) fn on_copy_wanted(&mut self, page: PageId, to: NodeId, request: Request) {
        let retained = self
            .retained
            .get(&page)
            .filter(|_| planted(Defect::CopyAfterGivingUp));
        if let Some((image, psn)) = retained.map(|r| (r.image.clone(), r.info.psn)) {
            return self.send(to, Message::Copy { page, request, psn }, Some(image));
        }
        self.outputs.push_back(Output::CopyWanted { page, to, request });
    }

    /// `copy` as it came, or none when there will be none.
    pub(crate) fn on_copy(&mut self, page: PageId, request: Request, copy: Option<(I, Psn)>) {
        let mut request = request;
        if planted(Defect::TakeEarlierCopy)
            && let Some((later, _)) = self.questions.open.iter().find(|(_, asked)| **asked == page)
        {
            request = *later;
        }
        if self.questions.open.remove(&request) != Some(page) {
            return self.stale();
        }
        self.settle(Key::Copy(request));
        self.outputs.push_back(Output::Copied { page, request, copy });
    }

    /// A new view: nobody answers what was asked in the one before (DIR-5).
    pub(crate) fn forget_questions(&mut self) {
        for (request, page) in core::mem::take(&mut self.questions.open) {
            let copy = None;
            self.outputs.push_back(Output::Copied { page, request, copy });
        }
    }
}
