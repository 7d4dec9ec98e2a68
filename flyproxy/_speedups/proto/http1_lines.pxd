# What requests and responses share: the limits of a head that is not complete, and lines that end as they must.
from libc.stdint cimport int64_t, uint32_t
from flyproxy._speedups.proto.head cimport HeadLimits
from flyproxy._speedups.proto.pico cimport phr_header

# 1 when bytes from `scanned` on complete no line, so that parsing again cannot tell anything new.
cdef int lines_nothing_new(const char *buf, uint32_t n, uint32_t scanned) noexcept nogil
# 1 when no header line is folded and every line of a parsed head of `used` bytes ends in CRLF.
cdef int lines_strict(const char *buf, uint32_t used, const phr_header *raw, uint32_t count) noexcept nogil
