//! `bench page`: what possession costs when the page is here, and when it is at another node.
//!
//! Three page caches in this process, over the transport of production. The raw round trip, 64 bytes one way and 8 KiB back, runs in
//! turn with the fetches over the same connections; every ratio is to it.

mod copies;
mod ends;
mod hits;
mod moves;
mod partitioned;

use super::figures::{HEADING, ratio};
use super::place::PlaceOptions;
use crate::failure::{Exit, Outcome};
use crate::output::{OutputOptions, table};
use crate::units::Switch;
use aquifer_buffer_pool::Mode;
use ends::Ends;
use moves::{HOME_ASKS, HOME_OWNS, THREE, fetches};
use serde_json::json;

/// Frames of each cache whose pages move.
const FRAMES: usize = 1024;

/// Options of `bench page`.
#[derive(Clone, Debug, clap::Args)]
pub struct PageOptions {
    #[command(flatten)]
    place: PlaceOptions,
    /// Fetches of each kind.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    fetches: u32,
    /// Pages of the cache whose local hits are measured; twice that memory is used.
    #[arg(long, default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pages: u32,
    /// Whether messages go through memory.
    #[arg(
        long,
        env = "AQUIFER_PEER_MEMORY",
        value_name = "WHETHER",
        default_value = "on"
    )]
    peer_memory: Switch,
    #[command(flatten)]
    output: OutputOptions,
}

/// Runs it.
pub async fn run(options: PageOptions) -> Outcome {
    let place = options.place.make("page")?;
    // Slots stay: what is measured depends on who is home.
    let ends = Ends::connect(&place.directory, "", FRAMES, None, options.peer_memory).await?;
    let rounds = options.fetches;
    let owns = fetches(&ends, HOME_OWNS, Mode::Exclusive, rounds).await?;
    let asks = fetches(&ends, HOME_ASKS, Mode::Exclusive, rounds).await?;
    let three = fetches(&ends, THREE, Mode::Exclusive, rounds).await?;
    let shared = fetches(&ends, HOME_OWNS, Mode::Shared, rounds).await?;
    let upgrade = moves::upgrades(&ends, rounds).await?;
    let round_trip = owns.raw.microseconds(0.5);
    // Request to the home, order to the owner, the page: one and a half round trips.
    let limit = 1e6 / (1.5 * round_trip);
    let (two_nodes, three_nodes) = (
        moves::hand_offs(&ends, 2).await?,
        moves::hand_offs(&ends, 3).await?,
    );
    let deep = moves::deep(&ends).await?;
    let beside = copies::measure(&ends).await?;
    let own = partitioned::measure(&place.directory, options.peer_memory).await?;
    let hits = hits::measure(options.pages).await?;
    let over = |f: &moves::Fetches| ratio(f.fetch.microseconds(0.5), f.raw.microseconds(0.5));
    // The worst kind of fetch between two nodes.
    let two_hop = over(&owns).max(over(&asks)).max(over(&shared));
    let object = json!({
        "raw_round_trip": owns.raw.object(),
        "fetch": {"exclusive_home_owns": owns.fetch.object(), "exclusive_home_asks": asks.fetch.object(),
            "exclusive_three_hop": three.fetch.object(), "shared_home_owns": shared.fetch.object()},
        "upgrade": upgrade.object(),
        "fetch_over_round_trip": {"two_hop": two_hop, "three_hop": over(&three), "shared_two_hop": over(&shared)},
        "hand_offs_per_second": {"two_nodes": two_nodes, "three_nodes": three_nodes, "limit": limit},
        "hand_off_over_limit": ratio(two_nodes.min(three_nodes), limit),
        "transfers_per_second": {"depth": moves::DEPTH, "rate": deep},
        "copy_images_per_second": beside.copies.round(),
        "writer_rate_with_copies_over_alone": beside.with_copies,
        "writer_rate_with_shared_reads_over_alone": beside.with_shared,
        "messages_per_transaction_partitioned": own.object(),
        "local_hit_ns": {"hot": hits.hot, "random": hits.random.cache, "array": hits.random.array,
            "independent": hits.independent.cache, "independent_touched": hits.touched,
            "independent_array": hits.independent.array, "pages": options.pages},
        "local_hit_over_array": ratio(hits.random.cache, hits.random.array),
        "independent_local_hit_over_array": ratio(hits.independent.cache, hits.independent.array),
        "touched_local_hit_over_array": ratio(hits.touched, hits.independent.array),
    });
    options.output.emit(object, || {
        let rows = vec![
            owns.raw.row("raw 64 B -> 8 KiB"),
            owns.fetch.row("exclusive, the home owns it"),
            asks.fetch.row("exclusive, the home asks"),
            shared.fetch.row("shared, the home owns it"),
            three.fetch.row("exclusive, three nodes"),
            upgrade.row("shared to exclusive"),
        ];
        format!(
            "{}\na fetch costs {two_hop} raw round trips with two nodes, {} with three (medians)\n\
             hand-offs of one page: {two_nodes:.0}/s between two nodes, {three_nodes:.0}/s between three; 1.5 round trips each would be {limit:.0}/s\n\
             {} moves in flight: {deep:.0} pages/s\n\
             {} readers of a page that its owner writes: {:.0} copies/s; the owner does {} of its changes alone, {} when they take the page Shared\n\
             {}\n{}",
            table(&HEADING, rows),
            over(&three),
            moves::DEPTH,
            copies::READERS,
            beside.copies,
            beside.with_copies,
            beside.with_shared,
            own.words(),
            hits.words(options.pages),
        )
    })?;
    Ok(Exit::Done)
}
