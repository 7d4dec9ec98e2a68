# Buffers of power-of-two sizes from free lists: the engine's only allocator after start. Idle connections hold none.
# One Pool per engine thread; nothing here is shared between threads.
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    BUF_MIN_SHIFT = 11          # 2 KiB
    BUF_CLASSES = 15
    BUF_MAX = 32 << 20          # twice the largest limit `buffer`, for what comes on top of it

cdef struct Pool:
    void *free_head[BUF_CLASSES]
    uint64_t used               # bytes handed out
    uint64_t held               # bytes in free lists
    uint64_t held_max           # more than this goes back to the system

cdef struct Buf:                # bytes [start, end) of data are filled; data NULL: holds nothing
    char *data
    uint32_t cap
    uint32_t start
    uint32_t end

cdef void pool_init(Pool *pool, uint64_t held_max) noexcept nogil
cdef void pool_clear(Pool *pool) noexcept nogil
# Room for at least `cap` bytes in an empty Buf; 0 when memory is exhausted.
cdef int buf_take(Pool *pool, Buf *b, uint32_t cap) noexcept nogil
cdef void buf_give(Pool *pool, Buf *b) noexcept nogil
# Room for `n` bytes after end: moves the content to the front or to a larger buffer. 0 when memory is exhausted.
cdef int buf_room(Pool *pool, Buf *b, uint32_t n) noexcept nogil

cdef inline uint32_t buf_len(const Buf *b) noexcept nogil:
    return b.end - b.start

cdef inline int buf_append(Pool *pool, Buf *b, const char *p, uint32_t n) noexcept nogil:
    if b.cap - b.end < n and not buf_room(pool, b, n):
        return 0
    memcpy(b.data + b.end, p, n)
    b.end += n
    return 1

# Drops n bytes from the front; an emptied buffer goes back to the pool.
cdef inline void buf_consume(Pool *pool, Buf *b, uint32_t n) noexcept nogil:
    b.start += n
    if b.start == b.end and b.data != NULL:
        buf_give(pool, b)
