# Access log: one ring per process index of final, escaped lines. The worker writes, control drains; full: dropped and
# counted.
from libc.stdint cimport uint32_t
from flyproxy._speedups.shm.segments cimport Shm

cdef enum:
    LOG_LINE_MAX = 4096         # longer lines are cut by the writer

# 1: stored; 0: the ring is full or the line too long.
cdef int logring_put(Shm *shm, const char *line, uint32_t n) noexcept nogil
# The oldest line of a process's ring into `out` (room for LOG_LINE_MAX): its bytes; 0: the ring is empty.
cdef uint32_t logring_take(Shm *shm, uint32_t proc, char *out) noexcept nogil
