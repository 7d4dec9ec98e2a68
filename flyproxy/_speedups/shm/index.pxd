# The hash indexes of the table: key bytes (host name or address) to app id. Open addressing over SipHash, names
# verified in full. The reader's half is here; the writer's half replaces references in place and rebuilds the whole
# slot array into a new block when it is more than half full of keys or a quarter full of removed ones, so probes stay
# short for ever.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp
from flyproxy._speedups.shm.arena cimport Arena
from flyproxy._speedups.shm.platform cimport fp_acquire_u32, fp_load_u64
from flyproxy._speedups.shm.table_layout cimport GRANULE, HEADER_BYTES, REF_EMPTY, REF_GONE, IndexSlot, KeyBlock

# The block at a reference read from shared memory, or NULL when any of its `bytes` would lie outside the segment.
cdef inline const uint8_t *block_at(const uint8_t *base, uint64_t size, uint32_t ref, uint64_t bytes) noexcept nogil:
    cdef uint64_t offset = <uint64_t>ref * GRANULE
    if offset < HEADER_BYTES or offset >= size or bytes > size - offset:
        return NULL
    return base + offset

cdef inline const KeyBlock *key_at(const uint8_t *base, uint64_t size, uint32_t ref, const void *key,
                                   uint32_t n) noexcept nogil:
    """The key block at `ref` if it holds exactly these bytes."""
    cdef const KeyBlock *block = <const KeyBlock *>block_at(base, size, ref, sizeof(KeyBlock) + n)
    if block == NULL or block.n != n or memcmp(block.key, key, n) != 0:
        return NULL
    return block

# `word`: the index word of the header, read once with acquire.
cdef inline const KeyBlock *index_find(const uint8_t *base, uint64_t size, uint64_t word, uint64_t hash,
                                       const void *key, uint32_t n) noexcept nogil:
    cdef uint64_t slots = (<uint64_t>1) << (word >> 32 & 31)
    cdef const IndexSlot *slot = <const IndexSlot *>block_at(base, size, <uint32_t>word, slots * sizeof(IndexSlot))
    cdef const KeyBlock *found
    cdef uint64_t i = hash, _probe
    cdef uint32_t ref
    if slot == NULL:
        return NULL
    for _probe in range(slots):
        ref = fp_acquire_u32(&slot[i & (slots - 1)].ref)
        if ref == REF_EMPTY:
            return NULL
        if ref != REF_GONE and fp_load_u64(&slot[i & (slots - 1)].hash) == hash:
            found = key_at(base, size, ref, key, n)
            if found != NULL:
                return found
        i += 1
    return NULL

cdef struct Index:              # the writer's view of one index
    uint64_t *word              # in the header
    uint32_t live               # keys
    uint32_t gone               # slots of removed keys

# All return -1 when the arena is full, with nothing changed.
cdef int index_open(Index *index, Arena *arena, uint64_t *word) noexcept nogil
# Room for `keys` keys in all: index_put cannot fail up to there.
cdef int index_reserve(Index *index, Arena *arena, uint32_t keys) noexcept nogil
# Publishes the key block; the block it replaces (0: none).
cdef uint32_t index_put(Index *index, Arena *arena, uint64_t hash, uint32_t ref) noexcept nogil
# Unpublishes a key; its block (0: was not there).
cdef uint32_t index_remove(Index *index, Arena *arena, uint64_t hash, const void *key, uint32_t n) noexcept nogil
