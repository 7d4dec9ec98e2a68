# The streams of a connection: found by id, opened, closed, given back.
from libc.stdint cimport uint32_t
from flyproxy._speedups.proto.http2_types cimport H2Stream, Http2

cdef H2Stream *stream_find(const Http2 *c, uint32_t id) noexcept nogil
# NULL when memory is exhausted.
cdef H2Stream *stream_open(Http2 *c, uint32_t id) noexcept nogil
cdef void stream_release(Http2 *c, H2Stream *stream) noexcept nogil
cdef void stream_remember_reset(Http2 *c, uint32_t id) noexcept nogil
# 1 when a frame on this closed stream may be one that the peer sent before it knew of our RST_STREAM.
cdef int stream_was_reset(const Http2 *c, uint32_t id) noexcept nogil

cdef inline bint stream_is_peers(const Http2 *c, uint32_t id) noexcept nogil:
    return (id & 1) == c.config.server
