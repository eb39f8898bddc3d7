//! Over real sockets of this machine.

mod memory;

use super::*;
use crate::seam::{IoBuffer, Receiver};
use crate::testing::fuzz_rounds;
use frame::HEADER;
use tokio::net::TcpStream;

enum Seen {
    /// Head and tail one after the other.
    Message(NodeId, Incarnation, Service, Vec<u8>),
    /// A tail was begun and did not come.
    Abandoned,
    Disconnected(NodeId),
}

struct Sink(mpsc::UnboundedSender<Seen>);

struct Ear {
    to: mpsc::UnboundedSender<Seen>,
    from: NodeId,
    incarnation: Incarnation,
    tail: Option<Vec<u8>>,
}

impl Sink {
    fn ear(&self, from: NodeId, incarnation: Incarnation) -> Ear {
        Ear {
            to: self.0.clone(),
            from,
            incarnation,
            tail: None,
        }
    }
}

impl Inbound for Sink {
    fn connected(self: Arc<Self>, from: NodeId, incarnation: Incarnation) -> Box<dyn Receiver> {
        Box::new(self.ear(from, incarnation))
    }
    fn disconnected(&self, peer: NodeId, _: Incarnation) {
        let _ = self.0.send(Seen::Disconnected(peer));
    }
}

impl Receiver for Ear {
    /// Heads that begin with 13 are unlucky.
    fn tail(&mut self, _: Service, head: &[u8], length: usize) -> Option<&mut [u8]> {
        assert!(self.tail.is_none(), "one after the other");
        (head.first() != Some(&13)).then(|| &mut **self.tail.insert(vec![0; length]))
    }
    fn receive(&mut self, service: Service, head: &[u8]) {
        let message = [head, &self.tail.take().unwrap_or_default()].concat();
        let seen = Seen::Message(self.from, self.incarnation, service, message);
        let _ = self.to.send(seen);
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        if self.tail.is_some() {
            let _ = self.to.send(Seen::Abandoned);
        }
    }
}

fn tail(length: usize, byte: u8) -> Tail {
    let mut tail = IoBuffer::zeroed(length);
    tail.fill(byte);
    Arc::new(tail)
}

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

async fn end(id: u8, group: u8, listen: &str) -> (Arc<NetTransport>, mpsc::UnboundedReceiver<Seen>) {
    end_with(id, group, listen, PATIENCE).await
}

async fn end_with(
    id: u8,
    group: u8,
    listen: &str,
    patience: Duration,
) -> (Arc<NetTransport>, mpsc::UnboundedReceiver<Seen>) {
    end_in(id, group, listen, patience, None).await
}

fn config_of(id: u8, group: u8, listen: &str, patience: Duration, memory: Option<PathBuf>) -> NetConfig {
    NetConfig {
        me: node(id),
        group: [group; 16],
        listen: vec![listen.to_owned()],
        patience,
        memory,
    }
}

async fn end_in(
    id: u8,
    group: u8,
    listen: &str,
    patience: Duration,
    memory: Option<PathBuf>,
) -> (Arc<NetTransport>, mpsc::UnboundedReceiver<Seen>) {
    let config = config_of(id, group, listen, patience, memory);
    let transport = NetTransport::bind(config).await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    transport.start(Incarnation(u64::from(id)), Arc::new(Sink(sender)));
    (transport, receiver)
}

/// Numbers below a limit, the same in each run.
fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |limit| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    }
}

/// Sends until the first message arrives: before the connection stands, messages are lost.
async fn reach(from: &NetTransport, to: u8, inbox: &mut mpsc::UnboundedReceiver<Seen>) {
    loop {
        from.send(node(to), Service::Membership, &[], None);
        if let Ok(Some(Seen::Message(..))) =
            tokio::time::timeout(Duration::from_millis(5), inbox.recv()).await
        {
            return;
        }
    }
}

async fn next_of(
    service: Service,
    inbox: &mut mpsc::UnboundedReceiver<Seen>,
) -> (NodeId, Incarnation, Vec<u8>) {
    loop {
        if let Seen::Message(from, incarnation, of, body) = inbox.recv().await.unwrap()
            && of == service
        {
            return (from, incarnation, body);
        }
    }
}

async fn exchange(listen: [&str; 2]) {
    let (one, mut inbox_one) = end(1, 7, listen[0]).await;
    let (two, mut inbox_two) = end(2, 7, listen[1]).await;
    one.set_peers(vec![
        (node(1), "ignored".into()),
        (node(2), two.addresses()[0].clone()),
    ]);
    two.set_peers(vec![(node(1), one.addresses()[0].clone())]);
    reach(&one, 2, &mut inbox_two).await;
    reach(&two, 1, &mut inbox_one).await;
    for length in [1, 8192, 1 << 20] {
        one.send(node(2), Service::Pages, &vec![3; length], None);
        assert_eq!(
            next_of(Service::Pages, &mut inbox_two).await,
            (node(1), Incarnation(1), vec![3; length])
        );
    }
    for length in [0, 1, 50, 3000] {
        let (head, page) = (vec![4; length], tail(8192, 5));
        // Who does not want a tail gets what comes behind it all the same.
        one.send(node(2), Service::Pages, &[13], Some(page.clone()));
        one.send(node(2), Service::Pages, &head, Some(page));
        let (_, _, message) = next_of(Service::Pages, &mut inbox_two).await;
        assert_eq!(message, [head, vec![5; 8192]].concat());
    }
    one.send(node(1), Service::Engine, &[9], Some(tail(512, 1)));
    assert_eq!(
        next_of(Service::Engine, &mut inbox_one).await,
        (node(1), Incarnation(1), [vec![9], vec![1; 512]].concat())
    );
    drop(two);
    while !matches!(inbox_one.recv().await.unwrap(), Seen::Disconnected(peer) if peer == node(2)) {}
}

#[tokio::test]
async fn messages_arrive_over_tcp_and_a_close_is_told() {
    exchange(["127.0.0.1:0", "127.0.0.1:0"]).await;
}

#[tokio::test]
async fn messages_arrive_over_unix_sockets() {
    let path = |id: u8| format!("unix:/tmp/aquifer-net-{}-{id}", std::process::id());
    exchange([&path(1), &path(2)]).await;
    for id in [1, 2] {
        let _ = std::fs::remove_file(&path(id)[5..]);
    }
}

#[tokio::test]
async fn strangers_and_garbage_are_refused_and_counted() {
    let (one, _inbox) = end(1, 7, "127.0.0.1:0").await;
    let (other_group, _inbox) = end(2, 8, "127.0.0.1:0").await;
    other_group.set_peers(vec![(node(1), one.addresses()[0].clone())]);
    let mut stream = TcpStream::connect(&one.addresses()[0]).await.unwrap();
    stream.write_all(&[b'G'; 200]).await.unwrap();
    let hello = Hello {
        group: [7; 16],
        node: node(3),
        incarnation: Incarnation(1),
        machine: None,
    };
    let mut liar = TcpStream::connect(&one.addresses()[0]).await.unwrap();
    liar.write_all(&encode_hello(&hello)).await.unwrap();
    let mut header = frame::encode_header(Service::Pages, &[], None);
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    liar.write_all(&header).await.unwrap();
    counted(&one, Refusal::TooLong, 1).await;
    let mut liar = introduced(&one, 4).await;
    let mut header = frame::encode_header(Service::Pages, &[], None);
    header[4..8].copy_from_slice(&(TAIL_BYTES_MAX as u32 + 1).to_le_bytes());
    liar.write_all(&header).await.unwrap();
    counted(&one, Refusal::TooLong, 2).await;
    let all = [Refusal::Group, Refusal::Garbage, Refusal::TooLong];
    while !all
        .iter()
        .all(|reason| one.counters().refused.contains_key(reason))
    {
        tokio::task::yield_now().await;
    }
}

/// A patience that a test can outlast.
const SHORT: Duration = Duration::from_millis(150);

/// A connection to `transport` of somebody who has said that it is node `id`.
async fn introduced(transport: &NetTransport, id: u8) -> TcpStream {
    let hello = Hello {
        group: [7; 16],
        node: node(id),
        incarnation: Incarnation(1),
        machine: None,
    };
    let mut stream = TcpStream::connect(&transport.addresses()[0]).await.unwrap();
    stream.write_all(&encode_hello(&hello)).await.unwrap();
    let mut answer = [0; HELLO];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(decode_hello(&answer).is_ok());
    stream
}

fn frame_of(service: Service, head: &[u8]) -> Vec<u8> {
    [&frame::encode_header(service, head, None), head].concat()
}

fn frame_with(service: Service, head: &[u8], tail: &[u8]) -> Vec<u8> {
    [&frame::encode_header(service, head, Some(tail)), head, tail].concat()
}

async fn is_closed(mut stream: TcpStream) {
    // Closed, or reset because not everything was read.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

async fn counted(transport: &NetTransport, reason: Refusal, least: u64) {
    while transport
        .counters()
        .refused
        .get(&reason)
        .is_none_or(|count| *count < least)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn half_a_frame_and_then_silence_ends_the_connection_and_silence_between_frames_does_not() {
    let (one, mut inbox) = end_with(1, 7, "127.0.0.1:0", SHORT).await;
    let whole = frame_of(Service::Pages, &[5; 3000]);
    let mut patient = introduced(&one, 2).await;
    patient.write_all(&whole).await.unwrap();
    next_of(Service::Pages, &mut inbox).await;
    for (already, part) in [1, HEADER, HEADER + 1, whole.len() - 1].into_iter().enumerate() {
        let mut stream = introduced(&one, 3).await;
        stream.write_all(&whole[..part]).await.unwrap();
        is_closed(stream).await;
        counted(&one, Refusal::Stalled, already as u64 + 1).await;
    }
    // Several times the patience has passed.
    patient.write_all(&whole).await.unwrap();
    let (from, ..) = next_of(Service::Pages, &mut inbox).await;
    assert_eq!(from, node(2));
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_hung_up_on_and_dialled_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, mut inbox) = end_with(1, 7, "127.0.0.1:0", SHORT).await;
    one.set_peers(vec![(node(2), listener.local_addr().unwrap().to_string())]);
    let hello = Hello {
        group: [7; 16],
        node: node(2),
        incarnation: Incarnation(1),
        machine: None,
    };
    let mut kept = Vec::new();
    for life in 1..=2 {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&encode_hello(&hello)).await.unwrap();
        kept.push(stream);
        while one.counters().refused.get(&Refusal::Stalled) != Some(&life) {
            one.send(node(2), Service::Pages, &[0; 1 << 20], None);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(matches!(inbox.recv().await, Some(Seen::Disconnected(peer)) if peer == node(2)));
    }
}

#[tokio::test]
async fn connections_without_a_hello_are_bounded_and_keep_nobody_out() {
    let (one, mut inbox) = end(1, 7, "127.0.0.1:0").await;
    let mut silent = Vec::new();
    for _ in 0..ARRIVING_MAX + 20 {
        silent.push(TcpStream::connect(&one.addresses()[0]).await.unwrap());
    }
    counted(&one, Refusal::Crowded, 20).await;
    let mut peer = introduced(&one, 2).await;
    peer.write_all(&frame_of(Service::Engine, &[1])).await.unwrap();
    next_of(Service::Engine, &mut inbox).await;
    for oldest in silent.drain(..20) {
        is_closed(oldest).await;
    }
}

#[tokio::test]
async fn a_new_connection_of_a_node_ends_the_one_before() {
    let (one, mut inbox) = end(1, 7, "127.0.0.1:0").await;
    let first = introduced(&one, 2).await;
    let mut second = introduced(&one, 2).await;
    is_closed(first).await;
    second.write_all(&frame_of(Service::Engine, &[1])).await.unwrap();
    assert!(
        matches!(inbox.recv().await, Some(Seen::Message(..))),
        "nobody is told of the end of the first"
    );
    drop(second);
    assert!(matches!(inbox.recv().await, Some(Seen::Disconnected(_))));
}

#[tokio::test]
async fn a_life_that_no_slot_names_is_no_peer_and_one_that_is_named_meanwhile_is() {
    let (one, mut inbox) = end(1, 7, "127.0.0.1:0").await;
    one.set_lives(BTreeMap::from([(node(3), Incarnation(2))]));
    let hello = |id| Hello {
        group: [7; 16],
        node: node(id),
        incarnation: Incarnation(1),
        machine: None,
    };
    for (id, reason) in [(3, Refusal::Stale), (4, Refusal::Unknown)] {
        let mut stranger = TcpStream::connect(&one.addresses()[0]).await.unwrap();
        stranger.write_all(&encode_hello(&hello(id))).await.unwrap();
        is_closed(stranger).await;
        counted(&one, reason, 1).await;
    }
    let named = async {
        tokio::task::yield_now().await;
        one.set_lives(BTreeMap::from([(node(2), Incarnation(1))]));
    };
    let (mut peer, ()) = tokio::join!(introduced(&one, 2), named);
    peer.write_all(&frame_of(Service::Engine, &[1])).await.unwrap();
    next_of(Service::Engine, &mut inbox).await;
}

/// What was given for a tail goes back when the tail is altered, or does not come whole.
#[tokio::test]
async fn a_tail_that_is_not_whole_is_not_believed() {
    let (one, mut inbox) = end_with(1, 7, "127.0.0.1:0", SHORT).await;
    let whole = frame_with(Service::Pages, &[1; 60], &[5; 8192]);
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    // Altered; then closed, then silent, in the middle of what is read ahead and of what is read in place.
    for (round, bytes) in [
        &altered[..],
        &whole[..500],
        &whole[..8000],
        &whole[..500],
        &whole[..8000],
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = introduced(&one, 2).await;
        stream.write_all(&frame_of(Service::Engine, &[1])).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(matches!(
            inbox.recv().await,
            Some(Seen::Message(.., Service::Engine, _))
        ));
        if round < 3 {
            stream.shutdown().await.unwrap();
        }
        assert!(
            matches!(inbox.recv().await, Some(Seen::Abandoned)),
            "round {round}"
        );
        assert!(matches!(inbox.recv().await, Some(Seen::Disconnected(_))));
    }
    assert_eq!(one.counters().refused[&Refusal::Garbage], 1);
    assert_eq!(one.counters().refused[&Refusal::Stalled], 2);
}

/// Services, and heads with their tails.
type Messages = Vec<(Service, Vec<u8>)>;

/// Frames of any length, and the messages in them.
fn some_frames(below: &mut impl FnMut(u64) -> u64) -> (Vec<Vec<u8>>, Messages) {
    let mut some = |limit: u64| -> Vec<u8> { (0..below(limit)).map(|_| below(256) as u8).collect() };
    let mut frames = Vec::new();
    let mut messages = Vec::new();
    for _ in 0..=some(3).len() {
        // Tails that are shorter and longer than what is read ahead; 13 is not wanted.
        let (head, tail) = ([vec![1], some(40)].concat(), some(5_000));
        let service = Service::from_byte(1 + some(4).len() as u8).unwrap();
        frames.push(frame_with(service, &head, &tail));
        messages.push((service, [head, tail].concat()));
    }
    (frames, messages)
}

/// With a bit altered, cut off, or with something else from somewhere on.
fn spoiled(good: &[u8], below: &mut impl FnMut(u64) -> u64) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let at = below(bytes.len() as u64) as usize;
    match below(3) {
        0 => bytes[at] ^= 1 << below(8),
        1 => bytes.truncate(at),
        _ => bytes[at..].fill_with(|| below(256) as u8),
    }
    bytes
}

/// How many frames are whole in what is left of them.
fn intact(frames: &[Vec<u8>], good: &[u8], bytes: &[u8]) -> usize {
    let same = bytes.iter().zip(good).take_while(|(a, b)| a == b).count();
    let mut whole = 0;
    let intact = frames.iter().take_while(|frame| {
        whole += frame.len();
        whole <= same
    });
    intact.count()
}

/// These messages come, and then the end of the connection.
async fn delivered(inbox: &mut mpsc::UnboundedReceiver<Seen>, round: u64, messages: &[(Service, Vec<u8>)]) {
    for message in messages {
        let Some(Seen::Message(_, _, service, body)) = inbox.recv().await else {
            panic!("round {round}: a whole frame is missing");
        };
        assert_eq!((service, body), *message, "round {round}");
    }
    let mut end = inbox.recv().await;
    if matches!(end, Some(Seen::Abandoned)) {
        end = inbox.recv().await;
    }
    assert!(
        matches!(end, Some(Seen::Disconnected(_))),
        "round {round}: more than the whole frames"
    );
}

/// Any bytes: whole frames are delivered as they are, the first that is none ends the connection with a counted reason, and the
/// transport goes on.
#[tokio::test]
async fn streams_of_any_bytes_are_delivered_up_to_the_first_fault() {
    let (one, mut inbox) = end_with(1, 7, "127.0.0.1:0", SHORT).await;
    let mut below = numbers(41);
    for round in 0..300 * fuzz_rounds() {
        let mut stream = introduced(&one, 2).await;
        let (frames, messages) = some_frames(&mut below);
        let good = frames.concat();
        let bytes = spoiled(&good, &mut below);
        // It may be closed before everything is written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        is_closed(stream).await;
        delivered(&mut inbox, round, &messages[..intact(&frames, &good, &bytes)]).await;
    }
}

/// 64 B there, 8 KiB back: `cargo test --release -p aquifer-dss round_trip -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn round_trip() {
    let path = |id: u8| format!("unix:/tmp/aquifer-trip-{}-{id}", std::process::id());
    for listen in [
        ["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()],
        [path(1), path(2)],
    ] {
        let (one, mut inbox_one) = end(1, 7, &listen[0]).await;
        let (two, mut inbox_two) = end(2, 7, &listen[1]).await;
        one.set_peers(vec![(node(2), two.addresses()[0].clone())]);
        two.set_peers(vec![(node(1), one.addresses()[0].clone())]);
        reach(&one, 2, &mut inbox_two).await;
        reach(&two, 1, &mut inbox_one).await;
        let page = tail(8192, 1);
        let answers = tokio::spawn(async move {
            loop {
                next_of(Service::Pages, &mut inbox_two).await;
                two.send(node(1), Service::Pages, &[1; 64], Some(page.clone()));
            }
        });
        let (rounds, begun) = (20_000, std::time::Instant::now());
        for _ in 0..rounds {
            one.send(node(2), Service::Pages, &[0; 64], None);
            next_of(Service::Pages, &mut inbox_one).await;
        }
        println!("{}: {:?} per round trip", listen[0], begun.elapsed() / rounds);
        answers.abort();
    }
}
