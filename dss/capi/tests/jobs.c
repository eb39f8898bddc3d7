/* Every job of the library, as a C program does it. What it is to do is its first argument; see tests/programs.rs. */
#define _GNU_SOURCE
#include "aquifer.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                                       \
    do {                                                                                                       \
        if (!(condition)) {                                                                                    \
            fprintf(stderr, "%s:%d: %s: error %ld: %s\n", __FILE__, __LINE__, #condition,                      \
                    (long)aq_error_number(), aq_error_text());                                                 \
            exit(1);                                                                                           \
        }                                                                                                      \
    } while (0)

/* A call that must fail so, and say why. */
#define FAILS(call, error)                                                                                     \
    do {                                                                                                       \
        CHECK((call) == -(int64_t)(error));                                                                    \
        CHECK(aq_error_number() == (int64_t)(error));                                                          \
        CHECK(aq_error_text()[0] != 0);                                                                        \
    } while (0)

static long lines_of_log;

static void log_line(int32_t level, const char *target, const char *text, void *context) {
    if (level < AQ_LOG_ERROR || level > AQ_LOG_INFO || target == NULL || text == NULL || context != &lines_of_log)
        abort();
    __atomic_add_fetch(&lines_of_log, 1, __ATOMIC_RELAXED);
}

static void exiting(const char *reason, void *context) {
    (void)context;
    fprintf(stderr, "exit: %s\n", reason);
}

static aq_pool join(char **arguments) {
    aq_pool_options options;
    const char *devices[1];
    aq_pool pool = 0;
    CHECK(aq_pool_options_default(&options) == 0);
    devices[0] = arguments[2];
    options.devices = devices;
    options.device_count = 1;
    options.node = (uint32_t)atoi(arguments[3]);
    options.runtime_directory = arguments[4];
    CHECK(aq_pool_open(&options, &pool) == 0);
    return pool;
}

static void pool_jobs(aq_pool pool) {
    aq_status status;
    aq_space space;
    char text[64];
    CHECK(aq_pool_status(pool, &status) == 0);
    CHECK(status.serving == 1 && status.members >= 1 && status.epoch >= 1 && status.leader >= 1);
    CHECK(status.lease_left_ms > 0);
    CHECK(aq_pool_space(pool, &space) == 0);
    CHECK(space.units >= space.free && space.free > 0);
    CHECK(aq_pool_unit_bytes(pool) == (int64_t)space.unit_bytes);
    CHECK(aq_pool_is_aligned(pool, space.unit_bytes * 3) == 1);
    CHECK(aq_pool_is_aligned(pool, space.unit_bytes + 1) == 0);
    CHECK(aq_pool_align(pool, space.unit_bytes + 1) == (int64_t)space.unit_bytes * 2);
    FAILS(aq_pool_align(pool, UINT64_MAX), AQ_TOO_LARGE);
    CHECK(aq_config_set(pool, "program/colour", "blue") == 0);
    CHECK(aq_config_get(pool, "program/colour", text, sizeof text) == 4 && strcmp(text, "blue") == 0);
    FAILS(aq_config_get(pool, "program/colour", text, 4), AQ_SHORT_BUFFER);
    CHECK(aq_config_set(pool, "program/colour", NULL) == 0);
    FAILS(aq_config_get(pool, "program/colour", text, sizeof text), AQ_NOT_FOUND);
    CHECK(aq_pool_set_timeout(pool, 30000) == 0);
}

static void name_jobs(aq_pool pool) {
    aq_file file;
    aq_dir directory;
    aq_dirent entry;
    aq_stat stat;
    char text[256];
    int files = 0, links = 0;
    CHECK(aq_dir_make(pool, "/c", 0750) == 0);
    FAILS(aq_dir_make(pool, "/c", 0750), AQ_EXISTS);
    CHECK(aq_file_create(pool, "/c/one", 0640, &file) == 0);
    CHECK(aq_file_close(file) == 0);
    FAILS(aq_file_create(pool, "/c/one", 0640, &file), AQ_EXISTS);
    CHECK(aq_file_symlink(pool, "one", "/c/link") == 0);
    CHECK(aq_file_readlink(pool, "/c/link", text, sizeof text) == 3 && strcmp(text, "one") == 0);
    CHECK(aq_file_link(pool, "/c/one", "/c/two") == 0);
    CHECK(aq_file_stat(pool, "/c/link", &stat) == 0);
    CHECK(stat.kind == AQ_KIND_FILE && stat.mode == 0640 && stat.links == 2 && stat.uid == geteuid());
    CHECK(aq_file_lstat(pool, "/c/link", &stat) == 0 && stat.kind == AQ_KIND_LINK && stat.size == 3);
    FAILS(aq_file_rename(pool, "/c/two", "/c/link", 0), AQ_EXISTS);
    CHECK(aq_file_rename(pool, "/c/two", "/c/three", 0) == 0);
    CHECK(aq_dir_open(pool, "/c", &directory) == 0);
    while (aq_dir_read(directory, &entry) == 1) {
        files += entry.kind == AQ_KIND_FILE;
        links += entry.kind == AQ_KIND_LINK;
        CHECK(strlen(entry.name) >= 3 && entry.id > 0);
    }
    CHECK(files == 2 && links == 1);
    CHECK(aq_dir_close(directory) == 0);
    FAILS(aq_dir_read(directory, &entry), AQ_BAD_HANDLE);
    FAILS(aq_dir_remove(pool, "/c"), AQ_NOT_EMPTY);
    FAILS(aq_dir_open(pool, "/c/one", &directory), AQ_NOT_A_DIRECTORY);
    CHECK(aq_file_unlink(pool, "/c/link") == 0);
    CHECK(aq_file_unlink(pool, "/c/three") == 0);
    FAILS(aq_file_stat(pool, "/c/three", &stat), AQ_NOT_FOUND);
}

static void data_jobs(aq_pool pool) {
    aq_file file;
    aq_stat stat;
    aq_address address;
    char text[256], first[3], second[9];
    struct iovec pieces[2] = {{first, sizeof first}, {second, sizeof second}};
    CHECK(aq_file_open(pool, "/c/one", AQ_CREATE | AQ_TRUNCATE, 0600, &file) == 0);
    CHECK(aq_file_write(file, "hello, ", 7) == 7);
    CHECK(aq_file_write(file, "world", 5) == 5);
    CHECK(aq_file_seek(file, -5, AQ_SEEK_CURRENT) == 7);
    CHECK(aq_file_read(file, text, sizeof text) == 5 && memcmp(text, "world", 5) == 0);
    CHECK(aq_file_read(file, text, sizeof text) == 0);
    FAILS(aq_file_seek(file, -1, AQ_SEEK_SET), AQ_INVALID);
    CHECK(aq_file_preadv(file, pieces, 2, 0) == 12);
    CHECK(memcmp(first, "hel", 3) == 0 && memcmp(second, "lo, world", 9) == 0);
    CHECK(aq_file_pwritev(file, pieces, 2, 100) == 12);
    CHECK(aq_file_append(file, "!", 1) == 112);
    CHECK(aq_file_pread(file, text, sizeof text, 96) == 17 && memcmp(text, "\0\0\0\0hello, world!", 17) == 0);
    CHECK(aq_file_sync(file) == 0);
    CHECK(aq_file_size(file) == 113 && aq_file_known_size(file) == 113);
    CHECK(aq_file_allocated(file) == aq_pool_unit_bytes(pool));
    CHECK(aq_file_fstat(file, &stat) == 0 && stat.size == 113 && stat.modified_ns > 0);
    CHECK(aq_file_name(file, text, sizeof text) == 6 && strcmp(text, "/c/one") == 0);
    CHECK(aq_file_address(file, 5, &address) == 0);
    CHECK(!address.hole && address.length == (uint64_t)aq_pool_unit_bytes(pool) - 5);
    CHECK(aq_file_address(file, 1 << 30, &address) == 0 && address.hole);
    CHECK(aq_file_allocate(file, 0, 3 * aq_pool_unit_bytes(pool), 1) == 0);
    CHECK(aq_file_size(file) == 113);
    CHECK(aq_file_truncate(file, 5) == 0 && aq_file_seek(file, 0, AQ_SEEK_END) == 5);
    FAILS(aq_pool_close(pool), AQ_BUSY);
    CHECK(aq_file_close(file) == 0);
    CHECK(aq_file_copy(pool, "/c/one", "/c/copy") == 5);
    FAILS(aq_file_copy(pool, "/c/one", "/c/copy"), AQ_EXISTS);
    CHECK(aq_file_rename(pool, "/c/copy", "/c/one", 1) == 0);
}

/* The caller's own I/O, with the descriptor and offset of a prepared place. */
static void prepared_jobs(aq_pool pool) {
    aq_file file;
    aq_prepared place;
    unsigned char *memory;
    size_t length = 2 * AQ_BLOCK, index;
    CHECK(posix_memalign((void **)&memory, AQ_BLOCK, length) == 0);
    CHECK(aq_file_create(pool, "/c/own", 0600, &file) == 0);
    CHECK(aq_file_prepare_write(file, 0, length, &place) == 0);
    CHECK(place.descriptor >= 0 && place.length == length);
    memset(memory, 0x5A, length);
    CHECK(pwrite(place.descriptor, memory, length, (off_t)place.offset) == (ssize_t)length);
    FAILS(aq_pool_close(pool), AQ_BUSY);
    CHECK(aq_file_finish(place.place, length) == 0);
    FAILS(aq_file_finish(place.place, length), AQ_BAD_HANDLE);
    CHECK(aq_file_known_size(file) == (int64_t)length);
    memset(memory, 0, length);
    CHECK(aq_file_prepare_read(file, 0, length, &place) == 0);
    CHECK(pread(place.descriptor, memory, length, (off_t)place.offset) == (ssize_t)length);
    CHECK(aq_file_finish(place.place, 0) == 0);
    for (index = 0; index < length; index++)
        CHECK(memory[index] == 0x5A);
    CHECK(aq_file_prepare_read(file, 1 << 30, AQ_BLOCK, &place) == 0 && place.descriptor == -1);
    CHECK(aq_file_finish(place.place, 0) == 0);
    FAILS(aq_file_prepare_read(file, 1, AQ_BLOCK, &place), AQ_INVALID);
    CHECK(aq_file_close(file) == 0);
    free(memory);
}

struct thread {
    aq_pool pool;
    int number;
};

/* Each thread has its half of the blocks of one file, and a file of its own. */
static void *work(void *argument) {
    struct thread *self = argument;
    unsigned char block[AQ_BLOCK], read[AQ_BLOCK];
    aq_file shared, own;
    char path[32];
    int index;
    snprintf(path, sizeof path, "/c/thread-%d", self->number);
    CHECK(aq_file_open(self->pool, "/c/shared", AQ_CREATE, 0600, &shared) == 0);
    CHECK(aq_file_create(self->pool, path, 0600, &own) == 0);
    for (index = 0; index < 32; index++) {
        uint64_t offset = (uint64_t)(2 * index + self->number) * AQ_BLOCK;
        memset(block, 1 + 2 * index + self->number, sizeof block);
        CHECK(aq_file_pwrite(shared, block, sizeof block, offset) == AQ_BLOCK);
        CHECK(aq_file_pread(shared, read, sizeof read, offset) == AQ_BLOCK);
        CHECK(memcmp(block, read, sizeof read) == 0);
        CHECK(aq_file_append(own, block, 100) == 100 * index);
        FAILS(aq_file_close(shared ^ 1), AQ_BAD_HANDLE);
        CHECK(aq_error_number() == AQ_BAD_HANDLE);
    }
    CHECK(aq_file_close(own) == 0 && aq_file_close(shared) == 0);
    return NULL;
}

static void thread_jobs(aq_pool pool) {
    pthread_t threads[2];
    struct thread of[2];
    unsigned char block[AQ_BLOCK];
    aq_file file;
    int number;
    for (number = 0; number < 2; number++) {
        of[number].pool = pool;
        of[number].number = number;
        CHECK(pthread_create(&threads[number], NULL, work, &of[number]) == 0);
    }
    for (number = 0; number < 2; number++)
        CHECK(pthread_join(threads[number], NULL) == 0);
    CHECK(aq_file_open(pool, "/c/shared", 0, 0, &file) == 0 && aq_file_size(file) == 64 * AQ_BLOCK);
    for (number = 0; number < 64; number++) {
        CHECK(aq_file_pread(file, block, sizeof block, (uint64_t)number * AQ_BLOCK) == AQ_BLOCK);
        CHECK(block[0] == number + 1 && block[AQ_BLOCK - 1] == number + 1);
    }
    CHECK(aq_file_close(file) == 0);
}

static void figures(void) {
    aq_figures all[AQ_EVENTS];
    CHECK(aq_statistics(all, AQ_EVENTS) == AQ_EVENTS);
    CHECK(all[AQ_EVENT_APPEND].calls == 65 && all[AQ_EVENT_APPEND].failures == 0);
    CHECK(all[AQ_EVENT_APPEND].nanoseconds >= all[AQ_EVENT_APPEND].longest_nanoseconds);
    CHECK(all[AQ_EVENT_CLOSE].failures == 64);
    CHECK(strcmp(aq_event_name(AQ_EVENT_APPEND), "append") == 0 && aq_event_name(AQ_EVENTS) == NULL);
    CHECK(aq_api_version() >= 1 && aq_version()[0] != 0);
}

/* Everything. */
static void all(char **arguments) {
    aq_pool pool, second = 0;
    aq_pool_options options;
    CHECK(aq_log_set(AQ_LOG_INFO, log_line, &lines_of_log) == 0);
    CHECK(aq_exit_set(exiting, NULL) == 0);
    pool = join(arguments);
    CHECK(aq_pool_options_default(&options) == 0);
    options.devices = (const char *const *)&arguments[2];
    options.device_count = 1;
    options.node = 9;
    FAILS(aq_pool_open(&options, &second), AQ_EXISTS);
    pool_jobs(pool);
    name_jobs(pool);
    data_jobs(pool);
    prepared_jobs(pool);
    thread_jobs(pool);
    figures();
    CHECK(aq_pool_close(pool) == 0);
    FAILS(aq_pool_close(pool), AQ_BAD_HANDLE);
    CHECK(lines_of_log > 0);
}

/* What is wrong without a pool: no call may crash, read or write what it must not. */
static void errors(void) {
    aq_pool pool = 7;
    aq_file file = 7;
    aq_dir directory;
    aq_dirent entry;
    aq_stat stat;
    aq_space space;
    aq_status status;
    aq_prepared place;
    aq_address address;
    aq_pool_options options;
    const char *missing[1] = {"/nowhere/at/all"};
    char text[8];
    uint64_t handles[] = {0, 1, UINT64_MAX, (uint64_t)1 << 60, (uint64_t)2 << 60 | 1 << 24};
    size_t index;
    FAILS(aq_pool_options_default(NULL), AQ_INVALID);
    FAILS(aq_pool_open(NULL, &pool), AQ_INVALID);
    CHECK(aq_pool_options_default(&options) == 0);
    FAILS(aq_pool_open(&options, NULL), AQ_INVALID);
    FAILS(aq_pool_open(&options, &pool), AQ_INVALID);
    options.node = 1;
    FAILS(aq_pool_open(&options, &pool), AQ_INVALID);
    options.devices = missing;
    options.device_count = 1;
    FAILS(aq_pool_open(&options, &pool), AQ_NOT_FOUND);
    options.peer = "0.0.0.0:1";
    FAILS(aq_pool_open(&options, &pool), AQ_INVALID);
    CHECK(pool == 7);
    for (index = 0; index < sizeof handles / sizeof handles[0]; index++) {
        uint64_t handle = handles[index];
        FAILS(aq_pool_close(handle), AQ_BAD_HANDLE);
        FAILS(aq_pool_status(handle, &status), AQ_BAD_HANDLE);
        FAILS(aq_pool_space(handle, &space), AQ_BAD_HANDLE);
        FAILS(aq_config_get(handle, "a", text, sizeof text), AQ_BAD_HANDLE);
        FAILS(aq_file_open(handle, "/a", 0, 0, &file), AQ_BAD_HANDLE);
        FAILS(aq_dir_open(handle, "/", &directory), AQ_BAD_HANDLE);
        FAILS(aq_dir_read(handle, &entry), AQ_BAD_HANDLE);
        FAILS(aq_dir_close(handle), AQ_BAD_HANDLE);
        FAILS(aq_file_stat(handle, "/a", &stat), AQ_BAD_HANDLE);
        FAILS(aq_file_read(handle, text, sizeof text), AQ_BAD_HANDLE);
        FAILS(aq_file_write(handle, text, 1), AQ_BAD_HANDLE);
        FAILS(aq_file_address(handle, 0, &address), AQ_BAD_HANDLE);
        FAILS(aq_file_prepare_read(handle, 0, AQ_BLOCK, &place), AQ_BAD_HANDLE);
        FAILS(aq_file_finish(handle, 0), AQ_BAD_HANDLE);
        FAILS(aq_file_close(handle), AQ_BAD_HANDLE);
    }
    FAILS(aq_log_set(99, log_line, NULL), AQ_INVALID);
    FAILS(aq_statistics(NULL, 1), AQ_INVALID);
    CHECK(file == 7);
}

/* Nulls and lengths that only an open pool gets to see. */
static void errors_inside(char **arguments) {
    aq_pool pool = join(arguments);
    aq_file file;
    char text[8];
    struct iovec wrong[1] = {{NULL, 5}}, huge[2] = {{text, SIZE_MAX}, {text, 2}};
    FAILS(aq_file_open(pool, NULL, 0, 0, &file), AQ_INVALID);
    FAILS(aq_file_open(pool, "/e", AQ_CREATE, 0600, NULL), AQ_INVALID);
    FAILS(aq_file_open(pool, "/e", 1024, 0600, &file), AQ_INVALID);
    FAILS(aq_file_open(pool, "/e", AQ_CREATE, 010000, &file), AQ_INVALID);
    FAILS(aq_file_open(pool, "/\xff", AQ_CREATE, 0600, &file), AQ_INVALID);
    FAILS(aq_file_open(pool, "/e", 0, 0, &file), AQ_NOT_FOUND);
    FAILS(aq_file_open(pool, "/", 0, 0, &file), AQ_IS_A_DIRECTORY);
    CHECK(aq_file_create(pool, "/e", 0600, &file) == 0);
    FAILS(aq_file_pwrite(file, NULL, 5, 0), AQ_INVALID);
    FAILS(aq_file_pwrite(file, text, SIZE_MAX, 0), AQ_TOO_LARGE);
    FAILS(aq_file_pwrite(file, text, 1, UINT64_MAX), AQ_TOO_LARGE);
    FAILS(aq_file_append(file, NULL, 5), AQ_INVALID);
    FAILS(aq_file_append(file, text, SIZE_MAX), AQ_TOO_LARGE);
    FAILS(aq_file_pread(file, text, SIZE_MAX, 0), AQ_TOO_LARGE);
    FAILS(aq_file_pwritev(file, wrong, 1, 0), AQ_INVALID);
    FAILS(aq_file_pwritev(file, wrong, -1, 0), AQ_INVALID);
    FAILS(aq_file_preadv(file, huge, 2, 0), AQ_TOO_LARGE);
    CHECK(aq_file_pwrite(file, "abc", 3, 0) == 3);
    FAILS(aq_file_pread(file, NULL, 3, 0), AQ_INVALID);
    FAILS(aq_file_name(file, text, 2), AQ_SHORT_BUFFER);
    FAILS(aq_file_name(file, NULL, 100), AQ_INVALID);
    FAILS(aq_file_fstat(file, NULL), AQ_INVALID);
    FAILS(aq_dir_open(file, "/", &file), AQ_BAD_HANDLE);
    FAILS(aq_config_get(pool, NULL, text, sizeof text), AQ_INVALID);
    CHECK(aq_file_close(file) == 0);
    FAILS(aq_file_close(file), AQ_BAD_HANDLE);
    CHECK(aq_pool_close(pool) == 0);
}

/* Writes blocks and says after each sync how many are durable, until it is killed. */
static void write_blocks(char **arguments) {
    aq_pool pool = join(arguments);
    unsigned char block[AQ_BLOCK];
    uint64_t number;
    aq_file file;
    CHECK(aq_file_create(pool, "/journal", 0600, &file) == 0);
    for (number = 0;; number++) {
        memset(block, (int)(number % 251), sizeof block);
        memcpy(block, &number, sizeof number);
        CHECK(aq_file_append(file, block, sizeof block) == (int64_t)(number * AQ_BLOCK));
        CHECK(aq_file_sync(file) == 0);
        printf("%lu\n", (unsigned long)number + 1);
        fflush(stdout);
    }
}

/* Another node: reads as many blocks as were said to be durable. */
static void read_blocks(char **arguments) {
    aq_pool pool = join(arguments);
    unsigned char block[AQ_BLOCK], wanted[AQ_BLOCK];
    uint64_t number, count = strtoul(arguments[5], NULL, 10);
    aq_file file;
    CHECK(aq_file_open(pool, "/journal", 0, 0, &file) == 0);
    CHECK(aq_file_size(file) >= (int64_t)(count * AQ_BLOCK));
    for (number = 0; number < count; number++) {
        memset(wanted, (int)(number % 251), sizeof wanted);
        memcpy(wanted, &number, sizeof number);
        CHECK(aq_file_pread(file, block, sizeof block, number * AQ_BLOCK) == AQ_BLOCK);
        CHECK(memcmp(block, wanted, sizeof block) == 0);
    }
    CHECK(aq_file_close(file) == 0);
    CHECK(aq_pool_close(pool) == 0);
}

/* What this process has open, or how many threads it has. */
static int entries(const char *path) {
    DIR *directory = opendir(path);
    int count = 0;
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

/* A process joins and leaves as often as it likes, and nothing is left behind. */
static void again(char **arguments) {
    int round, descriptors = 0, threads = entries("/proc/self/task");
    int rounds = atoi(arguments[5]);
    char text[16];
    uint64_t life = 0;
    time_t begun;
    for (round = 0; round < rounds; round++) {
        aq_pool pool = join(arguments);
        aq_status status;
        aq_file file;
        CHECK(aq_pool_status(pool, &status) == 0 && status.incarnation > life);
        life = status.incarnation;
        CHECK(aq_file_open(pool, "/again", AQ_CREATE, 0600, &file) == 0);
        CHECK(aq_file_size(file) == 5 * round);
        CHECK(aq_file_append(file, "again", 5) == 5 * round);
        CHECK(aq_file_pread(file, text, sizeof text, 0) >= 5 && memcmp(text, "again", 5) == 0);
        CHECK(aq_file_close(file) == 0);
        CHECK(aq_pool_close(pool) == 0);
        /* The first threads bring two descriptors for signals, which the process keeps. */
        if (round == 0)
            descriptors = entries("/proc/self/fd");
        CHECK(entries("/proc/self/fd") == descriptors);
        /* A thread that was waited for is in the list for a moment yet. */
        for (begun = time(NULL); entries("/proc/self/task") != threads; sched_yield())
            CHECK(time(NULL) < begun + 60);
    }
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    if (strcmp(what, "errors") == 0)
        errors();
    else if (strcmp(what, "errors-inside") == 0 && count == 5)
        errors_inside(arguments);
    else if (strcmp(what, "all") == 0 && count == 5)
        all(arguments);
    else if (strcmp(what, "write") == 0 && count == 5)
        write_blocks(arguments);
    else if (strcmp(what, "read") == 0 && count == 6)
        read_blocks(arguments);
    else if (strcmp(what, "again") == 0 && count == 6)
        again(arguments);
    else
        return 2;
    puts("done");
    return 0;
}
