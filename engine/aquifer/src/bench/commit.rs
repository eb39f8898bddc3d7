//! `bench commit`: what a commit costs over the one durable write that it cannot do without.

use super::figures::{HEADING, Times, ratio};
use super::place::PlaceOptions;
use crate::failure::{Exit, Failure, Outcome};
use crate::load::{connect, describe, interruptible};
use crate::output::{OutputOptions, table};
use aquifer_dss::device::{FileDevice, OpenMode, open_device};
use aquifer_dss::seam::{BlockDevice, IoBuffer};
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rounds of raw writes and commits in turn, so that a change of the machine's load meets both.
const ROUNDS: u64 = 10;
/// Size of the file for raw writes.
const PROBE_BYTES: u64 = 32 << 20;

/// Options of `bench commit`.
#[derive(Clone, Debug, clap::Args)]
pub struct CommitOptions {
    #[command(flatten)]
    place: PlaceOptions,
    /// Seconds of each of the three kinds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    #[command(flatten)]
    output: OutputOptions,
}

/// Runs it.
pub async fn run(options: CommitOptions) -> Outcome {
    let place = options.place.make("commit")?;
    let Measured { raw, ring, commit } = interruptible(async {
        let mut cluster = place.cluster(1).await?;
        let probe = Probe::open(&place.directory.join("probe"))?;
        let measured = measure(&cluster.nodes[0].sql, probe, Duration::from_secs(options.seconds)).await?;
        cluster.stop().await;
        Ok(measured)
    })
    .await?;
    let over = |limit: &Times| ratio(commit.microseconds(0.5), limit.microseconds(0.5));
    let object = json!({
        "write_8k_dsync": raw.object(), "write_8k_and_flush": ring.object(), "commit": commit.object(),
        "commit_over_write": over(&raw), "commit_over_write_and_flush": over(&ring),
    });
    options.output.emit(object, || {
        let rows = vec![
            raw.row("8 KiB O_DSYNC write, synchronous"),
            ring.row("8 KiB write and flush, as a node does it"),
            commit.row("commit, one session"),
        ];
        format!(
            "{}\na commit costs {} O_DSYNC writes, {} writes with a flush (medians)",
            table(&HEADING, rows),
            over(&raw),
            over(&ring)
        )
    })?;
    Ok(Exit::Done)
}

/// The three distributions.
struct Measured {
    raw: Times,
    ring: Times,
    commit: Times,
}

async fn measure(sql: &std::net::SocketAddr, mut probe: Probe, total: Duration) -> Result<Measured, Failure> {
    let client = connect(*sql).await.map_err(Failure::unavailable)?;
    let failed = |e: tokio_postgres::Error| Failure::failed(describe(&e));
    client
        .batch_execute("CREATE TABLE counters (id bigint PRIMARY KEY, value bigint NOT NULL)")
        .await
        .map_err(failed)?;
    client
        .batch_execute("INSERT INTO counters (id, value) VALUES (1, 0)")
        .await
        .map_err(failed)?;
    let update = client
        .prepare("UPDATE counters SET value = value + 1 WHERE id = 1")
        .await
        .map_err(failed)?;
    let (mut raw, mut ring, mut commit) = (Times::new(), Times::new(), Times::new());
    let share = total / ROUNDS as u32;
    for _ in 0..ROUNDS {
        let end = Instant::now() + share;
        while Instant::now() < end {
            raw.add(probe.write()?);
        }
        let end = Instant::now() + share;
        while Instant::now() < end {
            ring.add(probe.write_and_flush().await?);
        }
        let end = Instant::now() + share;
        while Instant::now() < end {
            let began = Instant::now();
            client.execute(&update, &[]).await.map_err(failed)?;
            commit.add(began.elapsed());
        }
    }
    Ok(Measured { raw, ring, commit })
}

/// A file on the same storage, fully allocated, for raw writes.
struct Probe {
    file: std::fs::File,
    device: std::sync::Arc<FileDevice>,
    buffer: IoBuffer,
    next: u64,
}

impl Probe {
    fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", path.display()));
        // Written through once: a first write to a sparse place would pay for its allocation as well.
        std::fs::write(path, vec![1u8; PROBE_BYTES as usize]).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::DSYNC | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let file = std::fs::File::from(descriptor);
        file.sync_all().map_err(failed)?;
        let device = open_device(path, OpenMode::Best).map_err(Failure::failed)?;
        Ok(Self {
            file,
            device,
            buffer: IoBuffer::zeroed(8192),
            next: 0,
        })
    }

    fn write(&mut self) -> Result<Duration, Failure> {
        self.buffer[0] = self.buffer[0].wrapping_add(1);
        let began = Instant::now();
        self.file
            .write_all_at(&self.buffer, self.next)
            .map_err(|e| Failure::failed(format!("the raw write failed: {e}")))?;
        let elapsed = began.elapsed();
        self.next = (self.next + 8192) % PROBE_BYTES;
        Ok(elapsed)
    }

    /// The same through the device of a node.
    async fn write_and_flush(&mut self) -> Result<Duration, Failure> {
        let failed = |e| Failure::failed(format!("the write failed: {e}"));
        let mut buffer = IoBuffer::zeroed(8192);
        buffer[0] = self.buffer[0].wrapping_add(1);
        let began = Instant::now();
        self.device.write(self.next, buffer).await.map_err(failed)?;
        self.device.flush().await.map_err(failed)?;
        let elapsed = began.elapsed();
        self.next = (self.next + 8192) % PROBE_BYTES;
        Ok(elapsed)
    }
}
