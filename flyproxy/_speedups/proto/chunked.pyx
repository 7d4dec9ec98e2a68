# The chunked transfer coding. Knows RFC 9112 7.1; does not know which message it is in. Stricter than the grammar's
# recipients need to be: no white space after a size, no bare LF anywhere, no line folding. Extensions are checked and
# forgotten (7.1.1 lets an intermediary do so); trailers are collected, checked as header lines and written anew.
#
#   SIZE_FIRST -> SIZE -> [EXT_* ...] -> SIZE_LF -> DATA -> DATA_CR -> DATA_LF -> SIZE_FIRST
#                                \-> (size 0) TRAILER_START -> END_LF, or TRAILER_WANTED -> TRAILER -> DONE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy
from flyproxy._speedups.errors cimport ERR_PH01, ERR_PH14, ERR_PP01
from flyproxy._speedups.proto.head cimport HEADERS_CAP, HeadLimits, Slice
from flyproxy._speedups.proto.http1_lines cimport lines_strict
from flyproxy._speedups.proto.names cimport HF_NO_TRAILER, fp_header_rules, header_kind, is_twin, reserved_name
from flyproxy._speedups.proto.pico cimport phr_header, pico_headers
from flyproxy._speedups.proto.text cimport FP_HEX, FP_QDTEXT, FP_TOKEN, hex_value, is_class, put, put_z

cdef enum:
    SIZE_DIGITS = 16

cdef enum State:
    SIZE_FIRST = 0              # at the first digit
    SIZE                        # after a digit
    EXT_BWS                     # white space that must lead to ";"
    EXT_NAME_FIRST              # after ";"
    EXT_NAME
    EXT_NAME_BWS                # white space that must lead to "=" or ";"
    EXT_VALUE_FIRST             # after "="
    EXT_TOKEN
    EXT_QUOTED
    EXT_ESCAPED                 # after "\" in a quoted string
    EXT_CLOSED                  # after the closing quote
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    TRAILER_START               # after the line of size 0: a CR ends the body, anything else begins a trailer section
    END_LF                      # of the CRLF that ends a body without trailers
    TRAILER_WANTED              # a trailer section begins here and there is no memory for it yet
    TRAILER                     # collecting, up to an empty line
    DONE
    BROKEN


cdef bint is_space(char c) noexcept nogil:
    return c == c' ' or c == c'\t'


# What may follow an element of a chunk line: the next extension or the end of the line.
cdef uint32_t after_element(char b, uint32_t space_state) noexcept nogil:
    if b == c'\r':
        return SIZE_LF
    if b == c';':
        return EXT_NAME_FIRST
    return space_state if is_space(b) else BROKEN


# RFC 9112 7.1.1: *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ); the next state for one byte.
cdef uint32_t extension_state(uint32_t state, char b) noexcept nogil:
    if state == EXT_BWS:
        return EXT_BWS if is_space(b) else (EXT_NAME_FIRST if b == c';' else BROKEN)
    if state == EXT_NAME_FIRST:
        return EXT_NAME_FIRST if is_space(b) else (EXT_NAME if is_class(b, FP_TOKEN) else BROKEN)
    if state == EXT_NAME and is_class(b, FP_TOKEN):
        return EXT_NAME
    if state == EXT_NAME:
        return EXT_VALUE_FIRST if b == c'=' else after_element(b, EXT_NAME_BWS)
    if state == EXT_NAME_BWS:
        if b == c'=':
            return EXT_VALUE_FIRST
        return EXT_NAME_BWS if is_space(b) else (EXT_NAME_FIRST if b == c';' else BROKEN)
    if state == EXT_VALUE_FIRST:
        if b == c'"':
            return EXT_QUOTED
        return EXT_VALUE_FIRST if is_space(b) else (EXT_TOKEN if is_class(b, FP_TOKEN) else BROKEN)
    if state == EXT_TOKEN:
        return EXT_TOKEN if is_class(b, FP_TOKEN) else after_element(b, EXT_BWS)
    if state == EXT_QUOTED:
        if b == c'"':
            return EXT_CLOSED
        return EXT_ESCAPED if b == c'\\' else (EXT_QUOTED if is_class(b, FP_QDTEXT) else BROKEN)
    if state == EXT_ESCAPED:
        return EXT_QUOTED if is_class(b, FP_QDTEXT) or b == c'"' or b == c'\\' else BROKEN
    return after_element(b, EXT_BWS)


# One byte of a chunk line or of the CRLF after data: the next state.
cdef uint32_t line_state(Chunked *c, char b, uint32_t extension_max) noexcept nogil:
    if c.state == SIZE_FIRST or c.state == SIZE:
        if is_class(b, FP_HEX):
            c.extension_n += 1
            if c.left >> 59 or c.extension_n > SIZE_DIGITS:
                return BROKEN   # 2^63 or more, or endless zeros
            c.left = c.left << 4 | <uint32_t>hex_value(b)
            return SIZE
        c.extension_n = 0       # counted digits so far
        return after_element(b, EXT_BWS) if c.state == SIZE else BROKEN
    if c.state == SIZE_LF:
        c.extension_n = 0
        return (DATA if c.left else TRAILER_START) if b == c'\n' else BROKEN
    if c.state == END_LF:
        return DONE if b == c'\n' else BROKEN
    if c.state == DATA_CR:
        return DATA_LF if b == c'\r' else BROKEN
    if c.state == DATA_LF:
        return SIZE_FIRST if b == c'\n' else BROKEN
    c.extension_n += 1
    return extension_state(c.state, b) if c.extension_n <= extension_max else BROKEN


# Lines of a whole trailer section, its final CRLF included; their number, or < 0.
cdef int64_t split_trailers(const char *p, uint32_t n, phr_header *raw) noexcept nogil:
    cdef size_t count = HEADERS_CAP
    cdef int used = pico_headers(p, n, raw, &count)
    if used < 0 and count == HEADERS_CAP:
        return -ERR_PH14
    if used != <int>n or count == 0:
        return -ERR_PH01
    # The first line has no line above it: the check needs CRLF before each name, so it looks at the rest.
    return <int64_t>count if lines_strict(p, n, raw + 1, <uint32_t>count - 1) else -ERR_PH01


# An empty line ends the section; a bare LF counts too, so that it is refused now and not waited upon.
cdef bint section_ended(const char *p, uint32_t n) noexcept nogil:
    return n >= 2 and p[n - 1] == c'\n' and (p[n - 2] == c'\n' or (n >= 3 and p[n - 2] == c'\r' and p[n - 3] == c'\n'))


# Takes trailer bytes up to the end of the section; CH_END once it is whole.
cdef int64_t take_trailer(Chunked *c, const HeadLimits *limits, const char *p, uint32_t n,
                          uint32_t *taken) noexcept nogil:
    cdef phr_header raw[HEADERS_CAP]
    cdef uint32_t most = limits.trailers if limits.trailers < c.trailer_cap else c.trailer_cap
    cdef const char *end
    cdef uint32_t line
    cdef int64_t count
    while taken[0] < n:
        end = <const char *>memchr(p + taken[0], c'\n', n - taken[0])
        line = <uint32_t>(end - p) + 1 - taken[0] if end != NULL else n - taken[0]
        if <uint64_t>c.trailer_n + line > most:
            c.state = BROKEN
            return -ERR_PH14
        memcpy(c.trailer + c.trailer_n, p + taken[0], line)
        c.trailer_n += line
        taken[0] += line
        if end != NULL and section_ended(c.trailer, c.trailer_n):
            count = split_trailers(c.trailer, c.trailer_n, raw)
            c.state = DONE if count >= 0 else BROKEN
            return CH_END if count >= 0 else count
    return CH_MORE


cdef int chunked_step(Chunked *c, const HeadLimits *limits, const char *buf, uint32_t n, uint32_t *used,
                      Slice *data) noexcept nogil:
    cdef uint32_t at = 0
    cdef int64_t result
    used[0] = 0
    while at < n:
        if c.state == DATA:
            data.p = buf + at
            data.n = n - at if <uint64_t>(n - at) < c.left else <uint32_t>c.left
            c.left -= data.n
            c.total += data.n
            used[0] = at + data.n
            if c.left == 0:
                c.state = DATA_CR
            return CH_DATA
        if c.state == TRAILER_START:
            if buf[at] == c'\r':
                c.state = END_LF
                at += 1
                continue
            c.state = TRAILER_WANTED if buf[at] != c'\n' else BROKEN
        if c.state == TRAILER_WANTED:
            if c.trailer == NULL:
                used[0] = at
                return CH_MORE
            c.state = TRAILER
        if c.state == TRAILER:
            result = take_trailer(c, limits, buf, n, &at)
            used[0] = at
            return <int>result
        if c.state == DONE:
            used[0] = at
            return CH_END
        if c.state != BROKEN:
            c.state = line_state(c, buf[at], limits.chunk_extension)
            at += 1
        if c.state == BROKEN:
            used[0] = at
            return -ERR_PH01
    used[0] = n
    return CH_END if c.state == DONE else CH_MORE


cdef int chunked_wants_trailer(const Chunked *c) noexcept nogil:
    return c.state == TRAILER_WANTED and c.trailer == NULL


cdef bint may_be_trailer(const phr_header *h) noexcept nogil:
    cdef uint32_t n = <uint32_t>h.name_len
    if fp_header_rules[header_kind(h.name, n)] & HF_NO_TRAILER:
        return False
    return not reserved_name(h.name, n) and not is_twin(h.name, n)


cdef int64_t chunked_emit_trailers(const Chunked *c, char *out, uint32_t cap) noexcept nogil:
    cdef phr_header raw[HEADERS_CAP]
    cdef char *p = out
    cdef int64_t count = 0, i
    if cap < c.trailer_n + 2:
        return -ERR_PP01
    if c.trailer_n:
        count = split_trailers(c.trailer, c.trailer_n, raw)
        if count < 0:
            return count
    for i in range(count):
        if not may_be_trailer(&raw[i]):
            continue
        p = put_z(put(p, raw[i].name, <uint32_t>raw[i].name_len), b":")
        if raw[i].value > raw[i].name + raw[i].name_len + 1:
            p = put_z(p, b" ")
        p = put_z(put(p, raw[i].value, <uint32_t>raw[i].value_len), b"\r\n")
    return put_z(p, b"\r\n") - out
