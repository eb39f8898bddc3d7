#include "aquifer.h"
#include <stdio.h>
#include <string.h>

/* Says what was wrong with the last call. */
static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, aq_error_text());
    return 1;
}

int main(int count, char **arguments) {
    aq_pool_options options;
    aq_pool pool;
    aq_file file;
    aq_stat stat;
    char first[6], second[64];
    struct iovec pieces[2] = {{first, 5}, {second, sizeof second}};
    int64_t bytes;

    if (count != 2 || aq_pool_options_default(&options) != 0)
        return 2;
    options.devices = (const char *const *)&arguments[1];
    options.device_count = 1;
    options.node = 5;
    if (aq_pool_open(&options, &pool) != 0) /* from here on this process is node 5 */
        return failed("join");

    if (aq_file_open(pool, "/notes", AQ_CREATE | AQ_TRUNCATE, 0644, &file) != 0)
        return failed("open");
    if (aq_file_append(file, "one line\n", 9) < 0 || aq_file_append(file, "another\n", 8) < 0)
        return failed("append");
    if (aq_file_sync(file) != 0) /* durable, and every node knows the size */
        return failed("sync");
    bytes = aq_file_preadv(file, pieces, 2, 4);
    if (bytes < 0)
        return failed("read");
    first[5] = 0;
    printf("%d bytes: %s%.*s", (int)bytes, first, (int)bytes - 5, second);
    if (aq_file_fstat(file, &stat) != 0 || aq_file_close(file) != 0)
        return failed("close");
    printf("size %d, allocated %d\n", (int)stat.size, (int)stat.allocated);

    if (aq_file_open(pool, "/nothing", 0, 0, &file) == -AQ_NOT_FOUND)
        printf("error %d: %s\n", (int)aq_error_number(), aq_error_text());
    return aq_pool_close(pool) == 0 ? 0 : failed("leave");
}
