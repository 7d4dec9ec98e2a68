# A growing buffer of text, for pages that compiled code writes.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, strlen

cdef struct Text:               # zero-filled before use
    char *p
    uint64_t n
    uint64_t cap
    int failed                  # the system gave no memory: what was added since is missing

# Room for n more bytes: where to write them, or NULL.
cdef inline char *text_room(Text *text, uint64_t n) noexcept nogil:
    cdef uint64_t cap = text.cap if text.cap else 4096
    cdef char *p
    if text.cap - text.n < n:
        while cap < text.n + n:
            cap *= 2
        p = <char *>realloc(text.p, cap)
        if p == NULL:
            text.failed = 1
            return NULL
        text.p = p
        text.cap = cap
    return text.p + text.n

cdef inline void text_put(Text *text, const char *p, uint64_t n) noexcept nogil:
    cdef char *out = text_room(text, n)
    if out != NULL:
        memcpy(out, p, n)
        text.n += n

cdef inline void text_str(Text *text, const char *p) noexcept nogil:
    text_put(text, p, strlen(p))

cdef inline void text_decimal(Text *text, uint64_t value, uint32_t least) noexcept nogil:
    """Decimal digits, with leading zeros to at least `least` digits."""
    cdef char digits[20]
    cdef uint32_t i = 20
    while value or 20 - i < least or i == 20:
        i -= 1
        digits[i] = <char>(c'0' + value % 10)
        value //= 10
    text_put(text, digits + i, 20 - i)

# Contents of a label value: backslash, quote and line feed escaped (Prometheus text format 0.0.4).
cdef inline void text_label(Text *text, const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if p[i] == c'\\' or p[i] == c'"':
            text_put(text, b"\\", 1)
        if p[i] == c'\n':
            text_put(text, b"\\n", 2)
        else:
            text_put(text, &p[i], 1)

cdef inline void text_free(Text *text) noexcept nogil:
    free(text.p)
    text.p = NULL
    text.n = text.cap = 0
