# The authority of a request: host name or IP literal, and port. The same for every HTTP version.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

# 1 and the normalised name (lower case, no trailing dot, IPv6 in brackets; out has HOST_CAP bytes, *out_n without the
# final NUL) with *port (0: none); 0 when it is not a valid "host[:port]".
cdef int host_parse(const char *p, uint32_t n, char *out, uint8_t *out_n, uint16_t *port) noexcept nogil
