# Memory of one table segment: a buddy allocator in granules of 64 bytes, whose notes lie in the writer's own memory,
# and the queue of blocks that were replaced and wait until no reader can hold them any more.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from flyproxy._speedups.shm.segments cimport Shm

cdef enum:
    ORDERS = 27                 # largest block: 64 << 26 = 4 GiB

cdef struct Retired:
    uint64_t epoch              # readers of this epoch or an older one may hold it
    uint32_t ref

cdef struct Arena:
    Shm *shm
    uint8_t *base               # of the segment
    uint32_t first              # granules of the segment: arena is [first, end)
    uint32_t end
    uint8_t *notes              # per granule: order + 1 of the block that begins here, FREE when it is free
    uint32_t free[ORDERS]       # first free block of each order, 0: none
    uint64_t used               # bytes handed out, retired ones included
    uint64_t peak               # largest `used`
    uint64_t waiting            # bytes retired
    Retired *queue              # ring
    uint32_t queue_n
    uint32_t queue_head
    uint32_t queue_cap          # power of two

# -1 when the system gives no memory.
cdef int arena_open(Arena *a, Shm *shm, uint8_t *base, uint64_t offset, uint64_t size) noexcept nogil
cdef void arena_close(Arena *a) noexcept nogil
# Reference of a block of at least `bytes`, aligned to 64; 0: full, even after arena_recycle.
cdef uint32_t arena_take(Arena *a, uint64_t bytes) noexcept nogil
# Gives back a block that no reader has ever seen.
cdef void arena_give(Arena *a, uint32_t ref) noexcept nogil
# Gives back a block that was unpublished just now: it is free after the grace period. (When the system has no memory
# left to note that, the block is lost until the segment is built anew.)
cdef void arena_retire(Arena *a, uint32_t ref) noexcept nogil
# Frees what no reader can hold any more; bytes freed.
cdef uint64_t arena_recycle(Arena *a) noexcept nogil

cdef inline void *arena_at(Arena *a, uint32_t ref) noexcept nogil:
    return a.base + <uint64_t>ref * 64
