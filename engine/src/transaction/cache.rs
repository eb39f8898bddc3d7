//! Final answers about transactions: bounded, the oldest half goes at once.

use aquifer_engine_proto::{TxnId, TxnStatus};
use std::collections::BTreeMap;

/// Two generations of up to `limit` answers each. Only final answers are kept (TXN-2).
pub struct FinalCache {
    limit: usize,
    young: BTreeMap<TxnId, TxnStatus>,
    old: BTreeMap<TxnId, TxnStatus>,
}

impl FinalCache {
    pub fn new(limit: usize) -> Self {
        assert!(limit > 0, "a cache keeps something");
        Self {
            limit,
            young: BTreeMap::new(),
            old: BTreeMap::new(),
        }
    }

    pub fn get(&self, txn: TxnId) -> Option<TxnStatus> {
        self.young.get(&txn).or_else(|| self.old.get(&txn)).copied()
    }

    /// An answer of a peer. The first stays: who contradicts himself is not believed the second time (TXN-10).
    pub fn hear(&mut self, txn: TxnId, status: TxnStatus) {
        match self.get(txn) {
            Some(known) if known != status => {
                tracing::warn!(%txn, ?known, ?status, "a peer contradicts what was final");
            }
            _ => self.insert(txn, status),
        }
    }

    pub fn insert(&mut self, txn: TxnId, status: TxnStatus) {
        assert!(status.is_final(), "{txn} is not final: {status:?}");
        if let Some(known) = self.get(txn) {
            assert!(known == status, "{txn} was {known:?} and is {status:?}");
            return;
        }
        if self.young.len() >= self.limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(txn, status);
    }
}
