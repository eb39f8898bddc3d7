//! Opening a file, loop device or block device with O_DIRECT, and what the kernel says of it.
//!
//! Rule HZ-17: one open file description per process and device, close-on-exec; the slot lock is taken through it.

use crate::seam::{DeviceError, Geometry};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// BLKSSZGET: logical block size of a block device.
const BLKSSZGET: libc::c_ulong = 0x1268;
/// BLKGETSIZE64: bytes of a block device.
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
/// BLKDISCARD: tells a block device that a range is not needed.
const BLKDISCARD: libc::c_ulong = 0x1277;

/// An open device and its geometry. It may grow while it is open.
pub(super) struct OpenFile {
    pub(super) file: File,
    is_block_device: bool,
    block: u32,
    /// The size as last seen.
    size: AtomicU64,
}

/// The system's error as a device error. EBADE is a reservation conflict: this node is fenced.
pub(super) fn io_error(operation: &'static str, offset: u64, length: usize, errno: i32) -> DeviceError {
    if errno == libc::EBADE {
        return DeviceError::Fenced(String::from("the device answered EBADE: the reservation is lost"));
    }
    let message = std::io::Error::from_raw_os_error(errno).to_string();
    DeviceError::Io {
        operation,
        offset,
        length,
        errno,
        message,
    }
}

fn open_error(path: &Path, errno: rustix::io::Errno) -> DeviceError {
    let message = format!("{}: {errno}", path.display());
    DeviceError::Io {
        operation: "open",
        offset: 0,
        length: 0,
        errno: errno.raw_os_error(),
        message,
    }
}

impl OpenFile {
    /// Opens for reading and writing, with O_DIRECT where the file system allows it (told loudly where not).
    pub(super) fn open(path: &Path) -> Result<Self, DeviceError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| open_error(path, errno))?;
        let kind = rustix::fs::fstat(&fd).map_err(|errno| open_error(path, errno))?;
        let kind = FileType::from_raw_mode(kind.st_mode);
        if kind != FileType::RegularFile && kind != FileType::BlockDevice {
            return Err(open_error(path, rustix::io::Errno::NOTBLK));
        }
        let set = fcntl_getfl(&fd).and_then(|flags| fcntl_setfl(&fd, flags | OFlags::DIRECT));
        if let Err(errno) = set {
            tracing::warn!(path = %path.display(), %errno, "no O_DIRECT here: I/O goes through the page cache");
        }
        let file = File::from(fd);
        let is_block_device = kind == FileType::BlockDevice;
        let Geometry { size, block } =
            geometry(&file, is_block_device).map_err(|errno| open_error(path, errno))?;
        Ok(Self {
            file,
            is_block_device,
            block,
            size: AtomicU64::new(size),
        })
    }

    /// What the system says of the device now.
    pub(super) fn geometry(&self) -> Geometry {
        if let Ok(Geometry { size, .. }) = geometry(&self.file, self.is_block_device) {
            self.size.store(size, Ordering::Relaxed);
        }
        let (size, block) = (self.size.load(Ordering::Relaxed), self.block);
        Geometry { size, block }
    }

    /// Whether an operation is aligned and inside.
    pub(super) fn check(
        &self,
        operation: &'static str,
        offset: u64,
        length: usize,
    ) -> Result<(), DeviceError> {
        let block = self.block;
        let aligned = offset.is_multiple_of(u64::from(block)) && length.is_multiple_of(block as usize);
        let inside = |end| end <= self.size.load(Ordering::Relaxed) || end <= self.geometry().size;
        match offset.checked_add(length as u64) {
            Some(end) if aligned && inside(end) => Ok(()),
            _ => Err(DeviceError::OutOfRange {
                operation,
                offset,
                length,
            }),
        }
    }

    /// Reads `bytes` whole; blocks.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let done = self.file.read_exact_at(bytes, offset);
        done.map_err(|error| {
            io_error(
                "read",
                offset,
                bytes.len(),
                error.raw_os_error().unwrap_or(libc::EIO),
            )
        })
    }

    /// Writes `bytes` whole; blocks.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        let done = self.file.write_all_at(bytes, offset);
        done.map_err(|error| {
            io_error(
                "write",
                offset,
                bytes.len(),
                error.raw_os_error().unwrap_or(libc::EIO),
            )
        })
    }

    /// fdatasync; blocks.
    pub(super) fn flush(&self) -> Result<(), DeviceError> {
        rustix::fs::fdatasync(&self.file).map_err(|errno| io_error("flush", 0, 0, errno.raw_os_error()))
    }

    /// Gives the range back to the file system or device; EOPNOTSUPP where that is not possible.
    pub(super) fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        use rustix::fs::FallocateFlags;
        use rustix::io::Errno;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let discarded = if self.is_block_device {
            discard_blocks(&self.file, offset, length)
        } else {
            rustix::fs::fallocate(&self.file, flags, offset, length)
        };
        discarded.map_err(|errno| {
            let errno = if errno == Errno::NOSYS {
                Errno::OPNOTSUPP
            } else {
                errno
            };
            io_error("discard", offset, length as usize, errno.raw_os_error())
        })
    }

    /// A hole in a file reads as zeros; what a block device does is its own matter.
    pub(super) const fn discards_to_zeros(&self) -> bool {
        !self.is_block_device
    }

    /// Makes a range read as zeros without writing them; false where the file system or device cannot.
    pub(super) fn zero(&self, offset: u64, length: u64) -> Result<bool, DeviceError> {
        use rustix::fs::FallocateFlags;
        use rustix::io::Errno;
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(errno) => Err(io_error("zero", offset, length as usize, errno.raw_os_error())),
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn discard_blocks(file: &File, offset: u64, length: u64) -> Result<(), rustix::io::Errno> {
    let range = [offset, length];
    // SAFETY: the request reads two numbers of this type, and the pointer is valid.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) };
    if answer == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(rustix::io::Errno::from_raw_os_error(
        error.raw_os_error().unwrap_or(libc::EIO),
    ))
}

fn geometry(file: &File, is_block_device: bool) -> Result<Geometry, rustix::io::Errno> {
    if is_block_device {
        let (mut block, mut size) = (0i32, 0u64);
        // SAFETY: both requests write one number of exactly this type, and both pointers are valid.
        let answers = unsafe {
            [
                libc::ioctl(file.as_raw_fd(), BLKSSZGET as _, &raw mut block),
                libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &raw mut size),
            ]
        };
        if answers.iter().any(|answer| *answer < 0) {
            let errno = std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO);
            return Err(rustix::io::Errno::from_raw_os_error(errno));
        }
        return Ok(Geometry {
            size,
            block: sound_block(u32::try_from(block).unwrap_or(0)),
        });
    }
    let size = file.metadata().map_or(0, |metadata| metadata.size());
    let block = sound_block(direct_alignment(file).unwrap_or(4096));
    Ok(Geometry {
        size: size / u64::from(block) * u64::from(block),
        block,
    })
}

/// What `statx` says of direct I/O on a file: the larger of the memory and offset alignments.
fn direct_alignment(file: &File) -> Option<u32> {
    // SAFETY: all zeros is a value of this plain structure.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is an empty C string, the descriptor is open, the answer is ours to write.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            flags,
            libc::STATX_DIOALIGN,
            &raw mut answer,
        )
    };
    let known = result == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    Some(answer.stx_dio_offset_align.max(answer.stx_dio_mem_align)).filter(|align| known && *align != 0)
}

/// A power of two from 512 to 4096; what is stranger than that is treated as 4096.
fn sound_block(block: u32) -> u32 {
    if block.is_power_of_two() && (512..=4096).contains(&block) {
        block
    } else if block != 0 && block < 512 && block.is_power_of_two() {
        512
    } else {
        4096
    }
}

/// Makes a sparse file of `size` bytes that can be a shared device; refuses a path that exists.
pub fn create_sparse(path: &Path, size: u64) -> Result<(), DeviceError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let fd = rustix::fs::open(path, flags, mode).map_err(|errno| open_error(path, errno))?;
    rustix::fs::ftruncate(&fd, size).map_err(|errno| open_error(path, errno))?;
    rustix::fs::fsync(&fd).map_err(|errno| open_error(path, errno))
}
