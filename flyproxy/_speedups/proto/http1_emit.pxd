# HTTP/1 heads, written anew. Contracts: http1.pxd.
from libc.stdint cimport uint32_t
from flyproxy._speedups.proto.head cimport RequestEmit, RequestHead, ResponseEmit, ResponseHead

cdef uint32_t http1_emit_request(const RequestHead *head, const RequestEmit *emit, char *out,
                                 uint32_t cap) noexcept nogil
cdef uint32_t http1_emit_response(const ResponseHead *head, const ResponseEmit *emit, char *out,
                                  uint32_t cap) noexcept nogil
