# Looking into a parsed head, and numbers as text.
from libc.stdint cimport uint32_t, uint64_t
from flyproxy._speedups.proto.head cimport RequestHead, Slice

cdef Slice http1_header(const RequestHead *head, const char *name, uint32_t name_n) noexcept nogil
cdef Slice http1_cookie(const RequestHead *head, const char *name, uint32_t name_n) noexcept nogil
cdef uint32_t put_decimal(char *out, uint64_t value) noexcept nogil
cdef uint32_t put_hex(char *out, uint64_t value) noexcept nogil
