//! A hunt over seeds ends, whatever one of them does.

use aquifer_tests::hunt::{Outcome, Pace, hunt};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A run that does not end before the test does: it waits for a sender that the test keeps.
fn endless(never: &Arc<Mutex<Receiver<()>>>) {
    let _ = never.lock().unwrap().recv();
}

#[test]
fn a_seed_that_does_not_end_is_lost_and_the_others_go_on() {
    let (kept, never) = channel();
    let never = Arc::new(Mutex::new(never));
    let pace = Pace {
        jobs: NonZeroUsize::new(2).unwrap(),
        limit: Duration::from_secs(2),
    };
    let mut outcomes = Vec::new();
    let work = move |seed| match seed {
        2 => endless(&never),
        3 => panic!("the simulator itself fails"),
        _ => {}
    };
    hunt(1..=4, pace, work, |seed, outcome| {
        outcomes.push((seed, outcome));
        ControlFlow::Continue(())
    });
    outcomes.sort_by_key(|(seed, _)| *seed);
    let wanted = [
        (1, Outcome::Ended(())),
        (2, Outcome::Lost),
        (3, Outcome::Lost),
        (4, Outcome::Ended(())),
    ];
    assert_eq!(outcomes, wanted);
    drop(kept);
}

#[test]
fn a_hunt_ends_with_the_outcome_that_breaks_it_off() {
    let pace = Pace {
        jobs: NonZeroUsize::MIN,
        limit: Duration::from_secs(60),
    };
    let mut seen = Vec::new();
    hunt(
        1..,
        pace,
        |seed| seed == 3,
        |seed, outcome| {
            seen.push(seed);
            if outcome == Outcome::Ended(true) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    assert_eq!(seen, [1, 2, 3]);
}
