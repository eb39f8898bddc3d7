//! Registers: read-modify-write and reads on all nodes; each register's history must be linearizable.

use super::client::{Body, Client};
use super::database::DatabaseError;
use super::{Size, Tally, Workload};
use crate::checker::Outcome;
use crate::checker::register::{Operation, check};
use aquifer_dss::seam::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Default)]
struct State {
    tree: u64,
    histories: Vec<Vec<Operation>>,
    tally: Tally,
}

/// The register workload.
#[derive(Clone)]
pub struct Registers {
    registers: u64,
    state: Arc<Mutex<State>>,
}

impl Registers {
    /// A few registers: contention is what finds errors.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(size: Size) -> Arc<dyn Workload> {
        let registers = (size.keys / 8).clamp(1, 8);
        let state = State {
            histories: vec![Vec::new(); registers as usize],
            ..State::default()
        };
        Arc::new(Self {
            registers,
            state: Arc::new(Mutex::new(state)),
        })
    }

    async fn drive(self, client: Client) -> Result<(), String> {
        let tree = self.state.lock().tree;
        let mut sequence = 0;
        while !client.is_over() {
            client.think().await;
            let register = client.below(self.registers);
            if client.percent(20) {
                client.disconnect();
            }
            if client.percent(50) {
                self.look(&client, register).await;
                continue;
            }
            sequence += 1;
            let value = client.number << 32 | sequence;
            let finished = client.transaction(false, replace(tree, register, value)).await;
            let operation = Operation::Write {
                begun: finished.begun,
                ended: finished.ended,
                value,
                replaced: finished.note,
                outcome: finished.outcome,
            };
            let mut state = self.state.lock();
            state.histories[register as usize].push(operation);
            state.tally.count(finished.outcome);
        }
        Ok(())
    }

    async fn look(&self, client: &Client, register: u64) {
        let tree = self.state.lock().tree;
        let finished = client.read(|| read(tree, register)).await;
        let value = finished.value.expect("read answers a value");
        let operation = Operation::Read {
            begun: finished.begun,
            ended: finished.ended,
            value,
        };
        let mut state = self.state.lock();
        state.histories[register as usize].push(operation);
        state.tally.reads += 1;
    }
}

impl Workload for Registers {
    fn name(&self) -> &'static str {
        "register"
    }

    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let registers = self.clone();
        Box::pin(async move {
            let tree = client.create_tree().await?;
            registers.state.lock().tree = tree;
            for register in 0..registers.registers {
                loop {
                    let finished = client.transaction(false, first(tree, register)).await;
                    if finished.outcome == Outcome::Committed
                        || finished.error == Some(DatabaseError::Duplicate)
                    {
                        break;
                    }
                }
            }
            Ok(())
        })
    }

    fn run(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.clone().drive(client))
    }

    fn check(&self, client: Client) -> BoxFuture<'static, Result<(), String>> {
        let registers = self.clone();
        Box::pin(async move {
            for node in client.nodes() {
                client.connect(node);
                for register in 0..registers.registers {
                    registers.look(&client, register).await;
                }
            }
            let state = registers.state.lock();
            for (register, history) in state.histories.iter().enumerate() {
                check(history).map_err(|error| format!("register {register}: {error}"))?;
            }
            Ok(())
        })
    }

    fn summary(&self) -> String {
        format!("register: {}", self.state.lock().tally)
    }
}

fn value_of(row: &[u8]) -> Option<u64> {
    row.try_into().ok().map(u64::from_le_bytes)
}

fn first(tree: u64, register: u64) -> Body<()> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            transaction
                .insert(tree, &register.to_be_bytes(), vec![0; 8])
                .await
        })
    })
}

fn replace(tree: u64, register: u64, value: u64) -> Body<()> {
    Box::new(move |transaction, note| {
        Box::pin(async move {
            // The last call of the function is the one that counts: the row may have changed while it waited.
            let mut change = |row: &[u8]| {
                note.set(value_of(row)?);
                Some(value.to_le_bytes().to_vec())
            };
            match transaction
                .update_with(tree, &register.to_be_bytes(), &mut change)
                .await?
            {
                Some(_) => Ok(()),
                None => Err(DatabaseError::Wrong(format!("register {register} is not there"))),
            }
        })
    })
}

fn read(tree: u64, register: u64) -> Body<u64> {
    Box::new(move |transaction, _| {
        Box::pin(async move {
            let row = transaction.get(tree, &register.to_be_bytes()).await?;
            let value = row.as_deref().and_then(value_of);
            value.ok_or_else(|| DatabaseError::Wrong(format!("register {register} holds {row:?}")))
        })
    })
}
