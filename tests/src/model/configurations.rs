//! The configurations: one for each family of hazards.

use super::state::{Budget, Coverage, Pages, Patience};
use aquifer_buffer_pool_proto::Mode::{Exclusive, Shared};

/// A named model.
#[derive(Clone)]
pub struct Configuration {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// The model.
    pub model: Pages,
}

/// Three nodes and a page whose home is node 1.
fn model(budget: Budget) -> Pages {
    Pages {
        nodes: 3,
        homes: vec![1],
        budget,
        prelude: Vec::new(),
        asked: Vec::new(),
        prompt: true,
        keeps_old: false,
        reaches: Vec::new(),
        defect: None,
        patience: Patience::default(),
        coverage: Coverage::default(),
    }
}

fn named(name: &'static str, about: &'static str, model: Pages) -> Configuration {
    Configuration { name, about, model }
}

/// What may happen in every one of them, unless it says otherwise.
const NOTHING: Budget = Budget {
    acquires: 0,
    exclusives: 0,
    changes: 0,
    losses: 0,
    copies: 0,
    repetitions: 0,
    evictions: 0,
    write_backs: 0,
    flush_wishes: 0,
    crashes: 0,
    joins: 0,
    redo_failures: 0,
    reads: 0,
    moves: 0,
};

/// Some traffic in one view.
const SOME: Budget = Budget {
    acquires: 3,
    exclusives: 2,
    changes: 2,
    ..NOTHING
};

/// One death.
const DEATH: Budget = Budget {
    acquires: 2,
    exclusives: 1,
    changes: 1,
    crashes: 1,
    ..NOTHING
};

/// Two deaths and a join; nobody asks for the page after the beginning.
const TWO_DEATHS: Budget = Budget {
    acquires: 0,
    exclusives: 0,
    changes: 0,
    crashes: 2,
    joins: 1,
    ..DEATH
};

/// What every change of the view must be seen to reach, and more.
fn across_views(more: &[&'static str]) -> Vec<&'static str> {
    let always = ["members are in different views", "a home asks what is held"];
    always.into_iter().chain(more.iter().copied()).collect()
}

/// All of them.
pub fn configurations() -> Vec<Configuration> {
    [
        conversions(),
        chains(),
        surrenders(),
        deaths(),
        more_deaths(),
        joins(),
        moves(),
        moves_and_faults(),
        readers(),
        harder_deaths(),
    ]
    .concat()
}

/// One view: conversions, over a network that reorders, copies and loses.
fn conversions() -> Vec<Configuration> {
    vec![
        named(
            "transfer",
            "possession moves; requests cross; every work may be late",
            Pages {
                prompt: false,
                reaches: vec![
                    "sharers are invalidated",
                    "an image is shipped",
                    "a grant is not Done",
                    "an image is retained while another owns the page",
                    "two sharers want to write",
                ],
                ..model(Budget {
                    acquires: 4,
                    exclusives: 3,
                    ..SOME
                })
            },
        ),
        named(
            "copies",
            "HZ-4: a copy of any message arrives at any time later",
            Pages {
                prelude: vec![(2, Shared, 0), (3, Shared, 0)],
                reaches: vec!["sharers are invalidated"],
                ..model(Budget {
                    copies: 1,
                    evictions: 1,
                    ..SOME
                })
            },
        ),
        named(
            "loss",
            "any message is lost, and repeated early or late",
            model(Budget {
                losses: 1,
                repetitions: 1,
                ..SOME
            }),
        ),
    ]
}

/// The order of the next requester is told ahead.
fn chains() -> Vec<Configuration> {
    let three = Budget {
        acquires: 3,
        exclusives: 3,
        changes: 1,
        ..NOTHING
    };
    vec![
        named(
            "chain",
            "HZ-4: three nodes write a page in turn; any message is lost, or comes twice",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: vec![
                    "a page has gone on before its home heard Done",
                    "an order is there before its page",
                ],
                ..model(Budget {
                    copies: 1,
                    losses: 1,
                    ..three
                })
            },
        ),
        named(
            "chain and releases",
            "a page that went on is released before its home heard of it",
            Pages {
                prelude: vec![(2, Exclusive, 0)],
                reaches: vec!["a page has gone on before its home heard Done"],
                ..model(Budget {
                    changes: 0,
                    evictions: 1,
                    repetitions: 1,
                    ..three
                })
            },
        ),
        named(
            "chain and a death",
            "HZ-3: a node dies while the page has gone on",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: across_views(&[
                    "a page has gone on before its home heard Done",
                    "a page is redone",
                ]),
                ..model(Budget { crashes: 1, ..three })
            },
        ),
    ]
}

/// One view: releases, writes to storage, and their notices.
fn surrenders() -> Vec<Configuration> {
    vec![
        named(
            "release",
            "releases cross requests, copies of both come late",
            Pages {
                prelude: vec![(2, Shared, 0)],
                ..model(Budget {
                    acquires: 3,
                    exclusives: 1,
                    evictions: 3,
                    copies: 1,
                    ..NOTHING
                })
            },
        ),
        named(
            "write-back",
            "HZ-2: writes to storage cross transfers and evictions",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: vec!["a retained image is older than storage"],
                ..model(Budget {
                    acquires: 2,
                    write_backs: 2,
                    evictions: 1,
                    changes: 1,
                    ..SOME
                })
            },
        ),
        named(
            "notices",
            "HZ-5: notices of write-back, and wishes for it, cross re-acquisitions",
            Pages {
                prelude: vec![(2, Exclusive, 1), (3, Exclusive, 0)],
                ..model(Budget {
                    acquires: 2,
                    write_backs: 1,
                    flush_wishes: 1,
                    changes: 1,
                    ..SOME
                })
            },
        ),
        named(
            "two pages",
            "two pages with homes of their own",
            Pages {
                homes: vec![1, 2],
                ..model(Budget {
                    acquires: 3,
                    exclusives: 2,
                    changes: 1,
                    ..NOTHING
                })
            },
        ),
    ]
}

/// A node dies.
fn deaths() -> Vec<Configuration> {
    vec![
        named(
            "death",
            "HZ-1: any node dies at any time, and a dirty page with it",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                prompt: false,
                reaches: across_views(&["a page is frozen", "a page is redone"]),
                ..model(Budget {
                    acquires: 3,
                    exclusives: 2,
                    ..DEATH
                })
            },
        ),
        named(
            "heirs",
            "a dirty sharer dies, or one that is clean",
            Pages {
                prelude: vec![(3, Exclusive, 1), (2, Shared, 0), (1, Shared, 0)],
                reaches: across_views(&["a sharer is asked to inherit"]),
                ..model(Budget {
                    acquires: 1,
                    exclusives: 1,
                    evictions: 1,
                    write_backs: 1,
                    ..DEATH
                })
            },
        ),
        named(
            "retained",
            "HZ-3: a retained image survives its successors",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: across_views(&["a retained image is older than storage"]),
                ..model(Budget {
                    acquires: 2,
                    exclusives: 2,
                    write_backs: 1,
                    evictions: 1,
                    ..DEATH
                })
            },
        ),
    ]
}

/// A node dies, and more goes wrong.
fn more_deaths() -> Vec<Configuration> {
    vec![
        named(
            "two deaths",
            "a second death in the middle of the recovery of the first",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: across_views(&["a page is redone"]),
                ..model(Budget {
                    acquires: 2,
                    exclusives: 1,
                    crashes: 2,
                    ..DEATH
                })
            },
        ),
        named(
            "death and copies",
            "HZ-4: copies of messages around a death",
            Pages {
                prelude: vec![(2, Exclusive, 1), (3, Shared, 0)],
                reaches: across_views(&["a page is redone", "sharers are invalidated"]),
                ..model(Budget {
                    acquires: 2,
                    exclusives: 1,
                    copies: 1,
                    ..DEATH
                })
            },
        ),
        named(
            "redo fails",
            "a page that cannot be redone is denied",
            Pages {
                // The home is not the leader.
                homes: vec![3],
                prelude: vec![(2, Exclusive, 1)],
                prompt: false,
                reaches: across_views(&["a page is broken"]),
                ..model(Budget {
                    redo_failures: 1,
                    acquires: 1,
                    ..DEATH
                })
            },
        ),
    ]
}

/// A death with one more thing that goes wrong beside it.
fn harder_deaths() -> Vec<Configuration> {
    vec![
        named(
            "death and loss",
            "any message is lost around a death, those of the recovery too",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: across_views(&["a page is redone"]),
                ..model(Budget {
                    acquires: 1,
                    losses: 1,
                    ..DEATH
                })
            },
        ),
        named(
            "two deaths and a join",
            "a node dies, it or another one joins, and one more dies in the middle of it; nobody asks for the page",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: across_views(&["a page is redone"]),
                ..model(TWO_DEATHS)
            },
        ),
        named(
            "two deaths, a join and a request",
            "the same of two nodes, while the home wants the page from the beginning on",
            Pages {
                nodes: 2,
                prelude: vec![(2, Exclusive, 1)],
                asked: vec![(1, Exclusive)],
                reaches: across_views(&["a page is redone", "an image is shipped"]),
                ..model(TWO_DEATHS)
            },
        ),
        named(
            "two deaths, a join and a reader",
            "the same of three nodes, while one asks for the page Shared at any time",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: across_views(&["a page is redone"]),
                ..model(Budget {
                    acquires: 1,
                    ..TWO_DEATHS
                })
            },
        ),
        named(
            "redone and evicted",
            "the leader gives a page up that it redid for another home, before or after that home knows",
            Pages {
                homes: vec![3],
                prelude: vec![(2, Exclusive, 1)],
                prompt: false,
                reaches: across_views(&["a page is redone"]),
                ..model(Budget {
                    acquires: 1,
                    evictions: 1,
                    write_backs: 1,
                    ..DEATH
                })
            },
        ),
    ]
}

/// A node joins.
fn joins() -> Vec<Configuration> {
    vec![
        named(
            "join",
            "a node joins; homes move; messages of the earlier view come late (DIR-5)",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                keeps_old: true,
                reaches: across_views(&["an image is shipped"]),
                ..model(Budget {
                    acquires: 2,
                    exclusives: 1,
                    changes: 1,
                    joins: 1,
                    ..NOTHING
                })
            },
        ),
        named(
            "restore",
            "HZ-4 across a view: what a view change gave back is shipped again",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                ..model(Budget {
                    acquires: 1,
                    exclusives: 1,
                    changes: 1,
                    copies: 1,
                    joins: 1,
                    ..NOTHING
                })
            },
        ),
    ]
}

/// Readers that take copies of what others own.
fn readers() -> Vec<Configuration> {
    vec![
        named(
            "copies of images",
            "HZ-8: copies for readers cross changes and transfers; any message of theirs comes twice",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: vec!["a copy is under way while its page is given to another"],
                ..model(Budget {
                    acquires: 1,
                    exclusives: 1,
                    changes: 1,
                    copies: 1,
                    reads: 2,
                    ..NOTHING
                })
            },
        ),
        named(
            "copies of images and a death",
            "HZ-8: an owner dies, and a copy shows what was lost with it",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                prompt: false,
                reaches: across_views(&["a reader has a copy of an earlier view"]),
                ..model(Budget {
                    crashes: 1,
                    reads: 2,
                    ..NOTHING
                })
            },
        ),
    ]
}

/// Slots move inside an epoch.
fn moves() -> Vec<Configuration> {
    vec![
        named(
            "moves",
            "LOC-1, LOC-2: a slot moves while its page is asked for and given up",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: vec![
                    "a slot waits for the end of a conversion to move",
                    "a slot has moved and its old home does not know",
                ],
                ..model(Budget {
                    acquires: 2,
                    exclusives: 1,
                    evictions: 1,
                    moves: 2,
                    ..NOTHING
                })
            },
        ),
        named(
            "moves and copies",
            "LOC-3, LOC-4: a slot moves and comes back; copies of messages come late",
            Pages {
                prelude: vec![(2, Shared, 0)],
                reaches: vec!["a slot has come back, and its old home does not know"],
                ..model(Budget {
                    acquires: 1,
                    exclusives: 1,
                    evictions: 1,
                    moves: 2,
                    copies: 1,
                    ..NOTHING
                })
            },
        ),
        named(
            "moves and readers",
            "HZ-8: copies are asked for where the slot was",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                ..model(Budget {
                    acquires: 1,
                    exclusives: 1,
                    changes: 1,
                    reads: 1,
                    moves: 2,
                    ..NOTHING
                })
            },
        ),
    ]
}

/// Slots move, and more goes wrong.
fn moves_and_faults() -> Vec<Configuration> {
    vec![
        named(
            "moves and loss",
            "LOC-3: a slot moves and comes back; any message is lost",
            Pages {
                prelude: vec![(2, Shared, 0)],
                ..model(Budget {
                    acquires: 2,
                    exclusives: 1,
                    moves: 2,
                    losses: 1,
                    ..NOTHING
                })
            },
        ),
        named(
            "moves and death",
            "LOC-5: a slot has moved, or is under way, when a node dies",
            Pages {
                prelude: vec![(2, Exclusive, 1)],
                reaches: across_views(&[
                    "a page is redone",
                    "a slot has moved and its old home does not know",
                ]),
                ..model(Budget {
                    acquires: 2,
                    exclusives: 1,
                    moves: 1,
                    ..DEATH
                })
            },
        ),
    ]
}
