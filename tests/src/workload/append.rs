//! List-append: transactions of one to four reads and appends on a few lists, on any node, under snapshot isolation. What all
//! clients asked and were told is one history, checked at the end with real time: what one node has acknowledged is in every
//! snapshot that is taken later on any node.

use super::client::{Body, Client};
use super::database::{DatabaseError, TransactionHandle};
use super::{Size, Tally, Workload};
use crate::checker::Outcome;
use crate::isocheck::{Event, History, Kind, Level, Micro, Model, check, write_events};
use aquifer_dss::seam::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;

/// Appends asked for until another list takes the place of a list: rows stay smaller than pages, and the history short.
const LONGEST: usize = 48;

#[derive(Default)]
struct State {
    tree: u64,
    /// The lists in use, each with the number of appends asked for.
    lists: Vec<(u64, usize)>,
    next_list: u64,
    next_value: i64,
    events: Vec<Event>,
    tally: Tally,
}

/// The list-append workload.
#[derive(Clone)]
pub struct ListAppend {
    state: Arc<Mutex<State>>,
}

/// What a transaction has been answered so far, also when its node dies before it is told.
type Answers = Arc<Mutex<Vec<Micro>>>;

impl ListAppend {
    /// A few lists: contention is what finds errors.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(size: Size) -> Arc<dyn Workload> {
        let lists = (size.keys / 4).clamp(2, 12);
        let state = State {
            lists: (0..lists).map(|list| (list, 0)).collect(),
            next_list: lists,
            ..State::default()
        };
        Arc::new(Self {
            state: Arc::new(Mutex::new(state)),
        })
    }

    async fn drive(self, client: Client) -> Result<(), String> {
        while !client.is_over() {
            client.think().await;
            if client.percent(20) {
                client.disconnect();
            }
            let micros = self.draw(&client);
            self.transact(&client, micros).await;
        }
        Ok(())
    }

    fn draw(&self, client: &Client) -> Vec<Micro> {
        let mut state = self.state.lock();
        (0..=client.below(4)).map(|_| state.draw(client)).collect()
    }

    /// One transaction, tried once; its invocation and its completion go into the history.
    async fn transact(&self, client: &Client, micros: Vec<Micro>) -> Outcome {
        let tree = self.record(client, Kind::Invoke, micros.clone());
        let answers: Answers = Arc::new(Mutex::new(micros.clone()));
        let finished = client
            .transaction(true, run_micros(tree, micros.clone(), answers.clone()))
            .await;
        let (kind, micros) = match finished.outcome {
            Outcome::Committed => (Kind::Ok, answers.lock().clone()),
            Outcome::Aborted => (Kind::Fail, micros),
            Outcome::Unknown => (Kind::Info, answers.lock().clone()),
        };
        self.record(client, kind, micros);
        self.state.lock().tally.count(finished.outcome);
        finished.outcome
    }

    /// Writes an event into the history; answers the tree.
    fn record(&self, client: &Client, kind: Kind, micros: Vec<Micro>) -> u64 {
        let mut state = self.state.lock();
        let line = state.events.len() + 1;
        state.events.push(Event {
            process: client.number as i64,
            kind,
            time: Some(client.now()),
            micros,
            line,
        });
        state.tree
    }

    /// Every list, at every node, after everything else: what was acknowledged and is gone is seen here at the latest.
    async fn read_everything(&self, client: &Client) {
        let lists: Vec<u64> = (0..self.state.lock().next_list).collect();
        for node in client.nodes() {
            client.connect(node);
            for lists in lists.chunks(4) {
                let read = |list: &u64| Micro::Read {
                    key: list.to_string(),
                    list: None,
                };
                while self.transact(client, lists.iter().map(read).collect()).await != Outcome::Committed {}
                self.state.lock().tally.reads += 1;
            }
        }
    }

    fn verdict(&self) -> Result<(), String> {
        let events = self.state.lock().events.clone();
        let history = History::pair(events).map_err(|bad| format!("the history is none: {bad}"))?;
        let model = Model {
            level: Level::SnapshotIsolation,
            real_time: true,
        };
        let verdict = check(&history, model);
        if verdict.is_valid() {
            Ok(())
        } else {
            Err(verdict.to_string())
        }
    }
}

impl State {
    fn draw(&mut self, client: &Client) -> Micro {
        let place = client.below(self.lists.len() as u64) as usize;
        let key = self.lists[place].0.to_string();
        if client.percent(45) {
            return Micro::Read { key, list: None };
        }
        self.lists[place].1 += 1;
        if self.lists[place].1 == LONGEST {
            self.lists[place] = (self.next_list, 0);
            self.next_list += 1;
        }
        self.next_value += 1;
        Micro::Append {
            key,
            value: self.next_value,
        }
    }
}

impl Workload for ListAppend {
    fn name(&self) -> &'static str {
        "append"
    }

    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let workload = self.clone();
        Box::pin(async move {
            let tree = client.create_tree().await?;
            workload.state.lock().tree = tree;
            Ok(())
        })
    }

    fn run(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.clone().drive(client))
    }

    fn check(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let workload = self.clone();
        Box::pin(async move {
            workload.read_everything(&client).await;
            workload.verdict()
        })
    }

    fn summary(&self) -> String {
        format!("append: {}", self.state.lock().tally)
    }

    fn history(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        write_events(&self.state.lock().events, &mut bytes).expect("memory takes everything");
        Some(bytes)
    }
}

fn run_micros(tree: u64, micros: Vec<Micro>, answers: Answers) -> Body<()> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            for (index, micro) in micros.into_iter().enumerate() {
                match micro {
                    Micro::Append { key, value } => append(transaction, tree, &row_of(&key), value).await?,
                    Micro::Read { key, .. } => {
                        let list = Some(read(transaction, tree, &row_of(&key)).await?);
                        answers.lock()[index] = Micro::Read { key, list };
                    }
                }
            }
            Ok(())
        })
    })
}

fn row_of(key: &str) -> Vec<u8> {
    key.parse::<u64>()
        .expect("the workload numbers its lists")
        .to_be_bytes()
        .to_vec()
}

async fn append(
    transaction: &mut dyn TransactionHandle,
    tree: u64,
    row: &[u8],
    value: i64,
) -> Result<(), DatabaseError> {
    let mut change = |list: &[u8]| Some([list, &value.to_le_bytes()[..]].concat());
    match transaction.update_with(tree, row, &mut change).await? {
        Some(_) => Ok(()),
        None => transaction.insert(tree, row, value.to_le_bytes().to_vec()).await,
    }
}

async fn read(
    transaction: &mut dyn TransactionHandle,
    tree: u64,
    row: &[u8],
) -> Result<Vec<i64>, DatabaseError> {
    let Some(bytes) = transaction.get(tree, row).await? else {
        return Ok(Vec::new());
    };
    let values = bytes
        .chunks(8)
        .map(|value| value.try_into().map(i64::from_le_bytes));
    values
        .collect::<Result<_, _>>()
        .map_err(|_| DatabaseError::Wrong(format!("list {row:?} is {bytes:?}")))
}
