//! A history: what clients asked and were told, in the order in which it happened.

use super::input::BadInput;
use crate::checker::Outcome;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What an event says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A transaction was asked for.
    Invoke,
    /// It committed.
    Ok,
    /// It did not happen, and never will.
    Fail,
    /// It is not known whether it happened or will happen.
    Info,
}

/// One operation inside a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Micro<Key = String> {
    /// Appends `value` to the list of `key`.
    Append {
        /// The list.
        key: Key,
        /// Appended to this key once in the whole history.
        value: i64,
    },
    /// Reads the list of `key`.
    Read {
        /// The list.
        key: Key,
        /// What it was; `None` when the answer is not known. A list that does not exist is empty.
        list: Option<Vec<i64>>,
    },
}

impl<Key> Micro<Key> {
    /// The list it is about.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Append { key, .. } | Self::Read { key, .. } => key,
        }
    }
}

/// One event of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The client; it has one transaction at a time.
    pub process: i64,
    /// What happened.
    pub kind: Kind,
    /// Nanoseconds, for the reader: the order of the events is what counts.
    pub time: Option<u64>,
    /// The transaction; with its reads' answers when it is known to have committed.
    pub micros: Vec<Micro>,
    /// Where it stands in the input, from 1.
    pub line: usize,
}

/// A transaction: an invocation and what became of it.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The client.
    pub process: i64,
    /// Position of its invocation among all events, if there was one.
    pub begun: Option<usize>,
    /// Position of the event that said it had committed.
    pub ended: Option<usize>,
    /// As the client knows it.
    pub outcome: Outcome,
    /// What it did; keys are indexes into [`History::keys`].
    pub micros: Vec<Micro<u32>>,
    /// First and last line of the input that speak of it.
    pub lines: (usize, usize),
}

/// All transactions of a history, in the order of their first events.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The transactions.
    pub transactions: Vec<Transaction>,
    /// The names of the lists.
    pub keys: Vec<String>,
}

/// Builds a history event by event.
#[derive(Default)]
struct Pairing {
    history: History,
    numbers: HashMap<String, u32>,
    /// Per process, the transaction that is not complete.
    open: HashMap<i64, usize>,
    /// Line of the transaction that appended a value.
    appended: HashMap<(u32, i64), usize>,
}

impl History {
    /// Pairs invocations with completions, and checks what the method needs of a history.
    pub fn pair(events: Vec<Event>) -> Result<Self, BadInput> {
        let mut pairing = Pairing::default();
        for (position, event) in events.into_iter().enumerate() {
            match event.kind {
                Kind::Invoke => pairing.invoke(position, event)?,
                _ => pairing.complete(position, event)?,
            }
        }
        Ok(pairing.history)
    }
}

impl Pairing {
    fn invoke(&mut self, position: usize, event: Event) -> Result<(), BadInput> {
        let (line, process) = (event.line, event.process);
        let number = self.history.transactions.len();
        if let Some(open) = self.open.insert(process, number) {
            let before = self.history.transactions[open].lines.0;
            return Err(BadInput::new(
                line,
                format!("process {process} invokes, and its transaction of line {before} is not complete"),
            ));
        }
        self.begin(event, Some(position))
    }

    fn begin(&mut self, event: Event, begun: Option<usize>) -> Result<(), BadInput> {
        let micros = self.intern(event.micros);
        for micro in &micros {
            let Micro::Append { key, value } = micro else {
                continue;
            };
            match self.appended.entry((*key, *value)) {
                Entry::Vacant(entry) => {
                    entry.insert(event.line);
                }
                Entry::Occupied(before) => {
                    let (key, before) = (&self.history.keys[*key as usize], before.get());
                    return Err(BadInput::new(
                        event.line,
                        format!(
                            "{value} is appended to {key} again (line {before}): a value is appended to a key once"
                        ),
                    ));
                }
            }
        }
        self.history.transactions.push(Transaction {
            process: event.process,
            begun,
            ended: None,
            outcome: Outcome::Unknown,
            micros,
            lines: (event.line, event.line),
        });
        Ok(())
    }

    fn complete(&mut self, position: usize, event: Event) -> Result<(), BadInput> {
        let (kind, line) = (event.kind, event.line);
        let number = match self.open.remove(&event.process) {
            Some(number) => {
                self.answer(number, event)?;
                number
            }
            None => {
                self.begin(event, None)?;
                self.history.transactions.len() - 1
            }
        };
        let transaction = &mut self.history.transactions[number];
        transaction.lines.1 = line;
        match kind {
            Kind::Ok => {
                transaction.outcome = Outcome::Committed;
                transaction.ended = Some(position);
            }
            Kind::Fail => transaction.outcome = Outcome::Aborted,
            Kind::Info | Kind::Invoke => {}
        }
        Ok(())
    }

    /// Takes over the answers of a completion, which must be of what was invoked.
    fn answer(&mut self, number: usize, event: Event) -> Result<(), BadInput> {
        if event.micros.is_empty() && event.kind != Kind::Ok {
            return Ok(());
        }
        let micros = self.intern(event.micros);
        let transaction = &mut self.history.transactions[number];
        let same = |(asked, done): (&Micro<u32>, &Micro<u32>)| match (asked, done) {
            (Micro::Append { .. }, Micro::Append { .. }) => asked == done,
            (Micro::Read { key, .. }, Micro::Read { key: read, .. }) => key == read,
            _ => false,
        };
        let as_asked =
            micros.len() == transaction.micros.len() && transaction.micros.iter().zip(&micros).all(same);
        if !as_asked {
            let text = format!(
                "completes other operations than line {} invoked",
                transaction.lines.0
            );
            return Err(BadInput::new(event.line, text));
        }
        transaction.micros = micros;
        Ok(())
    }

    fn intern(&mut self, micros: Vec<Micro>) -> Vec<Micro<u32>> {
        let number = |key: String| match self.numbers.get(&key) {
            Some(number) => *number,
            None => {
                let number = self.history.keys.len() as u32;
                self.history.keys.push(key.clone());
                self.numbers.insert(key, number);
                number
            }
        };
        let mut number = number;
        let interned = micros.into_iter().map(|micro| match micro {
            Micro::Append { key, value } => Micro::Append {
                key: number(key),
                value,
            },
            Micro::Read { key, list } => Micro::Read {
                key: number(key),
                list,
            },
        });
        interned.collect()
    }
}
