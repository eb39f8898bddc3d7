//! How two ends of a connection come to have memory in common.
//!
//! Both hellos name the machine, by its boot. When it is the same, the end that dialled makes a file of fixed size in a directory
//! of memory, maps it, and says its name and a nonce in an offer; the other maps it, finds the nonce in it, and answers with one byte.
//! Then the name is removed. Whatever fails, the socket goes on to carry the frames. Rules:
//! - the file is made anew (`O_EXCL`), mode 0600, under a name of 128 random bits, and opened only as a plain file of this size, of the
//!   same user, with that mode, and not through a link;
//! - all its pages are there before it is shared, so that no access can fail for want of memory. (Who has the file open could still shorten
//!   it, and the next access would kill the process: those are the two ends, which run as the same user and could kill each other anyway;
//!   both close it once it is mapped. A sealed `memfd` would not need that argument, but it can be passed on over UNIX sockets only, or
//!   through `/proc/PID/fd`, where a stranger could have us open anything.)
//! - who is killed before the name is removed leaves it behind: it says whose it is, and the node's next life removes it.
//!
//! offer, 64 bytes: magic 8, name 16 (zero: none could be made), nonce 2 x u64, length u32, reserved 12, crc32c u32 of what is before it.

use super::frame::{Refusal, checksum};
use super::ring::{BYTES, Reader, Region, Writer};
use crate::random::random_bytes;
use aquifer_dss_proto::NodeId;
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, fallocate, fstat, open};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of an offer.
pub(super) const OFFER: usize = 64;
/// The answer: it is mapped.
pub(super) const TAKEN: u8 = 1;
/// The answer: it is not.
pub(super) const DECLINED: u8 = 0;
const MAGIC: [u8; 8] = *b"AQMEMORY";
/// A file whose name is older than this is not being offered any more: a handshake takes less.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// The boot of this machine; `None` where the kernel does not say.
pub(super) fn machine() -> Option<NonZeroU64> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = boot.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    NonZeroU64::new(u64::from_str_radix(&digits, 16).ok()?)
}

/// Memory that one end offers to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub name: [u8; 16],
    pub nonce: [u64; 2],
    pub bytes: u32,
}

/// An offer of nothing.
pub(super) const NOTHING: Offer = Offer {
    name: [0; 16],
    nonce: [0; 2],
    bytes: 0,
};

impl Offer {
    pub fn encode(&self) -> [u8; OFFER] {
        let mut bytes = [0; OFFER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..24].copy_from_slice(&self.name);
        bytes[24..32].copy_from_slice(&self.nonce[0].to_le_bytes());
        bytes[32..40].copy_from_slice(&self.nonce[1].to_le_bytes());
        bytes[40..44].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = checksum(&[&bytes[..60]]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; OFFER]) -> Result<Self, Refusal> {
        if bytes[..8] != MAGIC || bytes[60..] != checksum(&[&bytes[..60]]).to_le_bytes() {
            return Err(Refusal::Garbage);
        }
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Ok(Self {
            name: bytes[8..24].try_into().expect("16 bytes"),
            nonce: [word(24), word(32)],
            bytes: u32::from_le_bytes(bytes[40..44].try_into().expect("4 bytes")),
        })
    }
}

/// Where the nodes of a group make memory on this machine.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
    group: [u8; 16],
}

/// The name of a file, removed when this is dropped.
struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // When it is gone already, nothing is left to do; when it cannot be removed, the next life tries.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Memory that was made and is to be offered.
pub(super) struct Made {
    /// What to tell the other end.
    pub offer: Offer,
    region: Region,
    name: Name,
}

impl Made {
    /// The other end has mapped it: it needs no name any more.
    pub fn taken(self) -> Writer {
        drop(self.name);
        Writer::new(self.region)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unfit(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Place {
    /// In this directory.
    pub fn new(directory: &Path, group: [u8; 16]) -> Self {
        Self {
            directory: directory.to_owned(),
            group,
        }
    }

    fn prefix(&self, maker: NodeId) -> String {
        format!("aquifer-{}-{}-", hex(&self.group), maker.get())
    }

    fn path(&self, maker: NodeId, name: &[u8; 16]) -> PathBuf {
        self.directory.join(self.prefix(maker) + &hex(name))
    }

    /// Removes what earlier lives of this node have left behind.
    pub fn sweep(&self, me: NodeId) {
        let prefix = self.prefix(me);
        let Ok(files) = std::fs::read_dir(&self.directory) else {
            return;
        };
        for file in files.flatten() {
            let age = file
                .metadata()
                .and_then(|m| m.modified())
                .ok()
                .and_then(|at| at.elapsed().ok());
            if file.file_name().to_string_lossy().starts_with(&prefix) && age > Some(LEFT_BEHIND) {
                drop(Name(file.path()));
            }
        }
    }

    /// Makes memory.
    pub fn make(&self, me: NodeId) -> io::Result<Made> {
        let mut random = [0; 32];
        random_bytes(&mut random);
        let (name, nonce) = random.split_at(16);
        let name = name.try_into().expect("16 bytes");
        let nonce =
            [&nonce[..8], &nonce[8..]].map(|half| u64::from_le_bytes(half.try_into().expect("8 bytes")));
        let path = self.path(me, &name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(open(&path, flags, Mode::RUSR | Mode::WUSR)?);
        let made = Name(path);
        fallocate(&file, FallocateFlags::empty(), 0, BYTES as u64)?;
        let region = Region::map(&file)?;
        region.set_nonce(nonce);
        let bytes = BYTES as u32;
        Ok(Made {
            offer: Offer { name, nonce, bytes },
            region,
            name: made,
        })
    }

    /// Maps what `maker` offers.
    pub fn open(&self, maker: NodeId, offer: &Offer) -> io::Result<Reader> {
        if offer.bytes as usize != BYTES {
            return Err(unfit("memory of another size"));
        }
        // Without it, what is no plain file could keep us waiting.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(open(self.path(maker, &offer.name), flags, Mode::empty())?);
        let found = fstat(&file)?;
        let plain = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        let ours = found.st_uid == rustix::process::geteuid().as_raw();
        if !plain || !ours || found.st_mode & 0o777 != 0o600 || found.st_size as usize != BYTES {
            return Err(unfit("memory that is not of this user alone"));
        }
        let region = Region::map(&file)?;
        if region.nonce() != offer.nonce {
            return Err(unfit("other memory than was offered"));
        }
        Ok(Reader::new(region))
    }
}
