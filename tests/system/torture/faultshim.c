/* Stands between a process and its disk (LD_PRELOAD): counts what changes files under one folder,
 * and at the n-th such operation fails, does it and says that it failed, does half of it, or kills
 * the process. It also records all of them, so that the disk after a power cut can be made from it.
 *
 * gcc -O2 -shared -fPIC -o faultshim.so faultshim.c -ldl     (shimmed.py does, and speaks to it)
 *
 * An operation is a write, sync or truncation of a file, a folder's sync, mkdir or rename. Real work
 * is done by raw system calls, which nothing can stand between again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What is done at an operation that is hit; the same numbers as in shimmed.py. */
enum how { FAIL, DO_AND_FAIL, HALF, KILL_BEFORE, KILL_HALF_WAY, KILL_AFTER };
enum kind { WRITE = 1, SYNC, TRUNCATE, MKDIR, RENAME, MARK, LOST_SYNC };

static char root[PATH_MAX];
static size_t root_length;
static long first, count, seen, hits;
static enum how how;
static int error;
static long long room = -1;
static int record = -1;
static char last[64]; /* what was hit first */

/* The path below the folder that is watched, or NULL. A file is known by its descriptor. */
static const char *below(const char *path) {
    if (!root_length || strncmp(path, root, root_length)) return NULL;
    if (path[root_length] == '\0') return ".";
    return path[root_length] == '/' ? path + root_length + 1 : NULL;
}
static const char *watched(int fd, char *path) {
    char link[32];
    int before = errno;
    if (!root_length || fd == record) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = before;
    if (length <= 0) return NULL;
    path[length] = '\0';
    return below(path);
}

/* A record: kind, whether the write itself is synced, lengths of path and data, offset; then both. */
static void put(enum kind kind, int synced, const char *path, uint64_t offset, const void *data,
                size_t length) {
    if (record < 0) return;
    struct __attribute__((packed)) {
        uint8_t kind, synced;
        uint16_t path_length;
        uint32_t length;
        uint64_t offset;
    } head = {kind, synced, path ? strlen(path) : 0, length, offset};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)path, head.path_length}, {(void *)data, length}};
    int before = errno;
    syscall(SYS_writev, record, parts, 3);
    errno = before;
}

/* What is to be done at this operation; -1 is what was asked for. */
static int met(const char *name, const char *path) {
    seen++;
    if (first < 1 || seen < first || (count >= 0 && seen >= first + count)) return -1;
    hits++;
    if (hits == 1) snprintf(last, sizeof last, "%s %.40s", name, path);
    return how;
}
static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}
static int failed(void) {
    errno = error;
    return -1;
}

/* An operation that is done whole or not at all; a half of it is none. */
#define WHOLE(name, path, call, record_it)                        \
    do {                                                          \
        int what = met(name, path);                               \
        if (what == FAIL || what == HALF) return failed();        \
        if (what == KILL_BEFORE || what == KILL_HALF_WAY) die();  \
        long done = (call);                                       \
        if (done == 0) record_it;                                 \
        if (what == KILL_AFTER) die();                            \
        if (done < 0) return -1;                                  \
        return what == DO_AND_FAIL ? failed() : 0;                \
    } while (0)

static ssize_t write_some(int fd, const void *data, size_t length, off_t offset, int at_offset) {
    return at_offset ? syscall(SYS_pwrite64, fd, data, length, offset)
                     : syscall(SYS_write, fd, data, length);
}
static ssize_t do_write(const char *path, int fd, const void *data, size_t length, off_t offset,
                        int at_offset) {
    int flags = syscall(SYS_fcntl, fd, F_GETFL);
    if (!at_offset) offset = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    /* LMDB writes what makes pages valid through a descriptor of its own, which syncs. */
    int is_synced = flags >= 0 && (flags & O_DSYNC);
    int what = met(is_synced ? "synced write" : "write", path);
    if (what == FAIL) return failed();
    if (what == KILL_BEFORE) die();
    if (what == HALF || what == KILL_HALF_WAY) length /= 2;
    ssize_t done = write_some(fd, data, length, offset, at_offset);
    /* What a write that says that it failed has written is not synced. */
    if (done > 0) put(WRITE, what == -1 && is_synced, path, offset, data, done);
    if (what == KILL_HALF_WAY || what == KILL_AFTER) die();
    return what == DO_AND_FAIL ? failed() : done;
}
static ssize_t do_writev(const char *path, int fd, const struct iovec *parts, int number, off_t offset,
                         int at_offset) {
    size_t length = 0;
    for (int i = 0; i < number; i++) length += parts[i].iov_len;
    char *all = malloc(length), *end = all;
    for (int i = 0; i < number; i++) end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    ssize_t done = do_write(path, fd, all, length, offset, at_offset);
    int before = errno;
    free(all);
    errno = before;
    return done;
}

ssize_t write(int fd, const void *data, size_t length) {
    char buffer[PATH_MAX];
    const char *path = watched(fd, buffer);
    return path ? do_write(path, fd, data, length, 0, 0) : syscall(SYS_write, fd, data, length);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    char buffer[PATH_MAX];
    const char *path = watched(fd, buffer);
    return path ? do_write(path, fd, data, length, offset, 1)
                : syscall(SYS_pwrite64, fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) {
    return pwrite(fd, data, length, offset);
}
ssize_t writev(int fd, const struct iovec *parts, int number) {
    char buffer[PATH_MAX];
    const char *path = watched(fd, buffer);
    return path ? do_writev(path, fd, parts, number, 0, 0) : syscall(SYS_writev, fd, parts, number);
}
ssize_t pwritev(int fd, const struct iovec *parts, int number, off_t offset) {
    char buffer[PATH_MAX];
    const char *path = watched(fd, buffer);
    return path ? do_writev(path, fd, parts, number, offset, 1)
                : syscall(SYS_pwritev, fd, parts, number, offset, 0);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int number, off_t offset) {
    return pwritev(fd, parts, number, offset);
}

static int do_sync(int fd, long call) {
    char buffer[PATH_MAX];
    const char *path = watched(fd, buffer);
    if (!path) return syscall(call, fd);
    int what = met("sync", path);
    if (what == FAIL || what == HALF) {
        put(LOST_SYNC, 0, path, 0, NULL, 0);
        return failed();
    }
    if (what == KILL_BEFORE || what == KILL_HALF_WAY) die();
    if (syscall(call, fd)) return -1;
    put(what == DO_AND_FAIL ? LOST_SYNC : SYNC, 0, path, 0, NULL, 0);
    if (what == KILL_AFTER) die();
    return what == DO_AND_FAIL ? failed() : 0;
}
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }
int fsync(int fd) { return do_sync(fd, SYS_fsync); }

int ftruncate(int fd, off_t length) {
    char buffer[PATH_MAX];
    const char *path = watched(fd, buffer);
    if (!path) return syscall(SYS_ftruncate, fd, length);
    WHOLE("truncate", path, syscall(SYS_ftruncate, fd, length), put(TRUNCATE, 0, path, length, NULL, 0));
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

int mkdir(const char *name, mode_t mode) {
    const char *path = below(name);
    if (!path) return syscall(SYS_mkdir, name, mode);
    WHOLE("mkdir", path, syscall(SYS_mkdir, name, mode), put(MKDIR, 0, path, 0, NULL, 0));
}
int rename(const char *from, const char *to) {
    const char *path = below(from), *target = below(to);
    if (!path || !target) return syscall(SYS_rename, from, to);
    WHOLE("rename", path, syscall(SYS_rename, from, to),
          put(RENAME, 0, path, 0, target, strlen(target)));
}

/* A disk with so little room left. */
static int little(struct statvfs *found) {
    if (room >= 0) found->f_bavail = found->f_bfree = room / found->f_frsize;
    return 0;
}
int statvfs(const char *path, struct statvfs *found) {
    static int (*real)(const char *, struct statvfs *);
    if (!real) real = dlsym(RTLD_NEXT, "statvfs");
    return real(path, found) ? -1 : little(found);
}
int statvfs64(const char *path, struct statvfs64 *found) { return statvfs(path, (struct statvfs *)found); }

void fault_watch(const char *folder) {
    root_length = strlen(strncpy(root, folder, sizeof root - 1));
}
void fault_arm(long from, long number, int what, int code) {
    first = from, count = number, how = what, error = code, seen = hits = 0;
}
void fault_room(long long bytes) { room = bytes; }
long fault_seen(void) { return seen; }
long fault_hits(void) { return hits; }
const char *fault_last(void) { return last; }
void fault_record(const char *path) {
    record = *path ? syscall(SYS_open, path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600) : -1;
}
void fault_mark(uint64_t number) { put(MARK, 0, NULL, number, NULL, 0); }
