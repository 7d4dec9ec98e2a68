# An HTTP/2 connection as a whole: begun, configured, shut down. Contracts: http2.pxd.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.mem.buf cimport Pool
from flyproxy._speedups.mem.slab cimport Slab
from flyproxy._speedups.proto.http2_frames cimport Frame
from flyproxy._speedups.proto.http2_types cimport H2Config, H2Event, H2Io, H2Peer, H2Stream, Http2

cdef void http2_init(Http2 *c, const H2Config *config, Pool *pool, Slab *slab, uint64_t now_ms) noexcept nogil
cdef void http2_clear(Http2 *c) noexcept nogil
cdef int http2_start(Http2 *c, H2Io *io) noexcept nogil
cdef int http2_drain(Http2 *c, H2Io *io) noexcept nogil
cdef int http2_drain_end(Http2 *c, H2Io *io) noexcept nogil
cdef void http2_fail(Http2 *c, uint32_t code, H2Io *io, H2Event *ev) noexcept nogil

# The peer's SETTINGS frame, whole: applied and acknowledged. 0, or the H2Code of a connection error.
cdef uint32_t settings_apply(Http2 *c, const Frame *f, H2Io *io) noexcept nogil
# The peer has taken over ours.
cdef void settings_acknowledged(Http2 *c) noexcept nogil
