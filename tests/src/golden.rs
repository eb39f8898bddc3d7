//! Small images of the present format version: made once in the simulator, committed, and decoded by a test for ever after.
//!
//! Rules: the image is the truth, not the code that made it; when the format changes its version, new ones are made by
//! `scripts/golden`, and the difference of their texts is read before it is committed. Same code, same image.
//! The devices of a group are the slices of one disk, as in the simulator.

use crate::sim::{Cluster, ClusterOptions, DiskOptions, NetworkOptions, SimDisk, WorldOptions};
use crate::swarm::{Layout, Tuning};
use crate::workload::{Client, EngineProgram, Sessions, volumes as slices};
use aquifer_dss::device::{SimDisk as MemoryDisk, SimDiskOptions};
use aquifer_dss::group::{AddVolumeOptions, GroupImage, OpenOptions, Owner, StorageError, VolumeGroup};
use aquifer_dss::seam::{BlockDevice, DeviceError, IoBuffer, Runtime};
use aquifer_dss_proto::catalog::NewNode;
use aquifer_dss_proto::label::FORMAT_VERSION;
use aquifer_dss_proto::{HomeSlots, NodeId, PageSize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the disk: four devices of 64 MiB.
pub const DISK_BYTES: u64 = 256 << 20;
const BLOCK: usize = 4096;
/// Bytes of a line of the text form. Lines of zeros are left out.
const LINE: usize = 32;
const READ: usize = 1 << 20;
/// Journal entries that bring a checkpoint.
const CHANGES: u64 = 140;

/// The blocks of a disk that are not zero, by offset.
pub type Blocks = BTreeMap<u64, Vec<u8>>;

/// The committed blocks of an image.
pub fn committed(golden: Golden) -> Result<Blocks, String> {
    decode(&file(golden, "hex")?)
}

/// The committed text of an image.
pub fn committed_text(golden: Golden) -> Result<String, String> {
    file(golden, "txt")
}

fn file(golden: Golden, kind: &str) -> Result<String, String> {
    let name = format!(
        "{}/data/golden/{}.{kind}",
        env!("CARGO_MANIFEST_DIR"),
        golden.name()
    );
    std::fs::read_to_string(&name).map_err(|error| format!("{name}: {error}; scripts/golden makes it"))
}

/// What the group of an image is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Golden {
    /// Two volumes.
    Plain,
    /// One volume of two legs.
    Mirrored,
}

impl Golden {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Mirrored];

    /// Name of its files, without what follows the dot.
    pub fn name(self) -> String {
        match self {
            Self::Plain => format!("format-{FORMAT_VERSION}"),
            Self::Mirrored => format!("format-{FORMAT_VERSION}-mirrored"),
        }
    }

    const fn layout(self) -> Layout {
        match self {
            Self::Plain => Layout::Volumes,
            Self::Mirrored => Layout::Mirror,
        }
    }
}

/// One line for each 32 bytes that are not zero: offset, bytes, in hexadecimal digits.
pub fn encode(blocks: &Blocks) -> String {
    let mut text = String::new();
    for (offset, block) in blocks {
        for (number, line) in block.chunks(LINE).enumerate() {
            if line.iter().any(|byte| *byte != 0) {
                let digits: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
                let trimmed = digits.trim_end_matches("00");
                let _ = writeln!(text, "{:x} {trimmed}", offset + (number * LINE) as u64);
            }
        }
    }
    text
}

/// Reads what [`encode`] wrote.
pub fn decode(text: &str) -> Result<Blocks, String> {
    let mut blocks = Blocks::new();
    for line in text.lines() {
        let wrong = || format!("not a line of an image: {line}");
        let (offset, digits) = line.split_once(' ').ok_or_else(wrong)?;
        let offset = u64::from_str_radix(offset, 16).map_err(|_| wrong())?;
        if !offset.is_multiple_of(LINE as u64) || digits.len() > 2 * LINE || !digits.len().is_multiple_of(2) {
            return Err(wrong());
        }
        let place = offset / BLOCK as u64 * BLOCK as u64;
        let block = blocks.entry(place).or_insert_with(|| vec![0; BLOCK]);
        for index in 0..digits.len() / 2 {
            let byte = digits.get(2 * index..2 * index + 2).ok_or_else(wrong)?;
            let byte = u8::from_str_radix(byte, 16).map_err(|_| wrong())?;
            block[(offset - place) as usize + index] = byte;
        }
    }
    Ok(blocks)
}

/// A device in memory with these blocks.
pub async fn device(runtime: Arc<dyn Runtime>, blocks: &Blocks) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let disk = MemoryDisk::new(SimDiskOptions::new(DISK_BYTES, 1));
    let device = disk.attach(runtime);
    for (offset, block) in blocks {
        device.write(*offset, IoBuffer::copy_padded(block)).await?;
    }
    device.flush().await?;
    Ok(device)
}

/// The group on such a disk, and what is on its devices as text.
pub async fn describe(disk: Arc<dyn BlockDevice>) -> Result<(Arc<GroupImage>, String), String> {
    let image = GroupImage::read(slices::first(&disk), &*slices::whole(disk))
        .await
        .map_err(|error| error.to_string())?;
    let image = Arc::new(image);
    let text = aquifer_engine::decode::dump(&image).await?;
    Ok((image, text))
}

/// Makes an image: two nodes, one of which dies in the middle of its work, and then the other.
pub fn make(golden: Golden) -> Result<Blocks, String> {
    let tuning = Tuning {
        page_size: PageSize::LEAST,
        home_slots: HomeSlots::new(16).ok_or("16 slots")?,
        locality: None,
        clean_after: Duration::from_millis(100),
        layout: golden.layout(),
        operators: false,
        ..Tuning::default()
    };
    let options = ClusterOptions {
        world: WorldOptions {
            seed: 4,
            ..WorldOptions::default()
        },
        network: NetworkOptions::default(),
        disk: DiskOptions {
            size: DISK_BYTES,
            ..DiskOptions::default()
        },
        nodes: 2,
    };
    let sessions = Arc::new(Sessions::default());
    let program = EngineProgram::new(sessions.clone(), 64, 1 << 20, tuning);
    let cluster = Cluster::new(options, program.clone());
    let play = scenario(golden, cluster.clone(), sessions.clone(), program);
    let made = cluster.world.block_on(play);
    sessions.close();
    cluster.shut_down();
    made.map_err(|failure| failure.to_string())?
}

async fn scenario(
    golden: Golden,
    cluster: Arc<Cluster>,
    sessions: Arc<Sessions>,
    program: Arc<EngineProgram>,
) -> Result<Blocks, String> {
    program.prepare(&cluster).await?;
    cluster.start_all();
    let client = Client::new(cluster.clone(), sessions, 1);
    let tree = client.create_tree().await?;
    let (first, second) = (NodeId::new(1).ok_or("node 1")?, NodeId::new(2).ok_or("node 2")?);
    let node = program.node(first).ok_or("node 1 does not serve")?;
    let group = node.group().clone();
    drop(node);
    let made = cluster.call(first, "files", async move { files(golden, &group).await });
    made.await
        .ok_or("node 1 ended")?
        .map_err(|error| error.to_string())?;
    let many = if golden == Golden::Plain { 60 } else { 6 };
    rows(&client, tree, 0..many).await?;
    // What was dirty is written back, by way of the double-write areas.
    cluster.world.sleep(Duration::from_secs(2)).await;
    rows(&client, tree, many..many + 8).await?;
    cluster.crash(second, "killed");
    cluster.world.sleep(Duration::from_secs(10)).await;
    rows(&client, tree, many + 8..many + 16).await?;
    cluster.crash(first, "killed");
    cluster.world.sleep(Duration::from_secs(1)).await;
    nonzero(&cluster.disk).await.map_err(|error| error.to_string())
}

/// Rows of a hundred bytes, so that the root splits; every third is changed, every fifth deleted.
async fn rows(client: &Client, tree: u64, keys: std::ops::Range<u8>) -> Result<(), String> {
    for key in keys {
        loop {
            let finished = client
                .transaction(
                    false,
                    Box::new(move |transaction, _| {
                        Box::pin(async move {
                            transaction.insert(tree, &[b'k', key], vec![key; 100]).await?;
                            if key % 3 == 0 {
                                let mut change = |_: &[u8]| Some(vec![!key; 20]);
                                transaction
                                    .update_with(tree, &[b'k', key / 2], &mut change)
                                    .await?;
                            }
                            if key % 5 == 4 {
                                transaction.delete(tree, &[b'k', key - 1]).await?;
                            }
                            Ok(())
                        })
                    }),
                )
                .await;
            if finished.value.is_some() {
                break;
            }
            client.back_off().await;
        }
    }
    Ok(())
}

/// One of everything that the catalogue knows.
async fn files(golden: Golden, group: &Arc<VolumeGroup>) -> Result<(), StorageError> {
    if golden == Golden::Plain {
        let second = slices::path(1);
        group.add_volume(&second, &AddVolumeOptions::default()).await?;
    }
    group.mkdir("/programs/data").await?;
    let options = OpenOptions {
        create: true,
        ..OpenOptions::default()
    };
    let file = group.open_path("/programs/data/sparse", options).await?;
    file.write_at(3 << 20, b"behind a hole").await?;
    file.sync().await?;
    let id = file.id();
    let linked = group.entry("/programs/hard").await?;
    group.link(id, linked).await?;
    if golden == Golden::Plain {
        // So that there is a checkpoint of more than a fresh group.
        for number in 0..CHANGES {
            let value = number.to_string();
            group.set_config("golden.number", Some(&value)).await?;
        }
    }
    let owner = Owner {
        mode: 0o777,
        uid: 10,
        gid: 20,
    };
    let soft = group.entry("/programs/soft").await?;
    let link = NewNode::Symlink {
        target: "data/sparse".into(),
    };
    group.make(soft, link, owner, true).await?;
    let gone = group.open_path("/programs/gone", options).await?;
    gone.write_at(0, &[7; 5000]).await?;
    gone.sync().await?;
    group.remove("/programs/gone").await?;
    // At once, so that an entry has several operations.
    tokio::try_join!(
        group.set_config("volumes.discard", Some("off")),
        group.set_config("golden.first", Some("1")),
        group.set_config("golden.second", Some("2")),
    )?;
    // The removed file is open when its node dies: it waits in limbo.
    std::mem::forget(gone);
    file.close().await
}

async fn nonzero(disk: &SimDisk) -> Result<Blocks, DeviceError> {
    let (port, mut blocks) = (disk.port(None), Blocks::new());
    for offset in (0..DISK_BYTES).step_by(READ) {
        let bytes = port.read(offset, IoBuffer::zeroed(READ)).await?;
        for (index, block) in bytes.chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                blocks.insert(offset + (index * BLOCK) as u64, block.to_vec());
            }
        }
    }
    Ok(blocks)
}
