# Values of single header fields. Knows the grammar of each; does not know heads, limits on lines or what is dropped.
# Values come without control characters (but tab) and without white space at their ends: the head parser saw to that.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp
from flyproxy._speedups.errors cimport ERR_PH01, ERR_PH07, ERR_PH08
from flyproxy._speedups.proto.head cimport AK_HTML, AK_JSON, AK_TEXT, Slice
from flyproxy._speedups.proto.text cimport (
    FP_BASE64, FP_DIGIT, FP_LOWER_HEX, FP_TOKEN, all_class, equals, is_class, same, starts,
)

cdef enum:
    CONTENT_LENGTH_DIGITS = 19  # 2^63 has 19
    ACCEPT_SCANNED = 512        # bytes of Accept looked at: it only chooses the shape of an error page


cdef int64_t field_content_length(const char *p, uint32_t n) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint32_t i
    if n == 0 or not all_class(p, n, FP_DIGIT):
        return -ERR_PH01
    if n > CONTENT_LENGTH_DIGITS:
        return -ERR_PH07
    for i in range(n):
        value = value * 10 + <uint64_t>(p[i] - c'0')
    if value >> 63:
        return -ERR_PH07
    return <int64_t>value


# RFC 9112 6.1. Parameters, quotes and stray bytes are malformed; "chunked" other than once and alone is how requests
# are smuggled; everything else is a coding that we do not know.
cdef int field_transfer_coding(const char *p, uint32_t n) noexcept nogil:
    cdef const char *at = p
    cdef Slice coding
    cdef uint32_t elements = 0, chunked = 0
    if equals(p, n, b"chunked"):
        return 0
    while True:
        coding = field_next(&at, p + n, c',')
        if coding.p == NULL:
            break
        if not all_class(coding.p, coding.n, FP_TOKEN):
            return -ERR_PH01
        elements += 1
        if equals(coding.p, coding.n, b"chunked"):
            chunked = elements if chunked == 0 else elements + 1
    if elements == 0 or (chunked != 0 and (chunked != elements or elements == 1)):
        return -ERR_PH01
    return -ERR_PH08


cdef int field_connection(const char *p, uint32_t n, uint32_t *named) noexcept nogil:
    cdef const char *at = p
    cdef Slice option
    cdef int options = 0
    while True:
        option = field_next(&at, p + n, c',')
        if option.p == NULL:
            return options
        if equals(option.p, option.n, b"keep-alive"):
            options |= CO_KEEP_ALIVE
        elif equals(option.p, option.n, b"close"):
            options |= CO_CLOSE
        elif equals(option.p, option.n, b"upgrade"):
            options |= CO_UPGRADE
        else:
            options |= CO_OTHER
            named[0] += 1


cdef int field_nominates(const char *p, uint32_t n, const char *name, uint32_t name_n) noexcept nogil:
    cdef const char *at = p
    cdef Slice option
    while True:
        option = field_next(&at, p + n, c',')
        if option.p == NULL:
            return 0
        if option.n == name_n and same(option.p, name, name_n):
            return 1


cdef int field_has(const char *p, uint32_t n, const char *element) noexcept nogil:
    cdef const char *at = p
    cdef const char *inner
    cdef Slice item
    while True:
        item = field_next(&at, p + n, c',')
        if item.p == NULL:
            return 0
        inner = item.p
        item = field_next(&inner, item.p + item.n, c';')
        if item.p != NULL and equals(item.p, item.n, element):
            return 1


# RFC 9110 7.8: protocol-name ["/" protocol-version]. A list with h2c in it is not passed on at all.
cdef int field_upgrade(const char *p, uint32_t n) noexcept nogil:
    cdef const char *at = p
    cdef Slice protocol
    cdef uint32_t i, slashes
    cdef int kind = UP_NONE
    while True:
        protocol = field_next(&at, p + n, c',')
        if protocol.p == NULL:
            break
        slashes = 0
        for i in range(protocol.n):
            if protocol.p[i] == c'/' and 0 < i < protocol.n - 1:
                slashes += 1
            elif not is_class(protocol.p[i], FP_TOKEN):
                return UP_NONE
        if slashes > 1 or equals(protocol.p, protocol.n, b"h2c"):
            return UP_NONE
        kind = UP_OTHER
    return UP_WEBSOCKET if equals(p, n, b"websocket") else kind


# RFC 6455 4.1: 16 bytes are 22 digits of base64 and two of padding.
cdef int field_websocket_key(const char *p, uint32_t n) noexcept nogil:
    return n == 24 and p[22] == c'=' and p[23] == c'=' and all_class(p, 22, FP_BASE64)


# RFC 9110 7.6.3: received-protocol RWS received-by [RWS comment]. A comma inside a comment splits it; the pieces can
# only be counted if they look like an element of ours, and too many of those is what the count is for.
cdef uint32_t field_own_via(const char *p, uint32_t n, Slice pseudonym) noexcept nogil:
    cdef const char *at = p
    cdef const char *word
    cdef Slice element, by
    cdef uint32_t own = 0
    while True:
        element = field_next(&at, p + n, c',')
        if element.p == NULL:
            return own
        word = element.p
        field_next(&word, element.p + element.n, c' ')
        by = field_next(&word, element.p + element.n, c' ')
        if by.p != NULL and by.n == pseudonym.n and same(by.p, pseudonym.p, by.n):
            own += 1


# Whichever of json and html is named first.
cdef uint8_t field_accept(const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    if starts(p, n, b"text/html"):
        return AK_HTML
    if n > ACCEPT_SCANNED:
        n = ACCEPT_SCANNED
    for i in range(5, n):  # the shortest type before a subtype is five bytes with its slash: "text/"
        if p[i - 1] == c'/' or p[i - 1] == c'+':
            if starts(p + i, n - i, b"json"):
                return AK_JSON
            if starts(p + i, n - i, b"html"):
                return AK_HTML
    return AK_TEXT


cdef int field_traceparent(const char *p, uint32_t n) noexcept nogil:
    cdef bint zero_version
    if n < 55 or p[2] != c'-' or p[35] != c'-' or p[52] != c'-' or memcmp(p, b"ff", 2) == 0:
        return 0
    zero_version = memcmp(p, b"00", 2) == 0
    if n > 55 and (zero_version or p[55] != c'-'):
        return 0
    if not (all_class(p, 2, FP_LOWER_HEX) and all_class(p + 3, 32, FP_LOWER_HEX)
            and all_class(p + 36, 16, FP_LOWER_HEX) and all_class(p + 53, 2, FP_LOWER_HEX)):
        return 0
    return memcmp(p + 3, b"00000000000000000000000000000000", 32) != 0 and memcmp(p + 36, b"0000000000000000", 16) != 0


cdef uint32_t field_port(const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t value = 0, i
    if n == 0 or n > 5 or p[0] == c'0' or not all_class(p, n, FP_DIGIT):
        return 0
    for i in range(n):
        value = value * 10 + <uint32_t>(p[i] - c'0')
    return value if value <= 65535 else 0
