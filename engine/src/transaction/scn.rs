//! The SCN service of a node: issues at the leader, fetches elsewhere.
//!
//! The cores are `ScnIssuer` and `ScnFetcher`; this drives them with messages and the durable ceiling.

use crate::rpc::{EngineRequest, EngineResponse, Reply, Rpc};
use aquifer_buffer_pool_proto::Scn;
use aquifer_dss::membership::Membership;
use aquifer_dss::seam::{BoxFuture, Runtime};
use aquifer_dss_proto::defect::{Defect, planted};
use aquifer_dss_proto::{Epoch, NodeId, NodeSet, View};
use aquifer_engine_proto::{ScnFetch, ScnFetcher, ScnIssuer, ScnReply, ScnWant};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// SCNs reserved at a time.
const RESERVE: u64 = 1 << 20;
/// How often an idle node tells its floor.
const REFRESH: Duration = Duration::from_millis(500);
/// Wait before a ceiling that could not be written is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Where the ceiling is durable: this node's slot.
pub trait CeilingStore: Send + Sync + 'static {
    /// Durable when it returns `Ok`.
    fn raise_scn_ceiling(&self, ceiling: Scn) -> BoxFuture<'_, Result<(), String>>;
}

impl CeilingStore for Membership {
    fn raise_scn_ceiling(&self, ceiling: Scn) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            Self::raise_scn_ceiling(self, ceiling.0)
                .await
                .map_err(|e| e.to_string())
        })
    }
}

/// An SCN on its way; a snapshot that nobody takes is given back.
enum Granted {
    Snapshot(Snapshot),
    Commit(Scn),
}

struct State {
    fetcher: ScnFetcher<oneshot::Sender<Granted>>,
    issuer: Option<ScnIssuer>,
    leader: Option<NodeId>,
    /// Told when the horizon has come to the SCN.
    awaited: Vec<(Scn, oneshot::Sender<()>)>,
}

/// One per node.
pub struct ScnService {
    rt: Arc<dyn Runtime>,
    rpc: Arc<Rpc>,
    me: NodeId,
    ceiling: Arc<dyn CeilingStore>,
    state: Mutex<State>,
    wake: Notify,
    raised: Notify,
    epoch: watch::Sender<Epoch>,
}

/// A registered snapshot: while it lives, nothing it can see is pruned.
pub struct Snapshot {
    scn: Scn,
    service: Arc<ScnService>,
}

impl Snapshot {
    /// Everything that committed at or below this is seen.
    pub const fn scn(&self) -> Scn {
        self.scn
    }
}

impl Clone for Snapshot {
    fn clone(&self) -> Self {
        self.service.state.lock().fetcher.retain(self.scn);
        Self {
            scn: self.scn,
            service: self.service.clone(),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.service.state.lock().fetcher.release(self.scn);
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({})", self.scn.0)
    }
}

/// Answers to hand out once the lock is released: a receiver that is gone drops its snapshot, which takes the lock.
type Outbox = Vec<(oneshot::Sender<Granted>, Granted)>;

impl ScnService {
    /// Starts the service; nothing is answered before a view is installed.
    pub fn start(
        rt: Arc<dyn Runtime>,
        rpc: Arc<Rpc>,
        me: NodeId,
        ceiling: Arc<dyn CeilingStore>,
    ) -> Arc<Self> {
        let state = State {
            fetcher: ScnFetcher::default(),
            issuer: None,
            leader: None,
            awaited: Vec::new(),
        };
        let this = Arc::new(Self {
            rt: rt.clone(),
            rpc,
            me,
            ceiling,
            state: Mutex::new(state),
            wake: Notify::new(),
            raised: Notify::new(),
            epoch: watch::Sender::new(Epoch(0)),
        });
        rt.spawn("scn fetches", Box::pin(this.clone().run_fetches()));
        rt.spawn("scn ceiling", Box::pin(this.clone().run_ceiling()));
        this
    }

    /// A view is in force: everybody who left is proven dead. `joined`: lives that were not in the view before.
    /// `highest_ceiling`: the highest of all slots, read after the fencing; used when this node begins to lead.
    pub fn install_view(&self, view: &View, joined: NodeSet, highest_ceiling: Scn) {
        let mut state = self.state.lock();
        state.leader = Some(view.leader);
        if view.leader != self.me {
            state.issuer = None;
        } else if let Some(issuer) = &mut state.issuer {
            issuer.install_view(view.nodes(), joined);
        } else {
            let ceiling = if planted(Defect::LeaderIgnoresCeilings) {
                Scn(0)
            } else {
                highest_ceiling
            };
            let known = state.fetcher.last().max(ceiling);
            let horizon = state.fetcher.horizon();
            state.issuer = Some(ScnIssuer::new(known, RESERVE, view.nodes(), horizon));
        }
        drop(state);
        self.epoch.send_replace(view.epoch);
        self.wake.notify_one();
        self.raised.notify_one();
    }

    /// A snapshot that covers everything acknowledged anywhere before this call.
    pub async fn snapshot(self: &Arc<Self>) -> Snapshot {
        match self.request(ScnWant::Snapshot).await {
            Granted::Snapshot(snapshot) => snapshot,
            Granted::Commit(_) => unreachable!("a snapshot was asked for"),
        }
    }

    /// A commit SCN. The transaction is published as committing before this is called (HZ-13).
    pub async fn commit_scn(self: &Arc<Self>) -> Scn {
        match self.request(ScnWant::Commit).await {
            Granted::Commit(scn) => scn,
            Granted::Snapshot(_) => unreachable!("a commit SCN was asked for"),
        }
    }

    /// Nothing below this is seen by any snapshot of the cluster.
    pub fn horizon(&self) -> Scn {
        self.state.lock().fetcher.horizon()
    }

    /// Waits until no snapshot of the cluster lies below `scn`. An idle node tells its floor every half second, so this takes about
    /// a second when nobody reads, and as long as the oldest snapshot lives otherwise.
    pub async fn horizon_at(&self, scn: Scn) {
        let reached = {
            let mut state = self.state.lock();
            if state.fetcher.horizon() >= scn {
                return;
            }
            let (tell, reached) = oneshot::channel();
            state.awaited.push((scn, tell));
            reached
        };
        // The service lives as long as its node; with it go those who wait.
        let _ = reached.await;
    }

    /// How many snapshots are in use here.
    pub fn active_snapshots(&self) -> usize {
        self.state.lock().fetcher.active_snapshots()
    }

    async fn request(self: &Arc<Self>, want: ScnWant) -> Granted {
        let (grant, granted) = oneshot::channel();
        let outbox = {
            let mut state = self.state.lock();
            state.fetcher.request(want, grant);
            self.serve_locally(&mut state)
        };
        match outbox {
            Some(outbox) => Self::deliver(outbox),
            None => self.wake.notify_one(),
        }
        granted
            .await
            .expect("the service keeps every request until it is answered")
    }

    /// At the leader: answers what waits without a message. `None` when that cannot be done now.
    fn serve_locally(self: &Arc<Self>, state: &mut State) -> Option<Outbox> {
        state.issuer.as_ref()?;
        let fetch = state.fetcher.poll_fetch()?;
        let reply = state.issuer.as_mut().expect("just seen").answer(self.me, fetch);
        let Some(reply) = reply else {
            state.fetcher.handle_failure();
            self.raised.notify_one();
            return None;
        };
        if state
            .issuer
            .as_ref()
            .expect("just seen")
            .wants_ceiling(0)
            .is_some()
        {
            self.raised.notify_one();
        }
        Some(self.replied(state, reply))
    }

    /// Takes a reply: what it serves, and the horizon in it.
    fn replied(self: &Arc<Self>, state: &mut State, reply: ScnReply) -> Outbox {
        let served = state.fetcher.handle_reply(reply);
        let horizon = state.fetcher.horizon();
        for (_, tell) in state.awaited.extract_if(.., |(scn, _)| *scn <= horizon) {
            // Who waited may have gone.
            let _ = tell.send(());
        }
        self.served(served)
    }

    fn served(self: &Arc<Self>, served: Vec<(ScnWant, oneshot::Sender<Granted>, Scn)>) -> Outbox {
        let grant = |want, scn| match want {
            ScnWant::Snapshot => Granted::Snapshot(Snapshot {
                scn,
                service: self.clone(),
            }),
            ScnWant::Commit => Granted::Commit(scn),
        };
        served
            .into_iter()
            .map(|(want, to, scn)| (to, grant(want, scn)))
            .collect()
    }

    fn deliver(outbox: Outbox) {
        for (to, granted) in outbox {
            // A caller that has gone drops what it was given.
            let _ = to.send(granted);
        }
    }

    async fn run_fetches(self: Arc<Self>) {
        let mut epoch = self.epoch.subscribe();
        let mut refresh = false;
        loop {
            let notified = self.wake.notified();
            let step = {
                let mut state = self.state.lock();
                if let Some(outbox) = self.serve_locally(&mut state) {
                    Err(outbox)
                } else if state.issuer.is_some() {
                    // Waits for the ceiling, or nobody waits. The leader's own floor is told here.
                    let floor = state.fetcher.floor();
                    let issuer = state.issuer.as_mut().expect("just seen");
                    issuer.floor(self.me, floor);
                    Ok(None)
                } else if state.leader.is_some() && std::mem::take(&mut refresh) {
                    Ok(state.fetcher.poll_refresh())
                } else if state.leader.is_some() {
                    Ok(state.fetcher.poll_fetch())
                } else {
                    Ok(None)
                }
            };
            match step {
                Err(outbox) => Self::deliver(outbox),
                Ok(Some(fetch)) => self.fetch(fetch, &mut epoch).await,
                Ok(None) => {
                    tokio::select! {
                        biased;
                        () = notified => {}
                        () = self.rt.sleep(REFRESH) => {
                            refresh = true;
                            self.refresh_locally();
                        }
                    }
                }
            }
        }
    }

    /// An idle leader's `last`, and with it its floor, moves on too.
    fn refresh_locally(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.issuer.is_none() {
            return;
        }
        if let Some(fetch) = state.fetcher.poll_refresh() {
            match state.issuer.as_mut().expect("just seen").answer(self.me, fetch) {
                Some(reply) => {
                    let outbox = self.replied(&mut state, reply);
                    drop(state);
                    Self::deliver(outbox);
                }
                None => state.fetcher.handle_failure(),
            }
        }
    }

    /// One fetch to the leader. Ends at the latest when the view changes.
    async fn fetch(self: &Arc<Self>, fetch: ScnFetch, epoch: &mut watch::Receiver<Epoch>) {
        let leader = {
            epoch.borrow_and_update();
            self.state.lock().leader
        };
        let answer = match leader {
            Some(leader) => tokio::select! {
                biased;
                answer = self.rpc.call(leader, EngineRequest::Scn(fetch)) => Some(answer),
                _ = epoch.changed() => None,
            },
            None => None,
        };
        {
            let mut state = self.state.lock();
            if let Some(Ok(EngineResponse::Scn(reply))) = answer
                && reply.answers(&fetch, state.fetcher.last())
            {
                let outbox = self.replied(&mut state, reply);
                drop(state);
                Self::deliver(outbox);
                return;
            }
            state.fetcher.handle_failure();
        }
        if answer.is_some() {
            // The leader has left: its successor's view wakes this.
            tokio::select! {
                biased;
                _ = epoch.changed() => {}
                () = self.rt.sleep(RETRY) => {}
            }
        }
    }

    /// Keeps the durable ceiling ahead of what is issued.
    async fn run_ceiling(self: Arc<Self>) {
        loop {
            let notified = self.raised.notified();
            let wanted = {
                let state = self.state.lock();
                state.issuer.as_ref().and_then(|issuer| issuer.wants_ceiling(0))
            };
            let Some(ceiling) = wanted else {
                notified.await;
                continue;
            };
            if self.ceiling.raise_scn_ceiling(ceiling).await.is_err() {
                self.rt.sleep(RETRY).await;
                continue;
            }
            // An issuer that began to lead meanwhile started above every durable ceiling, this one perhaps not
            // included; that the slot holds it now is true all the same.
            if let Some(issuer) = &mut self.state.lock().issuer {
                issuer.ceiling_durable(ceiling);
            }
            self.wake.notify_one();
        }
    }

    /// The leader's side of a fetch.
    pub fn handle(&self, from: NodeId, fetch: ScnFetch) -> Reply {
        let mut state = self.state.lock();
        let Some(issuer) = &mut state.issuer else {
            return Reply::NotNow;
        };
        let answer = issuer.answer(from, fetch);
        if issuer.wants_ceiling(0).is_some() {
            self.raised.notify_one();
        }
        match answer {
            Some(reply) => Reply::Now(EngineResponse::Scn(reply)),
            // The requester asks again in some milliseconds; the ceiling is being raised.
            None => Reply::NotNow,
        }
    }
}
