//! The admin channel and hostile bytes: from a client, and from what should be a node. `scripts/fuzz` makes the rounds longer.

use super::protocol::Answer;
use super::server::{LINE_LIMIT, converse, understand};
use super::*;
use crate::failure::{Exit, Failure};
use crate::files::{Bytes, FileInfo, FileRequest, Listing};
use crate::volume::{GroupReport, LegReport, MoveReport, ScrubReport, UpkeepReport, VolumeReport};
use aquifer_dss::seam::Runtime;
use aquifer_dss::testing::{TestHandle, TestRuntime, fuzz_rounds};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Mutations of each message in one round.
const EACH: u64 = 200;

/// A file request of each kind; a new one has to be named here.
fn file_requests() -> Vec<FileRequest> {
    let path = || String::from("/a/é\"\\b");
    let all = vec![
        FileRequest::Stat {
            path: path(),
            follow: true,
        },
        FileRequest::List {
            path: path(),
            after: "x".into(),
        },
        FileRequest::Create {
            path: path(),
            exclusive: false,
        },
        FileRequest::MakeDirectory {
            path: path(),
            parents: true,
        },
        FileRequest::Symlink {
            target: "..".into(),
            path: path(),
        },
        FileRequest::Link {
            existing: path(),
            path: path(),
        },
        FileRequest::Move {
            from: path(),
            to: path(),
            replace: true,
        },
        FileRequest::Unlink { path: path() },
        FileRequest::RemoveDirectory { path: path() },
        FileRequest::SetSize {
            path: path(),
            size: u64::MAX,
        },
        FileRequest::Touch { path: path() },
        FileRequest::Read {
            id: 1,
            offset: u64::MAX,
            length: 4096,
        },
        FileRequest::Write {
            id: 1,
            offset: 0,
            data: "AAECAw==".into(),
        },
        FileRequest::Sync { id: u64::MAX },
    ];
    for request in &all {
        match request {
            FileRequest::Stat { .. }
            | FileRequest::List { .. }
            | FileRequest::Create { .. }
            | FileRequest::MakeDirectory { .. }
            | FileRequest::Symlink { .. }
            | FileRequest::Link { .. }
            | FileRequest::Move { .. }
            | FileRequest::Unlink { .. }
            | FileRequest::RemoveDirectory { .. }
            | FileRequest::SetSize { .. }
            | FileRequest::Touch { .. }
            | FileRequest::Read { .. }
            | FileRequest::Write { .. }
            | FileRequest::Sync { .. } => {}
        }
    }
    all
}

/// A request of each kind; a new one has to be named here.
fn requests() -> Vec<Request> {
    let path = || String::from("/dev/somewhere");
    let twin = || {
        Some(TwinRequest {
            path: path(),
            failure_group: 255,
        })
    };
    let files = file_requests().into_iter();
    let mut all: Vec<_> = files.map(|request| Request::Files { request }).collect();
    all.extend([
        Request::Status,
        Request::Counters,
        Request::Timeline,
        Request::History { limit: usize::MAX },
        Request::Stop,
        Request::Volumes,
        Request::VolumeAdd {
            path: path(),
            force: true,
            failure_group: 1,
            twin: twin(),
        },
        Request::VolumeReplaceSide {
            volume: 0,
            path: path(),
            force: false,
        },
        Request::VolumeResize {
            volume: u16::MAX,
            bytes: Some(u64::MAX),
        },
        Request::VolumeDrain {
            volume: 3,
            drain: true,
        },
        Request::VolumeRemove { volume: 256 },
        Request::VolumeDetach { volume: 1, leg: 255 },
        Request::VolumeResync { volume: 1 },
        Request::VolumeScrub { run: u64::MAX },
    ]);
    for request in &all {
        match request {
            Request::Status
            | Request::Counters
            | Request::Timeline
            | Request::History { .. }
            | Request::Files { .. }
            | Request::Stop
            | Request::Volumes
            | Request::VolumeAdd { .. }
            | Request::VolumeReplaceSide { .. }
            | Request::VolumeResize { .. }
            | Request::VolumeDrain { .. }
            | Request::VolumeRemove { .. }
            | Request::VolumeDetach { .. }
            | Request::VolumeResync { .. }
            | Request::VolumeScrub { .. } => {}
        }
    }
    all
}

/// Bytes that mean something in a line.
const WORDS: [&[u8]; 14] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b":",
    b",",
    b"\\u0000",
    b"\\ud800",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"null",
    b"\n",
    b"\xff",
];

/// Changes, cuts, repeats, and puts words in.
fn mutate(random: &TestHandle, line: &[u8], other: &[u8]) -> Vec<u8> {
    let below = |limit: usize| (random.random() % limit.max(1) as u64) as usize;
    let mut bytes = line.to_vec();
    for _ in 0..=below(4) {
        let at = below(bytes.len());
        match below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, WORDS[below(WORDS.len())].iter().copied())),
            3 => drop(bytes.splice(at.., other[below(other.len())..].iter().copied())),
            4 => bytes = [&bytes[..at], &bytes].concat(),
            _ => {
                let end = (at + below(8)).min(bytes.len());
                drop(bytes.splice(at..end, WORDS[below(WORDS.len())].iter().copied()));
            }
        }
    }
    bytes
}

#[test]
fn hostile_requests_are_refused_in_one_line() {
    let random = TestRuntime::new(7);
    let corpus: Vec<Vec<u8>> = requests()
        .iter()
        .map(|request| serde_json::to_vec(request).unwrap())
        .collect();
    for (line, request) in corpus.iter().zip(requests()) {
        assert_eq!(understand(line).unwrap(), request);
    }
    let (mut understood, mut refused) = (0, 0);
    for _ in 0..EACH * fuzz_rounds() {
        for line in &corpus {
            let other = &corpus[(random.random() % corpus.len() as u64) as usize];
            let hostile = mutate(&random, line, other);
            match understand(&hostile) {
                // It says the same when it is said again.
                Ok(request) => {
                    let again = serde_json::to_vec(&request).unwrap();
                    assert_eq!(understand(&again).unwrap(), request);
                    understood += 1;
                }
                Err(failure) => {
                    assert_eq!(failure.exit, Exit::Usage);
                    assert!(failure.message.starts_with("not an admin request: "), "{failure}");
                    assert!(
                        !failure.message.contains('\n') && failure.message.len() < 400,
                        "{failure}"
                    );
                    refused += 1;
                }
            }
        }
    }
    assert!(understood > 10 && refused > 1000, "{understood} {refused}");
    let deep = [b'['; LINE_LIMIT as usize - 1];
    assert!(understand(&deep).is_err());
}

/// A decoder of the command's side: what it reads it writes the same again.
fn look<T: Serialize + DeserializeOwned>(line: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(line) else {
        return false;
    };
    let again = serde_json::to_vec(&read).unwrap();
    let twice = serde_json::to_vec(&serde_json::from_slice::<T>(&again).unwrap()).unwrap();
    assert_eq!(again, twice);
    true
}

/// Every decoder of answers; whether one read it.
fn look_at_answer(line: &[u8]) -> bool {
    let decoders = [
        look::<Answer>,
        look::<StatusReport>,
        look::<Counters>,
        look::<Option<Reform>>,
        look::<Vec<HistoryEntry>>,
        look::<GroupReport>,
        look::<ScrubReport>,
        look::<FileInfo>,
        look::<Listing>,
        look::<Bytes>,
    ];
    if let Ok(bytes) = serde_json::from_slice::<Bytes>(line) {
        let _refused = crate::files::decode(&bytes.data);
    }
    decoders.into_iter().filter(|decode| decode(line)).count() > 0
}

fn answers() -> Vec<Value> {
    let info = FileInfo {
        name: "é".into(),
        target: Some("/".into()),
        extents: vec![(0, 1, 2, 3)],
        ..FileInfo::default()
    };
    let group = GroupReport {
        moving: Some(MoveReport::default()),
        upkeep: Some(UpkeepReport::default()),
        volumes: vec![VolumeReport {
            legs: vec![LegReport::default()],
            ..VolumeReport::default()
        }],
        ..GroupReport::default()
    };
    let status = StatusReport {
        nodes: vec![NodeReport::default()],
        reform: Some(Reform::default()),
        ..StatusReport::default()
    };
    let listing = Listing {
        entries: vec![info.clone()],
        next: Some("é".into()),
    };
    let history = [HistoryEntry {
        duration_ms: Some(0.1),
        ..HistoryEntry::default()
    }];
    let counters = Counters {
        at: 1,
        values: [("a".into(), u64::MAX)].into(),
    };
    vec![
        json!(info),
        json!(listing),
        json!(group),
        json!(status),
        json!(history),
        json!(counters),
        json!(ScrubReport::default()),
        json!(Bytes { data: "AAEC".into() }),
        json!(Answer::of(Err(Failure::refused("no")))),
        json!(Answer::of(Ok(Value::Null))),
    ]
}

#[test]
fn hostile_answers_do_not_hurt_a_command() {
    let random = TestRuntime::new(8);
    let corpus: Vec<Vec<u8>> = answers()
        .iter()
        .map(|value| serde_json::to_vec(value).unwrap())
        .collect();
    let read = corpus.iter().filter(|line| look_at_answer(line)).count();
    assert_eq!(read, corpus.len());
    let mut read = 0;
    for _ in 0..EACH * fuzz_rounds() {
        for line in &corpus {
            let other = &corpus[(random.random() % corpus.len() as u64) as usize];
            read += u64::from(look_at_answer(&mutate(&random, line, other)));
        }
    }
    assert!(read > 10, "{read}");
}

/// Answers questions, and never a change.
struct Half;

impl AdminService for Half {
    async fn handle(&self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Stop => std::future::pending().await,
            // Longer than anything that only looks may take.
            Request::VolumeRemove { .. } => {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(Value::Null)
            }
            _ => Ok(json!("answered")),
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(60), work)
            .await
            .expect("it ends")
    })
}

/// A directory for a socket, which goes at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aq-admin-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    fn address(&self) -> String {
        self.socket().display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes bytes and says what came back until the end.
async fn say(bytes: &[u8]) -> String {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let served = tokio::spawn(converse(theirs, Arc::new(Half)));
    // It may end before it has read everything.
    let _cut = ours.write_all(bytes).await;
    let mut answer = Vec::new();
    let _reset = ours.read_to_end(&mut answer).await;
    let _ended = served.await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn hostile_bytes_end_their_connection_and_no_other() {
    block_on(async {
        let (mut other, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(converse(theirs, Arc::new(Half)));
        let long = vec![b'x'; 4 * LINE_LIMIT as usize];
        for (bytes, word) in [
            (&b"garbage\n{\"command\":\"status\"}\n"[..], "expected value"),
            (b"\xff\xfe\n", "expected value"),
            (
                b"{\"command\":\"history\",\"limit\":1,\"more\":1}\n",
                "unknown field",
            ),
            (b"\n", "EOF while parsing"),
            (&long, "longer than 65536 bytes"),
        ] {
            let answer = say(bytes).await;
            assert_eq!(answer.lines().count(), 1, "{answer}");
            assert!(answer.contains("\"exit\":2") && answer.contains(word), "{answer}");
        }
        for _ in 0..2 {
            other.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
            let mut answer = [0; 64];
            let length = other.read(&mut answer).await.unwrap();
            assert_eq!(&answer[..length], b"{\"exit\":0,\"data\":\"answered\"}\n");
        }
    });
}

async fn serve_half(socket: PathBuf) {
    let listener = UnixListener::bind(socket).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, Arc::new(Half)));
    }
}

#[test]
fn a_change_is_waited_for_while_its_node_lives() {
    let directory = Directory::new("lives");
    block_on(async {
        let node = tokio::spawn(serve_half(directory.socket()));
        tokio::task::yield_now().await;
        let mut client = AdminClient::connect(&directory.address()).await.unwrap();
        let changed = client.call(&Request::VolumeRemove { volume: 1 }).await;
        assert_eq!(changed.unwrap(), Value::Null);
        // It goes away in the middle of one.
        let stop = tokio::spawn(async move { client.stop().await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.abort();
        let _aborted = node.await;
        let lost = stop.await.unwrap().unwrap_err();
        assert_eq!(lost.exit, Exit::Unknown, "{lost}");
    });
}

#[test]
fn a_node_that_says_nothing_is_given_up() {
    let directory = Directory::new("silent");
    block_on(async {
        // Connections are made, and nobody looks at them: a process that is stopped.
        let _listener = UnixListener::bind(directory.socket()).unwrap();
        let mut client = AdminClient::connect(&directory.address()).await.unwrap();
        let silent = client.status().await.unwrap_err();
        assert_eq!(silent.exit, Exit::Unavailable, "{silent}");
        assert!(silent.message.contains("does not answer"), "{silent}");
        let silent = client.stop().await.unwrap_err();
        assert_eq!(silent.exit, Exit::Unknown, "{silent}");
        assert!(!client.has_ended().await, "who is silent has not ended");
    });
}

#[test]
fn what_is_no_answer_is_refused_without_reading_for_ever() {
    let directory = Directory::new("endless");
    block_on(async {
        let listener = UnixListener::bind(directory.socket()).unwrap();
        let node = tokio::spawn(async move {
            for answer in [&b"garbage\n"[..], b"", b"{\"exit\":0}\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 64];
                let _request = stream.read(&mut request).await.unwrap();
                if !answer.is_empty() {
                    stream.write_all(answer).await.unwrap();
                    continue;
                }
                // Until the command has had enough.
                while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
            }
        });
        let mut client = AdminClient::connect(&directory.address()).await.unwrap();
        for _ in 0..2 {
            let nonsense = client.status().await.unwrap_err();
            assert_eq!(nonsense.exit, Exit::Failed, "{nonsense}");
            assert!(nonsense.message.contains("no answer: "), "{nonsense}");
        }
        client.stop().await.unwrap();
        node.await.unwrap();
    });
}

#[test]
fn requests_are_readable_lines() {
    assert_eq!(
        serde_json::to_string(&Request::Status).unwrap(),
        r#"{"command":"status"}"#
    );
    let parsed = understand(br#"{"command":"history","limit":3}"#);
    assert_eq!(parsed.unwrap(), Request::History { limit: 3 });
    assert!(understand(br#"{"command":"format"}"#).is_err());
    // What an earlier command says.
    let list = understand(br#"{"command":"files","request":{"what":"list","path":"/"}}"#);
    assert!(
        matches!(list, Ok(Request::Files { request: FileRequest::List { after, .. } }) if after.is_empty())
    );
}

#[test]
fn a_failure_keeps_its_exit_code() {
    let answer = Answer::of(Err(Failure::refused("no")));
    let back: Answer = serde_json::from_str(&serde_json::to_string(&answer).unwrap()).unwrap();
    assert_eq!(back.into_result().unwrap_err().exit, Exit::Refused);
}
