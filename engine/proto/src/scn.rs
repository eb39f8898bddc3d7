//! Commit timestamps of the cluster: who issues them, who fetches them, and what is old enough to prune.
//!
//! Rules:
//! - an SCN is issued once, above every SCN issued before, and never above the durable ceiling; a new leader starts
//!   above the highest ceiling of all nodes;
//! - a snapshot is an SCN that was the newest one issued at some instant between its request and its answer, so
//!   everything acknowledged before the request is covered;
//! - a node's floor lies at or below every snapshot it has or will get from a reply in flight: it is published
//!   before the node asks (HZ-15). The horizon is the lowest floor of the view's members; a departed node's floor
//!   stands until the view changes, and a node that joins starts at the horizon;
//! - one outstanding fetch serves every request that arrived before it was sent, and none that came later.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use aquifer_buffer_pool_proto::Scn;
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{NodeId, NodeSet};
use serde::{Deserialize, Serialize};

/// A fetch, as sent to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScnFetch {
    /// How many commit SCNs are wanted.
    pub take: u32,
    /// The sender's floor.
    pub floor: Scn,
}

/// The leader's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScnReply {
    /// The first of the SCNs taken (meaningless when none were).
    pub first: Scn,
    /// Newest SCN issued: the snapshot.
    pub current: Scn,
    /// No snapshot of the cluster lies below this.
    pub horizon: Scn,
}

impl ScnReply {
    /// Whether a leader can have given this answer to `fetch` of a node that knew `last` when it asked.
    pub fn answers(&self, fetch: &ScnFetch, last: Scn) -> bool {
        let end = self.first.0.checked_add(u64::from(fetch.take));
        let taken = self.first > Scn(0) && end.is_some_and(|end| end - 1 <= self.current.0);
        (fetch.take == 0 || taken)
            && self.current >= last
            && self.horizon <= self.current
            && self.current < Scn(u64::MAX)
    }
}

/// The issuing side, at the leader.
#[derive(Clone, Debug)]
pub struct ScnIssuer {
    current: Scn,
    ceiling: Scn,
    reserve: u64,
    /// Floors of the members; `None` until the member has told one to this leader.
    floors: BTreeMap<NodeId, Option<Scn>>,
    horizon: Scn,
}

impl ScnIssuer {
    /// Starts above `highest_ceiling` of all slots. Reserves `reserve` SCNs at a time. Nothing can be taken before a
    /// ceiling was reported durable. `horizon`: what this node knew as the horizon so far.
    pub fn new(highest_ceiling: Scn, reserve: u64, members: NodeSet, horizon: Scn) -> Self {
        assert!(reserve > 0, "an issuer reserves at least one SCN");
        let floors = members.iter().map(|node| (node, None)).collect();
        Self {
            current: highest_ceiling,
            ceiling: highest_ceiling,
            reserve,
            floors,
            horizon,
        }
    }

    /// Newest SCN issued: a snapshot taken now.
    pub const fn current(&self) -> Scn {
        self.current
    }

    /// Takes `count` SCNs and gives the first; `None` when the durable ceiling is too low.
    pub fn take(&mut self, count: u32) -> Option<Scn> {
        let last = Scn(self.current.0 + u64::from(count));
        if last > self.ceiling {
            return None;
        }
        let first = Scn(self.current.0 + 1);
        self.current = last;
        Some(first)
    }

    /// The ceiling to make durable next, when more than half of the reserve is used or `needed` SCNs do not fit.
    pub fn wants_ceiling(&self, needed: u32) -> Option<Scn> {
        let left = self.ceiling.0 - self.current.0;
        (left < u64::from(needed) || left <= self.reserve / 2)
            .then_some(Scn(self.current.0 + self.reserve + u64::from(needed)))
    }

    /// `ceiling` is durable in this node's slot.
    pub fn ceiling_durable(&mut self, ceiling: Scn) {
        self.ceiling = self.ceiling.max(ceiling);
    }

    /// The view changed: floors of nodes that left go, nodes that joined start at the horizon. Called only when the
    /// departed are proven dead. A node that comes back as another life must be in `joined`.
    pub fn install_view(&mut self, members: NodeSet, joined: NodeSet) {
        let horizon = if planted(Defect::JoinerWithoutFloor) {
            Scn(u64::MAX)
        } else {
            self.horizon()
        };
        self.floors.retain(|node, _| members.contains(*node));
        for node in joined.intersection(members).iter() {
            self.floors.insert(node, Some(horizon));
        }
        for node in members.iter() {
            self.floors.entry(node).or_insert(Some(horizon));
        }
    }

    /// A member's floor. Late, lower news of the same life changes nothing that was already promised.
    pub fn floor(&mut self, node: NodeId, floor: Scn) {
        if let Some(known) = self.floors.get_mut(&node) {
            *known = Some(known.map_or(floor, |known| known.max(floor)));
        }
    }

    /// No snapshot of the cluster, existing or in flight, lies below this.
    pub fn horizon(&mut self) -> Scn {
        let lowest = self.floors.values().copied().min().flatten();
        if let Some(lowest) = lowest {
            self.horizon = self.horizon.max(lowest);
        }
        self.horizon
    }

    /// Answers a fetch of `node`; `None` when the durable ceiling is too low: raise it and call again.
    pub fn answer(&mut self, node: NodeId, fetch: ScnFetch) -> Option<ScnReply> {
        let first = self.take(fetch.take)?;
        self.floor(node, fetch.floor);
        Some(ScnReply {
            first,
            current: self.current,
            horizon: self.horizon(),
        })
    }
}

/// What a caller wants from the next fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScnWant {
    /// A snapshot; it is registered as active when the reply arrives.
    Snapshot,
    /// A commit SCN.
    Commit,
}

/// The fetching side, at every node (the leader's own requests go the same way, without a message).
/// `T` is the caller's handle of a request.
#[derive(Debug)]
pub struct ScnFetcher<T> {
    waiting: Vec<(ScnWant, T)>,
    sent: Vec<(ScnWant, T)>,
    outstanding: bool,
    /// The last reply's newest SCN. No reply to a fetch that is sent later can be lower.
    last: Scn,
    horizon: Scn,
    active: BTreeMap<Scn, usize>,
}

impl<T> Default for ScnFetcher<T> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            sent: Vec::new(),
            outstanding: false,
            last: Scn(0),
            horizon: Scn(0),
            active: BTreeMap::new(),
        }
    }
}

impl<T> ScnFetcher<T> {
    /// A request; it is served by the next fetch.
    pub fn request(&mut self, want: ScnWant, token: T) {
        self.waiting.push((want, token));
    }

    /// The fetch to send now, if somebody waits and none is outstanding.
    pub fn poll_fetch(&mut self) -> Option<ScnFetch> {
        if self.outstanding || self.waiting.is_empty() {
            return None;
        }
        Some(self.start())
    }

    /// A fetch for the sake of the floor and the horizon alone (an idle node must not hold the horizon back), unless
    /// one is outstanding.
    pub fn poll_refresh(&mut self) -> Option<ScnFetch> {
        (!self.outstanding).then(|| self.start())
    }

    fn start(&mut self) -> ScnFetch {
        self.outstanding = true;
        self.sent = core::mem::take(&mut self.waiting);
        let commits = self
            .sent
            .iter()
            .filter(|(want, _)| *want == ScnWant::Commit)
            .count();
        ScnFetch {
            take: u32::try_from(commits).expect("fewer than 2^32 commits wait"),
            floor: if planted(Defect::FloorAfterFetch) {
                self.active.keys().next().copied().unwrap_or(Scn(u64::MAX))
            } else {
                self.floor()
            },
        }
    }

    /// At or below every snapshot that is active here or may come with an outstanding reply.
    pub fn floor(&self) -> Scn {
        self.active
            .keys()
            .next()
            .map_or(self.last, |oldest| self.last.min(*oldest))
    }

    /// The reply to the outstanding fetch: each request with its SCN. Snapshots are registered already.
    pub fn handle_reply(&mut self, reply: ScnReply) -> Vec<(ScnWant, T, Scn)> {
        assert!(self.outstanding, "a reply without a fetch");
        assert!(
            reply.current >= self.last,
            "SCNs went back from {:?} to {:?}",
            self.last,
            reply.current
        );
        self.outstanding = false;
        self.last = reply.current;
        self.horizon = self.horizon.max(reply.horizon);
        let mut next = reply.first;
        let mut served = Vec::with_capacity(self.sent.len());
        for (want, token) in self.sent.drain(..) {
            let scn = match want {
                ScnWant::Snapshot => {
                    *self.active.entry(reply.current).or_insert(0) += 1;
                    reply.current
                }
                ScnWant::Commit => {
                    next.0 += 1;
                    Scn(next.0 - 1)
                }
            };
            served.push((want, token, scn));
        }
        served
    }

    /// The outstanding fetch failed (its leader left the view): its requests wait for the next one. SCNs it may have
    /// taken are lost, which harms nobody.
    pub fn handle_failure(&mut self) {
        self.outstanding = false;
        let later = core::mem::take(&mut self.waiting);
        self.waiting = core::mem::take(&mut self.sent);
        self.waiting.extend(later);
    }

    /// One more user of a snapshot that is active (a copy of its handle).
    pub fn retain(&mut self, snapshot: Scn) {
        *self
            .active
            .get_mut(&snapshot)
            .expect("only an active snapshot is copied") += 1;
    }

    /// A snapshot is no longer used.
    pub fn release(&mut self, snapshot: Scn) {
        let count = self
            .active
            .get_mut(&snapshot)
            .expect("released as often as registered");
        *count -= 1;
        if *count == 0 {
            self.active.remove(&snapshot);
        }
    }

    /// The cluster's prune horizon as last heard.
    pub const fn horizon(&self) -> Scn {
        self.horizon
    }

    /// The newest SCN this node has heard of.
    pub const fn last(&self) -> Scn {
        self.last
    }

    /// How many snapshots are active here.
    pub fn active_snapshots(&self) -> usize {
        self.active.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::defect::fails_with;

    fn node(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn members(ids: &[u8]) -> NodeSet {
        ids.iter().map(|id| node(*id)).collect()
    }

    #[test]
    fn nothing_is_issued_above_the_durable_ceiling() {
        let mut issuer = ScnIssuer::new(Scn(100), 10, members(&[1]), Scn(0));
        assert_eq!(issuer.current(), Scn(100));
        assert_eq!(issuer.take(1), None);
        let ceiling = issuer.wants_ceiling(1).unwrap();
        issuer.ceiling_durable(ceiling);
        assert_eq!(issuer.take(3), Some(Scn(101)));
        assert_eq!(issuer.current(), Scn(103));
        assert_eq!(issuer.take(100), None);
        let ceiling = issuer.wants_ceiling(100).unwrap();
        issuer.ceiling_durable(ceiling);
        assert_eq!(issuer.take(100), Some(Scn(104)));
        let successor = ScnIssuer::new(ceiling, 10, members(&[2]), Scn(0));
        assert!(
            successor.current() >= issuer.current(),
            "the next leader starts above"
        );
    }

    #[test]
    fn horizon_waits_for_every_member_and_for_replies_in_flight() {
        let mut issuer = ScnIssuer::new(Scn(100), 1000, members(&[1, 2]), Scn(0));
        issuer.ceiling_durable(Scn(5000));
        let mut one = ScnFetcher::default();
        let mut two = ScnFetcher::default();
        one.request(ScnWant::Snapshot, 'a');
        let fetch = one.poll_fetch().unwrap();
        let reply = issuer.answer(node(1), fetch).unwrap();
        assert_eq!(reply.horizon, Scn(0), "node 2 has not spoken");
        // The reply is in flight. Node 2 moves on and on.
        for _ in 0..5 {
            two.request(ScnWant::Commit, 'c');
            let fetch = two.poll_fetch().unwrap();
            let reply = issuer.answer(node(2), fetch).unwrap();
            two.handle_reply(reply);
        }
        assert!(
            two.horizon() <= reply.current,
            "the horizon passes no snapshot in flight (HZ-15)"
        );
        assert_eq!(one.handle_reply(reply), [(ScnWant::Snapshot, 'a', Scn(100))]);
        let refresh = one.poll_refresh().unwrap();
        one.handle_reply(issuer.answer(node(1), refresh).unwrap());
        assert_eq!(issuer.horizon(), Scn(100));
        one.release(Scn(100));
        for fetcher in [(&mut one, 1), (&mut two, 2)] {
            for _ in 0..2 {
                let refresh = fetcher.0.poll_refresh().unwrap();
                let reply = issuer.answer(node(fetcher.1), refresh).unwrap();
                fetcher.0.handle_reply(reply);
            }
        }
        assert_eq!(issuer.horizon(), Scn(105));
    }

    #[test]
    fn one_fetch_serves_what_arrived_before_it_was_sent() {
        let mut fetcher = ScnFetcher::default();
        fetcher.request(ScnWant::Snapshot, 1);
        fetcher.request(ScnWant::Commit, 2);
        fetcher.request(ScnWant::Commit, 3);
        let fetch = fetcher.poll_fetch().unwrap();
        assert_eq!(fetch.take, 2);
        fetcher.request(ScnWant::Snapshot, 4);
        assert!(fetcher.poll_fetch().is_none());
        let reply = ScnReply {
            first: Scn(8),
            current: Scn(9),
            horizon: Scn(1),
        };
        let served = fetcher.handle_reply(reply);
        let commit = ScnWant::Commit;
        assert_eq!(
            served,
            [
                (ScnWant::Snapshot, 1, Scn(9)),
                (commit, 2, Scn(8)),
                (commit, 3, Scn(9))
            ]
        );
        let fetch = fetcher.poll_fetch().unwrap();
        assert_eq!(
            fetch,
            ScnFetch {
                take: 0,
                floor: Scn(9)
            }
        );
        fetcher.handle_failure();
        assert!(
            fetcher.poll_fetch().is_some(),
            "a failed fetch is sent again for the same requests"
        );
    }

    #[test]
    fn floors_go_only_with_the_view_and_joiners_start_at_the_horizon() {
        let mut issuer = ScnIssuer::new(Scn(0), 1000, members(&[1, 2]), Scn(0));
        issuer.ceiling_durable(Scn(1000));
        issuer.floor(node(1), Scn(50));
        issuer.floor(node(2), Scn(20));
        assert_eq!(issuer.horizon(), Scn(20));
        issuer.install_view(members(&[1, 3]), members(&[3]));
        assert_eq!(issuer.horizon(), Scn(20), "the joiner holds it where it was");
        issuer.floor(node(3), Scn(60));
        assert_eq!(issuer.horizon(), Scn(50));
        issuer.floor(node(9), Scn(1));
        assert_eq!(issuer.horizon(), Scn(50), "a stranger's floor is none");
    }

    #[test]
    fn each_rule_of_time_is_missed_when_it_is_gone() {
        let flight: fn() = horizon_waits_for_every_member_and_for_replies_in_flight;
        assert!(fails_with(Defect::FloorAfterFetch, flight));
        let joiners = floors_go_only_with_the_view_and_joiners_start_at_the_horizon;
        assert!(fails_with(Defect::JoinerWithoutFloor, joiners));
    }
}
