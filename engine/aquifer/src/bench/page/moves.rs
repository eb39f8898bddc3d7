//! Pages that move: fetches by the number of messages they need, upgrades, hand-offs of one hot page, many at a time.

use super::ends::{End, Ends};
use crate::bench::figures::Times;
use crate::failure::Failure;
use aquifer_buffer_pool::{Mode, PageId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::{Duration, Instant};

/// Pages that a measurement goes round.
const PAGES: usize = 16;
/// How long hand-offs and transfers at depth are counted.
const COUNTED: Duration = Duration::from_secs(1);
/// Moves in flight.
pub const DEPTH: usize = 32;

/// Who takes part in a fetch, by number of the end.
#[derive(Clone, Copy)]
pub struct Roles {
    /// Fetches.
    pub requester: usize,
    /// Has the page exclusively, changed.
    pub owner: usize,
    /// Answers for it.
    pub home: usize,
}

/// Home and owner are the same: the request goes there and the page comes back.
pub const HOME_OWNS: Roles = Roles {
    requester: 0,
    owner: 1,
    home: 1,
};
/// The requester is home: it asks the owner itself.
pub const HOME_ASKS: Roles = Roles {
    requester: 0,
    owner: 1,
    home: 0,
};
/// Three ends, three messages.
pub const THREE: Roles = Roles {
    requester: 0,
    owner: 1,
    home: 2,
};

/// Times of fetches, and of raw round trips to the owner, in turns.
pub struct Fetches {
    /// Fetches.
    pub fetch: Times,
    /// Raw round trips.
    pub raw: Times,
}

/// Fetches pages `rounds` times in `mode`.
pub async fn fetches(ends: &Ends, roles: Roles, mode: Mode, rounds: u32) -> Result<Fetches, Failure> {
    let pages = ends.pages(roles.home, PAGES);
    let (requester, owner) = (&ends.all[roles.requester], &ends.all[roles.owner]);
    let (mut fetch, mut raw) = (Times::new(), Times::new());
    for round in 0..rounds as usize + PAGES {
        let page = pages[round % PAGES];
        owner.take(page, Mode::Exclusive).await?;
        let elapsed = requester.take(page, mode).await?;
        if round >= PAGES {
            fetch.add(elapsed);
            raw.add(requester.ask(owner).await?);
        }
    }
    Ok(Fetches { fetch, raw })
}

/// Makes a sharer the owner, the home being the other sharer.
pub async fn upgrades(ends: &Ends, rounds: u32) -> Result<Times, Failure> {
    let pages = ends.pages(1, PAGES);
    let mut times = Times::new();
    for round in 0..rounds as usize {
        let page = pages[round % PAGES];
        ends.all[1].take(page, Mode::Exclusive).await?;
        ends.all[0].take(page, Mode::Shared).await?;
        times.add(ends.all[0].take(page, Mode::Exclusive).await?);
    }
    Ok(times)
}

/// How often per second one page changes hands between `takers` ends, each of which asks again as soon as it has lost the page: the
/// next ones are always waiting, and nobody has it twice in a row.
pub async fn hand_offs(ends: &Ends, takers: usize) -> Result<f64, Failure> {
    let page = ends.pages(0, 1)[0];
    let take = |end: usize| Box::pin(ends.all[end].take(page, Mode::Exclusive));
    let mut waiting: FuturesUnordered<_> = (0..takers).map(|end| numbered(end, take(end))).collect();
    let mut holder = None;
    let until = Instant::now() + COUNTED;
    let before = received(ends);
    while Instant::now() < until
        && let Some((end, taken)) = waiting.next().await
    {
        taken?;
        if let Some(loser) = holder.replace(end) {
            waiting.push(numbered(loser, take(loser)));
        }
    }
    let moved = received(ends) - before;
    while let Some((_, taken)) = waiting.next().await {
        taken?;
    }
    Ok(moved as f64 / COUNTED.as_secs_f64())
}

async fn numbered<T>(end: usize, work: impl Future<Output = T>) -> (usize, T) {
    (end, work.await)
}

/// Pages moved per second with [`DEPTH`] moves in flight.
pub async fn deep(ends: &Ends) -> Result<f64, Failure> {
    let pages: Vec<PageId> = [0, 1]
        .iter()
        .flat_map(|home| ends.pages(*home, DEPTH / 2))
        .collect();
    let until = Instant::now() + COUNTED;
    let before = received(ends);
    let loops = pages.iter().map(|page| async {
        while Instant::now() < until {
            for end in &ends.all[..2] {
                end.take(*page, Mode::Exclusive).await?;
            }
        }
        Ok::<(), Failure>(())
    });
    for result in futures_util::future::join_all(loops).await {
        result?;
    }
    Ok((received(ends) - before) as f64 / COUNTED.as_secs_f64())
}

fn received(ends: &Ends) -> u64 {
    ends.all.iter().map(End::received).sum()
}
