//! Traces: files of steps and of what must follow from each, in the manner of data-driven tests.
//!
//! A step is one or more lines of commands, then `----`, then everything that happens: messages sent, possessions
//! taken and given up, what storage has. A blank line ends it. Lines with `#` are prose. Nothing happens but what a
//! command says: a message lies in the network until `deliver`, a node's work waits until `work`.
//!
//! | command | what happens |
//! |---|---|
//! | `cluster 3 home 1` | nodes 1 to 3 install view 1; P is the page, node 1 is its home |
//! | `acquire 2 exclusive` | node 2 wants P |
//! | `change 2`, `flush 2` | an owner changes P; a node's redo becomes durable |
//! | `deliver [1->2] [Kind]` | the first such message in the network arrives |
//! | `duplicate`, `lose` | it arrives and stays in the network; it is lost |
//! | `work 2` | node 2 does the first thing that its core asked for: read, install, surrender, redo |
//! | `run` | messages arrive and work is done, in order, until nothing is left |
//! | `timeout 2` | node 2 repeats what has no answer |
//! | `evict 2`, `write 2`, `written 2` | P is given up; P's write to storage is begun, is done |
//! | `copy 2` | a reader at node 2 wants a copy of P; it reads it as `work` |
//! | `want-flush 2` | node 2's redo is pinned by P |
//! | `move 1 2` | node 1 hands the slot of P over to node 2 |
//! | `crash 2`, `rejoin 2`, `view` | a death, a new life, and the view that says so |
//! | `install 1`, `install all` | members install the view |
//! | `fail-redo 2` | the leader, node 2, cannot redo what its work says |
//! | `analyse`, `redo`, `recovered` | the leader reads the redo streams, takes an order to redo, ends the recovery |
//! | `network` | lists what is in the network |
//! | `state` | what storage, the home and each node have of P |

use super::cluster::{Cluster, Log, Packet, id};
use super::words;
use aquifer_buffer_pool_proto::{Mode, PageId};
use aquifer_dss_proto::{Incarnation, NodeId, NodeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Runs all traces of a directory; gives what differs. With `rewrite` the files become what happens.
pub fn run_directory(directory: &Path, rewrite: bool) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the directory of traces is there");
    let mut files: Vec<_> = entries.map(|e| e.expect("it can be read").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(!files.is_empty(), "there are traces");
    let mut failures = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a trace is text");
        let now = replay(&text);
        if now == text {
            continue;
        }
        if rewrite {
            std::fs::write(&path, now).expect("the trace can be written");
        } else {
            failures.push(format!("{}: {}", path.display(), first_difference(&text, &now)));
        }
    }
    failures
}

fn first_difference(text: &str, now: &str) -> String {
    let (mut old, mut new) = (text.lines(), now.lines());
    let mut line = 0;
    loop {
        line += 1;
        let pair = (old.next(), new.next());
        if pair.0 != pair.1 {
            let word = |side: Option<&str>| side.unwrap_or("the end").to_string();
            return format!("line {line}: expected {:?}, got {:?}", word(pair.0), word(pair.1));
        }
        if pair == (None, None) {
            return "they differ in their last line end".into();
        }
    }
}

/// The same trace with what happens now.
pub fn replay(text: &str) -> String {
    let mut trace = Trace::default();
    let mut out = String::new();
    let mut commands: Vec<&str> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        writeln!(out, "{line}").expect("a string takes all");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line != "----" {
            commands.push(line);
            continue;
        }
        for happened in trace.step(&commands) {
            writeln!(out, "{happened}").expect("a string takes all");
        }
        commands.clear();
        let rest = lines.by_ref().skip_while(|line| !line.is_empty());
        if rest.take(1).count() > 0 {
            out.push('\n');
        }
    }
    assert!(commands.is_empty(), "a step ends with ----");
    out
}

#[derive(Default)]
struct Trace {
    cluster: Option<Cluster>,
    dead: NodeSet,
    /// The core met a broken rule: nothing can follow.
    broken: bool,
}

impl Trace {
    fn step(&mut self, commands: &[&str]) -> Vec<String> {
        for command in commands {
            let words: Vec<&str> = command.split_whitespace().collect();
            if self.broken {
                break;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| self.command(&words)));
            if let Err(reason) = outcome {
                self.broken = true;
                let note = format!("broken: {}", message_of(&*reason));
                self.cluster().log.note(|| note);
            }
        }
        let cluster = self.cluster();
        cluster.log.0.replace(Vec::new()).expect("a trace keeps a log")
    }

    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("a trace begins with a cluster")
    }

    fn command(&mut self, words: &[&str]) {
        if let ["cluster", count, "home", home] = words {
            let count: u8 = count.parse().expect("a number of nodes");
            let home = home.parse().expect("the number of a node");
            *self = Self::default();
            self.cluster = Some(settled(count, home));
            return;
        }
        let page = self.cluster().pages[0];
        let done = match words {
            [verb @ ("deliver" | "duplicate" | "lose"), which @ ..] => self.message(verb, which),
            ["work", node] => {
                let node = number(node);
                !self.cluster().nodes[&node].work.is_empty() && self.cluster().do_work(node, 0)
            }
            ["fail-redo", node] => {
                self.cluster().fail_redo(number(node), 0);
                true
            }
            ["run"] => self.run(),
            ["network"] => self.network(),
            ["state"] => self.state(page),
            [
                "crash" | "rejoin" | "view" | "install" | "analyse" | "redo" | "recovered",
                ..,
            ] => self.membership(words),
            _ => self.page(words, page),
        };
        if !done {
            let note = format!("nothing: {}", words.join(" "));
            self.cluster().log.note(|| note);
        }
    }

    fn page(&mut self, words: &[&str], page: PageId) -> bool {
        let cluster = self.cluster();
        let node = number(words.get(1).expect("the command names a node"));
        match words {
            ["acquire", _, mode] => {
                let mode = match *mode {
                    "shared" => Mode::Shared,
                    "exclusive" => Mode::Exclusive,
                    other => panic!("{other} is no mode"),
                };
                cluster.acquire(node, page, mode);
                true
            }
            ["change", _] => cluster.change(node, page),
            ["flush", _] => {
                cluster.flush_redo(node, page);
                true
            }
            ["timeout", _] => {
                cluster.time_out(node);
                true
            }
            ["evict", _] => cluster.evict(node, page),
            ["write", _] => cluster.begin_write_back(node, page),
            ["written", _] => cluster.end_write_back(node, page),
            ["copy", _] => {
                cluster.ask_copy(node, page);
                true
            }
            ["want-flush", _] => {
                cluster.want_flush(node, page);
                true
            }
            ["move", _, to] => cluster.move_slot(node, page, number(to)),
            _ => panic!("no command: {}", words.join(" ")),
        }
    }

    fn membership(&mut self, words: &[&str]) -> bool {
        let dead = self.dead;
        let cluster = self.cluster();
        match words {
            ["crash", node] => {
                cluster.kill(number(node), |_| false);
                self.dead.insert(number(node));
            }
            ["rejoin", node] => {
                let life = Incarnation(cluster.view().epoch.0 + 10);
                cluster.start_node(number(node), life);
            }
            ["view"] => {
                cluster.change_view(dead);
                self.dead = NodeSet::EMPTY;
            }
            ["install", "all"] => {
                for node in cluster.nodes.keys().copied().collect::<Vec<_>>() {
                    cluster.install(node);
                }
            }
            ["install", node] => cluster.install(number(node)),
            ["analyse"] => return cluster.analyse(),
            ["redo"] => return cluster.take_redo(),
            ["recovered"] => return cluster.recovered(),
            _ => panic!("no command: {}", words.join(" ")),
        }
        true
    }

    /// The first message of the network that `which` describes arrives, arrives and stays, or is lost.
    fn message(&mut self, verb: &str, which: &[&str]) -> bool {
        let cluster = self.cluster();
        let pages = cluster.pages.clone();
        let fits = |packet: &Packet| {
            let path = format!("{}->{}", packet.from, packet.to);
            let text = words::message(&pages, &packet.envelope.message);
            let kind = text.split(' ').next().unwrap_or_default();
            which.iter().all(|word| *word == path || *word == kind)
        };
        let Some(at) = cluster.net.iter().position(fits) else {
            return false;
        };
        match verb {
            "deliver" => {
                let packet = cluster.net.remove(at);
                cluster.deliver(packet);
            }
            "duplicate" => {
                let packet = cluster.net[at].clone();
                cluster.deliver(packet);
            }
            _ => drop(cluster.net.remove(at)),
        }
        true
    }

    fn run(&mut self) -> bool {
        let cluster = self.cluster();
        loop {
            if !cluster.net.is_empty() {
                let packet = cluster.net.remove(0);
                cluster.deliver(packet);
                continue;
            }
            let nodes: Vec<NodeId> = cluster.nodes.keys().copied().collect();
            let busy = |node: &NodeId| !cluster.nodes[node].work.is_empty();
            let Some(node) = nodes.into_iter().find(busy) else {
                return true;
            };
            if !cluster.do_work(node, 0) {
                return true;
            }
        }
    }

    fn network(&mut self) -> bool {
        let cluster = self.cluster();
        for packet in cluster.net.clone() {
            let pages = &cluster.pages;
            cluster.log.note(|| {
                let text = words::message(pages, &packet.envelope.message);
                format!("in the network: {} -> {}: {text}", packet.from, packet.to)
            });
        }
        true
    }

    fn state(&mut self, page: PageId) -> bool {
        let cluster = self.cluster();
        let (stored, durable) = (cluster.stored(page).0, cluster.durable(page).0);
        let mut lines = vec![format!("storage: psn {stored}; redo: psn {durable}")];
        for (node, state) in &cluster.nodes {
            let core = &state.core;
            if core.serving() && core.home(page) == *node {
                let moving = match (core.is_moving(page), core.answers_for(page)) {
                    (false, _) => "",
                    (true, true) => ", moving",
                    (true, false) => ", handed over",
                };
                let listed = words::listed(core.listed(page).as_ref());
                lines.push(format!("home {node}: {listed}{moving}"));
            }
        }
        for (node, state) in &cluster.nodes {
            if let Some(frame) = cluster.frame(*node, page) {
                lines.push(format!("node {node}: {}", words::frame(&frame)));
            }
            if let Some(psn) = state.core.retained_psn(page) {
                lines.push(format!("node {node}: retains psn {}", psn.0));
            }
        }
        for line in lines {
            cluster.log.note(|| line);
        }
        true
    }
}

/// A cluster whose members have installed the first view, and know that nobody holds anything.
fn settled(count: u8, home: u8) -> Cluster {
    let mut cluster = Cluster::new(count, vec![Cluster::page_of(home, count, 0)]);
    for n in 1..=count {
        cluster.install(id(n));
    }
    while !cluster.net.is_empty() {
        let packet = cluster.net.remove(0);
        cluster.deliver(packet);
    }
    cluster.log = Log(Some(vec![format!(
        "nodes 1 to {count} are in view 1; node {home} is the home of P"
    )]));
    cluster
}

fn number(word: &str) -> NodeId {
    id(word.parse().expect("the number of a node"))
}

/// What a panic said.
pub fn message_of(reason: &(dyn std::any::Any + Send)) -> String {
    let text = reason.downcast_ref::<String>().cloned();
    let text = text.or_else(|| reason.downcast_ref::<&str>().map(|s| (*s).to_string()));
    text.unwrap_or_else(|| "a panic without words".into())
}
