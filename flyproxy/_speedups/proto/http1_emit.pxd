# HTTP/1 heads, written anew. Contracts: http1.pxd.
from libc.stdint cimport uint32_t
from flyproxy._speedups.proto.head cimport Header, RequestEmit, RequestHead, ResponseEmit, ResponseHead
from flyproxy._speedups.proto.text cimport put, put_z

cdef uint32_t http1_emit_request(const RequestHead *head, const RequestEmit *emit, char *out,
                                 uint32_t cap) noexcept nogil
cdef uint32_t http1_emit_response(const ResponseHead *head, const ResponseEmit *emit, char *out,
                                  uint32_t cap) noexcept nogil

# -- parts that other writers of heads share; the caller has checked the room
cdef inline char *put_header(char *p, const Header *h) noexcept nogil:
    p = put_z(put(p, h.name, h.name_n), b": ")
    return put_z(put(p, h.value, h.value_n), b"\r\n")

# Length of the body, Expect, Upgrade, TE and Connection as the head has them, and the empty line: at most 160 bytes
# beside the value of Upgrade.
cdef char *put_request_framing(char *p, const RequestHead *head) noexcept nogil
