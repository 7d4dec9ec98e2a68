# A byte ring with one writer and one reader, holding text as it is written out: the reader hands it to the kernel where
# it lies. The head moves only after a whole line is in, so a writer killed half way leaves nothing; the tail moves only
# after bytes are out. Both only grow; their difference is what is in the ring.
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy
from flyproxy._speedups.shm.logring_layout cimport RING_BYTES, LogRing
from flyproxy._speedups.shm.platform cimport fp_acquire_u64, fp_load_u64, fp_release_u64
from flyproxy._speedups.shm.segments cimport NOBODY, SEG_LOGS, Shm, shm_attach, shm_unmap

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *parts, int n)

cdef enum:
    NEWLINE = 10
    AT_ONCE = 262144            # bytes of one write: the worker gets room while a slow one goes on

cdef struct Moved:
    uint64_t written            # whole lines
    uint64_t lost
    int error                   # errno of the last refusal; 0: all is written
    bint torn                   # what was written ends inside a line


cdef inline LogRing *ring_of(Shm *shm, uint32_t proc) noexcept nogil:
    return <LogRing *>(shm.base[SEG_LOGS] + proc * shm.at.log_stride) if proc < shm.sizes.procs else NULL


# -- the worker's end
cdef int logring_put(Shm *shm, const char *line, uint32_t n) noexcept nogil:
    cdef LogRing *ring = ring_of(shm, shm.proc)
    cdef uint8_t *data = <uint8_t *>(ring + 1)
    cdef uint64_t head, used
    cdef uint32_t offset, first
    if ring == NULL or n > LOG_LINE_MAX:
        return 0
    head = fp_load_u64(&ring.head)
    used = head - fp_acquire_u64(&ring.tail)
    if used > RING_BYTES or RING_BYTES - used < n + 1:
        return 0
    offset = <uint32_t>(head & (RING_BYTES - 1))
    first = min(n, <uint32_t>RING_BYTES - offset)
    memcpy(data + offset, line, first)
    memcpy(data, line + first, n - first)
    data[(head + n) & (RING_BYTES - 1)] = NEWLINE
    fp_release_u64(&ring.head, head + n + 1)
    return 1


# -- control's end
cdef uint64_t held_by(LogRing *ring) noexcept nogil:
    """Bytes in the ring; one that no writer of ours can have left begins anew."""
    cdef uint64_t head = fp_acquire_u64(&ring.head)
    cdef uint64_t held = head - fp_load_u64(&ring.tail)
    if held > RING_BYTES:
        fp_release_u64(&ring.tail, head)
        return 0
    return held


cdef uint32_t runs_of(const LogRing *ring, uint64_t at, uint64_t n, iovec *runs) noexcept nogil:
    """The one or two runs of memory in which `n` bytes from `at` on lie."""
    cdef uint8_t *data = <uint8_t *>(ring + 1)
    cdef uint64_t offset = at & (RING_BYTES - 1)
    runs[0].iov_base = data + offset
    runs[0].iov_len = min(n, RING_BYTES - offset)
    runs[1].iov_base = data
    runs[1].iov_len = n - runs[0].iov_len
    return 2 if runs[1].iov_len else 1


cdef uint64_t lines_in(const iovec *runs, uint32_t n) noexcept nogil:
    cdef uint64_t lines = 0
    cdef const char *at
    cdef const char *end
    cdef uint32_t k
    for k in range(n):
        at = <const char *>runs[k].iov_base
        end = at + runs[k].iov_len
        while at != end:
            at = <const char *>memchr(at, NEWLINE, <size_t>(end - at))
            if at == NULL:
                break
            lines += 1
            at += 1
    return lines


cdef ssize_t write_parts(int fd, const iovec *parts, uint32_t n) noexcept nogil:
    cdef ssize_t done = writev(fd, parts, <int>n)
    while done < 0 and errno == EINTR:
        done = writev(fd, parts, <int>n)
    return done if done >= 0 else -<ssize_t>errno


cdef void end_torn_line(int fd, Moved *moved) noexcept nogil:
    cdef char newline = NEWLINE
    cdef iovec part
    cdef ssize_t done
    part.iov_base = &newline
    part.iov_len = 1
    done = write_parts(fd, &part, 1)
    if done == 1:
        moved.torn = False
    else:
        moved.error = <int>-done


cdef void write_ring(LogRing *ring, int fd, Moved *moved) noexcept nogil:
    """Moves what the ring holds to `fd`. What `fd` refuses is lost: a ring that kept it would lose newer lines."""
    cdef iovec runs[2]
    cdef uint64_t at = fp_load_u64(&ring.tail)
    cdef uint64_t end = at + held_by(ring)
    cdef ssize_t done
    moved.error = 0
    if moved.torn:
        end_torn_line(fd, moved)
    while at != end and not moved.error:
        done = write_parts(fd, runs, runs_of(ring, at, min(end - at, <uint64_t>AT_ONCE), runs))
        if done <= 0:
            moved.error = <int>-done
            break
        moved.written += lines_in(runs, runs_of(ring, at, <uint64_t>done, runs))
        at += <uint64_t>done
        moved.torn = (<uint8_t *>(ring + 1))[(at - 1) & (RING_BYTES - 1)] != NEWLINE
        fp_release_u64(&ring.tail, at)
    if at != end:
        moved.lost += lines_in(runs, runs_of(ring, at, end - at, runs))
        fp_release_u64(&ring.tail, end)


cdef uint32_t take_line(LogRing *ring, char *out) noexcept nogil:
    """The oldest line with its newline into `out` (room for LOG_LINE_MAX + 1): its bytes; 0: the ring is empty."""
    cdef iovec runs[2]
    cdef uint64_t tail = fp_load_u64(&ring.tail)
    cdef uint64_t held = held_by(ring)
    cdef uint64_t n = min(held, <uint64_t>LOG_LINE_MAX + 1)
    cdef const char *end
    if held == 0:
        return 0
    runs_of(ring, tail, n, runs)
    memcpy(out, runs[0].iov_base, runs[0].iov_len)
    memcpy(out + runs[0].iov_len, runs[1].iov_base, runs[1].iov_len)
    end = <const char *>memchr(out, NEWLINE, n)
    if end == NULL:
        fp_release_u64(&ring.tail, tail + held)     # no writer of ours leaves this: begin anew
        return 0
    n = <uint64_t>(end - out) + 1
    fp_release_u64(&ring.tail, tail + n)
    return <uint32_t>n


cdef class LogReader:
    """The one reader of the access-log rings (control). `fds`: {segment name: descriptor}, "logs" writable."""
    cdef Shm shm

    def __cinit__(self, dict fds):
        shm_attach(&self.shm, fds, 1 << SEG_LOGS, NOBODY)

    def __dealloc__(self):
        shm_unmap(&self.shm)

    def fullest(self):
        """How full the fullest ring is, of 1."""
        cdef uint32_t proc
        cdef uint64_t most = 0
        for proc in range(self.shm.sizes.procs):
            most = max(most, held_by(ring_of(&self.shm, proc)))
        return most / <double>RING_BYTES

    def write(self, int fd, bint torn):
        """Writes what all rings hold to `fd`, oldest first in each, as it lies there, without the GIL; may block as
        `fd` does. `torn`: what `fd` got last ended inside a line, which is ended first. Returns (lines written, lines
        lost because `fd` refused them, errno of the last refusal or 0, torn for the next call)."""
        cdef Moved moved
        cdef uint32_t proc
        cdef LogRing *ring
        cdef int error = 0
        moved.written = moved.lost = 0
        moved.torn = torn
        with nogil:
            for proc in range(self.shm.sizes.procs):
                ring = ring_of(&self.shm, proc)
                if held_by(ring):
                    write_ring(ring, fd, &moved)
                    if moved.error:
                        error = moved.error
        return moved.written, moved.lost, error, moved.torn

    def take(self, int most):
        """At most `most` lines of each ring, oldest first, without their newlines."""
        cdef char line[LOG_LINE_MAX + 1]
        cdef uint32_t proc, n
        cdef int _line
        lines = []
        for proc in range(self.shm.sizes.procs):
            for _line in range(most):
                n = take_line(ring_of(&self.shm, proc), line)
                if n == 0:
                    break
                lines.append(line[:n - 1])
        return lines
