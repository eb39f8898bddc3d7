//! Connections whose frames go through memory, and those that must not.

use super::*;
use crate::net::offer::{DECLINED, NOTHING, Offer, TAKEN};
use crate::net::ring::{BYTES, RING, Writer};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// A directory of memory for one test, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = Path::new(MEMORY).join(format!("aquifer-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.0).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    /// Mappings of its files that this process has, with a name or without.
    fn mapped(&self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.matches(self.0.to_str().unwrap()).count()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

async fn sharing(
    id: u8,
    patience: Duration,
    directory: &Path,
) -> (Arc<NetTransport>, mpsc::UnboundedReceiver<Seen>) {
    end_in(id, 7, "127.0.0.1:0", patience, Some(directory.to_owned())).await
}

/// Waits until something is so.
async fn until(mut is: impl FnMut() -> bool) {
    while !is() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Two transports that are connected both ways.
async fn connected(
    one: &Arc<NetTransport>,
    inbox_one: &mut mpsc::UnboundedReceiver<Seen>,
    two: &Arc<NetTransport>,
    inbox_two: &mut mpsc::UnboundedReceiver<Seen>,
) {
    one.set_peers(vec![(node(2), two.addresses()[0].clone())]);
    two.set_peers(vec![(node(1), one.addresses()[0].clone())]);
    reach(one, 2, inbox_two).await;
    reach(two, 1, inbox_one).await;
}

#[tokio::test]
async fn frames_of_any_length_go_through_memory_and_nothing_of_it_stays() {
    let directory = Directory::new("any");
    let (one, mut inbox_one) = sharing(1, PATIENCE, &directory.0).await;
    let (two, mut inbox_two) = sharing(2, PATIENCE, &directory.0).await;
    connected(&one, &mut inbox_one, &two, &mut inbox_two).await;
    assert!(
        directory.files().is_empty(),
        "names are removed when both have it"
    );
    for length in [
        0,
        1,
        8192,
        RING - HEADER,
        RING - 1,
        RING,
        3 * RING + 1,
        HEAD_BYTES_MAX,
    ] {
        let body: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
        one.send(node(2), Service::Pages, &body, None);
        let (from, incarnation, seen) = next_of(Service::Pages, &mut inbox_two).await;
        assert_eq!((from, incarnation), (node(1), Incarnation(1)));
        assert!(seen == body, "{length} bytes");
        for bytes in [512, 8192, TAIL_BYTES_MAX] {
            // Who does not want a tail gets what comes behind it all the same.
            one.send(node(2), Service::Pages, &[13], Some(tail(bytes, 4)));
            one.send(node(2), Service::Engine, &body, Some(tail(bytes, 5)));
            let (.., seen) = next_of(Service::Engine, &mut inbox_two).await;
            assert!(
                seen.strip_prefix(&body[..]) == Some(&vec![5; bytes]),
                "{length} and {bytes} bytes"
            );
        }
    }
    let counters = (one.counters(), two.counters());
    assert_eq!(counters.0.by_memory.0, counters.0.sent.0, "all that was sent");
    assert_eq!(
        counters.1.by_memory.1, counters.1.received.0,
        "all that was received"
    );
    assert_eq!(directory.mapped(), 4, "two directions, two ends");
    drop(two);
    while !matches!(inbox_one.recv().await.unwrap(), Seen::Disconnected(peer) if peer == node(2)) {}
    drop(one);
    until(|| directory.mapped() == 0).await;
}

#[tokio::test]
async fn of_a_transport_that_is_stopped_nothing_is_left_and_its_peer_hears_it() {
    let directory = Directory::new("stopped");
    let (one, mut inbox_one) = sharing(1, PATIENCE, &directory.0).await;
    let (two, mut inbox_two) = sharing(2, PATIENCE, &directory.0).await;
    connected(&one, &mut inbox_one, &two, &mut inbox_two).await;
    assert_eq!(directory.mapped(), 4, "two directions, two ends");
    one.stop().await;
    // Whatever messages were delivered to is gone, and with it whoever it holds.
    while inbox_one.try_recv().is_ok() {}
    assert_eq!(
        inbox_one.try_recv().err(),
        Some(mpsc::error::TryRecvError::Disconnected)
    );
    tokio::net::TcpListener::bind(&one.addresses()[0])
        .await
        .expect("nobody listens there any more");
    while !matches!(inbox_two.recv().await.unwrap(), Seen::Disconnected(peer) if peer == node(1)) {}
    until(|| directory.mapped() == 0).await;
    // Nor does anything begin.
    let dropped = one.counters().dropped;
    one.set_peers(vec![(node(2), two.addresses()[0].clone())]);
    one.send(node(2), Service::Membership, &[], None);
    assert_eq!(one.counters().dropped, dropped + 1);
    one.stop().await;
}

/// Holds its reader up until it is opened.
struct Gate(Arc<AtomicBool>, Ear);

struct Gates(Arc<AtomicBool>, Arc<Sink>);

impl Inbound for Gates {
    fn connected(self: Arc<Self>, from: NodeId, incarnation: Incarnation) -> Box<dyn Receiver> {
        Box::new(Gate(self.0.clone(), self.1.ear(from, incarnation)))
    }
    fn disconnected(&self, _: NodeId, _: Incarnation) {}
}

impl Receiver for Gate {
    fn tail(&mut self, service: Service, head: &[u8], length: usize) -> Option<&mut [u8]> {
        self.1.tail(service, head, length)
    }
    fn receive(&mut self, service: Service, head: &[u8]) {
        while !self.0.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        self.1.receive(service, head);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_ring_keeps_the_order_of_all_senders_and_holds_none_of_them_up() {
    let directory = Directory::new("full");
    let (one, _inbox) = sharing(1, PATIENCE, &directory.0).await;
    let config = config_of(2, 7, "127.0.0.1:0", PATIENCE, Some(directory.0.clone()));
    let two = NetTransport::bind(config).await.unwrap();
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let open = Arc::new(AtomicBool::new(true));
    two.start(
        Incarnation(2),
        Arc::new(Gates(open.clone(), Arc::new(Sink(sender)))),
    );
    one.set_peers(vec![(node(2), two.addresses()[0].clone())]);
    reach(&one, 2, &mut inbox).await;
    open.store(false, Ordering::Release);
    let dropped = one.counters().dropped;
    let began = Instant::now();
    let senders: Vec<_> = [Service::Pages, Service::Engine]
        .into_iter()
        .map(|service| {
            let one = one.clone();
            std::thread::spawn(move || {
                let page = tail(4096, service as u8);
                for number in 0..1000u32 {
                    let mut head = vec![service as u8; 1904];
                    head[1..5].copy_from_slice(&number.to_le_bytes());
                    one.send(node(2), service, &head, Some(page.clone()));
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert!(
        began.elapsed() < PATIENCE / 2,
        "twelve times the ring, and nobody takes it"
    );
    assert_eq!(one.counters().dropped, dropped);
    open.store(true, Ordering::Release);
    let mut next = BTreeMap::from([(Service::Pages, 0u32), (Service::Engine, 0)]);
    while next.values().any(|next| *next < 1000) {
        let Some(Seen::Message(_, _, service, body)) = inbox.recv().await else {
            panic!("the connection stays");
        };
        let Some(next) = next.get_mut(&service) else {
            continue;
        };
        assert_eq!(body[1..5], next.to_le_bytes(), "in order");
        assert!(body.len() == 6000 && body[5..].iter().all(|byte| *byte == service as u8));
        *next += 1;
    }
}

/// A peer that shares memory and does with it what a test wants.
struct Peer {
    stream: TcpStream,
    writer: Writer,
    /// The same memory again.
    raw: memmap2::MmapRaw,
}

impl Peer {
    async fn put(&mut self, parts: &[&[u8]]) {
        // Refused when the test has broken it.
        let _ = self.writer.write(parts);
        let _ = self.stream.write(&[0]).await;
    }
}

fn hello_of(id: u8, machine: Option<NonZeroU64>) -> Hello {
    Hello {
        group: [7; 16],
        node: node(id),
        incarnation: Incarnation(1),
        machine,
    }
}

async fn greeted(transport: &NetTransport, hello: &Hello) -> TcpStream {
    let mut stream = TcpStream::connect(&transport.addresses()[0]).await.unwrap();
    stream.write_all(&encode_hello(hello)).await.unwrap();
    let mut answer = [0; HELLO];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(decode_hello(&answer).unwrap().machine, offer::machine());
    stream
}

/// What is answered to an offer.
async fn answered(transport: &NetTransport, id: u8, offer: &[u8]) -> (TcpStream, Option<u8>) {
    let mut stream = greeted(transport, &hello_of(id, offer::machine())).await;
    stream.write_all(offer).await.unwrap();
    let answer = stream.read_u8().await.ok();
    (stream, answer)
}

async fn peer(transport: &NetTransport, id: u8, directory: &Directory) -> Peer {
    let made = Place::new(&directory.0, [7; 16]).make(node(id)).unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&directory.files()[0])
        .unwrap();
    let raw = memmap2::MmapOptions::new().len(BYTES).map_raw(&file).unwrap();
    let (stream, answer) = answered(transport, id, &made.offer.encode()).await;
    assert_eq!(answer, Some(TAKEN));
    let writer = made.taken();
    Peer { stream, writer, raw }
}

#[tokio::test]
async fn what_a_peer_wrote_before_it_died_is_delivered_and_half_a_frame_is_not() {
    let directory = Directory::new("dies");
    let (one, mut inbox) = sharing(1, PATIENCE, &directory.0).await;
    let frame = frame_with(Service::Pages, &[9; 300], &[8; 4096]);
    for part in [0, 1, HEADER, HEADER + 1, HEADER + 300, frame.len() - 1] {
        let mut peer = peer(&one, 2, &directory).await;
        peer.put(&[&frame[..], &frame, &frame[..part]]).await;
        drop(peer);
        for _ in 0..2 {
            assert!(matches!(
                inbox.recv().await,
                Some(Seen::Message(_, _, Service::Pages, _))
            ));
        }
        if part >= HEADER + 300 {
            assert!(matches!(inbox.recv().await, Some(Seen::Abandoned)));
        }
        assert!(
            matches!(inbox.recv().await, Some(Seen::Disconnected(_))),
            "part {part}"
        );
    }
    assert!(one.counters().refused.is_empty());
    until(|| directory.mapped() == 0).await;
}

#[tokio::test]
async fn half_a_frame_in_memory_and_then_silence_ends_the_connection() {
    let directory = Directory::new("stalls");
    let (one, mut inbox) = sharing(1, SHORT, &directory.0).await;
    let frame = frame_of(Service::Pages, &[9; 3000]);
    let mut patient = peer(&one, 3, &directory).await;
    for (already, part) in [1, HEADER, frame.len() - 1].into_iter().enumerate() {
        let mut peer = peer(&one, 2, &directory).await;
        peer.put(&[&frame[..part]]).await;
        is_closed(peer.stream).await;
        counted(&one, Refusal::Stalled, already as u64 + 1).await;
    }
    // Several times the patience has passed.
    patient.put(&[&frame[..]]).await;
    let (from, ..) = next_of(Service::Pages, &mut inbox).await;
    assert_eq!(from, node(3));
}

#[tokio::test]
async fn a_peer_that_takes_nothing_out_of_memory_is_hung_up_on_and_holds_no_sender_up() {
    let directory = Directory::new("stopped");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, _inbox) = sharing(1, SHORT, &directory.0).await;
    one.set_peers(vec![(node(2), listener.local_addr().unwrap().to_string())]);
    let mut kept = Vec::new();
    for life in 1..=2 {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(&encode_hello(&hello_of(2, offer::machine())))
            .await
            .unwrap();
        let mut bytes = [0; HELLO + offer::OFFER];
        stream.read_exact(&mut bytes).await.unwrap();
        let offer = Offer::decode(bytes[HELLO..].try_into().unwrap()).unwrap();
        let reader = Place::new(&directory.0, [7; 16]).open(node(1), &offer).unwrap();
        stream.write_all(&[TAKEN]).await.unwrap();
        kept.push((stream, reader));
        while one.counters().refused.get(&Refusal::Stalled) != Some(&life) {
            let began = Instant::now();
            one.send(node(2), Service::Pages, &[0; 1 << 20], None);
            assert!(began.elapsed() < SHORT, "a sender was held up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(one.counters().dropped > 0, "what waits is bounded");
}

/// Any bytes in the ring: whole frames are delivered as they are, the first that is none ends the connection, and the transport goes on.
#[tokio::test]
async fn any_bytes_in_memory_are_delivered_up_to_the_first_fault() {
    let directory = Directory::new("bytes");
    let (one, mut inbox) = sharing(1, SHORT, &directory.0).await;
    let mut below = numbers(41);
    for round in 0..200 * fuzz_rounds() {
        let mut peer = peer(&one, 2, &directory).await;
        let (frames, messages) = some_frames(&mut below);
        let good = frames.concat();
        let bytes = spoiled(&good, &mut below);
        peer.put(&[&bytes[..]]).await;
        drop(peer);
        delivered(&mut inbox, round, &messages[..intact(&frames, &good, &bytes)]).await;
    }
}

/// A peer that writes anywhere in the memory, while it is read: the connection ends in time, with nothing but a count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_words_anywhere_in_memory_break_their_own_connection_only() {
    let directory = Directory::new("words");
    let (one, mut inbox) = sharing(1, SHORT, &directory.0).await;
    let mut below = numbers(43);
    let mut good = peer(&one, 3, &directory).await;
    for _ in 0..100 * fuzz_rounds() {
        let mut evil = peer(&one, 2, &directory).await;
        let frame = frame_with(
            Service::Engine,
            &vec![7; below(300) as usize],
            &vec![7; below(3000) as usize],
        );
        let words = evil.raw.len() / 8;
        for _ in 0..below(50) {
            evil.put(&[&frame[..]]).await;
            // Mostly in the head, where positions and flags are.
            let at = if below(4) == 0 {
                below(words as u64)
            } else {
                2 * below(20)
            } as usize;
            let word = [0, 1, below(1 << 21), u64::MAX, below(1 << 32) << 32][below(5) as usize];
            // SAFETY: a word of the mapping, which others of this process touch by pointers and atomic operations only.
            unsafe { AtomicU64::from_ptr(evil.raw.as_mut_ptr().cast::<u64>().add(at)) }
                .store(word, Ordering::Relaxed);
            let _ = evil.stream.write(&[0]).await;
        }
        drop(evil);
        loop {
            let seen = tokio::time::timeout(PATIENCE, inbox.recv()).await;
            match seen.expect("it ends").unwrap() {
                Seen::Disconnected(peer) if peer == node(2) => break,
                Seen::Message(from, _, _, body) => {
                    assert!(from == node(2) && body.iter().all(|byte| *byte == 7))
                }
                Seen::Abandoned => {}
                Seen::Disconnected(_) => panic!("another connection has ended"),
            }
        }
    }
    good.put(&[&frame_of(Service::Pages, &[1])[..]]).await;
    let (from, ..) = next_of(Service::Pages, &mut inbox).await;
    assert_eq!(from, node(3));
    drop(good);
    until(|| directory.mapped() == 0).await;
}

#[tokio::test]
async fn memory_that_is_not_what_was_offered_is_declined_and_the_socket_goes_on() {
    let directory = Directory::new("declined");
    let (one, mut inbox) = sharing(1, PATIENCE, &directory.0).await;
    let place = Place::new(&directory.0, [7; 16]);
    let frame = frame_of(Service::Engine, &[1]);
    // What is done to the file, and to the offer.
    type Fault = (fn(&Path), fn(&mut Offer));
    let faults: [Fault; 8] = [
        (|_| {}, |offer| *offer = NOTHING),
        (|_| {}, |offer| offer.name[3] ^= 1),
        (|_| {}, |offer| offer.nonce[1] ^= 1),
        (|_| {}, |offer| offer.bytes -= 1),
        (
            |file| {
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(file)
                    .unwrap()
                    .set_len(4096)
                    .unwrap()
            },
            |_| {},
        ),
        (
            |file| std::fs::set_permissions(file, PermissionsExt::from_mode(0o666)).unwrap(),
            |_| {},
        ),
        (
            |file| {
                let other = file.with_extension("other");
                std::fs::rename(file, &other).unwrap();
                std::os::unix::fs::symlink(other, file).unwrap();
            },
            |_| {},
        ),
        (
            |file| {
                std::fs::remove_file(file).unwrap();
                std::fs::create_dir(file).unwrap();
            },
            |_| {},
        ),
    ];
    for (number, (file, offered)) in faults.into_iter().enumerate() {
        let made = place.make(node(2)).unwrap();
        let path = directory
            .files()
            .into_iter()
            .find(|path| path.is_file() && path.extension().is_none());
        file(&path.unwrap());
        let mut offer = made.offer;
        offered(&mut offer);
        let (mut stream, answer) = answered(&one, 2, &offer.encode()).await;
        assert_eq!(answer, Some(DECLINED), "fault {number}");
        stream.write_all(&frame).await.unwrap();
        next_of(Service::Engine, &mut inbox).await;
        drop(made);
        for left in directory.files() {
            let _ = std::fs::remove_file(&left).or_else(|_| std::fs::remove_dir(&left));
        }
    }
    let (stream, answer) = answered(&one, 2, &[b'x'; offer::OFFER]).await;
    assert_eq!(answer, None, "no offer at all ends the connection");
    is_closed(stream).await;
    counted(&one, Refusal::Garbage, 1).await;
    assert_eq!(one.counters().by_memory, (0, 0));
}

#[tokio::test]
async fn a_peer_of_another_boot_or_group_or_without_the_wish_gets_no_memory() {
    let directory = Directory::new("others");
    let (one, mut inbox) = sharing(1, PATIENCE, &directory.0).await;
    let other_boot = offer::machine().map(|machine| machine.get() ^ 1);
    for machine in [None, other_boot.and_then(NonZeroU64::new)] {
        let mut stream = greeted(&one, &hello_of(2, machine)).await;
        // What follows the hello is a frame, and no offer.
        stream.write_all(&frame_of(Service::Engine, &[1])).await.unwrap();
        next_of(Service::Engine, &mut inbox).await;
    }
    let stranger = Hello {
        group: [8; 16],
        ..hello_of(2, offer::machine())
    };
    let mut stream = TcpStream::connect(&one.addresses()[0]).await.unwrap();
    stream.write_all(&encode_hello(&stranger)).await.unwrap();
    is_closed(stream).await;
    counted(&one, Refusal::Group, 1).await;
    assert!(directory.files().is_empty());
}

#[tokio::test]
async fn where_memory_cannot_be_made_the_socket_carries_the_frames() {
    let directory = Directory::new("none");
    let nowhere = directory.0.join("nowhere");
    // At both ends, and at one of them.
    for places in [
        [&nowhere, &nowhere],
        [&nowhere, &directory.0],
        [&directory.0, &nowhere],
    ] {
        let (one, mut inbox_one) = sharing(1, PATIENCE, places[0]).await;
        let (two, mut inbox_two) = sharing(2, PATIENCE, places[1]).await;
        connected(&one, &mut inbox_one, &two, &mut inbox_two).await;
        for length in [1, 8192, 2 * RING] {
            one.send(node(2), Service::Pages, &vec![3; length], None);
            let (.., body) = next_of(Service::Pages, &mut inbox_two).await;
            assert_eq!(body, vec![3; length]);
        }
        assert_eq!(one.counters().by_memory, (0, 0));
    }
    assert!(directory.files().is_empty());
}

#[tokio::test]
async fn a_new_life_removes_what_the_last_one_left_behind() {
    let directory = Directory::new("left");
    let place = Place::new(&directory.0, [7; 16]);
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    let kept = [
        place.make(node(1)).unwrap(),
        place.make(node(2)).unwrap(),
        place.make(node(1)).unwrap(),
    ];
    let of_node = |path: &Path, id: u8| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .contains(&format!("-{id}-"))
    };
    let mine: Vec<_> = directory
        .files()
        .into_iter()
        .filter(|path| of_node(path, 1))
        .collect();
    for path in directory.files() {
        if path != mine[0] {
            std::fs::File::open(&path).unwrap().set_modified(old).unwrap();
        }
    }
    place.sweep(node(1));
    let left = directory.files();
    assert_eq!(left.len(), 2, "another node's, and one that is being offered");
    assert!(left.contains(&mine[0]) && left.iter().any(|path| of_node(path, 2)));
    drop(kept);
}
