//! The types that C programs see.
#![allow(
    non_camel_case_types,
    reason = "the names are those of the header, where types are in lower case"
)]

use std::ffi::{c_char, c_void};

/// An open pool.
pub type aq_pool = u64;
/// An open file.
pub type aq_file = u64;
/// An open directory.
pub type aq_dir = u64;
/// A place on a device for the caller's own I/O.
pub type aq_place = u64;

/// Opening: make the file when it is not there.
pub const AQ_CREATE: u32 = 1;
/// Opening: refuse when the file is there.
pub const AQ_EXCLUSIVE: u32 = 2;
/// Opening: cut the file to nothing.
pub const AQ_TRUNCATE: u32 = 4;

/// Seeking: from the beginning.
pub const AQ_SEEK_SET: i32 = 0;
/// Seeking: from where the handle is.
pub const AQ_SEEK_CURRENT: i32 = 1;
/// Seeking: from the end.
pub const AQ_SEEK_END: i32 = 2;

/// Unit of offsets, lengths and memory of the caller's own I/O, in bytes.
pub const AQ_BLOCK: u32 = 4096;
/// Most bytes of one call that reads or writes.
pub const AQ_MOST_BYTES: u32 = 1 << 30;
/// Bytes of a name in a directory at most, with the zero byte.
pub const AQ_NAME_SIZE: usize = 256;

/// Why a function did not do its work. Functions give the negative.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum aq_error {
    /// It did.
    AQ_OK = 0,
    /// No such file, directory or configuration entry.
    AQ_NOT_FOUND = 1,
    /// The name is taken.
    AQ_EXISTS = 2,
    /// Something on the path is no directory.
    AQ_NOT_A_DIRECTORY = 3,
    /// It is a directory.
    AQ_IS_A_DIRECTORY = 4,
    /// The directory has entries.
    AQ_NOT_EMPTY = 5,
    /// An argument makes no sense, or the function was called from a callback.
    AQ_INVALID = 6,
    /// The handle is not open, or of another kind.
    AQ_BAD_HANDLE = 7,
    /// The volume group is full.
    AQ_NO_SPACE = 8,
    /// Larger than a file or an operation can be.
    AQ_TOO_LARGE = 9,
    /// The file belongs to the engine.
    AQ_PROTECTED = 10,
    /// Somebody works on it; handles of the pool are open.
    AQ_BUSY = 11,
    /// Too many symbolic links on the path.
    AQ_TOO_MANY_LINKS = 12,
    /// A device failed. What a failed write leaves is unknown.
    AQ_DEVICE = 13,
    /// This node may not use the storage any more.
    AQ_FENCED = 14,
    /// Nobody answered in time: the operation may have been done, or be done later.
    AQ_UNKNOWN = 15,
    /// The process is no member: it did not join, or did not leave cleanly.
    AQ_NOT_A_MEMBER = 16,
    /// The memory for an answer is too small.
    AQ_SHORT_BUFFER = 17,
    /// The metadata on the device is damaged.
    AQ_DAMAGED = 18,
    /// A mistake of the library, which is in its log.
    AQ_INTERNAL = 19,
}

/// What an entry is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum aq_kind {
    /// A file.
    AQ_KIND_FILE = 1,
    /// A directory.
    AQ_KIND_DIRECTORY = 2,
    /// A symbolic link.
    AQ_KIND_LINK = 3,
}

/// How much the log says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum aq_log_level {
    /// Nothing.
    AQ_LOG_OFF = 0,
    /// What is broken.
    AQ_LOG_ERROR = 1,
    /// What a person should look at.
    AQ_LOG_WARN = 2,
    /// What happens in the cluster.
    AQ_LOG_INFO = 3,
    /// For who works on the library.
    AQ_LOG_DEBUG = 4,
}

/// Kinds of calls that times are kept of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum aq_event {
    /// aq_pool_open, aq_pool_close.
    AQ_EVENT_POOL = 0,
    /// aq_file_create, aq_file_open.
    AQ_EVENT_OPEN = 1,
    /// aq_file_close.
    AQ_EVENT_CLOSE = 2,
    /// aq_file_read, aq_file_pread, aq_file_preadv.
    AQ_EVENT_READ = 3,
    /// aq_file_write, aq_file_pwrite, aq_file_pwritev.
    AQ_EVENT_WRITE = 4,
    /// aq_file_append.
    AQ_EVENT_APPEND = 5,
    /// aq_file_sync.
    AQ_EVENT_SYNC = 6,
    /// aq_file_truncate, aq_file_allocate.
    AQ_EVENT_SIZE = 7,
    /// aq_file_prepare_read, aq_file_prepare_write.
    AQ_EVENT_PREPARE = 8,
    /// aq_file_finish.
    AQ_EVENT_FINISH = 9,
    /// Names: make, link, rename, remove.
    AQ_EVENT_NAMES = 10,
    /// What is known of files.
    AQ_EVENT_STAT = 11,
    /// aq_dir_open, aq_dir_read, aq_dir_close.
    AQ_EVENT_DIRECTORY = 12,
    /// aq_file_copy.
    AQ_EVENT_COPY = 13,
    /// Status and configuration.
    AQ_EVENT_STATUS = 14,
}

/// So many kinds of calls are there.
pub const AQ_EVENTS: usize = 15;

/// How to join. Fill it by aq_pool_options_default and change what is to be changed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct aq_pool_options {
    /// Paths of devices of the volume group, the first volume among them.
    pub devices: *const *const c_char,
    /// How many.
    pub device_count: usize,
    /// Number of this node, 1 to 64: one process at a time is it.
    pub node: u32,
    /// Threads of the library, at least 1.
    pub threads: u32,
    /// Memory for pages of the database, in bytes; 0 is the least.
    pub buffer_bytes: u64,
    /// Directory for this node's socket, which exists; null is a directory of this user.
    pub runtime_directory: *const c_char,
    /// Where the other nodes connect, HOST:PORT or unix:PATH; null is a socket in the runtime directory.
    pub peer: *const c_char,
    /// How long joining may take, in milliseconds.
    pub join_timeout_ms: u32,
    /// How long an operation may take, in milliseconds, before it is AQ_UNKNOWN and goes on alone; 0 is without end.
    pub operation_timeout_ms: u32,
}

/// What this node knows of the cluster.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct aq_status {
    /// This node.
    pub node: u32,
    /// The node that writes the metadata of storage; it also leads the view.
    pub leader: u32,
    /// Members of the view.
    pub members: u32,
    /// 1 when this node serves and its lease is valid.
    pub serving: u32,
    /// This life of the node.
    pub incarnation: u64,
    /// Number of the view.
    pub epoch: u64,
    /// What is left of this node's lease, in milliseconds.
    pub lease_left_ms: u64,
}

/// Space of the volume group.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct aq_space {
    /// Bytes of an allocation unit.
    pub unit_bytes: u64,
    /// Units of all volumes.
    pub units: u64,
    /// Units that are free.
    pub free: u64,
    /// Units of removed files that are not free yet.
    pub waiting: u64,
}

/// What is known of a file, directory or link.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct aq_stat {
    /// Its id, never reused.
    pub id: u64,
    /// Bytes: of a file its length, of a link that of its target.
    pub size: u64,
    /// Bytes of its allocation units.
    pub allocated: u64,
    /// When the content changed, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// When content, names or attributes changed, in nanoseconds since 1970.
    pub changed_ns: u64,
    /// What it is: an aq_kind.
    pub kind: u32,
    /// The twelve permission bits of POSIX.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group of the owner.
    pub gid: u32,
    /// Names that it has.
    pub links: u32,
}

/// An entry of a directory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct aq_dirent {
    /// Id of what it leads to.
    pub id: u64,
    /// What that is: an aq_kind.
    pub kind: u32,
    /// Its name, with a zero byte at the end.
    pub name: [c_char; AQ_NAME_SIZE],
}

/// Where a byte of a file is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct aq_address {
    /// 1 when there is nothing yet: the bytes are zeros, the other fields but length are 0.
    pub hole: u32,
    /// Id of the volume.
    pub volume: u32,
    /// Byte offset on the volume's device.
    pub offset: u64,
    /// So many bytes from there on are contiguous, or in the hole.
    pub length: u64,
}

/// What the caller does its own I/O with, until aq_file_finish.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct aq_prepared {
    /// For aq_file_finish.
    pub place: aq_place,
    /// Descriptor of the device, open with O_DIRECT where the device has it; -1 in a hole, which reads as zeros. It belongs to the
    /// library: not to be closed, and not to be passed to another process.
    pub descriptor: i32,
    /// Byte offset on the device.
    pub offset: u64,
    /// So many bytes may be read or written there: perhaps fewer than were asked for.
    pub length: u64,
}

/// How often something was called and how long that took.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct aq_figures {
    /// Calls that have ended.
    pub calls: u64,
    /// Calls of these that failed.
    pub failures: u64,
    /// Time of all of them, in nanoseconds.
    pub nanoseconds: u64,
    /// Time of the longest, in nanoseconds.
    pub longest_nanoseconds: u64,
}

/// Gets lines of the log: level, part of the program, text, and what was given with the callback. Called on any thread.
pub type aq_log_callback = Option<
    unsafe extern "C" fn(level: i32, target: *const c_char, text: *const c_char, context: *mut c_void),
>;

/// Learns why the process ends, because going on would not be safe. It has half a second: then the process aborts.
pub type aq_exit_callback = Option<unsafe extern "C" fn(reason: *const c_char, context: *mut c_void)>;

/// One piece of memory, as of POSIX.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iovec {
    /// Where it begins.
    pub iov_base: *mut c_void,
    /// Bytes.
    pub iov_len: usize,
}
