# Decoded fields as neutral heads (RFC 9113 8.2, 8.3).
from libc.stdint cimport uint8_t, uint32_t
from flyproxy._speedups.proto.head cimport Header, RequestHead, ResponseHead
from flyproxy._speedups.proto.hpack cimport HpackOut
from flyproxy._speedups.proto.http2_types cimport H2Config

cdef enum:
    HEAD_MALFORMED = -1         # RFC 9113 8.1.1: stream error PROTOCOL_ERROR

# 0; HEAD_MALFORMED; or the ErrorCode to answer with, positive, for what we refuse although HTTP/2 allows it. `end`: the
# request has no body. Joined cookies are written behind the fields in the arena.
cdef int head_request(HpackOut *block, const H2Config *config, uint8_t end, RequestHead *out) noexcept nogil
# `flags`: H2StreamFlag of the request.
cdef int head_response(HpackOut *block, uint8_t flags, uint8_t end, ResponseHead *out) noexcept nogil
# Marks in `drop` what a trailer section must not say; 0 or HEAD_MALFORMED.
cdef int head_trailers(Header *fields, uint32_t n) noexcept nogil
