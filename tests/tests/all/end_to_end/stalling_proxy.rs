//! A proxy in front of a node's peer address, which stops reading from the peers that it is told to stop for.

use super::rig::LIMIT;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// Bytes of a hello, and where in it is who says it.
const HELLO: usize = 64;
const HELLO_NODE: usize = 10;

#[derive(Default)]
struct State {
    stalled: BTreeSet<u8>,
    /// Both ends of what goes through, to close them.
    open: Vec<UnixStream>,
    /// Peers that have come through.
    seen: BTreeSet<u8>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// See the module. Gone when it is dropped, and all connections with it.
pub struct Proxy {
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Takes the place of the socket that a node, which is starting, makes at `path`. No peer knows of it yet: the address is published later.
    pub fn before(path: &Path) -> Self {
        let [behind, front] = ["behind", "front"].map(|name| path.with_extension(name));
        let listener = UnixListener::bind(&front).unwrap();
        let begun = Instant::now();
        while std::fs::rename(path, &behind).is_err() {
            assert!(begun.elapsed() < LIMIT, "the node does not listen");
            std::thread::yield_now();
        }
        std::fs::rename(&front, path).unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        std::thread::spawn(move || accept(&listener, &behind, &accepting));
        let path = path.to_owned();
        Self { path, shared }
    }

    /// Peers that have said who they are.
    pub fn seen(&self) -> BTreeSet<u8> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    /// Reads nothing more of what these peers send, also on connections to come.
    pub fn stall(&self, peers: &[u8]) {
        self.shared.state.lock().unwrap().stalled.extend(peers);
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.shared.state.lock().unwrap().stalled.clear();
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap();
        state.closed = true;
        for stream in &state.open {
            // Closed already when its peer was first.
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // The accepting thread finds out by this connection.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    /// Waits while that peer is stalled; false when all is over.
    fn may_pass(&self, peer: u8) -> bool {
        let state = self.state.lock().unwrap();
        let stalled = |state: &mut State| !state.closed && state.stalled.contains(&peer);
        !self.changed.wait_while(state, stalled).unwrap().closed
    }

    /// False when all is over.
    fn opened(&self, ends: [&UnixStream; 2]) -> bool {
        let mut state = self.state.lock().unwrap();
        state.open.extend(ends.map(|end| end.try_clone().unwrap()));
        !state.closed
    }
}

fn accept(listener: &UnixListener, behind: &Path, shared: &Arc<Shared>) {
    while let Ok((peer, _)) = listener.accept() {
        // A node that is gone refuses.
        let Ok(node) = UnixStream::connect(behind) else {
            continue;
        };
        if !shared.opened([&peer, &node]) {
            return;
        }
        let shared = shared.clone();
        std::thread::spawn(move || join(peer, node, &shared));
    }
}

/// Lets the hello through, then whatever comes from either end.
fn join(mut peer: UnixStream, mut node: UnixStream, shared: &Arc<Shared>) {
    let mut hello = [0; HELLO];
    if peer.read_exact(&mut hello).is_err() {
        return;
    }
    let from = hello[HELLO_NODE];
    shared.state.lock().unwrap().seen.insert(from);
    if !shared.may_pass(from) || node.write_all(&hello).is_err() {
        return;
    }
    let answers = (node.try_clone().unwrap(), peer.try_clone().unwrap());
    std::thread::spawn(move || pump(answers.0, answers.1, || true));
    pump(peer, node, || shared.may_pass(from));
}

fn pump(mut from: UnixStream, mut to: UnixStream, may_pass: impl Fn() -> bool) {
    let mut bytes = [0; 16 << 10];
    while may_pass()
        && let Ok(count) = from.read(&mut bytes)
        && count > 0
        && may_pass()
        && to.write_all(&bytes[..count]).is_ok()
    {}
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
