# Points of the consistent-hash ring. A machine's points follow from its id under the key that all edges share, so every
# edge builds the same ring. A few points are enough, because keys look at several places (route/ring.pxd). The slot
# rides in the low bits of a point.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.shm.platform cimport fp_split
from flyproxy._speedups.shm.table_layout cimport SLOT_BITS

cdef enum:
    MACHINE_POINTS = 4

cdef inline uint64_t ring_point(uint64_t id_hash, uint32_t i, uint32_t slot) noexcept nogil:
    """The i-th point of a machine; `id_hash`: SipHash of its id."""
    return fp_split(id_hash, i) >> SLOT_BITS << SLOT_BITS | slot

cdef inline uint32_t ring_slot(uint64_t point) noexcept nogil:
    return <uint32_t>(point & ((1 << SLOT_BITS) - 1))

cdef struct Ring:               # the writer's: sorted up to `sorted`, new points behind
    uint64_t *points
    uint32_t n
    uint32_t sorted
    uint32_t cap

# All points of a machine. -1: no memory.
cdef int ring_add(Ring *ring, uint64_t id_hash, uint32_t slot) noexcept nogil
cdef void ring_remove(Ring *ring, uint64_t id_hash, uint32_t slot) noexcept nogil
# Sorts what was added since.
cdef void ring_settle(Ring *ring) noexcept nogil
cdef void ring_clear(Ring *ring) noexcept nogil
