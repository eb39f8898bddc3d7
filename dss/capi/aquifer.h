/* Aquifer: files of a volume group for C programs. Made from dss/capi/src by cbindgen; docs/library.md has an example.
 *
 * A process that opens a pool is a member of the cluster, a whole node, until it closes the pool or ends.
 *
 * - Every function that returns int64_t gives 0 or more when it did its work, and otherwise the negative of an aq_error;
 *   aq_error_number and aq_error_text then say more, for the calling thread.
 * - Every function may be called from any thread, but not from a callback of the library.
 * - Text is UTF-8 and ends with a zero byte. Memory is read and written during the call only. A pointer must be valid for
 *   what the function says it does with it; a null pointer where something is needed is AQ_INVALID.
 * - A handle is a number and never reused: one that was closed is AQ_BAD_HANDLE. 0 is no handle.
 * - A process that has a pool open must not fork.
 */

#ifndef AQUIFER_H
#define AQUIFER_H

#include <stdint.h>
#include <stddef.h>
#include <sys/uio.h>

/*
 Opening: make the file when it is not there.
 */
#define AQ_CREATE 1

/*
 Opening: refuse when the file is there.
 */
#define AQ_EXCLUSIVE 2

/*
 Opening: cut the file to nothing.
 */
#define AQ_TRUNCATE 4

/*
 Seeking: from the beginning.
 */
#define AQ_SEEK_SET 0

/*
 Seeking: from where the handle is.
 */
#define AQ_SEEK_CURRENT 1

/*
 Seeking: from the end.
 */
#define AQ_SEEK_END 2

/*
 Unit of offsets, lengths and memory of the caller's own I/O, in bytes.
 */
#define AQ_BLOCK 4096

/*
 Most bytes of one call that reads or writes.
 */
#define AQ_MOST_BYTES (1 << 30)

/*
 Bytes of a name in a directory at most, with the zero byte.
 */
#define AQ_NAME_SIZE 256

/*
 So many kinds of calls are there.
 */
#define AQ_EVENTS 15

/*
 Why a function did not do its work. Functions give the negative.
 */
typedef enum aq_error {
  /*
   It did.
   */
  AQ_OK = 0,
  /*
   No such file, directory or configuration entry.
   */
  AQ_NOT_FOUND = 1,
  /*
   The name is taken.
   */
  AQ_EXISTS = 2,
  /*
   Something on the path is no directory.
   */
  AQ_NOT_A_DIRECTORY = 3,
  /*
   It is a directory.
   */
  AQ_IS_A_DIRECTORY = 4,
  /*
   The directory has entries.
   */
  AQ_NOT_EMPTY = 5,
  /*
   An argument makes no sense, or the function was called from a callback.
   */
  AQ_INVALID = 6,
  /*
   The handle is not open, or of another kind.
   */
  AQ_BAD_HANDLE = 7,
  /*
   The volume group is full.
   */
  AQ_NO_SPACE = 8,
  /*
   Larger than a file or an operation can be.
   */
  AQ_TOO_LARGE = 9,
  /*
   The file belongs to the engine.
   */
  AQ_PROTECTED = 10,
  /*
   Somebody works on it; handles of the pool are open.
   */
  AQ_BUSY = 11,
  /*
   Too many symbolic links on the path.
   */
  AQ_TOO_MANY_LINKS = 12,
  /*
   A device failed. What a failed write leaves is unknown.
   */
  AQ_DEVICE = 13,
  /*
   This node may not use the storage any more.
   */
  AQ_FENCED = 14,
  /*
   Nobody answered in time: the operation may have been done, or be done later.
   */
  AQ_UNKNOWN = 15,
  /*
   The process is no member: it did not join, or did not leave cleanly.
   */
  AQ_NOT_A_MEMBER = 16,
  /*
   The memory for an answer is too small.
   */
  AQ_SHORT_BUFFER = 17,
  /*
   The metadata on the device is damaged.
   */
  AQ_DAMAGED = 18,
  /*
   A mistake of the library, which is in its log.
   */
  AQ_INTERNAL = 19,
} aq_error;

/*
 What an entry is.
 */
typedef enum aq_kind {
  /*
   A file.
   */
  AQ_KIND_FILE = 1,
  /*
   A directory.
   */
  AQ_KIND_DIRECTORY = 2,
  /*
   A symbolic link.
   */
  AQ_KIND_LINK = 3,
} aq_kind;

/*
 How much the log says.
 */
typedef enum aq_log_level {
  /*
   Nothing.
   */
  AQ_LOG_OFF = 0,
  /*
   What is broken.
   */
  AQ_LOG_ERROR = 1,
  /*
   What a person should look at.
   */
  AQ_LOG_WARN = 2,
  /*
   What happens in the cluster.
   */
  AQ_LOG_INFO = 3,
  /*
   For who works on the library.
   */
  AQ_LOG_DEBUG = 4,
} aq_log_level;

/*
 Kinds of calls that times are kept of.
 */
typedef enum aq_event {
  /*
   aq_pool_open, aq_pool_close.
   */
  AQ_EVENT_POOL = 0,
  /*
   aq_file_create, aq_file_open.
   */
  AQ_EVENT_OPEN = 1,
  /*
   aq_file_close.
   */
  AQ_EVENT_CLOSE = 2,
  /*
   aq_file_read, aq_file_pread, aq_file_preadv.
   */
  AQ_EVENT_READ = 3,
  /*
   aq_file_write, aq_file_pwrite, aq_file_pwritev.
   */
  AQ_EVENT_WRITE = 4,
  /*
   aq_file_append.
   */
  AQ_EVENT_APPEND = 5,
  /*
   aq_file_sync.
   */
  AQ_EVENT_SYNC = 6,
  /*
   aq_file_truncate, aq_file_allocate.
   */
  AQ_EVENT_SIZE = 7,
  /*
   aq_file_prepare_read, aq_file_prepare_write.
   */
  AQ_EVENT_PREPARE = 8,
  /*
   aq_file_finish.
   */
  AQ_EVENT_FINISH = 9,
  /*
   Names: make, link, rename, remove.
   */
  AQ_EVENT_NAMES = 10,
  /*
   What is known of files.
   */
  AQ_EVENT_STAT = 11,
  /*
   aq_dir_open, aq_dir_read, aq_dir_close.
   */
  AQ_EVENT_DIRECTORY = 12,
  /*
   aq_file_copy.
   */
  AQ_EVENT_COPY = 13,
  /*
   Status and configuration.
   */
  AQ_EVENT_STATUS = 14,
} aq_event;

/*
 An open file.
 */
typedef uint64_t aq_file;

/*
 An open pool.
 */
typedef uint64_t aq_pool;

/*
 An open directory.
 */
typedef uint64_t aq_dir;

/*
 An entry of a directory.
 */
typedef struct aq_dirent {
  /*
   Id of what it leads to.
   */
  uint64_t id;
  /*
   What that is: an aq_kind.
   */
  uint32_t kind;
  /*
   Its name, with a zero byte at the end.
   */
  char name[AQ_NAME_SIZE];
} aq_dirent;

/*
 What is known of a file, directory or link.
 */
typedef struct aq_stat {
  /*
   Its id, never reused.
   */
  uint64_t id;
  /*
   Bytes: of a file its length, of a link that of its target.
   */
  uint64_t size;
  /*
   Bytes of its allocation units.
   */
  uint64_t allocated;
  /*
   When the content changed, in nanoseconds since 1970.
   */
  uint64_t modified_ns;
  /*
   When content, names or attributes changed, in nanoseconds since 1970.
   */
  uint64_t changed_ns;
  /*
   What it is: an aq_kind.
   */
  uint32_t kind;
  /*
   The twelve permission bits of POSIX.
   */
  uint32_t mode;
  /*
   Owner.
   */
  uint32_t uid;
  /*
   Group of the owner.
   */
  uint32_t gid;
  /*
   Names that it has.
   */
  uint32_t links;
} aq_stat;

/*
 Where a byte of a file is.
 */
typedef struct aq_address {
  /*
   1 when there is nothing yet: the bytes are zeros, the other fields but length are 0.
   */
  uint32_t hole;
  /*
   Id of the volume.
   */
  uint32_t volume;
  /*
   Byte offset on the volume's device.
   */
  uint64_t offset;
  /*
   So many bytes from there on are contiguous, or in the hole.
   */
  uint64_t length;
} aq_address;

/*
 Gets lines of the log: level, part of the program, text, and what was given with the callback. Called on any thread.
 */
typedef void (*aq_log_callback)(int32_t level, const char *target, const char *text, void *context);

/*
 Learns why the process ends, because going on would not be safe. It has half a second: then the process aborts.
 */
typedef void (*aq_exit_callback)(const char *reason, void *context);

/*
 How often something was called and how long that took.
 */
typedef struct aq_figures {
  /*
   Calls that have ended.
   */
  uint64_t calls;
  /*
   Calls of these that failed.
   */
  uint64_t failures;
  /*
   Time of all of them, in nanoseconds.
   */
  uint64_t nanoseconds;
  /*
   Time of the longest, in nanoseconds.
   */
  uint64_t longest_nanoseconds;
} aq_figures;

/*
 How to join. Fill it by aq_pool_options_default and change what is to be changed.
 */
typedef struct aq_pool_options {
  /*
   Paths of devices of the volume group, the first volume among them.
   */
  const char *const *devices;
  /*
   How many.
   */
  size_t device_count;
  /*
   Number of this node, 1 to 64: one process at a time is it.
   */
  uint32_t node;
  /*
   Threads of the library, at least 1.
   */
  uint32_t threads;
  /*
   Memory for pages of the database, in bytes; 0 is the least.
   */
  uint64_t buffer_bytes;
  /*
   Directory for this node's socket, which exists; null is a directory of this user.
   */
  const char *runtime_directory;
  /*
   Where the other nodes connect, HOST:PORT or unix:PATH; null is a socket in the runtime directory.
   */
  const char *peer;
  /*
   How long joining may take, in milliseconds.
   */
  uint32_t join_timeout_ms;
  /*
   How long an operation may take, in milliseconds, before it is AQ_UNKNOWN and goes on alone; 0 is without end.
   */
  uint32_t operation_timeout_ms;
} aq_pool_options;

/*
 What this node knows of the cluster.
 */
typedef struct aq_status {
  /*
   This node.
   */
  uint32_t node;
  /*
   The node that writes the metadata of storage; it also leads the view.
   */
  uint32_t leader;
  /*
   Members of the view.
   */
  uint32_t members;
  /*
   1 when this node serves and its lease is valid.
   */
  uint32_t serving;
  /*
   This life of the node.
   */
  uint64_t incarnation;
  /*
   Number of the view.
   */
  uint64_t epoch;
  /*
   What is left of this node's lease, in milliseconds.
   */
  uint64_t lease_left_ms;
} aq_status;

/*
 Space of the volume group.
 */
typedef struct aq_space {
  /*
   Bytes of an allocation unit.
   */
  uint64_t unit_bytes;
  /*
   Units of all volumes.
   */
  uint64_t units;
  /*
   Units that are free.
   */
  uint64_t free;
  /*
   Units of removed files that are not free yet.
   */
  uint64_t waiting;
} aq_space;

/*
 A place on a device for the caller's own I/O.
 */
typedef uint64_t aq_place;

/*
 What the caller does its own I/O with, until aq_file_finish.
 */
typedef struct aq_prepared {
  /*
   For aq_file_finish.
   */
  aq_place place;
  /*
   Descriptor of the device, open with O_DIRECT where the device has it; -1 in a hole, which reads as zeros. It belongs to the
   library: not to be closed, and not to be passed to another process.
   */
  int32_t descriptor;
  /*
   Byte offset on the device.
   */
  uint64_t offset;
  /*
   So many bytes may be read or written there: perhaps fewer than were asked for.
   */
  uint64_t length;
} aq_prepared;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Reads up to `length` bytes at the handle's position, which moves; gives how many, 0 at the end of the file.
 */
int64_t aq_file_read(aq_file file, void *buffer, size_t length);

/*
 Reads up to `length` bytes from `offset`; gives how many: fewer at the end of the file, 0 past it. Holes are zeros.
 */
int64_t aq_file_pread(aq_file file, void *buffer, size_t length, uint64_t offset);

/*
 Reads into `count` pieces of memory one after another, in one operation; otherwise as aq_file_pread.
 */
int64_t aq_file_preadv(aq_file file, const struct iovec *pieces_of_memory, int32_t count, uint64_t offset);

/*
 Writes `length` bytes at the handle's position, which moves; gives `length`.
 */
int64_t aq_file_write(aq_file file, const void *buffer, size_t length);

/*
 Writes `length` bytes at `offset`; gives `length`. They are on the device and seen by every node when this returns, and durable after
 aq_file_sync. A file that is shorter grows. After a failure any part of the range may have its new content. Two nodes have to agree who
 writes which block of AQ_BLOCK bytes.
 */
int64_t aq_file_pwrite(aq_file file,
                       const void *buffer,
                       size_t length,
                       uint64_t offset);

/*
 Writes `count` pieces of memory one after another, in one operation; otherwise as aq_file_pwrite. Gives their length together.
 */
int64_t aq_file_pwritev(aq_file file,
                        const struct iovec *pieces_of_memory,
                        int32_t count,
                        uint64_t offset);

/*
 Writes at the end of the file, wherever that is when its turn comes: several nodes may append to one file, and each gets a range of its
 own. Gives the offset.
 */
int64_t aq_file_append(aq_file file,
                       const void *buffer,
                       size_t length);

/*
 Makes everything that was written before durable, size and times too, and shows them to all nodes.
 */
int64_t aq_file_sync(aq_file file);

/*
 Cuts the file to `size` bytes, or makes it longer by a hole.
 */
int64_t aq_file_truncate(aq_file file, uint64_t size);

/*
 Gets units for a range, so that writing it later finds space; the file grows to its end unless `keep_size` is not 0.
 */
int64_t aq_file_allocate(aq_file file, uint64_t offset, uint64_t length, int32_t keep_size);

/*
 Opens the directory at an absolute path, with the entries that it has now.
 */
int64_t aq_dir_open(aq_pool pool, const char *path, aq_dir *directory);

/*
 Writes the next entry; gives 1, or 0 when there is none any more. Entries are in the order of their names.
 */
int64_t aq_dir_read(aq_dir directory, struct aq_dirent *answer);

/*
 Closes a directory.
 */
int64_t aq_dir_close(aq_dir directory);

/*
 Opens the file at an absolute path. `flags` are AQ_CREATE, AQ_EXCLUSIVE and AQ_TRUNCATE; `mode` is for a file that is made.
 */
int64_t aq_file_open(aq_pool pool,
                     const char *path,
                     uint32_t flags,
                     uint32_t mode,
                     aq_file *file);

/*
 Makes an empty file at an absolute path, which must be free, and opens it.
 */
int64_t aq_file_create(aq_pool pool, const char *path, uint32_t mode, aq_file *file);

/*
 Closes a file: size and time are seen by whoever opens it afterwards, on any node. The handle is closed also after a failure.
 */
int64_t aq_file_close(aq_file file);

/*
 Moves the position of a handle: `from` is AQ_SEEK_SET, AQ_SEEK_CURRENT or AQ_SEEK_END. Gives the new position.
 */
int64_t aq_file_seek(aq_file file, int64_t offset, int32_t from);

/*
 Bytes of the file, what was written by this node included.
 */
int64_t aq_file_size(aq_file file);

/*
 Bytes that every node knows of: what was written after the last sync or close is not in it.
 */
int64_t aq_file_known_size(aq_file file);

/*
 Bytes of the file's allocation units.
 */
int64_t aq_file_allocated(aq_file file);

/*
 What is known of an open file.
 */
int64_t aq_file_fstat(aq_file file, struct aq_stat *answer);

/*
 Copies the path of an open file, by the oldest of its names, into `size` bytes with a zero byte; gives its length without that, 0
 when it has no name any more.
 */
int64_t aq_file_name(aq_file file,
                     char *buffer,
                     size_t size);

/*
 Where the byte at `offset` of a file is now. A unit may be moved at any time: aq_file_prepare_read and aq_file_prepare_write are for I/O.
 */
int64_t aq_file_address(aq_file file,
                        uint64_t offset,
                        struct aq_address *address);

/*
 The aq_error of this thread's last call that failed; 0 before the first.
 */
int64_t aq_error_number(void);

/*
 What was wrong in this thread's last call that failed, as one line. The memory is good until the thread's next failure.
 */
const char *aq_error_text(void);

/*
 Version of the library as text.
 */
const char *aq_version(void);

/*
 Number of this interface: it grows with each change that a program could see.
 */
uint32_t aq_api_version(void);

/*
 Sends lines of the log up to `level`, an aq_log_level, to `callback` with `context`; nothing with a null callback. The callback comes
 on any thread and must not call the library.
 */
int64_t aq_log_set(int32_t level,
                   aq_log_callback callback,
                   void *context);

/*
 Has `callback` told, with `context`, why the process ends when this node may not go on. It has half a second, on a thread of its own;
 then the process aborts. A null callback is told nothing.
 */
int64_t aq_exit_set(aq_exit_callback callback,
                    void *context);

/*
 Writes the figures of events 0 up to `count` of this process; gives how many that were.
 */
int64_t aq_statistics(struct aq_figures *figures, size_t count);

/*
 The name of an event, an aq_event; null when there is none.
 */
const char *aq_event_name(uint32_t event);

/*
 Makes a directory at an absolute path.
 */
int64_t aq_dir_make(aq_pool pool, const char *path, uint32_t mode);

/*
 Removes an empty directory.
 */
int64_t aq_dir_remove(aq_pool pool, const char *path);

/*
 Takes a name of a file or link away. Who has the file open, on any node, goes on with it; its space is free when nobody has.
 */
int64_t aq_file_unlink(aq_pool pool,
                       const char *path);

/*
 Makes a symbolic link at `path` that stands for `target`.
 */
int64_t aq_file_symlink(aq_pool pool, const char *target, const char *path);

/*
 Gives the file at `existing` one more name, which must be free.
 */
int64_t aq_file_link(aq_pool pool, const char *existing, const char *path);

/*
 Moves a name, as rename(2). With `replace` not 0 a file or an empty directory that has the new name goes in the same step; otherwise that is
 AQ_EXISTS.
 */
int64_t aq_file_rename(aq_pool pool,
                       const char *from,
                       const char *to,
                       int32_t replace);

/*
 Copies what a link stands for, as it was given, into `size` bytes with a zero byte; gives its length without that.
 */
int64_t aq_file_readlink(aq_pool pool, const char *path, char *buffer, size_t size);

/*
 What is at a path; links are followed.
 */
int64_t aq_file_stat(aq_pool pool, const char *path, struct aq_stat *answer);

/*
 What is at a path itself, also when that is a link.
 */
int64_t aq_file_lstat(aq_pool pool, const char *path, struct aq_stat *answer);

/*
 Copies the file at `from` to `to`, which must be free, durably; gives its bytes. Whoever writes the source meanwhile may be found in the
 copy or not. A copy that fails is removed.
 */
int64_t aq_file_copy(aq_pool pool,
                     const char *from,
                     const char *to);

/*
 Writes the usual options: no device, node 0, both of which have to be set.
 */
int64_t aq_pool_options_default(struct aq_pool_options *options);

/*
 Joins the cluster as the node of the options, or forms it when no node lives; gives the pool when this node serves.
 */
int64_t aq_pool_open(const struct aq_pool_options *options, aq_pool *pool);

/*
 Leaves the cluster and ends the library's threads. Files, directories and prepared places have to be closed before: otherwise
 AQ_BUSY. After any other failure the pool is closed too, and the other nodes recover this one. The process may join again.
 */
int64_t aq_pool_close(aq_pool pool);

/*
 Sets how long an operation on the pool may take, in milliseconds, before it is AQ_UNKNOWN and goes on alone; 0 is without end.
 */
int64_t aq_pool_set_timeout(aq_pool pool,
                            uint32_t milliseconds);

/*
 What this node knows of the cluster.
 */
int64_t aq_pool_status(aq_pool pool, struct aq_status *status);

/*
 Space of the volume group, as this node knows it.
 */
int64_t aq_pool_space(aq_pool pool, struct aq_space *space);

/*
 Bytes of an allocation unit.
 */
int64_t aq_pool_unit_bytes(aq_pool pool);

/*
 1 when `bytes` is a whole number of allocation units, 0 when not.
 */
int64_t aq_pool_is_aligned(aq_pool pool, uint64_t bytes);

/*
 `bytes`, rounded up to whole allocation units.
 */
int64_t aq_pool_align(aq_pool pool, uint64_t bytes);

/*
 Copies an entry of the group's configuration into `size` bytes, with a zero byte; gives its length without that.
 */
int64_t aq_config_get(aq_pool pool, const char *key, char *buffer, size_t size);

/*
 Sets an entry of the group's configuration, which all nodes see; a null `value` takes it away.
 */
int64_t aq_config_set(aq_pool pool, const char *key, const char *value);

/*
 Prepares a read by the caller itself: up to `length` bytes from `offset` of a file, whole blocks of AQ_BLOCK. They are at the place
 until aq_file_finish, which has to be called after the I/O, and soon: moving, cutting and removing wait for it on all nodes.
 */
int64_t aq_file_prepare_read(aq_file file,
                             uint64_t offset,
                             uint64_t length,
                             struct aq_prepared *answer);

/*
 Prepares a write by the caller itself, as aq_file_prepare_read. The range gets units before. Other writes of this node to the range that was
 asked for wait until aq_file_finish; so does a second aq_file_prepare_write, also of the same thread. What is written is durable after
 aq_file_finish and aq_file_sync.
 */
int64_t aq_file_prepare_write(aq_file file,
                              uint64_t offset,
                              uint64_t length,
                              struct aq_prepared *answer);

/*
 Ends a prepared place when the caller's I/O has ended. `written` is 0 after a read or a write that failed, otherwise the bytes that were written,
 whole blocks: the file then reaches at least to their end, and all nodes are told its size. The place is ended also after a failure.
 */
int64_t aq_file_finish(aq_place place,
                       uint64_t written);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* AQUIFER_H */
