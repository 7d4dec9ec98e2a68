# What the doors of HPACK and of HTTP/2 share.
from libc.stdint cimport uint32_t
from flyproxy._speedups.proto.head cimport Header

# (name, value, flags) each into `out` (room for HEADERS_CAP); the bytes objects must live as long. How many.
cdef uint32_t place_fields(list fields, Header *out) except 0xFFFFFFFF
