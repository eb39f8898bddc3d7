//! Messages, frames and directory entries in words, for traces and for reports of what went wrong.

use super::cluster::Frame;
use aquifer_buffer_pool_proto::{
    Claim, Conversion, Held, HomeState, ImageInfo, Listed, Message, Mode, Order, PageId, Psn, Redone,
    SlotEntry, Source,
};
use aquifer_dss_proto::{NodeId, NodeSet, View};
use std::collections::BTreeMap;

/// The letter of a page: P is the first.
pub fn letter(pages: &[PageId], page: PageId) -> char {
    let at = pages.iter().position(|p| *p == page);
    at.and_then(|at| "PQRSTUV".chars().nth(at)).unwrap_or('?')
}

pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Shared => "shared",
        Mode::Exclusive => "exclusive",
    }
}

fn conversion(conversion: Conversion) -> String {
    format!("#{}.{}", conversion.epoch.0, conversion.number)
}

pub fn nodes(nodes: NodeSet) -> String {
    let names: Vec<String> = nodes.iter().map(|n| n.to_string()).collect();
    format!("{{{}}}", names.join(","))
}

fn info(info: &ImageInfo) -> String {
    let dirty = if info.dirty { "dirty" } else { "clean" };
    let by = if info.contributors.is_empty() {
        String::new()
    } else {
        format!(" by {}", nodes(info.contributors))
    };
    format!("psn {} {dirty}{by}", info.psn.0)
}

pub fn frame(frame: &Frame) -> String {
    let duty = if frame.duty { ", to be written back" } else { "" };
    let writing = frame
        .writing
        .map(|p| format!(", psn {} is on its way to storage", p.0));
    let volatile = if frame.volatile { ", redo not durable" } else { "" };
    format!(
        "{} {}{duty}{}{volatile}",
        mode(frame.mode),
        info(&frame.info()),
        writing.unwrap_or_default()
    )
}

fn claim(pages: &[PageId], claim: &Claim) -> String {
    let held = match claim.held {
        Held::Exclusive => "exclusive".into(),
        Held::Shared { dirty, duty } => {
            let dirty = if dirty { " dirty" } else { "" };
            let duty = if duty { " with the duty" } else { "" };
            format!("shared{dirty}{duty}")
        }
        Held::Retained(by) => format!("retained in {}", conversion(by)),
    };
    format!("{} psn {} {held}", letter(pages, claim.page), claim.psn.0)
}

fn listing<T>(items: &[T], word: impl Fn(&T) -> String) -> String {
    if items.is_empty() {
        return "nothing".into();
    }
    items.iter().map(word).collect::<Vec<_>>().join("; ")
}

fn order_words(order: &Order) -> String {
    format!(
        "{} {} to {}",
        conversion(order.conversion),
        mode(order.mode),
        order.to
    )
}

/// A message as one line.
pub fn message(pages: &[PageId], message: &Message) -> String {
    let p = |page: &PageId| letter(pages, *page);
    let c = |by: &Conversion| conversion(*by);
    match message {
        Message::Acquire { page, mode: m, .. } => format!("Acquire {} {}", p(page), mode(*m)),
        Message::Denied { page, .. } => format!("Denied {}", p(page)),
        Message::Release { page, .. } => format!("Release {}", p(page)),
        Message::ReleaseAck { page, .. } => format!("ReleaseAck {}", p(page)),
        Message::Grant {
            page,
            conversion: by,
            mode: m,
            source,
            ..
        } => {
            let source = match source {
                Source::Storage => "from storage",
                Source::Upgrade => "as upgrade",
                Source::Retained => "from the retained image",
            };
            format!("Grant {} {} {} {source}", p(page), c(by), mode(*m))
        }
        Message::Next { page, order } => format!("Next {} {}", p(page), order_words(order)),
        Message::Transfer { page, order } => format!("Transfer {} {}", p(page), order_words(order)),
        Message::Invalidate { page, conversion: by } => format!("Invalidate {} {}", p(page), c(by)),
        Message::Invalidated {
            page,
            conversion: by,
            retained,
        } => {
            let kept = if *retained { ", image retained" } else { "" };
            format!("Invalidated {} {}{kept}", p(page), c(by))
        }
        Message::Gone { page, conversion: by } => format!("Gone {} {}", p(page), c(by)),
        Message::Page {
            page,
            conversion: by,
            mode: m,
            info: i,
            ..
        } => format!("Page {} {} {} {}", p(page), c(by), mode(*m), info(i)),
        Message::Done { page, conversion: by } => format!("Done {} {}", p(page), c(by)),
        Message::Refused { page, conversion: by } => format!("Refused {} {}", p(page), c(by)),
        Message::DoneAck { page, conversion: by } => format!("DoneAck {} {}", p(page), c(by)),
        Message::Drop { page, conversion: by } => format!("Drop {} {}", p(page), c(by)),
        Message::Dropped { page, conversion: by } => format!("Dropped {} {}", p(page), c(by)),
        Message::Inherit { page, conversion: by } => format!("Inherit {} {}", p(page), c(by)),
        Message::Inherited { page, conversion: by } => format!("Inherited {} {}", p(page), c(by)),
        other => rebuild(pages, other),
    }
}

fn rebuild(pages: &[PageId], message: &Message) -> String {
    let p = |page: &PageId| letter(pages, *page);
    let at = |(page, psn): &(PageId, Psn)| format!("{} psn {}", p(page), psn.0);
    match message {
        Message::Cleaned { page, conversion: by } => format!("Cleaned {} {}", p(page), conversion(*by)),
        Message::WrittenBack { by, pages } => format!("WrittenBack {}, for {by}", listing(pages, at)),
        Message::FlushWanted { page } => format!("FlushWanted {}", p(page)),
        Message::WriteBackWanted { page, by } => format!("WriteBackWanted {} by {by}", p(page)),
        Message::NotHeld { page } => format!("NotHeld {}", p(page)),
        Message::Query { slots, pages } => {
            let lost = if slots.is_empty() { "" } else { "lost slots; " };
            format!("Query {lost}{}", listing(pages, |page| p(page).to_string()))
        }
        Message::Claims { entries, .. } => format!("Claims {}", listing(entries, |e| claim(pages, e))),
        Message::Analysis { targets, .. } => format!("Analysis {}", listing(targets, at)),
        Message::AnalysisAck { .. } => "AnalysisAck".into(),
        Message::NeedRedo { pages: orders, .. } => {
            format!(
                "NeedRedo {}",
                listing(orders, |(page, psn, _)| at(&(*page, *psn)))
            )
        }
        Message::NeedRedoAck { .. } => "NeedRedoAck".into(),
        Message::RedoUrgent { page } => format!("RedoUrgent {}", p(page)),
        Message::Redone { page, outcome, .. } => {
            let outcome = match outcome {
                Redone::Held => "held",
                Redone::Current => "current on storage",
                Redone::Failed => "failed",
            };
            format!("Redone {} {outcome}", p(page))
        }
        Message::RedoneAck { page, .. } => format!("RedoneAck {}", p(page)),
        Message::AskCopy { page, .. } => format!("AskCopy {}", p(page)),
        Message::CopyWanted { page, to, .. } => format!("CopyWanted {} for {to}", p(page)),
        Message::Copy { page, psn, .. } => format!("Copy {} psn {}", p(page), psn.0),
        Message::NoCopy { page, .. } => format!("NoCopy {}", p(page)),
        Message::Slot { version, entries, .. } => {
            let listed = listing(entries, |entry| slot_entry(pages, entry));
            format!("Slot version {version}: {listed}")
        }
        Message::SlotAck { version, .. } => format!("SlotAck version {version}"),
        Message::Moved {
            page, home, version, ..
        } => format!("Moved {} to {home}, version {version}", p(page)),
        _ => unreachable!("the messages of conversions are worded above"),
    }
}

fn slot_entry(pages: &[PageId], entry: &SlotEntry) -> String {
    let mut parts = vec![letter(pages, entry.page).to_string()];
    parts.extend(entry.owner.map(|owner| format!("owner {owner}")));
    if !entry.sharers.is_empty() {
        parts.push(format!("sharers {}", nodes(entry.sharers)));
    }
    let duty = |(node, since)| format!("duty {node} since {}", conversion(since));
    parts.extend(entry.duty.map(duty));
    parts.join(" ")
}

/// A directory entry as one line.
pub fn listed(entry: Option<&Listed>) -> String {
    let Some(entry) = entry else {
        return "nobody".into();
    };
    let mut parts = Vec::new();
    if let Some(owner) = entry.owner {
        parts.push(format!("owner {owner}"));
    }
    if !entry.sharers.is_empty() {
        parts.push(format!("sharers {}", nodes(entry.sharers)));
    }
    if let Some(duty) = entry.duty {
        parts.push(format!("duty {duty}"));
    }
    if !entry.retained.is_empty() {
        parts.push(format!("retained by {}", nodes(entry.retained)));
    }
    if parts.is_empty() {
        parts.push("nobody".into());
    }
    parts.extend(home_state(entry.state));
    if !entry.waiting.is_empty() {
        let waiting = listing(&entry.waiting, |(node, m)| format!("{node} {}", mode(*m)));
        parts.push(format!("then {waiting}"));
    }
    parts.join(", ")
}

fn home_state(state: HomeState) -> Option<String> {
    Some(match state {
        HomeState::Idle => return None,
        HomeState::Invalidating(waiting, to, m) => {
            format!("invalidating {} for {to} {}", nodes(waiting), mode(m))
        }
        HomeState::Shipping(from, to, m) => format!("shipping from {from} to {to} {}", mode(m)),
        HomeState::Granting(to, m) => format!("granting to {to} {}", mode(m)),
        HomeState::Inheriting(heir) => format!("asking {heir} to inherit the duty"),
        HomeState::Unknown => "unknown".into(),
        HomeState::Frozen => "frozen".into(),
        HomeState::Redoing => "being redone".into(),
        HomeState::Broken => "broken".into(),
    })
}

/// A view as it is agreed on.
pub fn view(view: &View, dead: NodeSet, pending: bool) -> String {
    let pending = if pending { ", redo follows" } else { "" };
    let dead = if dead.is_empty() {
        String::new()
    } else {
        format!(", dead {}", nodes(dead))
    };
    format!(
        "view {}: members {}{dead}{pending}",
        view.epoch.0,
        nodes(view.nodes())
    )
}

/// The outcome of an analysis.
pub fn targets(pages: &[PageId], leader: NodeId, targets: &BTreeMap<PageId, Psn>) -> String {
    let targets: Vec<(PageId, Psn)> = targets.iter().map(|(page, psn)| (*page, *psn)).collect();
    let words = listing(&targets, |(page, psn)| {
        format!("{} psn {}", letter(pages, *page), psn.0)
    });
    format!("{leader} has analysed the redo streams: {words}")
}
