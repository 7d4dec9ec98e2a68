# HTTP/1 request heads, parsed. Contracts: http1.pxd.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from flyproxy._speedups.proto.head cimport HeadLimits, RequestHead, Slice

cdef int64_t http1_parse_request(const char *buf, uint32_t n, uint32_t scanned, const HeadLimits *limits, Slice via,
                                 RequestHead *out) noexcept nogil
cdef uint32_t http1_count_pipelined(const char *buf, uint32_t n, uint32_t *scanned) noexcept nogil
# Method of these bytes; shared by all versions.
cdef uint8_t find_method(const char *p, uint32_t n) noexcept nogil
