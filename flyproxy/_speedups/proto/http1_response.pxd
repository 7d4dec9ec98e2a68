# HTTP/1 response heads, parsed. Contract: http1.pxd.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from flyproxy._speedups.proto.head cimport HeadLimits, Header, ResponseHead

cdef int64_t http1_parse_response(const char *buf, uint32_t n, uint32_t scanned, const HeadLimits *limits,
                                  uint8_t method,
                                  uint8_t upgrade, ResponseHead *out) noexcept nogil
# What is not passed on among headers that have no kind; shared by all versions.
cdef void read_unknown(ResponseHead *out, Header *h) noexcept nogil
