# IP addresses as text, both ways. Strict: what inet_pton refuses is refused, and nothing it takes locale or libc for.
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memmove, memset
from flyproxy._speedups.proto.text cimport (
    FP_DIGIT, FP_HEX, hex_value, is_class, put_hex_number, put_octet, put_z,
)

cdef extern from *:
    """
    static const unsigned char FP_V4_MAPPED[12] = {0,0,0,0,0,0,0,0,0,0,0xff,0xff};
    """
    const uint8_t *FP_V4_MAPPED

cdef enum:
    GROUPS = 8                  # of 16 bits


cdef int parse_quad(const char *p, uint32_t n, uint8_t *out) noexcept nogil:
    cdef uint32_t i = 0, part, digits, value
    for part in range(4):
        value = digits = 0
        while i < n and is_class(p[i], FP_DIGIT):
            if digits and value == 0:
                return 0        # 01 would be octal to some readers
            value = value * 10 + <uint32_t>(p[i] - c'0')
            digits += 1
            i += 1
            if value > 255:
                return 0
        if digits == 0:
            return 0
        out[part] = <uint8_t>value
        if part < 3:
            if i == n or p[i] != c'.':
                return 0
            i += 1
    return i == n


cdef int address_parse_v4(const char *p, uint32_t n, uint8_t *out) noexcept nogil:
    memset(out, 0, 10)
    out[10] = out[11] = 0xFF
    return parse_quad(p, n, out + 12)


# Up to four hex digits at p[i]; how many there are, -1 if none or too many.
cdef int parse_group(const char *p, uint32_t n, uint32_t i, uint32_t *value) noexcept nogil:
    cdef int digits = 0
    value[0] = 0
    while i < n and is_class(p[i], FP_HEX):
        value[0] = value[0] << 4 | <uint32_t>hex_value(p[i])
        digits += 1
        i += 1
        if digits > 4:
            return -1
    return digits if digits else -1


# Groups are written from the left; at "::" the place is kept and what follows is moved to the right end.
cdef int address_parse_v6(const char *p, uint32_t n, uint8_t *out) noexcept nogil:
    cdef uint32_t i = 0, at = 0, value = 0, gap = 17, moved
    cdef int digits
    if n < 2:
        return 0
    memset(out, 0, 16)
    if p[0] == c':':
        if p[1] != c':':
            return 0
        gap = 0
        i = 2
    while i < n:
        digits = parse_group(p, n, i, &value)
        if digits < 0 or at > 14:
            return 0
        if i + digits < n and p[i + digits] == c'.':
            if at > 12 or not parse_quad(p + i, n - i, out + at):
                return 0
            at += 4
            i = n
            break
        out[at] = <uint8_t>(value >> 8)
        out[at + 1] = <uint8_t>value
        at += 2
        i += digits
        if i == n:
            break
        if p[i] != c':' or i + 1 == n:
            return 0
        i += 1
        if p[i] == c':':
            if gap != 17:
                return 0
            gap = at
            i += 1
    if gap == 17:
        return at == 16
    if at > 14:
        return 0                # "::" stands for at least one group
    moved = at - gap
    memmove(out + 16 - moved, out + gap, moved)
    memset(out + gap, 0, 16 - moved - gap)
    return 1


cdef bint is_v4_mapped(const uint8_t *address) noexcept nogil:
    return memcmp(address, FP_V4_MAPPED, 12) == 0


cdef char *put_quad(char *p, const uint8_t *quad) noexcept nogil:
    p = put_z(put_octet(p, quad[0]), b".")
    p = put_z(put_octet(p, quad[1]), b".")
    p = put_z(put_octet(p, quad[2]), b".")
    return put_octet(p, quad[3])


# RFC 5952 4.2: the longest run of zero groups, of two or more, the first of equals, becomes "::".
cdef uint32_t put_address_v6(const uint8_t *address, char *out) noexcept nogil:
    cdef uint32_t group[GROUPS]
    cdef uint32_t i, run = 0, best = 0, best_at = GROUPS  # none
    cdef char *p = out
    for i in range(8):
        group[i] = <uint32_t>address[2 * i] << 8 | address[2 * i + 1]
        run = run + 1 if group[i] == 0 else 0
        if run > best and run > 1:
            best = run
            best_at = i + 1 - run
    if is_v4_mapped(address):
        p = put_z(p, b"::ffff:")
        return <uint32_t>(put_quad(p, address + 12) - out)
    i = 0
    while i < GROUPS:
        if i == best_at:
            p = put_z(p, b"::")
            i += best
            continue
        if i and i != best_at + best:
            p = put_z(p, b":")
        p = put_hex_number(p, group[i])
        i += 1
    return <uint32_t>(p - out)


cdef uint32_t put_address(const uint8_t *address, char *out) noexcept nogil:
    if is_v4_mapped(address):
        return <uint32_t>(put_quad(out, address + 12) - out)
    return put_address_v6(address, out)
