from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memmove, memset

cdef enum:
    FEW = 32                    # points to move into place one by one; more are cheaper to sort


cdef int compare(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t *>a)[0]
    cdef uint64_t y = (<const uint64_t *>b)[0]
    return (x > y) - (x < y)


cdef uint32_t lower_bound(const uint64_t *points, uint32_t n, uint64_t point) noexcept nogil:
    cdef uint32_t low = 0, middle
    while n:
        middle = n // 2
        if points[low + middle] < point:
            low += middle + 1
            n -= middle + 1
        else:
            n = middle
    return low


cdef int ring_add(Ring *ring, uint64_t id_hash, uint32_t slot) noexcept nogil:
    cdef uint64_t *points
    cdef uint32_t cap, i
    if ring.n + MACHINE_POINTS > ring.cap:
        cap = max(ring.cap * 2, <uint32_t>8 * MACHINE_POINTS)
        points = <uint64_t *>realloc(ring.points, cap * sizeof(uint64_t))
        if points == NULL:
            return -1
        ring.points = points
        ring.cap = cap
    for i in range(<uint32_t>MACHINE_POINTS):
        ring.points[ring.n] = ring_point(id_hash, i, slot)
        ring.n += 1
    return 0


cdef void ring_remove(Ring *ring, uint64_t id_hash, uint32_t slot) noexcept nogil:
    cdef uint32_t i, at
    cdef uint64_t point
    ring_settle(ring)
    for i in range(<uint32_t>MACHINE_POINTS):
        point = ring_point(id_hash, i, slot)
        at = lower_bound(ring.points, ring.n, point)
        if at < ring.n and ring.points[at] == point:
            memmove(&ring.points[at], &ring.points[at + 1], (ring.n - at - 1) * sizeof(uint64_t))
            ring.n -= 1
    ring.sorted = ring.n


cdef void ring_settle(Ring *ring) noexcept nogil:
    cdef uint64_t point
    cdef uint32_t at
    if ring.n - ring.sorted > FEW:
        qsort(ring.points, ring.n, sizeof(uint64_t), compare)
        ring.sorted = ring.n
    while ring.sorted < ring.n:
        point = ring.points[ring.sorted]
        at = lower_bound(ring.points, ring.sorted, point)
        memmove(&ring.points[at + 1], &ring.points[at], (ring.sorted - at) * sizeof(uint64_t))
        ring.points[at] = point
        ring.sorted += 1


cdef void ring_clear(Ring *ring) noexcept nogil:
    free(ring.points)
    memset(ring, 0, sizeof(Ring))
