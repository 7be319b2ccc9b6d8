/* Loaded into a process under test (LD_PRELOAD), it makes the machine misbehave as files in the folder $TEST_ILL say:
 *   clock  the wall clock is this many seconds ahead (or, negative, behind)
 *   sync   while the file is there, the disk fails whatever should become durable
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static FILE *told(const char *name) {
    const char *folder = getenv("TEST_ILL");
    char path[4096];
    if (!folder || snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return NULL;
    int before = errno;
    FILE *file = fopen(path, "r");
    errno = before;
    return file;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        FILE *file = told("clock");
        long seconds = 0;
        if (file) {
            if (fscanf(file, "%ld", &seconds) == 1) time->tv_sec += seconds;
            fclose(file);
        }
    }
    return result;
}

static int sync_or_fail(long number, int fd) {
    FILE *file = told("sync");
    if (!file) return (int)syscall(number, fd);
    fclose(file);
    errno = EIO;
    return -1;
}

int fsync(int fd) { return sync_or_fail(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_or_fail(SYS_fdatasync, fd); }
