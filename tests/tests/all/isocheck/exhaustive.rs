//! Small drawn histories against every execution that there is: isocheck allows one exactly when some execution of the model
//! gives those answers (for snapshot isolation, every order of the starts and commits; for serializability, every order).

use aquifer_tests::checker::Outcome;
use aquifer_tests::isocheck::{Event, History, Kind, Level, Micro, Model, Transaction, check, write_events};
use aquifer_tests::sim::Random;
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// Began when so many had committed.
    Running(usize),
    Done,
}

/// An execution so far.
#[derive(Clone)]
struct Execution<'a> {
    transactions: Vec<&'a Transaction>,
    phases: Vec<Phase>,
    lists: BTreeMap<u32, Vec<i64>>,
    /// Per key, the number of commits when it was last changed.
    changed: BTreeMap<u32, usize>,
    commits: usize,
}

impl<'a> Execution<'a> {
    fn new(transactions: Vec<&'a Transaction>) -> Self {
        Self {
            phases: vec![Phase::Waiting; transactions.len()],
            transactions,
            lists: BTreeMap::new(),
            changed: BTreeMap::new(),
            commits: 0,
        }
    }

    /// Whether some way to go on gives every transaction its answers.
    fn possible(&self, model: Model) -> bool {
        let serial = model.level == Level::Serializable;
        let running = self.phases.iter().any(|phase| matches!(phase, Phase::Running(_)));
        (0..self.phases.len()).any(|number| {
            let mut next = self.clone();
            let went_on = match self.phases[number] {
                Phase::Waiting => !(serial && running) && next.start(number, model),
                Phase::Running(since) => next.commit(number, since),
                Phase::Done => false,
            };
            went_on && next.possible(model)
        }) || self.phases.iter().all(|phase| *phase == Phase::Done)
    }

    fn start(&mut self, number: usize, model: Model) -> bool {
        let this = self.transactions[number];
        let ended_before = |other: &&Transaction| matches!((other.ended, this.begun), (Some(ended), Some(begun)) if ended < begun);
        let mut others = self.transactions.iter().zip(&self.phases);
        if model.real_time && others.any(|(other, phase)| ended_before(other) && *phase != Phase::Done) {
            return false;
        }
        self.phases[number] = Phase::Running(self.commits);
        let mut lists = self.lists.clone();
        this.micros.iter().all(|micro| match micro {
            Micro::Append { key, value } => {
                lists.entry(*key).or_default().push(*value);
                true
            }
            Micro::Read {
                key,
                list: Some(list),
            } => lists.get(key).map_or(list.is_empty(), |now| now == list),
            Micro::Read { .. } => true,
        })
    }

    fn commit(&mut self, number: usize, since: usize) -> bool {
        self.phases[number] = Phase::Done;
        self.commits += 1;
        for micro in &self.transactions[number].micros {
            let Micro::Append { key, value } = micro else {
                continue;
            };
            let changed = self.changed.insert(*key, self.commits).unwrap_or(0);
            if changed > since && changed < self.commits {
                return false;
            }
            self.lists.entry(*key).or_default().push(*value);
        }
        true
    }
}

/// Whether some execution gives the answers of `history`, with any of its unknown transactions.
fn possible(history: &History, model: Model) -> bool {
    let of = |outcome| {
        history
            .transactions
            .iter()
            .filter(move |transaction| transaction.outcome == outcome)
    };
    let unknown: Vec<&Transaction> = of(Outcome::Unknown).collect();
    (0..1_u32 << unknown.len()).any(|chosen| {
        let happened = unknown
            .iter()
            .enumerate()
            .filter(|(bit, _)| chosen >> bit & 1 == 1);
        let transactions = of(Outcome::Committed).chain(happened.map(|(_, transaction)| *transaction));
        Execution::new(transactions.collect()).possible(model)
    })
}

/// A history of two to four transactions on two keys. Reads are prefixes of one order of each key, so that both verdicts
/// are usual.
fn draw(random: &mut Random) -> Vec<Event> {
    let count = random.between(2, 4) as usize;
    let (mut micros, mut orders) = (vec![Vec::new(); count], [Vec::new(), Vec::new()]);
    for (number, micros) in micros.iter_mut().enumerate() {
        for step in 0..random.between(1, 3) {
            let (key, value) = (random.below(2) as usize, (number as i64 + 1) * 10 + step as i64);
            micros.push((key, random.chance(500_000).then_some(value)));
        }
    }
    // Transaction after transaction, in a drawn order; now and then value after value.
    let mut numbers: Vec<usize> = (0..count).collect();
    (1..count).for_each(|at| numbers.swap(at, random.below(at as u64 + 1) as usize));
    for number in &numbers {
        for (key, value) in &micros[*number] {
            orders[*key].extend(value);
        }
    }
    if random.chance(100_000) && orders[0].len() > 1 {
        orders[0].swap(0, 1);
    }
    let mut events: Vec<Event> = Vec::new();
    for (number, micros) in micros.iter().enumerate() {
        let cuts = [0, 1].map(|key: usize| random.below(orders[key].len() as u64 + 1) as usize);
        let mut seen = [0, 1].map(|key: usize| orders[key][..cuts[key]].to_vec());
        let answered = micros.iter().map(|(key, value)| match value {
            Some(value) => {
                let place = orders[*key].iter().position(|other| other == value).unwrap();
                seen[*key] = orders[*key][..=place].to_vec();
                Micro::Append {
                    key: key.to_string(),
                    value: *value,
                }
            }
            None => Micro::Read {
                key: key.to_string(),
                list: Some(seen[*key].clone()),
            },
        });
        let answered: Vec<Micro> = answered.collect();
        let kind = match random.below(10) {
            0 => Kind::Info,
            1 => Kind::Fail,
            _ => Kind::Ok,
        };
        let forget = |micro: &Micro| match micro {
            Micro::Read { key, .. } => Micro::Read {
                key: key.clone(),
                list: None,
            },
            append => append.clone(),
        };
        let asked: Vec<Micro> = answered.iter().map(forget).collect();
        let event = |kind, micros| Event {
            process: number as i64,
            kind,
            time: None,
            micros,
            line: 0,
        };
        let invoked = random.below(events.len() as u64 + 1) as usize;
        events.insert(invoked, event(Kind::Invoke, asked.clone()));
        let completed = random.between(invoked as u64 + 1, events.len() as u64) as usize;
        events.insert(
            completed,
            event(kind, if kind == Kind::Ok { answered } else { asked }),
        );
    }
    events
}

#[test]
fn a_history_is_allowed_exactly_when_an_execution_gives_it() {
    let mut random = Random::new(1);
    for model in [
        "snapshot-isolation",
        "strict-snapshot-isolation",
        "serializable",
        "strict-serializable",
    ] {
        let model: Model = model.parse().unwrap();
        let mut verdicts = [0, 0];
        for _ in 0..4_000 {
            let events = draw(&mut random);
            let history = History::pair(events.clone()).unwrap();
            let verdict = check(&history, model);
            let wanted = possible(&history, model);
            verdicts[usize::from(wanted)] += 1;
            if verdict.is_valid() != wanted {
                let mut text = Vec::new();
                write_events(&events, &mut text).unwrap();
                panic!(
                    "possible: {wanted}; {verdict}\n{}",
                    String::from_utf8(text).unwrap()
                );
            }
        }
        assert!(verdicts.iter().all(|count| *count > 400), "{model}: {verdicts:?}");
    }
}
