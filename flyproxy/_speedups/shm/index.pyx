from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from flyproxy._speedups.shm.arena cimport Arena, arena_at, arena_retire, arena_take
from flyproxy._speedups.shm.platform cimport fp_bit_length, fp_load_u64, fp_release_u32, fp_release_u64, fp_store_u64
from flyproxy._speedups.shm.table_layout cimport REF_EMPTY, REF_GONE, IndexSlot

cdef enum:
    LEAST_BITS = 6              # log2 of the slots of an empty index


cdef inline uint64_t slots_of(const Index *index) noexcept nogil:
    return (<uint64_t>1) << (fp_load_u64(index.word) >> 32 & 31)


cdef inline IndexSlot *slots_at(const Index *index, Arena *arena) noexcept nogil:
    return <IndexSlot *>arena_at(arena, <uint32_t>fp_load_u64(index.word))


cdef void place(IndexSlot *slots, uint64_t mask, uint64_t hash, uint32_t ref) noexcept nogil:
    """Into an array that no reader sees yet and that has room."""
    cdef uint64_t i = hash
    while slots[i & mask].ref != REF_EMPTY:
        i += 1
    slots[i & mask].hash = hash
    slots[i & mask].ref = ref


cdef int rebuild(Index *index, Arena *arena, uint32_t bits) noexcept nogil:
    """All keys into a new array of 2^bits slots, published by one store."""
    cdef uint64_t n = (<uint64_t>1) << bits, i
    cdef uint32_t old = <uint32_t>fp_load_u64(index.word)
    cdef uint32_t ref = arena_take(arena, n * sizeof(IndexSlot))
    cdef IndexSlot *slots
    cdef IndexSlot *was
    if ref == 0:
        return -1
    slots = <IndexSlot *>arena_at(arena, ref)
    memset(slots, 0, n * sizeof(IndexSlot))
    if old:
        was = slots_at(index, arena)
        for i in range(slots_of(index)):
            if was[i].ref > REF_GONE:
                place(slots, n - 1, was[i].hash, was[i].ref)
    fp_release_u64(index.word, ref | (<uint64_t>bits << 32))
    index.gone = 0
    if old:
        arena_retire(arena, old)
    return 0


cdef int index_open(Index *index, Arena *arena, uint64_t *word) noexcept nogil:
    index.word = word
    index.live = 0
    index.gone = 0
    fp_store_u64(word, 0)
    return rebuild(index, arena, LEAST_BITS)


cdef int index_reserve(Index *index, Arena *arena, uint32_t keys) noexcept nogil:
    cdef uint32_t bits = max(fp_bit_length(<uint64_t>keys * 2 - 1 if keys else 0), <uint32_t>LEAST_BITS)
    cdef uint64_t slots = slots_of(index)
    # An array only grows: shrinking would let two sizes alternate at the border.
    if ((<uint64_t>1) << bits) > slots:
        return rebuild(index, arena, bits)
    if index.gone > slots // 4:
        return rebuild(index, arena, fp_bit_length(slots - 1))
    return 0


cdef uint32_t index_put(Index *index, Arena *arena, uint64_t hash, uint32_t ref) noexcept nogil:
    cdef IndexSlot *slots = slots_at(index, arena)
    cdef uint64_t mask = slots_of(index) - 1, i = hash
    cdef const KeyBlock *key = <const KeyBlock *>arena_at(arena, ref)
    cdef IndexSlot *spot = NULL     # the first removed slot on the way
    cdef IndexSlot *slot
    cdef uint32_t old
    while True:
        slot = &slots[i & mask]
        old = slot.ref
        if old == REF_EMPTY:
            break
        if old == REF_GONE:
            spot = slot if spot == NULL else spot
        elif slot.hash == hash and key_at(arena.base, <uint64_t>arena.end * GRANULE, old, key.key, key.n) != NULL:
            fp_release_u32(&slot.ref, ref)
            return old
        i += 1
    if spot != NULL:
        index.gone -= 1
        slot = spot
    fp_store_u64(&slot.hash, hash)      # before the reference: a reader compares the hash only after it saw one
    fp_release_u32(&slot.ref, ref)
    index.live += 1
    return 0


cdef void clear_tail(Index *index, IndexSlot *slots, uint64_t mask, uint64_t i) noexcept nogil:
    """Removed slots before an empty one need not be probed: a reader on its way through finds the empty one anyway."""
    while slots[i & mask].ref == REF_GONE and slots[(i + 1) & mask].ref == REF_EMPTY:
        fp_release_u32(&slots[i & mask].ref, REF_EMPTY)
        index.gone -= 1
        i -= 1


cdef uint32_t index_remove(Index *index, Arena *arena, uint64_t hash, const void *key, uint32_t n) noexcept nogil:
    cdef IndexSlot *slots = slots_at(index, arena)
    cdef uint64_t mask = slots_of(index) - 1, i = hash
    cdef uint32_t old
    while True:
        old = slots[i & mask].ref
        if old == REF_EMPTY:
            return 0
        if (old != REF_GONE and slots[i & mask].hash == hash
                and key_at(arena.base, <uint64_t>arena.end * GRANULE, old, key, n) != NULL):
            break
        i += 1
    fp_release_u32(&slots[i & mask].ref, REF_GONE)
    index.gone += 1
    index.live -= 1
    clear_tail(index, slots, mask, i)
    return old
