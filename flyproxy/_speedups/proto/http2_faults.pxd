# What a fault of the peer's costs it: a stream, or the connection. Shared by the readers of frames.
from libc.stdint cimport uint8_t, uint32_t
from flyproxy._speedups.proto.http2_types cimport H2Event, H2Io, H2Stream, Http2

# 1: go on; 0: the budget is used up and the connection has failed.
cdef int charge(Http2 *c, uint8_t budget, H2Io *io, H2Event *ev) noexcept nogil
# Resets a stream that the caller may know; an event tells it then.
cdef void fault_stream(Http2 *c, H2Stream *stream, uint32_t code, H2Io *io, H2Event *ev) noexcept nogil
# Resets a stream that has no object.
cdef void fault_id(Http2 *c, uint32_t id, uint32_t code, H2Io *io, H2Event *ev) noexcept nogil
# A verdict of the stream table that is not V_OK; V_IGNORE is charged.
cdef void fault_verdict(Http2 *c, H2Stream *stream, uint8_t verdict, H2Io *io, H2Event *ev) noexcept nogil
# A frame on a stream that is gone. `tolerated`: RST_STREAM and WINDOW_UPDATE, which may always be on their way.
cdef void fault_gone(Http2 *c, uint32_t id, bint tolerated, H2Io *io, H2Event *ev) noexcept nogil
# 1 for a stream that neither side has opened yet.
cdef bint stream_is_idle(const Http2 *c, uint32_t id) noexcept nogil
# Gives n bytes of connection window back, at once or later.
cdef void credit_connection(Http2 *c, uint32_t n, H2Io *io) noexcept nogil
