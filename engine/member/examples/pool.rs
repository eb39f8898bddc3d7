//! A program that keeps its data in a volume group: joins, makes a file, writes and reads blocks of several buffers at once.
//!
//! `pool DEVICE NODE`; make the group first with `aquifer cluster init --vg main --size 1G DEVICE`.

use aquifer_dss::group::OpenOptions;
use aquifer_dss::seam::{BLOCK, IoBuffer};
use aquifer_dss_proto::NodeId;
use aquifer_member::{Member, MemberOptions};
use std::error::Error;
use std::time::Duration;

/// Joining takes less than a second when the nodes answer, and some seconds when one has to be proven dead.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// Blocks of memory that hold nothing but `value`.
fn filled(value: u8, blocks: usize) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(blocks * BLOCK);
    buffer.fill(value);
    buffer
}

async fn use_files(member: &Member) -> Result<(), Box<dyn Error>> {
    let group = member.group();
    group.mkdir("/example").await?;
    let options = OpenOptions {
        create: true,
        ..OpenOptions::default()
    };
    let file = group.open_path("/example/blocks", options).await?;

    // Two writes on their way at once, each of several buffers; nothing is copied.
    let first = file.write_blocks_vectored(0, vec![filled(1, 1), filled(2, 3)]);
    let second = file.write_blocks_vectored(8 * BLOCK as u64, vec![filled(3, 2), filled(4, 2)]);
    let (first, second) = tokio::try_join!(first, second)?;
    file.sync().await?; // Durable, and every node knows the size.

    // The buffers come back, for the next operation. Between the writes is a hole.
    let buffers = first.into_iter().chain(second).collect();
    let (buffers, inside) = file.read_blocks_vectored(4 * BLOCK as u64, buffers).await?;
    let values: Vec<u8> = buffers.iter().map(|buffer| buffer[0]).collect();
    println!("{inside} bytes inside the file, buffers begin with {values:?}");

    // Bytes anywhere, in one operation, by a copy of each.
    file.write_vectored_at(
        100,
        &[std::io::IoSlice::new(b"any "), std::io::IoSlice::new(b"bytes")],
    )
    .await?;
    let bytes = file.read_at(99, 11).await?;
    println!("{:?}", String::from_utf8_lossy(&bytes));
    file.close().await?;
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let device = arguments.next().ok_or("which device?")?;
    let node = arguments.next().and_then(|node| NodeId::new(node.parse().ok()?));
    let node = node.ok_or("which node, 1 to 64?")?;
    let options = MemberOptions::new(node, vec![std::path::absolute(device)?]);
    let member = Member::join(&options, JOIN_LIMIT).await?;
    println!("node {node} of {}", member.group().label().name);
    use_files(&member).await?;
    member.leave().await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    // The runtime outlives the member: its threads do the I/O.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())
}
