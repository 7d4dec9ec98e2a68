# Access log: one ring per process index of final, escaped lines. The worker writes, control drains; full: dropped and
# counted.
from libc.stdint cimport uint32_t
from flyproxy._speedups.shm.segments cimport Shm

cdef enum:
    LOG_LINE_MAX = 4096         # without its newline; longer lines are cut by the writer

# `line` holds no newline; one is added. 1: stored; 0: the ring is full or the line too long.
cdef int logring_put(Shm *shm, const char *line, uint32_t n) noexcept nogil
