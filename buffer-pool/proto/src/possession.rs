//! The node's side: what it possesses, asks for, releases, and retains.
//!
//! Rules: one request per page at a time; an Acquire waits for the acknowledgement of a Release of the same page; a
//! page with a request or a surrender under way is not released; what is retained is kept until the home says Drop (HZ-3).

use crate::admission::Fault;
use crate::copies::Served;
use crate::message::{Conversion, Message, Order, Request, Source};
use crate::ownership::{Contents, Key, Output, Ownership};
use crate::page::{ImageInfo, Mode, PageId};
use crate::surrender::{Surrender, SurrenderKind};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Instant, NodeId};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Possession {
    pub mode: Mode,
    /// The last conversion of the page that this node took part in: older ones are stale (HZ-4).
    pub seen: Conversion,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Want {
    /// Not asked yet: a Release is not acknowledged, or no view.
    Deferred(Mode),
    Asked(Mode, Request),
    /// Granted; the driver fills the frame.
    Installing(Mode, Conversion),
}

/// Node side of one page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Local {
    pub held: Option<Possession>,
    pub want: Option<Want>,
    pub surrender: Option<Surrender>,
    /// The order that follows what is wanted.
    pub next: Option<Order>,
    pub releasing: Option<Request>,
    /// A retained image is being compared with storage.
    pub restoring: Option<Conversion>,
    /// Copies served to readers.
    pub served: Served,
}

impl Local {
    fn is_empty(&self) -> bool {
        self.held.is_none()
            && self.want.is_none()
            && self.surrender.is_none()
            && self.releasing.is_none()
            && self.restoring.is_none()
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Retained<I> {
    pub conversion: Conversion,
    pub image: I,
    pub info: ImageInfo,
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    /// What this node possesses of `page`.
    pub fn possessed(&self, page: PageId) -> Option<Mode> {
        self.pages.get(&page).and_then(|l| l.held).map(|h| h.mode)
    }

    /// Whether a request for `page` is under way.
    pub fn wanted(&self, page: PageId) -> bool {
        self.pages.get(&page).is_some_and(|l| l.want.is_some())
    }

    /// Whether `request` for `page` stands and was not answered: an image that comes for it would be installed.
    pub fn awaits(&self, page: PageId, request: Request) -> bool {
        let want = self.pages.get(&page).and_then(|l| l.want);
        matches!(want, Some(Want::Asked(_, asked)) if asked == request)
    }

    /// The surrender that is asked of this node.
    pub fn surrender_wanted(&self, page: PageId) -> Option<(Conversion, SurrenderKind)> {
        self.pages
            .get(&page)
            .and_then(|l| l.surrender)
            .map(|s| (s.conversion, s.kind))
    }

    /// Pages possessed, in order.
    pub fn possessions(&self) -> impl Iterator<Item = (PageId, Mode)> + '_ {
        self.pages
            .iter()
            .filter_map(|(page, local)| local.held.map(|h| (*page, h.mode)))
    }

    /// Images retained.
    pub fn retained_count(&self) -> usize {
        self.retained.len()
    }

    /// Whether nothing is possessed, retained, wanted or released without answer: the node may leave.
    pub fn is_quiet(&self) -> bool {
        self.pages.is_empty() && self.retained.is_empty()
    }

    /// PSN of the retained image of `page`.
    pub fn retained_psn(&self, page: PageId) -> Option<crate::page::Psn> {
        self.retained.get(&page).map(|r| r.info.psn)
    }

    /// Asks for `page`, unless it is possessed so or a request is under way (ask again when that is granted).
    pub fn handle_acquire(&mut self, now: Instant, page: PageId, mode: Mode) {
        self.now = now;
        let local = self.pages.entry(page).or_default();
        if local.want.is_some() || local.held.is_some_and(|h| h.mode >= mode) {
            return;
        }
        local.want = Some(Want::Deferred(mode));
        self.ask(page);
        self.drain();
    }

    pub(crate) fn ask(&mut self, page: PageId) {
        if !self.serving() {
            return;
        }
        let local = self.pages.get(&page).copied().unwrap_or_default();
        let Some(Want::Deferred(mode)) = local.want else {
            return;
        };
        if local.releasing.is_some() && !planted(Defect::AcquireBeforeReleaseAck) {
            return;
        }
        let (home, request) = self.new_request(page);
        self.pages.entry(page).or_default().want = Some(Want::Asked(mode, request));
        self.repeat(Key::Acquire(page), home, Message::Acquire { page, mode, request });
    }

    /// The frame has the page: true when the grant still stands. The possession must become visible only then, and
    /// before anything else is handled.
    pub fn handle_installed(&mut self, now: Instant, page: PageId, conversion: Conversion) -> Option<Mode> {
        self.now = now;
        let local = self.pages.get_mut(&page)?;
        let mode = match local.want {
            Some(Want::Installing(mode, granted)) if granted == conversion => {
                local.want = None;
                mode
            }
            _ if local.restoring == Some(conversion) => {
                local.restoring = None;
                Mode::Exclusive
            }
            _ => return None,
        };
        local.held = Some(Possession {
            mode,
            seen: conversion,
        });
        // A repeated order of an earlier conversion that waited until now: its requester has the page, or gave it up since (HZ-4).
        local.surrender = local.surrender.filter(|wanted| wanted.conversion > conversion);
        let next = local.next.take();
        self.retained.remove(&page);
        let home = self.home(page);
        let (key, done) = (Key::Done(page, conversion), Message::Done { page, conversion });
        self.repeat(key, home, done);
        if planted(Defect::SendDoneOnce) {
            self.settle(key);
        }
        if let Some(order) = next {
            self.obey(page, order);
        }
        self.drain();
        Some(mode)
    }

    /// Storage refused the page, or a retained image was not newer than storage.
    pub fn handle_refused(&mut self, now: Instant, page: PageId, conversion: Conversion) -> bool {
        self.now = now;
        let Some(local) = self.pages.get_mut(&page) else {
            return false;
        };
        if local.restoring == Some(conversion) {
            local.restoring = None;
            self.retained.remove(&page);
        } else if matches!(local.want, Some(Want::Installing(_, granted)) if granted == conversion) {
            (local.want, local.next) = (None, None);
        } else {
            return false;
        }
        let home = self.home(page);
        self.repeat(
            Key::Done(page, conversion),
            home,
            Message::Refused { page, conversion },
        );
        self.tidy(page);
        self.drain();
        true
    }

    /// Gives a page up of the node's own accord. It must be clean or held without duty, and its frame's possession
    /// lowered when this answers true.
    pub fn handle_release(&mut self, now: Instant, page: PageId) -> bool {
        self.now = now;
        if !self.serving() || !self.releasable(page) {
            return false;
        }
        let local = self.pages.get_mut(&page).expect("checked");
        local.held = None;
        if planted(Defect::EvictWithoutRelease) {
            self.tidy(page);
            return true;
        }
        self.release(page);
        self.drain();
        true
    }

    /// Tells the home that the page was given up.
    pub(crate) fn release(&mut self, page: PageId) {
        let (home, request) = self.new_request(page);
        self.pages.entry(page).or_default().releasing = Some(request);
        self.repeat(Key::Release(page), home, Message::Release { page, request });
    }

    /// Whether nothing is under way that forbids giving the page up. A page that was redone here stays until its home knows that: a
    /// release that overtook the report would be followed by it, and the home would take this node for the owner.
    pub fn releasable(&self, page: PageId) -> bool {
        let reported = self.repeated.contains_key(&Key::Redone(page));
        let local = self.pages.get(&page);
        !reported && local.is_some_and(|l| l.held.is_some() && l.want.is_none() && l.surrender.is_none())
    }

    /// The page was written back at its present PSN.
    pub fn handle_cleaned(&mut self, now: Instant, page: PageId) {
        self.now = now;
        let Some(held) = self.pages.get(&page).and_then(|l| l.held) else {
            return;
        };
        if held.mode == Mode::Shared && self.serving() {
            let home = self.home(page);
            self.send(
                home,
                Message::Cleaned {
                    page,
                    conversion: held.seen,
                },
                None,
            );
            self.drain();
        }
    }

    /// Tells contributor `by` (the leader, when it is not in the view) that pages are on storage.
    pub fn handle_written_back(
        &mut self,
        now: Instant,
        by: NodeId,
        pages: alloc::vec::Vec<(PageId, crate::page::Psn)>,
    ) {
        self.now = now;
        if self.serving() {
            let to = if self.view.contains(by) {
                by
            } else {
                self.view.leader
            };
            self.send(to, Message::WrittenBack { by, pages }, None);
            self.drain();
        }
    }

    /// This node's redo is pinned by `page`: asks its dirty holder to write it back.
    pub fn handle_want_flush(&mut self, now: Instant, page: PageId) {
        self.now = now;
        if self.serving() {
            let home = self.home(page);
            self.send(home, Message::FlushWanted { page }, None);
            self.drain();
        }
    }

    pub(crate) fn tidy(&mut self, page: PageId) {
        if self.pages.get(&page).is_some_and(Local::is_empty) {
            self.pages.remove(&page);
        }
    }

    pub(crate) fn stale(&mut self) {
        self.counters.dropped_stale += 1; // HZ-4
    }

    /// The page, when this node asked for it by `request`, and for no more than `mode`.
    fn asked(&mut self, page: PageId, request: Request, mode: Mode) -> Option<&mut Local> {
        let want = self.pages.get(&page).and_then(|local| local.want);
        match want {
            Some(Want::Asked(wanted, asked)) if asked == request => {
                if mode < wanted {
                    self.refuse(Fault::Content);
                    return None;
                }
            }
            _ => {
                self.stale();
                return None;
            }
        }
        self.pages.get_mut(&page)
    }

    pub(crate) fn on_grant(
        &mut self,
        from: NodeId,
        page: PageId,
        conversion: Conversion,
        request: Request,
        mode: Mode,
        source: Source,
    ) {
        if source == Source::Retained {
            return self.on_restore(from, page, conversion);
        }
        let Some(local) = self.asked(page, request, mode) else {
            return;
        };
        local.want = Some(Want::Installing(mode, conversion));
        assert!(
            (source == Source::Upgrade) == local.held.is_some(),
            "DIR-2: the home of {page} does not know whether it is held here: an upgrade keeps its page until it is granted"
        );
        self.settle(Key::Acquire(page));
        self.outputs.push_back(match source {
            Source::Upgrade => Output::Upgrade {
                page,
                conversion,
                mode,
            },
            _ => Output::ReadStorage {
                page,
                conversion,
                mode,
            },
        });
    }

    fn on_restore(&mut self, home: NodeId, page: PageId, conversion: Conversion) {
        let local = self.pages.get(&page).copied().unwrap_or_default();
        if local.held.is_some() || local.restoring.is_some() {
            return self.stale();
        }
        let Some(retained) = self.retained.get(&page) else {
            return self.send(home, Message::Refused { page, conversion }, None);
        };
        // A late copy of this Grant must not restore what was shipped after it (HZ-4).
        if conversion <= retained.conversion && !planted(Defect::ObeyStaleRestore) {
            return self.stale();
        }
        let (image, info) = (retained.image.clone(), retained.info);
        self.pages.entry(page).or_default().restoring = Some(conversion);
        if planted(Defect::TrustRetained) {
            let mode = Mode::Exclusive;
            self.outputs.push_back(Output::Install {
                page,
                conversion,
                mode,
                image,
                info,
            });
            return;
        }
        self.outputs.push_back(Output::Restore {
            page,
            conversion,
            image,
            info,
        });
    }

    pub(crate) fn on_page(
        &mut self,
        page: PageId,
        conversion: Conversion,
        request: Request,
        mode: Mode,
        info: ImageInfo,
        image: Option<I>,
    ) {
        let Some(image) = image else { return self.stale() };
        let retained = self.retained.get(&page).map(|retained| retained.info.psn);
        let Some(local) = self.asked(page, request, mode) else {
            return;
        };
        assert!(
            local.held.is_none(),
            "DIR-1: an image of {page} comes to a holder"
        );
        assert!(
            retained <= Some(info.psn),
            "DIR-2: {page} came older than it left"
        );
        local.want = Some(Want::Installing(mode, conversion));
        self.settle(Key::Acquire(page));
        self.outputs.push_back(Output::Install {
            page,
            conversion,
            mode,
            image,
            info,
        });
    }

    pub(crate) fn on_denied(&mut self, page: PageId, request: Request) {
        let Some(local) = self.pages.get_mut(&page) else {
            return self.stale();
        };
        if !matches!(local.want, Some(Want::Asked(_, asked)) if asked == request) {
            return self.stale();
        }
        (local.want, local.next) = (None, None);
        self.settle(Key::Acquire(page));
        self.outputs.push_back(Output::Denied(page));
        self.tidy(page);
    }

    pub(crate) fn on_release_ack(&mut self, page: PageId, request: Request) {
        let Some(local) = self.pages.get_mut(&page) else {
            return self.stale();
        };
        if local.releasing != Some(request) {
            return self.stale();
        }
        local.releasing = None;
        self.settle(Key::Release(page));
        self.outputs.push_back(Output::RedoReady);
        self.ask(page);
        self.tidy(page);
    }

    pub(crate) fn on_drop(&mut self, home: NodeId, page: PageId, conversion: Conversion) {
        if self
            .retained
            .get(&page)
            .is_some_and(|r| r.conversion <= conversion)
        {
            self.retained.remove(&page);
        }
        self.send(home, Message::Dropped { page, conversion }, None);
    }

    pub(crate) fn on_inherit(&mut self, home: NodeId, page: PageId, conversion: Conversion) {
        let Some(held) = self.pages.get_mut(&page).and_then(|l| l.held.as_mut()) else {
            return self.send(home, Message::Gone { page, conversion }, None);
        };
        if conversion < held.seen {
            return self.stale();
        }
        if conversion > held.seen {
            held.seen = conversion;
            self.outputs.push_back(Output::Inherit(page));
        }
        self.send(home, Message::Inherited { page, conversion }, None);
    }
}
