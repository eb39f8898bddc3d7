//! The lease: how long this node may act after its last renewal, and how long others wait.

use crate::Instant;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// The four times of membership. `heartbeat <= lease / 6`, `longest_io <= lease / 3`, `grace < lease / 2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Timing {
    /// H: how often a slot is written.
    pub heartbeat: Duration,
    /// L: how long a renewal lasts.
    pub lease: Duration,
    /// G: how long before its end the write gate closes.
    pub grace: Duration,
    /// Tio: the longest time an I/O is assumed to be under way.
    pub longest_io: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            lease: Duration::from_secs(3),
            grace: Duration::from_secs(1),
            longest_io: Duration::from_secs(1),
        }
    }
}

impl Timing {
    /// Silence after which an observer takes a node for dead: L(1 + 2p) + H + Tio with p = 10^-3.
    pub fn death_after(&self) -> Duration {
        self.lease + self.lease / 500 + self.heartbeat + self.longest_io
    }

    /// A peer is "heard" when a message of it came within this time: 2H.
    pub fn heard_within(&self) -> Duration {
        self.heartbeat * 2
    }

    /// Whether the relations hold that the safety argument needs.
    pub fn is_sound(&self) -> bool {
        !self.heartbeat.is_zero()
            && self.heartbeat * 6 <= self.lease
            && self.longest_io * 3 <= self.lease
            && self.grace * 2 < self.lease
    }
}

/// What the lease allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LeaseState {
    /// All is well.
    Valid,
    /// Half of it is gone: something is slow.
    Late,
    /// The gate is closed: no write may start, no result may leave.
    Closed,
    /// The process must end.
    Expired,
}

/// This node's own lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    timing: Timing,
    renewed: Instant,
}

impl Lease {
    /// A lease from `renewed` on: the instant stamped *before* the renewal was submitted.
    pub fn new(timing: Timing, renewed: Instant) -> Self {
        Self { timing, renewed }
    }

    /// A renewal stamped at `renewed` has completed.
    pub fn renew(&mut self, renewed: Instant) {
        self.renewed = self.renewed.max(renewed);
    }

    /// The state at `now`.
    pub fn state(&self, now: Instant) -> LeaseState {
        let age = now.since(self.renewed);
        if age >= self.timing.lease {
            LeaseState::Expired
        } else if age >= self.timing.lease - self.timing.grace {
            LeaseState::Closed
        } else if age >= self.timing.lease / 2 {
            LeaseState::Late
        } else {
            LeaseState::Valid
        }
    }

    /// When the state will change unless the lease is renewed.
    pub fn next_change(&self, now: Instant) -> Instant {
        let after = match self.state(now) {
            LeaseState::Valid => self.timing.lease / 2,
            LeaseState::Late => self.timing.lease - self.timing.grace,
            LeaseState::Closed | LeaseState::Expired => self.timing.lease,
        };
        self.renewed + after
    }
}
