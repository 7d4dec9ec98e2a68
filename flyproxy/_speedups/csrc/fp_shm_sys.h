/* The system calls behind shared memory: sealed memfds, mappings, eventfds, the monotonic clock. */
#ifndef FLYPROXY_SHM_SYS_H
#define FLYPROXY_SHM_SYS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *const FP_SEGMENT_NAMES[] = {
    "flyproxy-root", "flyproxy-table0", "flyproxy-table1", "flyproxy-load", "flyproxy-counters", "flyproxy-logs",
};

/* A memfd of `size` bytes that can neither shrink (a mapped reader would get SIGBUS) nor grow, or a negated errno. */
static inline int fp_memfd(const char *name, uint64_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

/* Size of the file behind fd, or a negated errno. */
static inline int64_t fp_file_size(int fd)
{
    struct stat st;
    return fstat(fd, &st) < 0 ? -(int64_t)errno : (int64_t)st.st_size;
}

/* MAP_NORESERVE: the segments are sparse on purpose, only touched pages count. NULL: see errno. */
static inline void *fp_map(int fd, uint64_t size, int writable)
{
    void *at = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* Gives the pages of a shared mapping back; they read as zero afterwards. 0 or a negated errno. */
static inline int fp_punch(void *at, uint64_t size)
{
    return madvise(at, size, MADV_REMOVE) < 0 ? -errno : 0;
}

/* eventfd(2): a write of 1 fails with EAGAIN only when the count is near 2^64, and then the reader is awake anyway. */
static inline void fp_eventfd_wake(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one);
    (void)ignored;
}

static inline uint64_t fp_monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
#endif
