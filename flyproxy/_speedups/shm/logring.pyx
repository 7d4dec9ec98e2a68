# A byte ring with one writer and one reader. The head moves only after the whole record is in, so a writer killed half
# way leaves nothing; the tail moves only after the whole record is out. Both only grow; their difference is what is in
# the ring.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from flyproxy._speedups.shm.logring_layout cimport RING_BYTES, LogRing
from flyproxy._speedups.shm.platform cimport fp_acquire_u64, fp_load_u64, fp_release_u64
from flyproxy._speedups.shm.segments cimport NOBODY, SEG_LOGS, Shm, shm_attach, shm_unmap


cdef inline LogRing *ring_of(Shm *shm, uint32_t proc) noexcept nogil:
    return <LogRing *>(shm.base[SEG_LOGS] + proc * shm.at.log_stride) if proc < shm.sizes.procs else NULL


cdef void copy_in(LogRing *ring, uint64_t at, const void *bytes, uint32_t n) noexcept nogil:
    cdef uint8_t *data = <uint8_t *>(ring + 1)
    cdef uint32_t offset = <uint32_t>(at & (RING_BYTES - 1))
    cdef uint32_t first = min(n, <uint32_t>RING_BYTES - offset)
    memcpy(data + offset, bytes, first)
    memcpy(data, <const uint8_t *>bytes + first, n - first)


cdef void copy_out(const LogRing *ring, uint64_t at, void *bytes, uint32_t n) noexcept nogil:
    cdef const uint8_t *data = <const uint8_t *>(ring + 1)
    cdef uint32_t offset = <uint32_t>(at & (RING_BYTES - 1))
    cdef uint32_t first = min(n, <uint32_t>RING_BYTES - offset)
    memcpy(bytes, data + offset, first)
    memcpy(<uint8_t *>bytes + first, data, n - first)


cdef int logring_put(Shm *shm, const char *line, uint32_t n) noexcept nogil:
    cdef LogRing *ring = ring_of(shm, shm.proc)
    cdef uint64_t head, used
    if ring == NULL or n > LOG_LINE_MAX:
        return 0
    head = fp_load_u64(&ring.head)
    used = head - fp_acquire_u64(&ring.tail)
    if used > RING_BYTES or RING_BYTES - used < n + sizeof(uint32_t):
        return 0
    copy_in(ring, head, &n, sizeof(uint32_t))
    copy_in(ring, head + sizeof(uint32_t), line, n)
    fp_release_u64(&ring.head, head + sizeof(uint32_t) + n)
    return 1


cdef uint32_t logring_take(Shm *shm, uint32_t proc, char *out) noexcept nogil:
    cdef LogRing *ring = ring_of(shm, proc)
    cdef uint64_t head, tail
    cdef uint32_t n
    if ring == NULL:
        return 0
    while True:
        head = fp_acquire_u64(&ring.head)
        tail = fp_load_u64(&ring.tail)
        if head == tail:
            return 0
        if head - tail > RING_BYTES or head - tail < sizeof(uint32_t):
            fp_release_u64(&ring.tail, head)    # not what a writer of ours leaves: begin anew
            return 0
        copy_out(ring, tail, &n, sizeof(uint32_t))
        if n > LOG_LINE_MAX or n + sizeof(uint32_t) > head - tail:
            fp_release_u64(&ring.tail, head)
            return 0
        copy_out(ring, tail + sizeof(uint32_t), out, n)
        fp_release_u64(&ring.tail, tail + sizeof(uint32_t) + n)
        if n:
            return n


cdef class LogReader:
    """The one reader of the access-log rings (control). `fds`: {segment name: descriptor}, "logs" writable."""
    cdef Shm shm

    def __cinit__(self, dict fds):
        shm_attach(&self.shm, fds, 1 << SEG_LOGS, NOBODY)

    def __dealloc__(self):
        shm_unmap(&self.shm)

    def drain(self, uint32_t proc, int max_lines):
        """Takes at most `max_lines` lines of one process out of its ring, oldest first, as the worker wrote them."""
        cdef char line[LOG_LINE_MAX]
        cdef uint32_t n
        lines = []
        if proc >= self.shm.sizes.procs:
            raise ValueError(f"log ring: process index {proc} does not exist; there are {self.shm.sizes.procs}")
        while len(lines) < max_lines:
            n = logring_take(&self.shm, proc, line)
            if n == 0:
                break
            lines.append(line[:n])
        return lines
