//! The start of a life: the lock, then the slot with a new incarnation, then everything else.

use super::api::{Inner, Membership};
use super::ballots::{highest_round, learn_decided, newest_own, read_all_ballots};
use super::slot::{ADDRESS_BYTES_MAX, SlotView};
use super::slots::{read_slot, write_slot};
use super::types::{Exclusions, MembershipConfig, MembershipError, Timeline};
use super::vote::Vote;
use crate::group::MetadataDevices;
use crate::seam::{FenceError, Fencer, Runtime, Transport};
use aquifer_dss_proto::membership::{Core, Lease, SlotState};
use aquifer_dss_proto::{Epoch, Incarnation, Member, NodeSet};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio::sync::{Notify, watch};

impl Membership {
    /// Takes the slot of `config.me`, starts the heartbeat, and joins the view or forms the first one: wait for
    /// [`next_event`](Self::next_event). Fails at once when another process has the slot.
    pub async fn start(
        runtime: Arc<dyn Runtime>,
        metadata: Arc<MetadataDevices>,
        transport: Arc<dyn Transport>,
        fencer: Arc<dyn Fencer>,
        config: MembershipConfig,
    ) -> Result<Arc<Self>, MembershipError> {
        check(&config)?;
        let node = config.me;
        fencer.hold(node).map_err(|error| match error {
            FenceError::SlotBusy(node) => MembershipError::SlotBusy(node),
            other => MembershipError::Fence(other),
        })?;
        let before = read_slot(&metadata, node).await?;
        wait_for_namesake(&*runtime, &metadata, &*fencer, &config, before.as_ref()).await?;
        let started = runtime.now();
        let slot = first_slot(&*fencer, &config, before.as_ref());
        write_slot(&metadata, node, &slot.encode()).await?;
        metadata.flush_or_fail().await?;
        let blocks = read_all_ballots(&*runtime, &metadata).await?;
        let decided = learn_decided(&*runtime, &metadata).await?;
        let lost = metadata.begin(decided.metadata);
        metadata.set_decides(true);
        let me = Member {
            node,
            incarnation: slot.incarnation,
        };
        let own_block = newest_own(node, &blocks);
        let epoch = decided.view.epoch;
        let mut core = Core::new(started, me, config.timing, decided);
        core.handle_fenced(slot.fenced);
        if let Some(leg) = lost {
            core.handle_leg_lost(leg);
        }
        let gate = started + (config.timing.lease - config.timing.grace);
        let inner = Inner {
            core,
            lease: Lease::new(config.timing, started),
            slots: vec![slot.clone()],
            slot,
            own_block,
            no_body: None,
            own_block_unknown: false,
            highest_round: highest_round(&blocks),
            events: VecDeque::new(),
            timeline: Timeline::default(),
            detected: None,
            exclusions: Exclusions::default(),
            admit: Arc::new(|_| true),
            on_slots: Arc::new(|_| {}),
            alarm: None,
            hinted: false,
        };
        let membership = Arc::new(Self {
            runtime,
            metadata,
            transport,
            fencer,
            config,
            me,
            inner: Mutex::new(inner),
            vote: Mutex::new(Vote::new(epoch)),
            slot_writer: tokio::sync::Mutex::new(()),
            gate: AtomicU64::new(gate.0),
            ended: AtomicBool::new(false),
            wake_vote: Notify::new(),
            wake_reform: Notify::new(),
            wake_watch: Notify::new(),
            wake_renew: Notify::new(),
            event_ready: Notify::new(),
            changes: watch::channel(0).0,
        });
        membership.spawn_tasks();
        Ok(membership)
    }
}

fn check(config: &MembershipConfig) -> Result<(), MembershipError> {
    if !config.timing.is_sound() {
        return Err(MembershipError::Configuration(
            "need H <= L/6, Tio <= L/3, G < L/2",
        ));
    }
    let addresses = [
        &config.addresses.peer,
        &config.addresses.sql,
        &config.addresses.admin,
    ];
    if addresses.iter().any(|address| address.len() > ADDRESS_BYTES_MAX) {
        return Err(MembershipError::Configuration(
            "an address is longer than 120 bytes",
        ));
    }
    Ok(())
}

/// Another machine's process with this node's id holds a lock that is not seen here: its slot would move.
async fn wait_for_namesake(
    runtime: &dyn Runtime,
    metadata: &MetadataDevices,
    fencer: &dyn Fencer,
    config: &MembershipConfig,
    before: Option<&SlotView>,
) -> Result<(), MembershipError> {
    let Some(before) = before.filter(|slot| slot.state != SlotState::Down) else {
        return Ok(());
    };
    let (mine, identity) = (fencer.identity(), &before.identity);
    if identity.boot_id == mine.boot_id && identity.pid_namespace == mine.pid_namespace {
        return Ok(());
    }
    runtime.sleep(config.timing.heartbeat * 3).await;
    if read_slot(metadata, config.me).await?.as_ref() == Some(before) {
        Ok(())
    } else {
        Err(MembershipError::SlotBusy(config.me))
    }
}

fn first_slot(fencer: &dyn Fencer, config: &MembershipConfig, before: Option<&SlotView>) -> SlotView {
    SlotView {
        node: config.me,
        incarnation: before.map_or(Incarnation(1), |slot| Incarnation(slot.incarnation.0 + 1)),
        sequence: 1,
        state: SlotState::Joining,
        identity: fencer.identity(),
        heard: NodeSet::EMPTY,
        decided: before.map_or(Epoch(0), |slot| slot.decided),
        fenced: before.map_or(Epoch(0), |slot| slot.fenced),
        installed_epoch: before.map_or(Epoch(0), |slot| slot.installed_epoch),
        scn_ceiling: before.map_or(0, |slot| slot.scn_ceiling),
        addresses: config.addresses.clone(),
    }
}
