# Host names as the table knows them. Knows RFC 9110 7.2 and RFC 1123 2.1; does not know which hosts exist.
# Strict where servers differ, because two readers of one Host are how requests reach the wrong app: no user info, no
# percent-escapes, no empty or zero port, no IPv6 zone, no byte outside letters, digits, "-", "." and "_".
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr
from flyproxy._speedups.proto.address cimport address_parse_v6, put_address_v6
from flyproxy._speedups.proto.fields cimport field_port
from flyproxy._speedups.proto.text cimport FP_HOST, is_class

cdef enum:
    NAME_MAX = 253              # RFC 1035 2.3.4, without the root's dot
    LABEL_MAX = 63


cdef uint32_t put_name(const char *p, uint32_t n, char *out) noexcept nogil:
    cdef uint32_t i, label = 0
    cdef char c
    if n and p[n - 1] == c'.':
        n -= 1
    if n == 0 or n > NAME_MAX:
        return 0
    for i in range(n):
        c = p[i]
        if not is_class(c, FP_HOST):
            return 0
        if c == c'.':
            if label == 0:
                return 0
            label = 0
        else:
            label += 1
            if label > LABEL_MAX:
                return 0
        out[i] = c | 0x20 if c'A' <= c <= c'Z' else c
    return n if label else 0


# *used: bytes of the literal with its brackets.
cdef uint32_t put_literal(const char *p, uint32_t n, char *out, uint32_t *used) noexcept nogil:
    cdef uint8_t address[16]
    cdef const char *close = <const char *>memchr(p, c']', n)
    cdef uint32_t out_n
    if close == NULL or not address_parse_v6(p + 1, <uint32_t>(close - p - 1), address):
        return 0
    used[0] = <uint32_t>(close - p + 1)
    out[0] = c'['
    out_n = put_address_v6(address, out + 1) + 1
    out[out_n] = c']'
    return out_n + 1


cdef int host_parse(const char *p, uint32_t n, char *out, uint8_t *out_n, uint16_t *port) noexcept nogil:
    cdef uint32_t used = n, written
    cdef const char *colon
    port[0] = 0
    out_n[0] = 0
    if n and p[0] == c'[':
        written = put_literal(p, n, out, &used)
    else:
        colon = <const char *>memchr(p, c':', n) if n else NULL
        if colon != NULL:
            used = <uint32_t>(colon - p)
        written = put_name(p, used, out)
    if written == 0:
        return 0
    if used < n:
        if p[used] != c':':
            return 0
        port[0] = <uint16_t>field_port(p + used + 1, n - used - 1)
        if port[0] == 0:
            return 0
    out[written] = 0
    out_n[0] = <uint8_t>written
    return 1
