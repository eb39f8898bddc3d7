//! The door for messages of peers, and for the pages behind them.
//!
//! Rule BUF-14: a page that a waiter here asked for is read from the network straight into a frame, of which nothing is believed before it is
//! whole. Any other page, and one for which there is no frame at once, goes to a buffer. What does not come whole, or is not wanted any more when
//! it is here, leaves nothing behind.

use crate::free::ArrivingFrame;
use crate::images::{Image, PageBuffer};
use crate::pool::{Inner, Pool, count};
use crate::wire;
use aquifer_buffer_pool_proto::{Envelope, Message};
use aquifer_dss::seam::{Receiver, Service};
use aquifer_dss_proto::{Incarnation, NodeId};
use std::sync::Arc;

/// A message of a later epoch: its sender installed a view before this node did. Kept, because losing it would cost every
/// take-over a whole `retransmit`.
pub(crate) struct EarlyMessage {
    from: NodeId,
    incarnation: Incarnation,
    envelope: Envelope,
    image: Option<Image>,
}

/// Early messages kept at most; the others are repeated by their senders.
const EARLY_LIMIT: usize = 1024;

/// Where a page arrives.
enum Place {
    Frame(ArrivingFrame),
    Buffer(PageBuffer),
}

/// Takes the messages of `Service::Pages` from one life of a peer.
pub struct PageReceiver {
    pool: Arc<Pool>,
    from: NodeId,
    incarnation: Incarnation,
    /// The page that is arriving, and the message before it.
    arriving: Option<(Envelope, Place)>,
}

impl Receiver for PageReceiver {
    fn tail(&mut self, _service: Service, head: &[u8], length: usize) -> Option<&mut [u8]> {
        // What may have begun before did not come.
        self.arriving = None;
        let whole = length == self.pool.page_size().bytes();
        let envelope = wire::decode(head).filter(|envelope| wire::has_page(envelope) && whole);
        let Some(envelope) = envelope else {
            self.malformed(head, length);
            return None;
        };
        let place = self.pool.place_for(self.from, self.incarnation, &envelope);
        let (_, place) = self.arriving.insert((envelope, place));
        Some(match place {
            Place::Frame(frame) => frame.bytes(),
            Place::Buffer(buffer) => buffer,
        })
    }

    fn receive(&mut self, _service: Service, head: &[u8]) {
        let (from, incarnation) = (self.from, self.incarnation);
        if let Some((envelope, place)) = self.arriving.take() {
            return self.pool.accept(from, incarnation, envelope, Some(place));
        }
        match wire::decode(head).filter(|envelope| !wire::has_page(envelope)) {
            Some(envelope) => self.pool.accept(from, incarnation, envelope, None),
            None => self.malformed(head, 0),
        }
    }
}

impl PageReceiver {
    fn malformed(&self, head: &[u8], tail: usize) {
        tracing::warn!(from = %self.from, head = head.len(), tail, "a page message cannot be decoded");
        count(&self.pool.figures.malformed);
    }
}

impl Pool {
    /// What takes the messages of `Service::Pages` from one life of a peer, by one connection.
    pub fn receiver(self: &Arc<Self>, from: NodeId, incarnation: Incarnation) -> PageReceiver {
        PageReceiver {
            pool: self.clone(),
            from,
            incarnation,
            arriving: None,
        }
    }

    /// A frame for a page that is waited for, if there is one without waiting.
    fn place_for(self: &Arc<Self>, from: NodeId, incarnation: Incarnation, envelope: &Envelope) -> Place {
        let frame = self
            .is_awaited(from, incarnation, envelope)
            .then(|| self.free.take_for_arrival(|| self.evict_one()));
        match frame.flatten() {
            Some(frame) => Place::Frame(frame),
            None => Place::Buffer(self.images.take()),
        }
    }

    fn is_awaited(&self, from: NodeId, incarnation: Incarnation, envelope: &Envelope) -> bool {
        let Message::Page { page, request, .. } = envelope.message else {
            return false;
        };
        let core = &self.lock().core;
        let view = core.view();
        view.epoch == envelope.epoch
            && view.incarnation(from) == Some(incarnation)
            && core.awaits(page, request)
    }

    fn accept(
        self: &Arc<Self>,
        from: NodeId,
        incarnation: Incarnation,
        envelope: Envelope,
        page: Option<Place>,
    ) {
        let mut inner = self.lock();
        let image = page.map(|place| match place {
            Place::Buffer(buffer) => Image::Buffer(self.images.share(buffer)),
            Place::Frame(frame) => {
                inner.arrived = Some(frame);
                Image::Arrived
            }
        });
        let message = EarlyMessage {
            from,
            incarnation,
            envelope,
            image,
        };
        if message.envelope.epoch > inner.core.view().epoch && inner.early.len() < EARLY_LIMIT {
            assert!(
                inner.arrived.is_none(),
                "only a page of a view that was installed arrives in a frame"
            );
            inner.early.push(message);
            return;
        }
        self.take(&mut inner, message);
        self.pump(&mut inner);
        // Not wanted any more: the frame is free again.
        inner.arrived = None;
    }

    fn take(&self, inner: &mut Inner, message: EarlyMessage) {
        let EarlyMessage {
            from,
            incarnation,
            envelope,
            image,
        } = message;
        if inner.core.view().incarnation(from) != Some(incarnation) {
            return count(&self.figures.strangers); // DIR-5
        }
        if image.is_some() {
            let copy = matches!(envelope.message, Message::Copy { .. });
            count(if copy {
                &self.figures.copies_in
            } else {
                &self.figures.transfers_in
            });
        }
        let fault = inner.core.handle_message(self.now(), from, envelope, image);
        if let Some(fault) = fault {
            tracing::debug!(%from, ?fault, "dropped a message that no member means"); // DIR-8
        }
    }

    /// Takes the messages that came before the view of their epoch was installed; drops those of views that never were.
    pub(crate) fn take_early(&self, inner: &mut Inner) {
        let epoch = inner.core.view().epoch;
        for message in std::mem::take(&mut inner.early) {
            if message.envelope.epoch > epoch {
                inner.early.push(message);
            } else {
                self.take(inner, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemoryStore, NullRedo, TestClock};
    use crate::{Lsn, Mode, PageId, PageSize, PoolConfig, Psn};
    use aquifer_dss::seam::{Runtime, Tail, Transport, hand_over};
    use aquifer_dss_proto::{FileId, Member, NodeSet, View};
    use parking_lot::Mutex;
    use std::collections::VecDeque;

    type Letter = (NodeId, NodeId, Vec<u8>, Option<Tail>);

    /// Messages wait until the test delivers them.
    #[derive(Clone)]
    struct Wire(NodeId, Arc<Mutex<VecDeque<Letter>>>);

    impl Transport for Wire {
        fn send(&self, to: NodeId, _: Service, head: &[u8], tail: Option<Tail>) {
            self.1.lock().push_back((self.0, to, head.to_vec(), tail));
        }
    }

    struct Two {
        clock: TestClock,
        letters: Arc<Mutex<VecDeque<Letter>>>,
        pools: Vec<Arc<Pool>>,
        view: Arc<View>,
    }

    const PAGE_BYTES: usize = PageSize::USUAL.bytes();
    const PAGE: PageId = PageId {
        file: FileId(9),
        number: 0,
    };

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    impl Two {
        fn new(frames: usize) -> Self {
            let (clock, letters) = (TestClock::default(), Arc::default());
            let store = Arc::new(MemoryStore::default());
            let members = (1..=2).map(|id| Member {
                node: node(id),
                incarnation: Incarnation(1),
            });
            let view = Arc::new(View::none().successor(members.collect()));
            let pool = |id| {
                let wire = Arc::new(Wire(node(id), Arc::clone(&letters)));
                let runtime = Arc::new(clock.clone());
                let config = PoolConfig::new(node(id), frames);
                let pool = Pool::new(config, runtime, wire, store.clone(), Arc::new(NullRedo));
                pool.install_view(view.clone(), NodeSet::EMPTY, false);
                pool
            };
            let pools = vec![pool(1), pool(2)];
            Self {
                clock,
                letters,
                pools,
                view,
            }
        }

        fn pool(&self, of: NodeId) -> &Arc<Pool> {
            &self.pools[usize::from(of.get()) - 1]
        }

        /// Delivers everything up to the next page on its way; gives that.
        fn run_to_page(&self) -> Option<(PageReceiver, Vec<u8>, Tail)> {
            loop {
                self.clock
                    .block_on(self.clock.sleep(std::time::Duration::from_micros(1)));
                let (from, to, head, tail) = self.letters.lock().pop_front()?;
                let mut receiver = self.pool(to).receiver(from, Incarnation(1));
                match tail {
                    Some(tail) => return Some((receiver, head, tail)),
                    None => hand_over(&mut receiver, Service::Pages, &head, None),
                }
            }
        }

        /// Asks for the page at a node.
        fn ask(&self, id: u8) {
            let pool = self.pool(node(id)).clone();
            let ask = async move { drop(pool.acquire(PAGE, Mode::Exclusive).await) };
            self.clock.spawn("ask", Box::pin(ask));
        }

        /// A page of node 1 on its way to node 2, and how many frames are free there.
        fn begin(frames: usize) -> (Self, PageReceiver, Vec<u8>, Tail, usize) {
            let two = Self::new(frames);
            two.ask(1);
            assert!(two.run_to_page().is_none(), "it comes from storage");
            two.pools[0].write(PAGE).unwrap().finish(Psn(1), Lsn(0));
            two.ask(2);
            let (receiver, head, tail) = two.run_to_page().expect("the owner sends it");
            let free = two.pools[1].free.count();
            (two, receiver, head, tail, free)
        }
    }

    #[test]
    fn a_page_that_is_waited_for_arrives_in_its_frame() {
        let (two, mut receiver, head, tail, free) = Two::begin(8);
        let taker = &two.pools[1];
        let memory = receiver.tail(Service::Pages, &head, PAGE_BYTES).unwrap();
        let address = memory.as_ptr().addr();
        memory.copy_from_slice(&tail);
        assert!(taker.frames.address_range().contains(&address));
        assert_eq!(taker.free.count(), free - 1);
        receiver.receive(Service::Pages, &head);
        assert!(two.run_to_page().is_none());
        assert_eq!(taker.possessions(), [(PAGE, Mode::Exclusive)]);
        assert_eq!(taker.read(PAGE).unwrap().bytes().as_ptr().addr(), address);
        // The same page again: nobody waits for it.
        let again = receiver.tail(Service::Pages, &head, PAGE_BYTES).unwrap();
        assert!(!taker.frames.address_range().contains(&again.as_ptr().addr()));
        again.fill(3);
        receiver.receive(Service::Pages, &head);
        assert_eq!(taker.free.count(), free - 1);
        assert_eq!(taker.counters().dropped_stale, 1);
    }

    #[test]
    fn a_page_that_does_not_come_whole_leaves_its_frame_free() {
        let (two, mut receiver, head, tail, free) = Two::begin(8);
        let taker = &two.pools[1];
        receiver.tail(Service::Pages, &head, PAGE_BYTES).unwrap().fill(1);
        drop(receiver);
        assert_eq!(taker.free.count(), free);
        assert!(taker.possessions().is_empty());
        // The same by another connection, which says something else first.
        let mut receiver = taker.receiver(node(1), Incarnation(1));
        receiver.tail(Service::Pages, &head, PAGE_BYTES).unwrap().fill(1);
        assert!(receiver.tail(Service::Pages, &head, PAGE_BYTES - 1).is_none());
        assert_eq!(
            (taker.free.count(), taker.counters().dropped_malformed),
            (free, 1)
        );
        receiver.receive(Service::Pages, &head);
        assert_eq!(
            taker.counters().dropped_malformed,
            2,
            "a page message without a page"
        );
        hand_over(&mut receiver, Service::Pages, &head, Some(&tail));
        assert!(two.run_to_page().is_none());
        assert_eq!(taker.possessions(), [(PAGE, Mode::Exclusive)]);
    }

    #[test]
    fn a_page_of_a_view_that_is_over_leaves_its_frame_free() {
        let (two, mut receiver, head, _, free) = Two::begin(8);
        let taker = &two.pools[1];
        receiver.tail(Service::Pages, &head, PAGE_BYTES).unwrap().fill(1);
        let next = Arc::new(two.view.successor(two.view.members.clone()));
        for pool in &two.pools {
            pool.install_view(next.clone(), NodeSet::EMPTY, false);
        }
        receiver.receive(Service::Pages, &head);
        assert_eq!((taker.free.count(), taker.counters().dropped_epoch), (free, 1));
        assert!(taker.possessions().is_empty());
        let (mut receiver, head, tail) = two.run_to_page().expect("it is asked for again");
        hand_over(&mut receiver, Service::Pages, &head, Some(&tail));
        assert_eq!(taker.possessions(), [(PAGE, Mode::Exclusive)]);
    }

    #[test]
    fn pages_arrive_elsewhere_when_a_frame_in_eight_is_out() {
        let (two, mut first, head, tail, free) = Two::begin(8);
        let taker = &two.pools[1];
        first.tail(Service::Pages, &head, PAGE_BYTES).unwrap().fill(1);
        let mut second = taker.receiver(node(1), Incarnation(1));
        hand_over(&mut second, Service::Pages, &head, Some(&tail));
        assert_eq!(taker.possessions(), [(PAGE, Mode::Exclusive)]);
        assert_eq!(taker.free.count(), free - 2);
        first.receive(Service::Pages, &head);
        assert_eq!(taker.free.count(), free - 1);
    }
}
