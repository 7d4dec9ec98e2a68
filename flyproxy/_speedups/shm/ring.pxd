# Points of the consistent-hash ring. A machine has one point, the hash of its id under the key that all edges share, so every
# edge builds the same ring; keys look at several places instead (route/ring.pxd). The slot rides in the low bits.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.platform cimport fp_siphash13
from flyproxy._speedups.shm.table_layout cimport SLOT_BITS

cdef inline uint64_t ring_point(const uint64_t *key, const char *id, uint32_t id_n, uint32_t slot) noexcept nogil:
    return fp_siphash13(key, id, id_n) >> SLOT_BITS << SLOT_BITS | slot

cdef inline uint32_t ring_slot(uint64_t point) noexcept nogil:
    return <uint32_t>(point & ((1 << SLOT_BITS) - 1))

cdef struct Ring:               # the writer's: sorted up to `sorted`, new points behind
    uint64_t *points
    uint32_t n
    uint32_t sorted
    uint32_t cap

# -1: no memory.
cdef int ring_add(Ring *ring, uint64_t point) noexcept nogil
cdef void ring_remove(Ring *ring, uint64_t point) noexcept nogil
# Sorts what was added since.
cdef void ring_settle(Ring *ring) noexcept nogil
cdef void ring_clear(Ring *ring) noexcept nogil
