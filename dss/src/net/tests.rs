//! Over real sockets of this machine.

use super::*;
use tokio::net::TcpStream;

enum Seen {
    Message(NodeId, Incarnation, Service, Vec<u8>),
    Disconnected(NodeId),
}

struct Sink(mpsc::UnboundedSender<Seen>);

impl Inbound for Sink {
    fn receive(&self, from: NodeId, incarnation: Incarnation, service: Service, body: Vec<u8>) {
        let _ = self.0.send(Seen::Message(from, incarnation, service, body));
    }
    fn disconnected(&self, peer: NodeId, _: Incarnation) {
        let _ = self.0.send(Seen::Disconnected(peer));
    }
}

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

async fn end(id: u8, group: u8, listen: &str) -> (Arc<NetTransport>, mpsc::UnboundedReceiver<Seen>) {
    let config = NetConfig {
        me: node(id),
        group: [group; 16],
        listen: vec![listen.to_owned()],
    };
    let transport = NetTransport::bind(config).await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    transport.start(Incarnation(u64::from(id)), Arc::new(Sink(sender)));
    (transport, receiver)
}

/// Sends until the first message arrives: before the connection stands, messages are lost.
async fn reach(from: &NetTransport, to: u8, inbox: &mut mpsc::UnboundedReceiver<Seen>) {
    loop {
        from.send(node(to), Service::Membership, vec![]);
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
        one.send(node(2), Service::Pages, vec![3; length]);
        assert_eq!(
            next_of(Service::Pages, &mut inbox_two).await,
            (node(1), Incarnation(1), vec![3; length])
        );
    }
    one.send(node(1), Service::Engine, vec![9]);
    assert_eq!(
        next_of(Service::Engine, &mut inbox_one).await,
        (node(1), Incarnation(1), vec![9])
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
    };
    let mut liar = TcpStream::connect(&one.addresses()[0]).await.unwrap();
    liar.write_all(&encode_hello(&hello)).await.unwrap();
    let mut header = frame::encode_header(Service::Pages, &[]);
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    liar.write_all(&header).await.unwrap();
    let all = [Refusal::Group, Refusal::Garbage, Refusal::TooLong];
    while !all
        .iter()
        .all(|reason| one.counters().refused.contains_key(reason))
    {
        tokio::task::yield_now().await;
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
        let answers = tokio::spawn(async move {
            loop {
                next_of(Service::Pages, &mut inbox_two).await;
                two.send(node(1), Service::Pages, vec![1; 8192]);
            }
        });
        let (rounds, begun) = (20_000, std::time::Instant::now());
        for _ in 0..rounds {
            one.send(node(2), Service::Pages, vec![0; 64]);
            next_of(Service::Pages, &mut inbox_one).await;
        }
        println!("{}: {:?} per round trip", listen[0], begun.elapsed() / rounds);
        answers.abort();
    }
}
