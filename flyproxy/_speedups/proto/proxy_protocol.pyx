# PROXY protocol, versions 1 and 2 (haproxy.org/download/2.6/doc/proxy-protocol.txt). Knows the bytes of one header;
# does not know which peers may send it. Strict: what is not exactly a header is refused at the first byte that shows
# it, because the alternative is to take it for the client's data.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset
from flyproxy._speedups.errors cimport ERR_PH16
from flyproxy._speedups.proto.address cimport address_parse_v4, address_parse_v6, put_address_v6
from flyproxy._speedups.proto.text cimport FP_DIGIT, is_class, put_number, put_z

cdef enum:
    V1_MAX = 107                # section 2.1: worst case with CRLF
    V2_HEAD = 16
    V2_PAYLOAD_MAX = PROXY_HEADER_MAX - V2_HEAD
    TCP4 = 0x11                 # family and transport of section 2.2
    TCP6 = 0x21
    UNSPEC = 0x00

cdef extern from *:
    """
    static const char FP_PROXY_V1[] = "PROXY ";
    static const char FP_PROXY_V2[] = "\\r\\n\\r\\n\\0\\r\\nQUIT\\n";
    """
    const char *FP_PROXY_V1
    const char *FP_PROXY_V2     # 12 bytes


# The next field: up to one space or the end; *at moves behind the space. NULL when it is empty.
cdef const char *next_field(const char **at, const char *end, uint32_t *n) noexcept nogil:
    cdef const char *p = at[0]
    cdef const char *q = p
    while q < end and q[0] != c' ':
        q += 1
    n[0] = <uint32_t>(q - p)
    at[0] = q + 1 if q < end else q
    return p if n[0] else NULL


# 0 to 65535 without sign or leading zeros, or -1.
cdef int64_t parse_port(const char *p, uint32_t n) noexcept nogil:
    cdef int64_t value = 0
    cdef uint32_t i
    if n == 0 or n > 5 or (n > 1 and p[0] == c'0'):
        return -1
    for i in range(n):
        if not is_class(p[i], FP_DIGIT):
            return -1
        value = value * 10 + (p[i] - c'0')
    return value if value <= 65535 else -1


# "TCP4 SOURCE DEST SPORT DPORT" between "PROXY " and CRLF.
cdef int parse_v1_fields(const char *p, const char *end, ProxyHeader *out) noexcept nogil:
    cdef const char *field[5]
    cdef uint32_t n[5]
    cdef uint32_t i
    cdef int64_t source_port, dest_port
    if end > p and (end - 1)[0] == c' ':
        return 0
    for i in range(5):
        field[i] = next_field(&p, end, &n[i])
        if field[i] == NULL:
            return 0
    if p != end or n[0] != 4:
        return 0
    if memcmp(field[0], b"TCP4", 4) == 0:
        if not address_parse_v4(field[1], n[1], out.source) or not address_parse_v4(field[2], n[2], out.dest):
            return 0
    elif memcmp(field[0], b"TCP6", 4) == 0:
        if not address_parse_v6(field[1], n[1], out.source) or not address_parse_v6(field[2], n[2], out.dest):
            return 0
    else:
        return 0
    source_port = parse_port(field[3], n[3])
    dest_port = parse_port(field[4], n[4])
    out.source_port = <uint16_t>source_port
    out.dest_port = <uint16_t>dest_port
    return source_port >= 0 and dest_port >= 0


cdef int64_t parse_v1(const char *buf, uint32_t n, ProxyHeader *out) noexcept nogil:
    cdef uint32_t line_max = n if n < V1_MAX else V1_MAX
    cdef const char *end
    if memcmp(buf, FP_PROXY_V1, n if n < 6 else 6) != 0:
        return -ERR_PH16
    end = <const char *>memchr(buf, c'\n', line_max)
    if end == NULL:
        return 0 if n < V1_MAX else -ERR_PH16
    if end - buf < 7 or (end - 1)[0] != c'\r' or memchr(buf, 0, <size_t>(end - buf)) != NULL:
        return -ERR_PH16
    out.version = 1
    if end - buf >= 14 and memcmp(buf + 6, b"UNKNOWN", 7) == 0 and (buf[13] == c' ' or buf[13] == c'\r'):
        return end + 1 - buf    # section 2.1: whatever follows UNKNOWN is ignored
    out.known = parse_v1_fields(buf + 6, end - 1, out)
    return end + 1 - buf if out.known else -ERR_PH16


# Type, length, value: each must fit; what they say is not for us.
cdef int tlvs_fit(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t length
    while n:
        if n < 3:
            return 0
        length = 3 + (<uint32_t>p[1] << 8 | p[2])
        if length > n:
            return 0
        p += length
        n -= length
    return 1


cdef uint16_t big_endian(const uint8_t *p) noexcept nogil:
    return <uint16_t>(<uint32_t>p[0] << 8 | p[1])


cdef int parse_v2_addresses(uint8_t family, const uint8_t *p, uint32_t n, ProxyHeader *out) noexcept nogil:
    cdef uint32_t size = 4 if family == TCP4 else 16
    if family != TCP4 and family != TCP6:
        return family == UNSPEC and tlvs_fit(p, n)
    if n < 2 * size + 4 or not tlvs_fit(p + 2 * size + 4, n - 2 * size - 4):
        return 0
    if family == TCP4:
        out.source[10] = out.source[11] = out.dest[10] = out.dest[11] = 0xFF
    memcpy(out.source + 16 - size, p, size)
    memcpy(out.dest + 16 - size, p + size, size)
    out.source_port = big_endian(p + 2 * size)
    out.dest_port = big_endian(p + 2 * size + 2)
    out.known = 1
    return 1


cdef int64_t parse_v2(const uint8_t *buf, uint32_t n, ProxyHeader *out) noexcept nogil:
    cdef uint32_t payload
    if memcmp(buf, FP_PROXY_V2, n if n < 12 else 12) != 0:
        return -ERR_PH16
    if n > 12 and buf[12] != 0x20 and buf[12] != 0x21:
        return -ERR_PH16        # version 2, LOCAL or PROXY
    if n < V2_HEAD:
        return 0
    payload = big_endian(buf + 14)
    if payload > V2_PAYLOAD_MAX:
        return -ERR_PH16
    if n < V2_HEAD + payload:
        return 0
    out.version = 2
    if buf[12] == 0x21 and not parse_v2_addresses(buf[13], buf + V2_HEAD, payload, out):
        return -ERR_PH16
    return V2_HEAD + payload


cdef int64_t proxy_parse(const uint8_t *buf, uint32_t n, ProxyHeader *out) noexcept nogil:
    if n == 0:
        return 0
    memset(out, 0, sizeof(ProxyHeader))
    return parse_v2(buf, n, out) if buf[0] == c'\r' else parse_v1(<const char *>buf, n, out)


cdef bint is_v4(const uint8_t *address) noexcept nogil:
    return memcmp(address, b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff", 12) == 0


cdef char *put_v1_address(char *p, const uint8_t *address, bint v4) noexcept nogil:
    p = put_z(p, b" ")
    return p + (put_address(address, p) if v4 else put_address_v6(address, p))


cdef uint32_t write_v1(const uint8_t *source, uint16_t source_port, const uint8_t *dest, uint16_t dest_port, bint v4,
                       char *out) noexcept nogil:
    cdef char *p = put_z(out, b"PROXY TCP4") if v4 else put_z(out, b"PROXY TCP6")
    p = put_v1_address(put_v1_address(p, source, v4), dest, v4)
    p = put_number(put_z(p, b" "), source_port)
    p = put_number(put_z(p, b" "), dest_port)
    return <uint32_t>(put_z(p, b"\r\n") - out)


cdef uint32_t proxy_write(uint8_t version, const uint8_t *source, uint16_t source_port, const uint8_t *dest,
                          uint16_t dest_port,
                          uint8_t *out) noexcept nogil:
    cdef bint v4 = is_v4(source) and is_v4(dest)
    cdef uint32_t size = 4 if v4 else 16
    if version == 1:
        return write_v1(source, source_port, dest, dest_port, v4, <char *>out)
    memcpy(out, FP_PROXY_V2, 12)
    out[12] = 0x21
    out[13] = TCP4 if v4 else TCP6
    out[14] = 0
    out[15] = <uint8_t>(2 * size + 4)
    memcpy(out + 16, source + 16 - size, size)
    memcpy(out + 16 + size, dest + 16 - size, size)
    out += 16 + 2 * size
    out[0] = <uint8_t>(source_port >> 8)
    out[1] = <uint8_t>source_port
    out[2] = <uint8_t>(dest_port >> 8)
    out[3] = <uint8_t>dest_port
    return V2_HEAD + 2 * size + 4
