//! DIR-1 to DIR-7 over a state, and what a run must be seen to reach.

use super::cluster::{Cluster, Work, has_record, id};
use super::state::{Pages, State, is_quiet};
use crate::sim::panics;
use aquifer_buffer_pool_proto::{HomeState, Listed, Message, Mode, PageId, Psn};
use aquifer_dss_proto::NodeId;
use aquifer_dss_proto::defect::plant;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Condition = fn(&Pages, &State) -> bool;

/// All properties: first the rules, then what must be reached.
pub fn properties(model: &Pages) -> Vec<stateright::Property<Pages>> {
    let always: [(&'static str, Condition); 11] = [
        ("DIR-1 one owner, or sharers", |_, s| {
            kept(s, "DIR-1") && one_owner(&s.cluster)
        }),
        ("DIR-2 a holder has the newest image", |_, s| {
            kept(s, "DIR-2") && newest(&s.cluster)
        }),
        ("DIR-3 an image leaves with durable redo", |_, s| {
            kept(s, "DIR-3") && durable(&s.cluster)
        }),
        ("DIR-4 one node writes back, forward", |_, s| {
            kept(s, "DIR-4") && one_duty(&s.cluster)
        }),
        ("DIR-5 another epoch changes nothing", |_, s| kept(s, "DIR-5")),
        ("DIR-6 nothing durable is lost", |_, s| {
            kept(s, "DIR-6") && redoable(&s.cluster)
        }),
        ("DIR-7 every request is granted", |m, s| {
            kept(s, "DIR-7") && served(m, &s.cluster)
        }),
        ("HZ-8 a copy is as new as its question", |_, s| kept(s, "HZ-8")),
        ("LOC-2 one home in an epoch", |_, s| one_home(&s.cluster)),
        ("redo that is on storage is let go of", |m, s| {
            !m.is_calm() || released(&s.cluster)
        }),
        ("the core goes on", |_, s| {
            s.broken
                .as_ref()
                .is_none_or(|b| b.starts_with("DIR-") || b.starts_with("HZ-8"))
        }),
    ];
    let always = always.map(|(name, holds)| stateright::Property::always(name, holds));
    let wanted = reaches()
        .into_iter()
        .chain(reaches_of_moves())
        .filter(|(name, _)| model.reaches.contains(name));
    let sometimes = wanted.map(|(name, holds)| stateright::Property::sometimes(name, holds));
    always.into_iter().chain(sometimes).collect()
}

/// The hard states, of which each configuration names those that it must be seen to reach.
fn reaches() -> [(&'static str, Condition); 16] {
    [
        ("sharers are invalidated", |_, s| {
            home(s, |h| matches!(h, HomeState::Invalidating(..)))
        }),
        ("an image is shipped", |_, s| {
            home(s, |h| matches!(h, HomeState::Shipping(..)))
        }),
        ("a grant is not Done", |_, s| {
            home(s, |h| matches!(h, HomeState::Granting(..)))
        }),
        ("a page has gone on before its home heard Done", |_, s| gone_on(s)),
        ("an order is there before its page", |_, s| ordered_ahead(s)),
        ("a sharer is asked to inherit", |_, s| {
            home(s, |h| matches!(h, HomeState::Inheriting(_)))
        }),
        ("a home asks what is held", |_, s| {
            home(s, |h| h == HomeState::Unknown)
        }),
        ("a page is frozen", |_, s| home(s, |h| h == HomeState::Frozen)),
        ("a page is redone", |_, s| home(s, |h| h == HomeState::Redoing)),
        ("a page is broken", |_, s| home(s, |h| h == HomeState::Broken)),
        ("an image is retained while another owns the page", |_, s| {
            let c = &s.cluster;
            let retains = |page: &PageId| c.nodes.values().any(|n| n.core.retained_psn(*page).is_some());
            c.pages
                .iter()
                .any(|p| retains(p) && all_frames(c, *p).any(|f| f.mode == Mode::Exclusive))
        }),
        ("a retained image is older than storage", |_, s| {
            let c = &s.cluster;
            let old =
                |n: &super::cluster::Node, p: PageId| n.core.retained_psn(p).is_some_and(|r| r < c.stored(p));
            c.pages.iter().any(|p| c.nodes.values().any(|n| old(n, *p)))
        }),
        ("two sharers want to write", |_, s| {
            let c = &s.cluster;
            let wants = |node: &NodeId, page: PageId| {
                let asks = c.nodes[node].wants.contains(&(page, Mode::Exclusive));
                asks && c.frame(*node, page).is_some_and(|f| f.mode == Mode::Shared)
            };
            c.pages
                .iter()
                .any(|p| c.nodes.keys().filter(|n| wants(n, *p)).count() == 2)
        }),
        (
            "a copy is under way while its page is given to another",
            |_, s| {
                let copied = |page: &PageId| {
                    let of = |m: &Message| matches!(m, Message::Copy { page: p, .. } if p == page);
                    s.cluster.net.iter().any(|packet| of(&packet.envelope.message))
                };
                s.cluster.pages.iter().any(copied) && home(s, |h| matches!(h, HomeState::Shipping(..)))
            },
        ),
        ("a reader has a copy of an earlier view", |_, s| {
            let of = |n: &super::cluster::Node, work: &Work| match work {
                Work::ReadCopy(_, copy) => copy.epoch < n.core.view().epoch,
                _ => false,
            };
            s.cluster
                .nodes
                .values()
                .any(|n| n.work.iter().any(|work| of(n, work)))
        }),
        ("members are in different views", |_, s| {
            !s.cluster.installed_everywhere()
        }),
    ]
}

fn gone_on(state: &State) -> bool {
    on_its_way(state, |c, page, requester| {
        c.nodes[&requester].core.retained_psn(page).is_some()
    })
}

fn ordered_ahead(state: &State) -> bool {
    on_its_way(state, |c, page, requester| {
        let said = |m: &Message| matches!(m, Message::Next { page: p, .. } if *p == page);
        let waits = c.nodes[&requester].core.wanted(page);
        waits && !c.net.iter().any(|packet| said(&packet.envelope.message))
    })
}

/// Whether a page is given to a living requester, and another one waits.
fn on_its_way(state: &State, is: impl Fn(&Cluster, PageId, NodeId) -> bool) -> bool {
    let cluster = &state.cluster;
    let given = |listed: Listed| match listed.state {
        HomeState::Shipping(_, requester, Mode::Exclusive)
        | HomeState::Granting(requester, Mode::Exclusive) => {
            (!listed.waiting.is_empty()).then_some(requester)
        }
        _ => None,
    };
    let mut all = cluster.nodes.values().flat_map(|n| {
        cluster
            .pages
            .iter()
            .map(move |page| (*page, n.core.listed(*page)))
    });
    all.any(|(page, listed)| {
        let requester = listed
            .and_then(given)
            .filter(|requester| cluster.nodes.contains_key(requester));
        requester.is_some_and(|requester| is(cluster, page, requester))
    })
}

fn reaches_of_moves() -> [(&'static str, Condition); 3] {
    [
        ("a slot waits for the end of a conversion to move", |_, s| {
            moving(s, |n, page| n.core.answers_for(page))
        }),
        ("a slot has moved and its old home does not know", |_, s| {
            moving(s, |n, page| {
                !n.core.answers_for(page) && answered(&s.cluster, page)
            })
        }),
        ("a slot has come back, and its old home does not know", |m, s| {
            let first = m.homes[0];
            let back = |page: &PageId| {
                s.cluster
                    .nodes
                    .get(&id(first))
                    .is_some_and(|n| n.core.answers_for(*page))
            };
            moving(s, |n, page| !n.core.answers_for(page) && back(&page))
        }),
    ]
}

fn home(state: &State, is: impl Fn(HomeState) -> bool) -> bool {
    let cluster = &state.cluster;
    let listed = |page: &PageId| {
        cluster
            .nodes
            .values()
            .any(|n| n.core.listed(*page).is_some_and(|e| is(e.state)))
    };
    cluster.pages.iter().any(listed)
}

fn moving(state: &State, is: impl Fn(&super::cluster::Node, PageId) -> bool) -> bool {
    let nodes = || state.cluster.nodes.values();
    let pages = &state.cluster.pages;
    pages
        .iter()
        .any(|page| nodes().any(|n| n.core.is_moving(*page) && is(n, *page)))
}

fn answered(cluster: &Cluster, page: PageId) -> bool {
    cluster.nodes.values().any(|n| n.core.answers_for(page))
}

/// Of the members that have installed the same view, at most one answers for a page.
fn one_home(cluster: &Cluster) -> bool {
    let alone = |page: &PageId| {
        let mut epochs = BTreeSet::new();
        let mut homes = cluster.nodes.values().filter(|n| n.core.answers_for(*page));
        homes.all(|n| epochs.insert(n.core.view().epoch))
    };
    cluster.pages.iter().all(alone)
}

/// Nothing dirty is left and nothing is under way: no record is kept that storage makes needless (HZ-5).
fn released(cluster: &Cluster) -> bool {
    let settled = is_quiet(cluster) && cluster.volatile.is_empty();
    let clean = |page: &PageId| !all_frames(cluster, *page).any(|f| f.dirty);
    let kept = |page: &PageId| cluster.redo.keys().any(|(p, _)| p == page);
    !settled || !cluster.pages.iter().any(|page| clean(page) && kept(page))
}

/// No rule of this name was broken on the way here.
fn kept(state: &State, rule: &str) -> bool {
    state.broken.as_ref().is_none_or(|broken| !broken.contains(rule))
}

fn all_frames(cluster: &Cluster, page: PageId) -> impl Iterator<Item = super::cluster::Frame> + '_ {
    cluster
        .nodes
        .keys()
        .filter_map(move |node| cluster.frame(*node, page))
}

fn one_owner(cluster: &Cluster) -> bool {
    cluster.pages.iter().all(|page| {
        let owners = all_frames(cluster, *page)
            .filter(|f| f.mode == Mode::Exclusive)
            .count();
        owners == 0 || all_frames(cluster, *page).count() == 1
    })
}

fn newest(cluster: &Cluster) -> bool {
    let held = |page: &PageId| {
        let psns: Vec<Psn> = all_frames(cluster, *page).map(|f| f.psn).collect();
        let durable = cluster.durable(*page);
        psns.iter().all(|psn| *psn >= durable && *psn == psns[0])
    };
    cluster.pages.iter().all(held)
}

fn durable(cluster: &Cluster) -> bool {
    cluster.net.iter().all(|packet| {
        let page = match &packet.envelope.message {
            Message::Page { page, .. } => *page,
            _ => return true,
        };
        packet.image.is_some_and(|psn| psn <= cluster.durable(page))
    })
}

fn one_duty(cluster: &Cluster) -> bool {
    let alone = |page: &PageId| all_frames(cluster, *page).filter(|f| f.duty).count() <= 1;
    cluster.pages.iter().all(alone)
}

/// If all memory were lost now, every durable change could be had from storage and the redo streams.
fn redoable(cluster: &Cluster) -> bool {
    cluster.pages.iter().all(|page| {
        let (stored, durable) = (cluster.stored(*page).0, cluster.durable(*page).0);
        (stored + 1..=durable).all(|psn| has_record(&cluster.redo, *page, Psn(psn)))
    })
}

/// From a state in which nothing is under way but repetition, all are served when the network is good from here on.
fn served(model: &Pages, cluster: &Cluster) -> bool {
    if !is_quiet(cluster) || !cluster.installed_everywhere() {
        return true;
    }
    let idle = cluster.nodes.values().all(|n| n.core.unanswered() == 0);
    if idle && cluster.is_settled() {
        return true;
    }
    let mut cluster = cluster.clone();
    panics::capture();
    plant(model.defect);
    let settles = catch_unwind(AssertUnwindSafe(|| settle(&mut cluster)));
    plant(None);
    panics::release();
    drop(panics::last());
    settles.unwrap_or(true) // what breaks on the way is found on the way
}

/// Time passes, and everything arrives in order.
fn settle(cluster: &mut Cluster) -> bool {
    for _ in 0..20 {
        for node in cluster.nodes.keys().copied().collect::<Vec<_>>() {
            cluster.time_out(node);
            cluster.want_again(node);
        }
        cluster.end_all_writes();
        super::state::run(cluster);
        cluster.analyse();
        super::state::run(cluster);
        while cluster.take_redo() {
            super::state::run(cluster);
        }
        cluster.recovered();
        if cluster.is_settled() {
            return true;
        }
    }
    false
}
