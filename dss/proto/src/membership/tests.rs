//! Rules of the core on small situations.

use super::*;
use crate::defect::{Defect, fails_with};
use crate::{Epoch, HomeSlots, Incarnation, Instant, Member, NodeId, NodeSet};
use ::core::time::Duration;
use alloc::vec::Vec;

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

fn set(ids: &[u8]) -> NodeSet {
    ids.iter().map(|id| node(*id)).collect()
}

fn life(id: u8) -> Member {
    Member {
        node: node(id),
        incarnation: Incarnation(1),
    }
}

fn at(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

fn slot(id: u8, sequence: u64, state: SlotState, heard: &[u8]) -> SlotFacts {
    let (decided, fenced) = (Epoch(0), Epoch(0));
    SlotFacts {
        node: node(id),
        incarnation: Incarnation(1),
        sequence,
        state,
        heard: set(heard),
        decided,
        fenced,
    }
}

fn nothing() -> Decree {
    Decree::none(HomeSlots::USUAL, MetadataLegs::Only(0))
}

/// Node `me` of a fenced view of 1, 2, 3, everybody's slot just written and lock held.
fn member_of_three(me: u8) -> Core {
    let mut core = Core::new(at(0), life(me), Timing::default(), nothing());
    let view = nothing().view.successor([1, 2, 3].map(life).to_vec());
    core.handle_decided(at(0), Decree { view, ..nothing() }, false);
    core.handle_fenced(Epoch(1));
    assert!(core.poll_install().is_some());
    for ms in [1000, 2000] {
        beat(&mut core, ms, &[1, 2, 3], &[1, 2, 3]);
    }
    for id in [1, 2, 3] {
        core.handle_lock(life(id), true);
    }
    core
}

/// `alive` write their slots at `ms`, hearing `network`; those of `network` are heard.
fn beat(core: &mut Core, ms: u64, alive: &[u8], network: &[u8]) {
    core.handle_slots(
        at(ms),
        alive.iter().map(|id| slot(*id, ms, SlotState::Member, network)),
    );
    for id in network {
        core.handle_message(at(ms), life(*id));
    }
}

fn plan(core: &mut Core, ms: u64) -> Proposal {
    core.plan(at(ms), &|_| true)
}

fn members_of(proposal: &Proposal) -> Option<NodeSet> {
    match proposal {
        Proposal::Due(Plan::Propose(decree)) => Some(decree.view.nodes()),
        _ => None,
    }
}

#[test]
fn a_lock_seen_free_after_it_was_seen_held_is_death_at_once_and_the_lowest_proposes() {
    let mut first = member_of_three(1);
    assert_eq!(plan(&mut first, 2000), Proposal::None);
    assert!(first.handle_lock(life(3), false));
    assert_eq!(members_of(&plan(&mut first, 2001)), Some(set(&[1, 2])));
    let mut second = member_of_three(2);
    second.handle_lock(life(3), false);
    assert_eq!(
        plan(&mut second, 2001),
        Proposal::At(at(2751)),
        "the second waits for its turn"
    );
    beat(&mut second, 2751, &[1], &[1, 2, 3]);
    assert_eq!(members_of(&plan(&mut second, 2751)), Some(set(&[1, 2])));
}

#[test]
fn a_lock_never_seen_held_proves_nothing() {
    let mut core = member_of_three(1);
    core.handle_slots(
        at(2100),
        [SlotFacts {
            incarnation: Incarnation(2),
            ..slot(3, 1, SlotState::Joining, &[])
        }],
    );
    let second_life = Member {
        incarnation: Incarnation(2),
        ..life(3)
    };
    assert!(!core.handle_lock(second_life, false));
    assert_eq!(core.life(at(2100), second_life), LifeState::Unlocked);
    assert_eq!(
        core.life(at(2100), life(3)),
        LifeState::Dead,
        "a new life is proof that the old one is over"
    );
}

#[test]
fn silence_counts_from_the_change_seen_and_takes_the_full_time() {
    let mut core = member_of_three(1);
    let limit = Timing::default().death_after().as_millis() as u64;
    for ms in (2250..=2000 + limit).step_by(250) {
        beat(&mut core, ms, &[2], &[1, 2, 3]);
        assert_eq!(members_of(&plan(&mut core, ms)), None);
    }
    assert_eq!(members_of(&plan(&mut core, 2000 + limit)), Some(set(&[1, 2])));
}

#[test]
fn the_largest_connected_set_wins_and_the_isolated_node_keeps_still() {
    for me in [1, 2] {
        let mut core = member_of_three(me);
        let mut last = Proposal::None;
        for ms in (2250..8000).step_by(250) {
            let facts = |id: u8, heard: &[u8]| slot(id, ms, SlotState::Member, heard);
            core.handle_slots(at(ms), [facts(1, &[]), facts(2, &[3]), facts(3, &[2])]);
            if me == 2 {
                core.handle_message(at(ms), life(3));
            }
            last = plan(&mut core, ms);
            if ms < 5000 {
                assert_eq!(members_of(&last), None, "patience");
            }
        }
        assert_eq!(members_of(&last), (me == 2).then(|| set(&[2, 3])));
    }
}

#[test]
fn an_asymmetric_link_counts_as_none() {
    let heard = |_: NodeId| set(&[2, 3]);
    assert_eq!(largest_connected(set(&[1, 2, 3]), heard), set(&[2, 3]));
    assert_eq!(
        largest_connected(set(&[1, 2]), |_| NodeSet::EMPTY),
        set(&[1]),
        "lowest among equals"
    );
    let all: NodeSet = (1..=64).map(node).collect();
    assert_eq!(largest_connected(all, |_| all), all);
}

#[test]
fn the_duty_to_fence_passes_to_the_next_view() {
    let mut core = member_of_three(1);
    core.handle_lock(life(2), true);
    let view = core.decided().view.successor([1, 2].map(life).to_vec());
    let decree = Decree {
        view,
        dead: [life(3)].to_vec(),
        ..nothing()
    };
    assert_eq!(core.handle_decided(at(2100), decree, false), Seen::Noted);
    assert!(core.poll_install().is_none(), "not before the proof");
    core.handle_lock(life(2), false);
    let Proposal::Due(Plan::Propose(decree)) = plan(&mut core, 2101) else {
        panic!("a proposal is due")
    };
    assert_eq!(decree.dead, [life(2), life(3)].to_vec());
    assert!(decree.is_sound(HomeSlots::USUAL));
}

#[test]
fn a_view_without_me_is_exclusion_and_a_wish_when_leaving() {
    let mut core = member_of_three(1);
    let view = core.decided().view.successor([2, 3].map(life).to_vec());
    let decree = Decree { view, ..nothing() };
    assert_eq!(
        core.handle_decided(at(2100), decree.clone(), false),
        Seen::Excluded
    );
    let mut core = member_of_three(1);
    core.handle_leave();
    assert_eq!(core.handle_decided(at(2100), decree, false), Seen::Left);
}

#[test]
fn the_lease_warns_closes_and_expires() {
    let mut lease = Lease::new(Timing::default(), at(0));
    let states: Vec<LeaseState> = [0, 1499, 1500, 2000, 3000].map(|ms| lease.state(at(ms))).to_vec();
    use LeaseState::{Closed, Expired, Late, Valid};
    assert_eq!(states, [Valid, Valid, Late, Closed, Expired].to_vec());
    lease.renew(at(1000));
    assert_eq!(lease.next_change(at(1100)), at(2500));
    assert!(Timing::default().is_sound());
    assert!(Timing::default().death_after() > Duration::from_secs(4));
}

#[test]
fn each_rule_is_missed_when_it_is_gone() {
    let never_seen: fn() = a_lock_never_seen_held_proves_nothing;
    assert!(fails_with(Defect::TrustLockNeverSeenHeld, never_seen));
    let isolated = the_largest_connected_set_wins_and_the_isolated_node_keeps_still;
    assert!(fails_with(Defect::EvictTheUnheard, isolated));
}
