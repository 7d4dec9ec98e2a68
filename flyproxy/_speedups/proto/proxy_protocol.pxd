# PROXY protocol v1 and v2, read and written. > 0 consumed; 0 more needed; < 0 the negated ErrorCode (PH16).
# A header needs at most PROXY_HEADER_MAX bytes of buffer.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef enum:
    PROXY_HEADER_MAX = 4112     # 16 + addresses and TLVs; a longer v2 header is refused

cdef struct ProxyHeader:
    uint8_t version             # 1 or 2
    uint8_t known               # 0: LOCAL or UNKNOWN, the socket's own addresses hold
    uint16_t source_port
    uint16_t dest_port
    uint8_t source[16]          # v4 as v4-mapped
    uint8_t dest[16]

cdef int64_t proxy_parse(const uint8_t *buf, uint32_t n, ProxyHeader *out) noexcept nogil
# out has room for 107 bytes (v1) or 52 (v2). Bytes written.
cdef uint32_t proxy_write(uint8_t version, const uint8_t *source, uint16_t source_port, const uint8_t *dest,
                          uint16_t dest_port,
                          uint8_t *out) noexcept nogil
# 1 when a 16-byte address is v4-mapped.
cdef bint is_v4(const uint8_t *address) noexcept nogil
# Text of a 16-byte address (v4-mapped as dotted quad), without NUL; out has room for 46. Bytes written.
from flyproxy._speedups.proto.address cimport put_address
