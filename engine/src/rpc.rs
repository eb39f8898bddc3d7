//! Requests between nodes over `Service::Engine`: ids, retransmission, epochs.
//!
//! Rules:
//! - every message carries the epoch of its sender; one of another epoch, or of a life that is not in the view,
//!   changes nothing (DIR-5). Requests are sent again until they are answered, with the epoch of the moment;
//! - a request to a node that is not in the view, or leaves it, fails with [`RpcError::Departed`]: look again;
//! - an answer that took time, and every answer to `Admin`, is remembered until the requester no longer asks, so that
//!   such a request runs once per pair of lives. Others may run twice and are harmless.

use aquifer_dss::seam::{BoxFuture, Runtime, Service, Transport};
use aquifer_dss_proto::{Epoch, Incarnation, NodeId, View};
use aquifer_engine_proto::{RetentionEntry, ScnFetch, ScnReply, TreeId, TxnId, TxnStatus};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;

/// First wait before a request is sent again; it doubles up to [`RETRANSMIT_MOST`].
const RETRANSMIT_FIRST: Duration = Duration::from_millis(30);
const RETRANSMIT_MOST: Duration = Duration::from_millis(480);
/// Requests of one peer that are remembered. It asks again for the others.
const SERVED_MAX: usize = 1 << 16;

/// What a node asks another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EngineRequest {
    /// SCNs and the horizon, from the leader.
    Scn(ScnFetch),
    /// The status of transactions of the node asked.
    Status(Vec<TxnId>),
    /// Answered when the transaction has ended (HZ-16: at once if it has).
    Wait(TxnId),
    /// For whom a transaction waits: one step of a deadlock search.
    WaitsFor(TxnId),
    /// What the node's redo stream retains.
    Retention,
    /// Anything between the nodes' upper parts.
    Admin(Vec<u8>),
    /// The transactions of the node asked that go on from a row (TXN-8).
    Intents(TreeId, Vec<u8>),
    /// As `Wait`, and answered also when the transaction does not go on from the row.
    WaitIntent(TxnId, TreeId, Vec<u8>),
}

/// The answers, one variant per request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EngineResponse {
    /// To `Scn`.
    Scn(ScnReply),
    /// To `Status`, in the order asked.
    Status(Vec<TxnStatus>),
    /// To `Wait` and `WaitIntent`: how it ended, or `None` when it only has to be looked at again.
    Ended(Option<TxnStatus>),
    /// To `WaitsFor`: the top transaction of the one asked about, and what it waits for.
    WaitsFor(TxnId, Option<TxnId>),
    /// To `Retention`.
    Retention(Vec<RetentionEntry>),
    /// To `Admin`.
    Admin(Vec<u8>),
    /// The node cannot answer; the text says why.
    Refused(String),
    /// To `Intents`.
    Intents(Vec<TxnId>),
}

/// What a handler makes of a request.
pub enum Reply {
    /// The answer.
    Now(EngineResponse),
    /// The answer comes later.
    Later(BoxFuture<'static, EngineResponse>),
    /// Not now (not ready, not the leader): the requester asks again.
    NotNow,
}

/// The serving side. Called by the transport's tasks: must not block.
pub trait EngineHandler: Send + Sync + 'static {
    /// Answers `request` of `from`, a member of the present view (or this node itself).
    fn handle(&self, from: NodeId, request: EngineRequest) -> Reply;
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RpcError {
    /// The node is not in the view (any more).
    #[error("the node is not in the view")]
    Departed,
}

#[derive(Serialize, Deserialize)]
enum Body {
    Request(EngineRequest),
    Response(EngineResponse),
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    epoch: Epoch,
    id: u64,
    /// Requests of the sender below this are answered or given up.
    oldest: u64,
    body: Body,
}

struct Pending {
    to: NodeId,
    incarnation: Incarnation,
    request: EngineRequest,
    answer: oneshot::Sender<EngineResponse>,
}

enum Served {
    Running,
    Answered(EngineResponse),
}

#[derive(Default)]
struct Peer {
    oldest: u64,
    served: BTreeMap<u64, Served>,
}

struct State {
    view: Arc<View>,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    peers: BTreeMap<(NodeId, Incarnation), Peer>,
}

/// Both sides of the requests of one node.
pub struct Rpc {
    rt: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
    me: NodeId,
    handler: OnceLock<Arc<dyn EngineHandler>>,
    state: Mutex<State>,
}

/// Forgets a request whose caller no longer waits.
struct Forget<'a>(&'a Rpc, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.state.lock().pending.remove(&self.1);
    }
}

impl Rpc {
    /// Without a view nobody can be asked, but this node itself.
    pub fn new(rt: Arc<dyn Runtime>, transport: Arc<dyn Transport>, me: NodeId) -> Arc<Self> {
        let state = State {
            view: Arc::new(View::none()),
            next_id: 1,
            pending: BTreeMap::new(),
            peers: BTreeMap::new(),
        };
        Arc::new(Self {
            rt,
            transport,
            me,
            handler: OnceLock::new(),
            state: Mutex::new(state),
        })
    }

    /// From now on requests are answered by `handler`. Set once.
    pub fn serve(&self, handler: Arc<dyn EngineHandler>) {
        assert!(self.handler.set(handler).is_ok(), "the handler is set once");
    }

    /// The view in force from now on. Requests to lives that are not in it fail, the others are sent again at once.
    pub fn install_view(&self, view: Arc<View>) {
        let mut state = self.state.lock();
        let member = |node: NodeId, life: Incarnation| view.incarnation(node) == Some(life);
        // Dropping the sender is the failure.
        state
            .pending
            .retain(|_, pending| member(pending.to, pending.incarnation));
        state.peers.retain(|(node, life), _| member(*node, *life));
        state.view = view;
        let ids: Vec<_> = state.pending.keys().copied().collect();
        for id in ids {
            self.send_request(&state, id);
        }
    }

    /// The view in force.
    pub fn view(&self) -> Arc<View> {
        self.state.lock().view.clone()
    }

    /// Asks `to` and waits for the answer. Safe to drop.
    pub async fn call(&self, to: NodeId, request: EngineRequest) -> Result<EngineResponse, RpcError> {
        if to == self.me {
            return Ok(self.call_self(request).await);
        }
        let (answer, mut answered) = oneshot::channel();
        let forget = {
            let mut state = self.state.lock();
            let incarnation = state.view.incarnation(to).ok_or(RpcError::Departed)?;
            let id = state.next_id;
            state.next_id += 1;
            state.pending.insert(
                id,
                Pending {
                    to,
                    incarnation,
                    request,
                    answer,
                },
            );
            self.send_request(&state, id);
            Forget(self, id)
        };
        let mut delay = RETRANSMIT_FIRST;
        loop {
            tokio::select! {
                biased;
                answer = &mut answered => return answer.map_err(|_| RpcError::Departed),
                () = self.rt.sleep(delay) => {
                    delay = (delay * 2).min(RETRANSMIT_MOST);
                    self.send_request(&self.state.lock(), forget.1);
                }
            }
        }
    }

    async fn call_self(&self, request: EngineRequest) -> EngineResponse {
        loop {
            match self
                .handler
                .get()
                .map(|handler| handler.handle(self.me, request.clone()))
            {
                Some(Reply::Now(response)) => return response,
                Some(Reply::Later(response)) => return response.await,
                Some(Reply::NotNow) | None => self.rt.sleep(RETRANSMIT_FIRST).await,
            }
        }
    }

    fn send_request(&self, state: &State, id: u64) {
        if let Some(pending) = state.pending.get(&id) {
            self.send(state, pending.to, id, Body::Request(pending.request.clone()));
        }
    }

    fn send(&self, state: &State, to: NodeId, id: u64, body: Body) {
        let oldest = state.pending.keys().next().copied().unwrap_or(state.next_id);
        let envelope = Envelope {
            epoch: state.view.epoch,
            id,
            oldest,
            body,
        };
        let bytes = postcard::to_allocvec(&envelope).expect("an envelope is plain data");
        self.transport.send(to, Service::Engine, &bytes, None);
    }

    /// A message of `Service::Engine`. What cannot be decoded or is of another epoch is dropped.
    pub fn receive(self: &Arc<Self>, from: NodeId, incarnation: Incarnation, body: &[u8]) {
        let Ok(envelope) = postcard::from_bytes::<Envelope>(body) else {
            return;
        };
        let mut state = self.state.lock();
        if envelope.epoch != state.view.epoch || state.view.incarnation(from) != Some(incarnation) {
            return;
        }
        match envelope.body {
            Body::Response(response) => {
                let asked = state
                    .pending
                    .get(&envelope.id)
                    .is_some_and(|pending| pending.to == from);
                if asked && let Some(pending) = state.pending.remove(&envelope.id) {
                    // The caller may have gone: then nobody needs the answer.
                    let _ = pending.answer.send(response);
                }
            }
            Body::Request(request) => {
                let id = envelope.id;
                let peer = state.peers.entry((from, incarnation)).or_default();
                peer.oldest = peer.oldest.max(envelope.oldest);
                peer.served = peer.served.split_off(&peer.oldest);
                match peer.served.get(&id) {
                    _ if id < peer.oldest => {}
                    Some(Served::Running) => {}
                    Some(Served::Answered(response)) => {
                        let response = response.clone();
                        self.send(&state, from, id, Body::Response(response));
                    }
                    None if peer.served.len() >= SERVED_MAX => {}
                    None => {
                        peer.served.insert(id, Served::Running);
                        drop(state);
                        self.run(from, incarnation, id, request);
                    }
                }
            }
        }
    }

    fn run(self: &Arc<Self>, from: NodeId, incarnation: Incarnation, id: u64, request: EngineRequest) {
        let once = matches!(request, EngineRequest::Admin(_));
        match self.handler.get().map(|handler| handler.handle(from, request)) {
            Some(Reply::Now(response)) => self.answer(from, incarnation, id, response, once),
            Some(Reply::Later(response)) => {
                let this = self.clone();
                self.rt.spawn(
                    "engine request",
                    Box::pin(async move {
                        let response = response.await;
                        this.answer(from, incarnation, id, response, true);
                    }),
                );
            }
            Some(Reply::NotNow) | None => {
                if let Some(peer) = self.state.lock().peers.get_mut(&(from, incarnation)) {
                    peer.served.remove(&id);
                }
            }
        }
    }

    fn answer(&self, to: NodeId, life: Incarnation, id: u64, response: EngineResponse, remember: bool) {
        let mut state = self.state.lock();
        let Some(peer) = state.peers.get_mut(&(to, life)) else {
            return;
        };
        if remember && id >= peer.oldest {
            peer.served.insert(id, Served::Answered(response.clone()));
        } else {
            peer.served.remove(&id);
        }
        self.send(&state, to, id, Body::Response(response));
    }
}
