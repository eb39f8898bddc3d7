//! The next requester: its order is told to the next holder ahead, so that the page goes on without waiting for Done.
//!
//! Rules: only the requester of an Exclusive conversion under way is told, because it will be the only holder; it obeys when it has
//! the page and never answers; after its Done the order stands as a Transfer of the same number; Done of the conversion that follows ends the
//! one before it.

use crate::directory::{Ask, State, Step};
use crate::message::{Conversion, Message, Order, Request};
use crate::ownership::{Contents, Key, Ownership};
use crate::page::{Mode, PageId};
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::defect::{Defect, planted};

impl<I: Clone, C: Contents> Ownership<I, C> {
    /// The next conversion begins; its order was said to the owner.
    pub(crate) fn follow(&mut self, page: PageId, conversion: Conversion, ask: Ask, owner: NodeId) {
        self.entry(page).state = State::Converting {
            conversion,
            ask,
            step: Step::Shipping(owner),
        };
        let order = ask.order(conversion);
        self.remind(Key::Step(page, owner), owner, Message::Transfer { page, order });
        self.chain(page);
    }

    /// Tells the requester of the conversion under way who is next. It will be the only holder, so that what is next can only be a
    /// transfer from it.
    pub(crate) fn chain(&mut self, page: PageId) {
        if self.rests(page) {
            return;
        }
        let Some(entry) = self.entries.get(&page) else {
            return;
        };
        let State::Converting { ask, step, .. } = entry.state else {
            return;
        };
        let alone = ask.mode == Mode::Exclusive && !matches!(step, Step::Invalidating(_));
        // What is reinstated nobody asked for.
        if !alone || ask.request == Request::default() || entry.next.is_some() || entry.queue.is_empty() {
            return;
        }
        let conversion = self.new_conversion();
        let entry = self.entry(page);
        let follower = entry.queue.pop_front().expect("somebody waits");
        entry.next = Some((conversion, follower));
        let order = follower.order(conversion);
        self.send(ask.node, Message::Next { page, order }, None);
    }

    /// Whoever has the page by the conversion that follows has it from the requester of the one under way, whose own Done may be late.
    pub(crate) fn end_proven(&mut self, from: NodeId, page: PageId, conversion: Conversion) {
        let Some(entry) = self.entries.get(&page) else {
            return;
        };
        let Some((next, follower)) = entry
            .next
            .filter(|(next, ask)| (*next, ask.node) == (conversion, from))
        else {
            return;
        };
        if let State::Converting {
            conversion: ended,
            ask,
            step,
        } = entry.state
            && !matches!(step, Step::Invalidating(_))
        {
            self.end(page, ended, ask, step);
            let entry = self.entry(page);
            entry.next = None;
            entry.state = State::Converting {
                conversion: next,
                ask: follower,
                step: Step::Shipping(ask.node),
            };
        }
    }

    /// The order that follows the conversion in which this node asked: it waits until the page is here.
    pub(crate) fn on_next(&mut self, page: PageId, order: Order) {
        match self.pages.get_mut(&page) {
            Some(local) if local.want.is_some() && !planted(Defect::NextBeforeGrant) => {
                local.next = Some(order);
            }
            _ => self.obey(page, order),
        }
    }
}
