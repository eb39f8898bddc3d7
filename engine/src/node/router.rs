//! Routes what peers send to the part of the node it is for.
//!
//! The transport needs its receiver before the parts exist, so routes are added as the parts come up; what arrives before
//! is dropped, as on any network.

use aquifer_dss::seam::{Inbound, Receiver, Service};
use aquifer_dss_proto::{Incarnation, NodeId};
use std::sync::{Arc, OnceLock};

type Receive = Box<dyn Fn(NodeId, Incarnation, &[u8]) + Send + Sync>;
type Connect = Box<dyn Fn(NodeId, Incarnation) -> Box<dyn Receiver> + Send + Sync>;
type Disconnected = Box<dyn Fn(NodeId, Incarnation) + Send + Sync>;

/// The [`Inbound`] of a node.
#[derive(Default)]
pub struct Router {
    membership: OnceLock<Receive>,
    storage: OnceLock<Receive>,
    pages: OnceLock<Connect>,
    engine: OnceLock<Receive>,
    disconnected: OnceLock<Disconnected>,
}

impl Router {
    /// A router without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on messages of `service`, which have no tails, go to `receive`. A route is set once.
    pub fn route(
        &self,
        service: Service,
        receive: impl Fn(NodeId, Incarnation, &[u8]) + Send + Sync + 'static,
    ) {
        let slot = self.slot(service).expect("pages go to a receiver");
        assert!(slot.set(Box::new(receive)).is_ok(), "a route is set once");
    }

    /// From now on messages of `Service::Pages` go to what `connect` gives for each connection.
    pub fn route_pages(
        &self,
        connect: impl Fn(NodeId, Incarnation) -> Box<dyn Receiver> + Send + Sync + 'static,
    ) {
        assert!(self.pages.set(Box::new(connect)).is_ok(), "a route is set once");
    }

    /// From now on lost connections are told to `disconnected`.
    pub fn route_disconnected(&self, disconnected: impl Fn(NodeId, Incarnation) + Send + Sync + 'static) {
        let set = self.disconnected.set(Box::new(disconnected)).is_ok();
        assert!(set, "the route of lost connections is set once");
    }

    const fn slot(&self, service: Service) -> Option<&OnceLock<Receive>> {
        match service {
            Service::Membership => Some(&self.membership),
            Service::Storage => Some(&self.storage),
            Service::Engine => Some(&self.engine),
            Service::Pages => None,
        }
    }
}

/// One connection.
struct Routed {
    router: Arc<Router>,
    from: NodeId,
    incarnation: Incarnation,
    /// Once pages have a route.
    pages: Option<Box<dyn Receiver>>,
}

impl Routed {
    fn pages(&mut self) -> Option<&mut Box<dyn Receiver>> {
        if self.pages.is_none() {
            let connect = self.router.pages.get()?;
            self.pages = Some(connect(self.from, self.incarnation));
        }
        self.pages.as_mut()
    }
}

impl Receiver for Routed {
    fn tail(&mut self, service: Service, head: &[u8], length: usize) -> Option<&mut [u8]> {
        if service != Service::Pages {
            return None;
        }
        self.pages()?.tail(service, head, length)
    }

    fn receive(&mut self, service: Service, head: &[u8]) {
        match self.router.slot(service) {
            Some(slot) => {
                if let Some(receive) = slot.get() {
                    receive(self.from, self.incarnation, head);
                }
            }
            None => {
                if let Some(pages) = self.pages() {
                    pages.receive(service, head);
                }
            }
        }
    }
}

impl Inbound for Router {
    fn connected(self: Arc<Self>, from: NodeId, incarnation: Incarnation) -> Box<dyn Receiver> {
        Box::new(Routed {
            router: self,
            from,
            incarnation,
            pages: None,
        })
    }

    fn disconnected(&self, peer: NodeId, incarnation: Incarnation) {
        if let Some(disconnected) = self.disconnected.get() {
            disconnected(peer, incarnation);
        }
    }
}
