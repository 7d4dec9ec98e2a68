# Bytes in, events out. Contract: http2.pxd.
from libc.stdint cimport int64_t, uint32_t
from flyproxy._speedups.proto.http2_types cimport H2Event, H2Io, H2Stream, Http2

cdef int64_t http2_read(Http2 *c, const char *buf, uint32_t n, H2Io *io, H2Event *ev) noexcept nogil
