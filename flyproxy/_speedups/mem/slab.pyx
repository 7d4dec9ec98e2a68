"""A table of fixed-size elements in chunks: addresses never move, an index finds its element by shift and add."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset


cdef int slab_init(Slab *s, uint32_t element) noexcept nogil:
    memset(s, 0, sizeof(Slab))
    s.element = (element + 15) & ~<uint32_t>15
    s.free_head = SLAB_NONE
    s.chunks = <char **>calloc(SLAB_CHUNKS, sizeof(char *))
    return s.chunks != NULL


cdef void slab_clear(Slab *s) noexcept nogil:
    cdef uint32_t k
    for k in range(s.nchunks):
        free(s.chunks[k])
    free(s.chunks)
    memset(s, 0, sizeof(Slab))


cdef uint32_t slab_take(Slab *s) noexcept nogil:
    cdef uint32_t index = s.free_head
    cdef void *element
    if index != SLAB_NONE:
        element = slab_at(s, index)
        s.free_head = (<uint32_t *>element)[0]
    else:
        index = s.top
        if index >> SLAB_SHIFT == s.nchunks:
            if s.nchunks == SLAB_CHUNKS:
                return SLAB_NONE
            s.chunks[s.nchunks] = <char *>malloc(<size_t>s.element << SLAB_SHIFT)
            if s.chunks[s.nchunks] == NULL:
                return SLAB_NONE
            s.nchunks += 1
        s.top += 1
        element = slab_at(s, index)
    memset(element, 0, s.element)
    s.used += 1
    return index


cdef void slab_give(Slab *s, uint32_t index) noexcept nogil:
    cdef uint32_t *element = <uint32_t *>slab_at(s, index)
    element[0] = s.free_head
    s.free_head = index
    s.used -= 1
