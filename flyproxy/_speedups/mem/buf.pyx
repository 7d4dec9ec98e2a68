"""Buffers from free lists: sizes are powers of two from 2 KiB to 32 MiB, so that any freed one serves the next of its
class.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memmove, memset

cdef enum:
    CHEAP = 256 << 10           # bytes to move that nobody notices


cdef inline uint32_t class_of(uint32_t cap) noexcept nogil:
    cdef uint32_t k = 0
    while (<uint32_t>1 << (BUF_MIN_SHIFT + k)) < cap:
        k += 1
    return k


cdef void pool_init(Pool *pool, uint64_t held_max) noexcept nogil:
    memset(pool, 0, sizeof(Pool))
    pool.held_max = held_max


cdef void pool_clear(Pool *pool) noexcept nogil:
    cdef uint32_t k
    cdef void *block
    for k in range(<uint32_t>BUF_CLASSES):
        while pool.free_head[k] != NULL:
            block = pool.free_head[k]
            pool.free_head[k] = (<void **>block)[0]
            free(block)
    pool.held = 0


cdef int buf_take(Pool *pool, Buf *b, uint32_t cap) noexcept nogil:
    cdef uint32_t k = class_of(cap)
    cdef uint32_t size
    if k >= BUF_CLASSES:
        return 0
    size = <uint32_t>1 << (BUF_MIN_SHIFT + k)
    b.data = <char *>pool.free_head[k]
    if b.data != NULL:
        pool.free_head[k] = (<void **>b.data)[0]
        pool.held -= size
    else:
        b.data = <char *>malloc(size)
        if b.data == NULL:
            return 0
    pool.used += size
    b.cap = size
    b.start = 0
    b.end = 0
    return 1


cdef void buf_give(Pool *pool, Buf *b) noexcept nogil:
    cdef uint32_t k
    if b.data == NULL:
        return
    pool.used -= b.cap
    if pool.held + b.cap > pool.held_max:
        free(b.data)
    else:
        k = class_of(b.cap)
        (<void **>b.data)[0] = pool.free_head[k]
        pool.free_head[k] = b.data
        pool.held += b.cap
    memset(b, 0, sizeof(Buf))


cdef int buf_room(Pool *pool, Buf *b, uint32_t n) noexcept nogil:
    cdef Buf bigger
    cdef uint32_t length = b.end - b.start
    if b.data == NULL:
        return buf_take(pool, b, n)
    # Much is moved only when as much has been taken out since: else a nearly full buffer would move at every append.
    if b.cap - length >= n and (length <= CHEAP or b.start >= length or b.cap == BUF_MAX):
        memmove(b.data, b.data + b.start, length)
        b.start = 0
        b.end = length
        return 1
    if not buf_take(pool, &bigger, length + n):
        return 0
    memmove(bigger.data, b.data + b.start, length)
    bigger.end = length
    buf_give(pool, b)
    b[0] = bigger
    return 1
