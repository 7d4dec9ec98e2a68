# Commands in, bytes out. Contracts: http2.pxd.
from libc.stdint cimport uint32_t
from flyproxy._speedups.proto.head cimport Header, RequestHead, ResponseHead
from flyproxy._speedups.proto.http2_types cimport H2Io, H2Stream, Http2

cdef bint http2_fits(const Http2 *c, uint32_t text, const Header *a, uint32_t na, const Header *b,
                     uint32_t nb) noexcept nogil
cdef H2Stream *http2_request(Http2 *c, const RequestHead *head, bint https, const Header *extra, uint32_t nextra,
                             bint end, H2Io *io) noexcept nogil
cdef int http2_response(Http2 *c, H2Stream *stream, const ResponseHead *head, const Header *extra, uint32_t nextra,
                        bint end, H2Io *io) noexcept nogil
cdef int http2_trailers(Http2 *c, H2Stream *stream, const Header *fields, uint32_t n, H2Io *io) noexcept nogil
cdef uint32_t http2_sendable(const Http2 *c, const H2Stream *stream) noexcept nogil
cdef int http2_data(Http2 *c, H2Stream *stream, uint32_t n, bint end, H2Io *io) noexcept nogil
cdef int http2_reset(Http2 *c, H2Stream *stream, uint32_t code, H2Io *io) noexcept nogil
cdef int http2_drained(Http2 *c, H2Stream *stream, uint32_t n, H2Io *io) noexcept nogil
cdef int http2_grow(Http2 *c, H2Stream *stream, uint32_t target, H2Io *io) noexcept nogil
cdef int http2_ping(Http2 *c, const char *data, H2Io *io) noexcept nogil
cdef void http2_ready(Http2 *c, H2Stream *stream) noexcept nogil
cdef void http2_stalled(Http2 *c, H2Stream *stream) noexcept nogil
cdef H2Stream *http2_next(Http2 *c, uint32_t *room) noexcept nogil
