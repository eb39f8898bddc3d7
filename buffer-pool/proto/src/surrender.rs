//! The node's side: how a page is given up when its home says so.
//!
//! Rules: an order is obeyed once, and only if it is newer than the last conversion that the node took part in (HZ-4); whoever has
//! neither page nor retained image says Gone; an image shipped with Exclusive, or dropped by a dirty holder, is retained (HZ-3).

use crate::message::{Conversion, Message, Order, Request};
use crate::ownership::{Contents, Output, Ownership};
use crate::page::{ImageInfo, Mode, PageId};
use crate::possession::Retained;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Instant, NodeId, NodeSet};

/// How a page is given up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SurrenderKind {
    /// A sharer sends a copy and keeps its own. The image is needed.
    Copy,
    /// An owner sends a copy and becomes a sharer that keeps the duty. The image is needed.
    Downgrade,
    /// A holder sends its image and holds nothing. The image is needed.
    Ship,
    /// A sharer drops its copy. The image is needed when it has the duty.
    Drop,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Surrender {
    pub conversion: Conversion,
    pub kind: SurrenderKind,
    pub to: NodeId,
    pub request: Request,
}

impl<I: Clone, C: Contents> Ownership<I, C> {
    /// The surrender was done: the frame's possession is lowered already. `image` as [`SurrenderKind`] says.
    pub fn handle_surrendered(
        &mut self,
        now: Instant,
        page: PageId,
        conversion: Conversion,
        image: Option<I>,
        mut info: ImageInfo,
    ) {
        self.now = now;
        if planted(Defect::SkipContributors) {
            info.contributors = NodeSet::EMPTY;
        }
        let local = self.pages.get_mut(&page).expect("a surrendering page is known");
        let surrender = local.surrender.take().expect("the driver asked surrender_wanted");
        assert_eq!(
            surrender.conversion, conversion,
            "the driver asked surrender_wanted"
        );
        let held = local.held.as_mut().expect("only a possessed page is surrendered");
        held.seen = conversion;
        let request = surrender.request;
        let mode = match surrender.kind {
            SurrenderKind::Copy => Mode::Shared,
            SurrenderKind::Downgrade => {
                held.mode = Mode::Shared;
                Mode::Shared
            }
            SurrenderKind::Ship => {
                local.held = None;
                Mode::Exclusive
            }
            SurrenderKind::Drop => {
                local.held = None;
                self.dropped(surrender.to, page, conversion, image, info);
                return;
            }
        };
        let image = image.expect("a shipped page has an image");
        if mode == Mode::Exclusive && !planted(Defect::RetainNothing) {
            self.retained.insert(
                page,
                Retained {
                    conversion,
                    image: image.clone(),
                    info,
                },
            );
        }
        self.send(
            surrender.to,
            Message::Page {
                page,
                conversion,
                request,
                mode,
                info,
            },
            Some(image),
        );
        self.tidy(page);
        self.drain();
    }

    /// A sharer dropped its copy because `home` said so; with an image it had the duty, and retains it.
    fn dropped(
        &mut self,
        home: NodeId,
        page: PageId,
        conversion: Conversion,
        image: Option<I>,
        info: ImageInfo,
    ) {
        let retained = image.is_some();
        if let Some(image) = image {
            self.retained.insert(
                page,
                Retained {
                    conversion,
                    image,
                    info,
                },
            );
        }
        self.send(
            home,
            Message::Invalidated {
                page,
                conversion,
                retained,
            },
            None,
        );
        self.tidy(page);
        self.drain();
    }

    pub(crate) fn on_transfer(&mut self, home: NodeId, page: PageId, order: Order) {
        if self.possessed(page).is_some() {
            return self.obey(page, order);
        }
        let Order {
            conversion,
            mode,
            to,
            request,
        } = order;
        match self.retained.get(&page) {
            Some(retained) if retained.conversion == conversion => {
                let (image, info) = (retained.image.clone(), retained.info);
                self.send(
                    to,
                    Message::Page {
                        page,
                        conversion,
                        request,
                        mode,
                        info,
                    },
                    Some(image),
                );
            }
            _ => self.send(home, Message::Gone { page, conversion }, None),
        }
    }

    /// An order for a page that is possessed.
    pub(crate) fn obey(&mut self, page: PageId, order: Order) {
        let local = self.pages.get_mut(&page);
        let Some((local, held)) = local.and_then(|l| l.held.map(|h| (l, h))) else {
            return self.stale();
        };
        let Order {
            conversion,
            mode,
            to,
            request,
        } = order;
        let again = conversion == held.seen && mode == Mode::Shared && held.mode == Mode::Shared;
        let kind = match (mode, held.mode) {
            (Mode::Exclusive, _) => SurrenderKind::Ship,
            (Mode::Shared, Mode::Exclusive) => SurrenderKind::Downgrade,
            (Mode::Shared, Mode::Shared) => SurrenderKind::Copy,
        };
        let old = conversion <= held.seen && !again && !planted(Defect::ObeyStaleTransfer);
        if local.surrender.is_some() || old {
            return self.stale();
        }
        local.surrender = Some(Surrender {
            conversion,
            kind,
            to,
            request,
        });
        self.outputs.push_back(Output::Surrender {
            page,
            conversion,
            kind,
        });
    }

    pub(crate) fn on_invalidate(&mut self, home: NodeId, page: PageId, conversion: Conversion) {
        let local = self.pages.get_mut(&page);
        let Some((local, held)) = local.and_then(|l| l.held.map(|h| (l, h))) else {
            let retained = self
                .retained
                .get(&page)
                .is_some_and(|r| r.conversion == conversion);
            return self.send(
                home,
                Message::Invalidated {
                    page,
                    conversion,
                    retained,
                },
                None,
            );
        };
        let old = conversion <= held.seen && !planted(Defect::ObeyStaleInvalidate);
        if local.surrender.is_some() || old {
            return self.stale();
        }
        assert!(held.mode == Mode::Shared, "DIR-1: only sharers are invalidated");
        let request = Request::default();
        let kind = SurrenderKind::Drop;
        local.surrender = Some(Surrender {
            conversion,
            kind,
            to: home,
            request,
        });
        self.outputs.push_back(Output::Surrender {
            page,
            conversion,
            kind,
        });
    }
}
