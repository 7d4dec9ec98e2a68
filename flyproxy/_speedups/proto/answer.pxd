# Answers that the proxy itself makes: text, HTML page or problem+json, from the table flyproxy/errors.py; and the 301
# of force_https.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from flyproxy._speedups.proto.head cimport Slice

cdef enum:
    ANSWER_MAX = 4096           # bytes of the largest answer_error
    ANSWER_TEXT_MAX = 128       # longer request ids, regions, server and via names are cut

cdef struct AnswerEmit:
    Slice request_id
    Slice region
    Slice server
    Slice via
    uint64_t now                # seconds since the epoch, for Date
    uint8_t kind                # AnswerKind
    uint8_t head_only           # HEAD: headers as for GET, no body
    uint8_t close               # Connection: close
    uint8_t minor               # the client's HTTP/1.minor

# Whole answer; out has room for ANSWER_MAX bytes. An error without a status is answered as PP01. Bytes written.
cdef uint32_t answer_error(int error, const AnswerEmit *emit, char *out) noexcept nogil
# 301 to https://HOST TARGET (target as in RequestHead); bytes, or 0 if cap is too small. https_port 443 is left out of
# the URL.
cdef uint32_t answer_redirect(Slice host, Slice target, uint16_t https_port, const AnswerEmit *emit, char *out,
                              uint32_t cap) noexcept nogil
# HTTP status (0: the connection is only closed) and code ("PH01") of an ErrorCode; an unknown one is 500 and "PP01".
cdef int error_status(int error) noexcept nogil
cdef const char *error_code(int error) noexcept nogil
# ErrorCode of a code's text ("PH01"); 0 when there is none.
cdef int error_by_code(const char *p, uint32_t n) noexcept nogil
# The code as 16 bits, and back: the second letter and the number, "PC01" is 'C' << 8 | 1. 0: none.
cdef uint16_t error_number(int error) noexcept nogil
cdef int error_by_number(uint16_t number) noexcept nogil
