//! The isolation checker on histories whose answer is known: written by hand, one and more for each anomaly and model, and made by a toy
//! database with and without a fault.

mod allowed;
mod command;
mod exhaustive;
mod forbidden;
mod generated;
mod toy;

use aquifer_tests::isocheck::{Event, History, Kind, Micro, Model, Verdict, check};

/// Events in a short notation: process, type, then operations. `ax1` appends 1 to x; `rx` is a read without an answer,
/// `rx[]` and `rx[1,2]` with one.
fn events(lines: &[&str]) -> Vec<Event> {
    lines
        .iter()
        .enumerate()
        .map(|(index, line)| event(index, line))
        .collect()
}

fn event(index: usize, line: &str) -> Event {
    let mut words = line.split_whitespace();
    let process = words.next().unwrap().parse().unwrap();
    let kind = match words.next().unwrap() {
        "invoke" => Kind::Invoke,
        "ok" => Kind::Ok,
        "fail" => Kind::Fail,
        "info" => Kind::Info,
        other => panic!("{other}"),
    };
    Event {
        process,
        kind,
        time: None,
        micros: words.map(micro).collect(),
        line: index + 1,
    }
}

fn micro(word: &str) -> Micro {
    let (key, rest) = (word[1..2].to_owned(), &word[2..]);
    if word.starts_with('a') {
        return Micro::Append {
            key,
            value: rest.parse().unwrap(),
        };
    }
    let list = rest.strip_prefix('[').map(|rest| {
        let values = rest.strip_suffix(']').unwrap().split(',');
        values
            .filter(|value| !value.is_empty())
            .map(|value| value.parse().unwrap())
            .collect()
    });
    Micro::Read { key, list }
}

fn verdict(lines: &[&str], model: &str) -> Verdict {
    let history = History::pair(events(lines)).unwrap();
    check(&history, model.parse::<Model>().unwrap())
}
