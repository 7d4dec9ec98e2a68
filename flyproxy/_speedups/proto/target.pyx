# Request targets. Knows the four forms and which bytes may stand in a path; does not know hosts or routes.
#
# The path is passed on byte for byte: it is never decoded. What two readers could take differently is refused instead:
# fragments, broken percent-escapes, an escaped NUL, and ".." segments (escaped ones too). Clients that follow RFC 3986
# 5.2.4 never send "..". A query is opaque: browsers send "?q=100%" as it was typed, so its escapes are not looked at.
from libc.stdint cimport uint8_t, uint32_t
from flyproxy._speedups.errors cimport ERR_PH01
from flyproxy._speedups.proto.head cimport M_OPTIONS, Slice
from flyproxy._speedups.proto.text cimport FP_HEX, FP_LOOK, hex_value, is_class, starts


# Bytes of a dot at p: 1 for ".", 3 for "%2e", 0 for anything else.
cdef uint32_t dot(const char *p, uint32_t n) noexcept nogil:
    if n and p[0] == c'.':
        return 1
    return 3 if n >= 3 and p[0] == c'%' and p[1] == c'2' and p[2] | 0x20 == c'e' else 0


# A ".." between two slashes, or before the end of the path; p is the path alone.
cdef bint has_parent_segment(const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t i, first, second
    for i in range(1, n):
        if p[i - 1] != c'/':
            continue
        first = dot(p + i, n - i)
        second = dot(p + i + first, n - i - first) if first else 0
        if second and (i + first + second == n or p[i + first + second] == c'/'):
            return True
    return False


cdef int check_path(const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t i, path_n = n
    cdef bint suspect = False
    for i in range(n):
        if not is_class(p[i], FP_LOOK):
            continue
        if p[i] == c'?':
            path_n = i if path_n == n else path_n
        elif p[i] == c'%' and path_n == n:
            if n - i < 3 or not is_class(p[i + 1], FP_HEX) or not is_class(p[i + 2], FP_HEX):
                return -ERR_PH01
            if hex_value(p[i + 1]) == 0 and hex_value(p[i + 2]) == 0:
                return -ERR_PH01
        elif p[i] != c'.' and p[i] != c'%':
            return -ERR_PH01
        suspect = suspect or (i > 0 and p[i - 1] == c'/')
    return -ERR_PH01 if suspect and has_parent_segment(p, path_n) else 0


cdef int split_absolute(uint8_t method, const char *p, uint32_t n, Slice *origin, Slice *authority) noexcept nogil:
    cdef const char *end = p + n
    cdef const char *at
    if starts(p, n, b"http://"):
        p += 7
    elif starts(p, n, b"https://"):
        p += 8
    else:
        return -ERR_PH01
    at = p
    while at < end and at[0] != c'/' and at[0] != c'?':
        at += 1
    authority.p = p
    authority.n = <uint32_t>(at - p)
    origin.p = at
    origin.n = <uint32_t>(end - at)
    if origin.n == 0:           # RFC 9112 3.2.1 and, for OPTIONS, 3.2.4
        origin.p = b"*" if method == M_OPTIONS else b"/"
        origin.n = 1
        return 0
    return check_path(origin.p, origin.n)


cdef int target_split(uint8_t method, const char *p, uint32_t n, Slice *origin, Slice *authority) noexcept nogil:
    authority.p = NULL
    authority.n = 0
    if p[0] == c'/':
        origin.p = p
        origin.n = n
        return check_path(p, n)
    if n == 1 and p[0] == c'*':
        origin.p = p
        origin.n = n
        return 0 if method == M_OPTIONS else -ERR_PH01
    return split_absolute(method, p, n, origin, authority)
