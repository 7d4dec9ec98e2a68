# A growing table of fixed-size elements with stable addresses, addressed by index. Freed elements are reused,
# youngest first.
from libc.stdint cimport uint32_t

cdef enum:
    SLAB_SHIFT = 8              # elements per chunk: 256
    SLAB_CHUNKS = 16384         # at most 4 Mi elements

cdef struct Slab:
    char **chunks
    uint32_t nchunks
    uint32_t element            # bytes, multiple of 16
    uint32_t free_head          # index, SLAB_NONE when empty
    uint32_t used
    uint32_t top                # indexes below were handed out at least once

cdef enum:
    SLAB_NONE = 0xFFFFFFFF

cdef int slab_init(Slab *s, uint32_t element) noexcept nogil
cdef void slab_clear(Slab *s) noexcept nogil
# Index of a zero-filled element, SLAB_NONE when memory is exhausted.
cdef uint32_t slab_take(Slab *s) noexcept nogil
cdef void slab_give(Slab *s, uint32_t index) noexcept nogil

# NULL for an index that was never handed out.
cdef inline void *slab_at(Slab *s, uint32_t index) noexcept nogil:
    if index >= s.top:
        return NULL
    return s.chunks[index >> SLAB_SHIFT] + <size_t>(index & ((1 << SLAB_SHIFT) - 1)) * s.element
