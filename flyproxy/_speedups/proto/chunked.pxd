# The chunked transfer coding (RFC 9112 7.1), decoded strictly and incrementally. No copy of the data.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from flyproxy._speedups.proto.head cimport HeadLimits, Slice

cdef enum ChunkedStep:
    CH_MORE = 0                 # all input used, nothing to pass on yet
    CH_DATA = 1                 # *data is the next run of body bytes (inside the input)
    CH_END = 2                  # body complete, trailers are in their buffer; what follows *used is the next message

cdef struct Chunked:            # zero-filled before use; 40 bytes
    uint64_t left               # bytes left in the current chunk
    uint32_t state              # private to chunked
    uint32_t extension_n        # bytes of extension in the current chunk line
    uint32_t trailer_n          # bytes of trailer section collected
    uint32_t trailer_cap
    char *trailer               # limits.trailers bytes of the caller's; NULL until chunked_wants_trailer says 1
    uint64_t total              # body bytes decoded

# One step: consumes up to n bytes, sets *used. Result: ChunkedStep, or < 0 the negated ErrorCode
# (PH01 malformed, a size of 2^63 or more or too much extension included; PH14 trailers too large). From a VM the caller
# maps all of them to PU06/PU08. An error is final. With wants_trailer the step stops without error and *used may be 0.
cdef int chunked_step(Chunked *c, const HeadLimits *limits, const char *buf, uint32_t n, uint32_t *used,
                      Slice *data) noexcept nogil
# 1 when the decoder stands at the trailer section and has no trailer buffer: the caller provides one and calls again.
cdef int chunked_wants_trailer(const Chunked *c) noexcept nogil
# Whole trailer section written anew for the next hop after the last chunk: forbidden fields (framing, routing,
# Host, flyproxy-*, Fly-*) dropped; ends with the final CRLF. Bytes, or < 0 the negated ErrorCode: PP01 when cap is
# smaller than trailer_n + 2, which always suffices.
cdef int64_t chunked_emit_trailers(const Chunked *c, char *out, uint32_t cap) noexcept nogil
