# The request target of HTTP/1 (RFC 9112 3.2).
from libc.stdint cimport uint8_t, uint32_t
from flyproxy._speedups.proto.head cimport Slice

# Splits a target of any form into origin form (or "*") and authority (p NULL when it has none), and checks each byte.
# 0, or the negated ErrorCode.
cdef int target_split(uint8_t method, const char *p, uint32_t n, Slice *origin, Slice *authority) noexcept nogil
