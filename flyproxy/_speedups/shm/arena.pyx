from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset
from flyproxy._speedups.shm.grace cimport grace_announce_reuse, grace_oldest
from flyproxy._speedups.shm.platform cimport fp_bit_length, fp_load_u64
from flyproxy._speedups.shm.segments cimport Shm
from flyproxy._speedups.shm.table_layout cimport GRANULE

cdef enum:
    FREE = 0x80                 # in a note: the block is free

cdef struct Link:               # at the start of a free block: neighbours in the list of its order, 0: none
    uint32_t next
    uint32_t previous


# -- lists of free blocks; all positions are granules of the segment
cdef inline void push(Arena *a, uint32_t at, uint32_t order) noexcept nogil:
    cdef Link *link = <Link *>arena_at(a, at)
    link.previous = 0
    link.next = a.free[order]
    if link.next:
        (<Link *>arena_at(a, link.next)).previous = at
    a.free[order] = at
    a.notes[at - a.first] = FREE | (order + 1)


cdef inline void unlink(Arena *a, uint32_t at, uint32_t order) noexcept nogil:
    cdef Link *link = <Link *>arena_at(a, at)
    if link.previous:
        (<Link *>arena_at(a, link.previous)).next = link.next
    else:
        a.free[order] = link.next
    if link.next:
        (<Link *>arena_at(a, link.next)).previous = link.previous
    a.notes[at - a.first] = 0


cdef inline uint32_t order_of(uint64_t bytes) noexcept nogil:
    return fp_bit_length((bytes + GRANULE - 1) // GRANULE - 1) if bytes > GRANULE else 0


# -- life
cdef int arena_open(Arena *a, Shm *shm, uint8_t *base, uint64_t offset, uint64_t size) noexcept nogil:
    cdef uint32_t at, order
    memset(a, 0, sizeof(Arena))
    a.shm = shm
    a.base = base
    a.first = <uint32_t>((offset + GRANULE - 1) // GRANULE)
    a.end = <uint32_t>(size // GRANULE)
    a.notes = <uint8_t *>calloc(a.end - a.first, 1)
    if a.notes == NULL:
        return -1
    # Cut the range into the largest aligned blocks, the last first, so that taking begins at the front.
    at = a.end
    while at > a.first:
        order = 0
        while order + 1 < ORDERS and (at - a.first) & ((<uint32_t>2 << order) - 1) == 0:
            order += 1
        at -= <uint32_t>1 << order
        push(a, at, order)
    return 0


cdef void arena_close(Arena *a) noexcept nogil:
    free(a.notes)
    free(a.queue)
    memset(a, 0, sizeof(Arena))


# -- taking and giving
cdef uint32_t take(Arena *a, uint32_t order) noexcept nogil:
    cdef uint32_t have = order, at
    while have < ORDERS and not a.free[have]:
        have += 1
    if have >= ORDERS:
        return 0
    at = a.free[have]
    unlink(a, at, have)
    while have > order:
        have -= 1
        push(a, at + (<uint32_t>1 << have), have)
    a.notes[at - a.first] = order + 1
    return at


cdef uint32_t arena_take(Arena *a, uint64_t bytes) noexcept nogil:
    cdef uint32_t order = order_of(bytes)
    cdef uint32_t at
    if order >= ORDERS:
        return 0
    at = take(a, order)
    if at == 0 and arena_recycle(a):
        at = take(a, order)
    if at:
        a.used += <uint64_t>GRANULE << order
        a.peak = max(a.peak, a.used)
    return at


cdef void arena_give(Arena *a, uint32_t ref) noexcept nogil:
    cdef uint32_t order = a.notes[ref - a.first] - 1
    cdef uint32_t buddy
    a.used -= <uint64_t>GRANULE << order
    a.notes[ref - a.first] = 0
    while order + 1 < ORDERS:
        buddy = ((ref - a.first) ^ (<uint32_t>1 << order)) + a.first
        if buddy + (<uint32_t>1 << order) > a.end or a.notes[buddy - a.first] != (FREE | (order + 1)):
            break
        unlink(a, buddy, order)
        ref = min(ref, buddy)
        order += 1
    push(a, ref, order)


# -- blocks that readers may still hold
cdef int grow_queue(Arena *a) noexcept nogil:
    cdef uint32_t cap = a.queue_cap * 2 if a.queue_cap else 1024
    cdef uint32_t i
    cdef Retired *queue = <Retired *>realloc(a.queue, cap * sizeof(Retired))
    if queue == NULL:
        return -1
    for i in range(a.queue_head):       # what had wrapped to the front goes behind the old end
        queue[a.queue_cap + i] = queue[i]
    a.queue = queue
    a.queue_cap = cap
    return 0


cdef void arena_retire(Arena *a, uint32_t ref) noexcept nogil:
    cdef Retired *entry
    if a.queue_n == a.queue_cap and grow_queue(a) < 0:
        return
    entry = &a.queue[(a.queue_head + a.queue_n) & (a.queue_cap - 1)]
    entry.epoch = fp_load_u64(&a.shm.root.table_epoch)
    entry.ref = ref
    a.queue_n += 1
    a.waiting += <uint64_t>GRANULE << (a.notes[ref - a.first] - 1)


cdef uint64_t arena_recycle(Arena *a) noexcept nogil:
    cdef uint64_t oldest, before = a.used
    cdef uint32_t ref
    if a.queue_n == 0:
        return 0
    oldest = grace_oldest(a.shm)
    if a.queue[a.queue_head].epoch >= oldest:
        return 0
    grace_announce_reuse(a.shm)
    while a.queue_n and a.queue[a.queue_head].epoch < oldest:
        ref = a.queue[a.queue_head].ref
        a.queue_head = (a.queue_head + 1) & (a.queue_cap - 1)
        a.queue_n -= 1
        a.waiting -= <uint64_t>GRANULE << (a.notes[ref - a.first] - 1)
        arena_give(a, ref)
    return before - a.used
