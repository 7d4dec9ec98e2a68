# Values of single header fields: parsed strictly, one function per field.
# Contract: >= 0 the meaning; < 0 the negated ErrorCode.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from flyproxy._speedups.proto.head cimport Slice

cdef enum ConnectionOption:     # bits
    CO_CLOSE = 1
    CO_KEEP_ALIVE = 2
    CO_UPGRADE = 4
    CO_OTHER = 8                # names at least one header to drop

cdef enum UpgradeKind:
    UP_NONE = 0                 # malformed, or asks for h2c among others: not passed on
    UP_OTHER
    UP_WEBSOCKET

# The next element of a list, white space trimmed, empty elements skipped; p is NULL at the end. *at moves behind it.
cdef inline Slice field_next(const char **at, const char *end, char separator) noexcept nogil:
    cdef const char *p = at[0]
    cdef Slice element
    while p < end and (p[0] == c' ' or p[0] == c'\t' or p[0] == separator):
        p += 1
    element.p = p if p < end else NULL
    while p < end and p[0] != separator:
        p += 1
    at[0] = p
    while element.p != NULL and p > element.p and ((p - 1)[0] == c' ' or (p - 1)[0] == c'\t'):
        p -= 1
    element.n = <uint32_t>(p - element.p) if element.p != NULL else 0
    return element

# Content-Length of RFC 9110 8.6: one number below 2^63.
cdef int64_t field_content_length(const char *p, uint32_t n) noexcept nogil
# Transfer-Encoding: 0 for exactly "chunked".
cdef int field_transfer_coding(const char *p, uint32_t n) noexcept nogil
# Connection: ConnectionOption bits; *named counts the options that name headers.
cdef int field_connection(const char *p, uint32_t n, uint32_t *named) noexcept nogil
# 1 when a header of this name is nominated by this Connection value.
cdef int field_nominates(const char *p, uint32_t n, const char *name, uint32_t name_n) noexcept nogil
# 1 when the list has this element (lower case), whatever its parameters.
cdef int field_has(const char *p, uint32_t n, const char *element) noexcept nogil
# Upgrade: UpgradeKind.
cdef int field_upgrade(const char *p, uint32_t n) noexcept nogil
# Sec-WebSocket-Key: 1 when it is the base64 of 16 bytes.
cdef int field_websocket_key(const char *p, uint32_t n) noexcept nogil
# Via: elements received by `pseudonym`.
cdef uint32_t field_own_via(const char *p, uint32_t n, Slice pseudonym) noexcept nogil
# Accept: AnswerKind.
cdef uint8_t field_accept(const char *p, uint32_t n) noexcept nogil
# traceparent (W3C Trace Context 3.2): 1 when its first 55 bytes are a valid parent.
cdef int field_traceparent(const char *p, uint32_t n) noexcept nogil
# One TCP port in decimal without leading zeros: 1 to 65535, or 0.
cdef uint32_t field_port(const char *p, uint32_t n) noexcept nogil
