/* Logs what a process writes and syncs in one folder, and makes these calls slow or fail. Loaded
 * with LD_PRELOAD; see disk.py.
 *
 * FAULTS_ROOT     the folder; calls for other files pass
 * FAULTS_LOG      a file to which each change, and each sync that succeeded, is appended
 * FAULTS_CONTROL  a file of `struct control`, which the harness may change at any time
 *
 * What the process writes to its standard output goes to the log as a mark, in the same order.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FILES 65536

struct control {
    int64_t calls;      /* counted here: changes and syncs since the start */
    int64_t fail_from;  /* the first call that fails; 0: none */
    int64_t fail_calls; /* how many fail */
    int64_t error;      /* errno of those */
    int64_t sync_us;    /* microseconds that each sync takes longer */
    int64_t write_us;   /* the same for each write */
    int64_t failed;     /* counted here: calls that failed */
};

static const char *root;
static size_t root_length;
static int log_fd = -1;
static struct control *control;
static uint64_t inode[FILES]; /* of open files in the folder; 0: another file */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void)
{
    root = getenv("FAULTS_ROOT");
    root_length = root ? strlen(root) : 0;
    const char *path = getenv("FAULTS_LOG");
    if (root && path)
        log_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    path = getenv("FAULTS_CONTROL");
    if (root && path) {
        int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
        void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (found != MAP_FAILED)
            control = found;
        syscall(SYS_close, fd);
    }
}

static int inside(const char *path)
{
    return root && path && !strncmp(path, root, root_length) &&
           (path[root_length] == '/' || !path[root_length]);
}

static uint64_t known(int fd)
{
    return fd >= 0 && fd < FILES ? inode[fd] : 0;
}

static void note(char what, uint64_t ino, uint64_t number, const char *path, const char *other,
                 const void *data, uint32_t size)
{
    if (log_fd < 0)
        return;
    int saved = errno;
    uint16_t first = path ? strlen(path) : 0, second = other ? strlen(other) : 0;
    size_t length = 25 + first + second + size;
    unsigned char *line = malloc(length), *at = line;
    memcpy(at, &size, 4), at += 4;
    *at++ = what;
    memcpy(at, &ino, 8), at += 8;
    memcpy(at, &number, 8), at += 8;
    memcpy(at, &first, 2), at += 2;
    memcpy(at, &second, 2), at += 2;
    memcpy(at, path, first), at += first;
    memcpy(at, other, second), at += second;
    memcpy(at, data, size);
    pthread_mutex_lock(&mutex);
    if (syscall(SYS_write, log_fd, line, length) != (long)length)
        abort(); /* an incomplete log would prove nothing */
    pthread_mutex_unlock(&mutex);
    free(line);
    errno = saved;
}

static void wait_us(int64_t us)
{
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&time, NULL);
}

/* Count a call, and return -1 with errno if it is one that fails. */
static int fails(int64_t us)
{
    if (!control)
        return 0;
    int64_t call = __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
    if (us > 0)
        wait_us(us);
    int64_t from = control->fail_from;
    if (!from || call < from || call - from >= control->fail_calls)
        return 0;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = control->error;
    return -1;
}

static int open_file(int folder, const char *path, int flags, int mode)
{
    int ours = folder == AT_FDCWD && inside(path);
    struct stat status;
    int created = ours && flags & O_CREAT && lstat(path, &status);
    if (created && fails(0))
        return -1;
    int fd = syscall(SYS_openat, folder, path, flags, mode);
    if (ours && fd >= 0 && fd < FILES && !fstat(fd, &status)) {
        inode[fd] = status.st_ino;
        if (created)
            note('c', status.st_ino, 0, path, NULL, NULL, 0);
        else if (flags & O_TRUNC)
            note('t', status.st_ino, 0, NULL, NULL, NULL, 0);
    }
    return fd;
}

#define MODE(flags)                                                                               \
    int mode = 0;                                                                                 \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                          \
        va_list rest;                                                                             \
        va_start(rest, flags);                                                                    \
        mode = va_arg(rest, int);                                                                 \
        va_end(rest);                                                                             \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_file(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_file(at, path, flags, mode); }
int __open_2(const char *path, int flags) { return open_file(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_file(AT_FDCWD, path, flags, 0); }

int close(int fd)
{
    if (known(fd))
        inode[fd] = 0;
    return syscall(SYS_close, fd);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    uint64_t ino = known(fd);
    if (ino) {
        if (fails(control ? control->write_us : 0))
            return -1;
        note('w', ino, offset, NULL, NULL, data, size);
    }
    return syscall(SYS_pwrite64, fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return pwrite64(fd, data, size, offset);
}

ssize_t write(int fd, const void *data, size_t size)
{
    uint64_t ino = known(fd);
    if (ino) {
        if (fails(control ? control->write_us : 0))
            return -1;
        struct stat status;
        int appends = fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &status);
        note('w', ino, appends ? status.st_size : lseek(fd, 0, SEEK_CUR), NULL, NULL, data, size);
    } else if (fd == 1 && log_fd >= 0) {
        note('M', 0, 0, NULL, NULL, data, size);
        return size;
    }
    return syscall(SYS_write, fd, data, size);
}

int ftruncate64(int fd, off64_t size)
{
    uint64_t ino = known(fd);
    if (ino && fails(0))
        return -1;
    int result = syscall(SYS_ftruncate, fd, size);
    if (ino && !result)
        note('t', ino, size, NULL, NULL, NULL, 0);
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int sync_file(int fd, long call)
{
    uint64_t ino = known(fd);
    if (ino && fails(control ? control->sync_us : 0))
        return -1;
    int result = syscall(call, fd);
    if (ino && !result)
        note('s', ino, 0, NULL, NULL, NULL, 0);
    return result;
}

int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

static int remove_name(int folder, const char *path, int flags)
{
    int ours = folder == AT_FDCWD && inside(path);
    if (ours && fails(0))
        return -1;
    int result = syscall(SYS_unlinkat, folder, path, flags);
    if (ours && !result)
        note('u', 0, 0, path, NULL, NULL, 0);
    return result;
}

int unlink(const char *path) { return remove_name(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { return remove_name(folder, path, flags); }
int rmdir(const char *path) { return remove_name(AT_FDCWD, path, AT_REMOVEDIR); }

int rename(const char *from, const char *to)
{
    int ours = inside(from) && inside(to);
    if (ours && fails(0))
        return -1;
    int result = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (ours && !result)
        note('r', 0, 0, from, to, NULL, 0);
    return result;
}

static int make_folder(int folder, const char *path, mode_t mode)
{
    int ours = folder == AT_FDCWD && inside(path);
    if (ours && fails(0))
        return -1;
    int result = syscall(SYS_mkdirat, folder, path, mode);
    struct stat status;
    if (ours && !result && !lstat(path, &status))
        note('d', status.st_ino, 0, path, NULL, NULL, 0);
    return result;
}

int mkdir(const char *path, mode_t mode) { return make_folder(AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return make_folder(folder, path, mode); }
