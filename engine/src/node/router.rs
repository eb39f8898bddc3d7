//! Routes what peers send to the part of the node it is for.
//!
//! The transport needs its receiver before the parts exist, so routes are added as the parts come up; what arrives before
//! is dropped, as on any network.

use aquifer_dss::seam::{Inbound, Service};
use aquifer_dss_proto::{Incarnation, NodeId};
use std::sync::OnceLock;

type Receive = Box<dyn Fn(NodeId, Incarnation, Vec<u8>) + Send + Sync>;
type Disconnected = Box<dyn Fn(NodeId, Incarnation) + Send + Sync>;

/// The [`Inbound`] of a node.
#[derive(Default)]
pub struct Router {
    membership: OnceLock<Receive>,
    storage: OnceLock<Receive>,
    pages: OnceLock<Receive>,
    engine: OnceLock<Receive>,
    disconnected: OnceLock<Disconnected>,
}

impl Router {
    /// A router without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on messages of `service` go to `receive`. A route is set once.
    pub fn route(
        &self,
        service: Service,
        receive: impl Fn(NodeId, Incarnation, Vec<u8>) + Send + Sync + 'static,
    ) {
        let set = self.slot(service).set(Box::new(receive)).is_ok();
        assert!(set, "the route of {service:?} is set once");
    }

    /// From now on lost connections are told to `disconnected`.
    pub fn route_disconnected(&self, disconnected: impl Fn(NodeId, Incarnation) + Send + Sync + 'static) {
        let set = self.disconnected.set(Box::new(disconnected)).is_ok();
        assert!(set, "the route of lost connections is set once");
    }

    const fn slot(&self, service: Service) -> &OnceLock<Receive> {
        match service {
            Service::Membership => &self.membership,
            Service::Storage => &self.storage,
            Service::Pages => &self.pages,
            Service::Engine => &self.engine,
        }
    }
}

impl Inbound for Router {
    fn receive(&self, from: NodeId, incarnation: Incarnation, service: Service, body: Vec<u8>) {
        if let Some(receive) = self.slot(service).get() {
            receive(from, incarnation, body);
        }
    }

    fn disconnected(&self, peer: NodeId, incarnation: Incarnation) {
        if let Some(disconnected) = self.disconnected.get() {
            disconnected(peer, incarnation);
        }
    }
}
