# What happens when a capacity of the table is used up: one exception, and a count of how often it was raised.
from libc.stdint cimport uint64_t
from flyproxy._speedups.shm.arena cimport Arena
from flyproxy._speedups.shm.segments cimport Shm

cdef class Room:
    cdef Shm *shm
    cdef Arena *arena
    cdef uint64_t refused       # changes refused since the segment was built

    # The exceptions to raise.
    cdef full(self, str capacity, limit, str setting, str remark=*)
    cdef memory_full(self)
    # Live process indexes that may hold something of `epoch` or of one before.
    cdef list readers(self, uint64_t epoch)
