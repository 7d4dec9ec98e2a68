# Answers that the proxy itself makes. Knows the table of errors and the three shapes that an answer can have; does not
# know why it was made. Everything is bounded: the table's texts by a test, the caller's by ANSWER_TEXT_MAX.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp
from flyproxy._speedups.errors cimport ERR_COUNT, ERR_PH10, ERR_PP01
from flyproxy._speedups.proto.head cimport AK_HTML, AK_JSON, Slice
from flyproxy._speedups.proto.text cimport FP_TOKEN, is_class, put, put_number, put_pair, put_z

cdef extern from "errors_table.h" nogil:
    ctypedef struct fp_error_row:
        const char *code
        int status
        int retry_after
        const char *title
        const char *detail
        const char *fix
        const char *detail_html
        const char *fix_html
    const fp_error_row *FP_ERRORS

cdef extern from "fp_status.h" nogil:
    const char *reason_of "fp_reason"(int status) noexcept

cdef extern from *:
    """
    static const char FP_DAYS[] = "SunMonTueWedThuFriSat", FP_MONTHS[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    """
    const char *FP_DAYS
    const char *FP_MONTHS

cdef enum:
    BODY_MAX = 2048             # texts of the table, which a test bounds, and two of the caller's
    REDIRECT_FIXED = 1024
    DAY = 86400
    CODE = 4                    # bytes of an error's code


cdef const fp_error_row *row_of(int error) noexcept nogil:
    return &FP_ERRORS[error if 0 < error < ERR_COUNT else ERR_PP01]


cdef int error_status(int error) noexcept nogil:
    return row_of(error).status


cdef const char *error_code(int error) noexcept nogil:
    return row_of(error).code


cdef int error_by_code(const char *p, uint32_t n) noexcept nogil:
    cdef int error
    if n != CODE:
        return 0
    for error in range(1, ERR_COUNT):
        if memcmp(p, FP_ERRORS[error].code, CODE) == 0:
            return error
    return 0


cdef uint16_t error_number(int error) noexcept nogil:
    cdef const char *code = error_code(error)
    return <uint16_t>(<uint8_t>code[1] << 8 | ((code[2] - c'0') * 10 + code[3] - c'0')) if error else 0


cdef int error_by_number(uint16_t number) noexcept nogil:
    cdef char text[CODE]
    text[0] = c'P'
    text[1] = <char>(number >> 8)
    text[2] = <char>(c'0' + (number & 0xFF) / 10 % 10)
    text[3] = <char>(c'0' + (number & 0xFF) % 10)
    return error_by_code(text, CODE)


# The caller's texts are tokens (RFC 9110 5.6.2); a byte that is not becomes "_", so none needs escaping in any shape.
cdef char *put_token(char *p, Slice s) noexcept nogil:
    cdef uint32_t i, n = s.n if s.n < ANSWER_TEXT_MAX else ANSWER_TEXT_MAX
    for i in range(n):
        p[i] = s.p[i] if is_class(s.p[i], FP_TOKEN) else c'_'
    return p + n


# A text of the table inside a JSON string: printable ASCII.
cdef char *put_json(char *p, const char *text) noexcept nogil:
    while text[0]:
        if text[0] == c'"' or text[0] == c'\\':
            p = put_z(p, b"\\")
        p[0] = text[0]
        p += 1
        text += 1
    return p


cdef char *put_text_body(char *p, const fp_error_row *row, const AnswerEmit *emit) noexcept nogil:
    p = put_z(put_z(put_z(p, row.code), b" "), row.title)
    p = put_z(put_z(p, b"\n"), row.detail)
    p = put_z(put_z(put_z(p, b"\n"), row.fix), b"\nrequest ")
    return put_z(put_token(p, emit.request_id), b"\n")


# RFC 9457 with three members of ours.
cdef char *put_json_body(char *p, const fp_error_row *row, const AnswerEmit *emit) noexcept nogil:
    p = put_z(put_z(p, b'{"type":"urn:flyproxy:error:'), row.code)
    p = put_json(put_z(p, b'","title":"'), row.title)
    p = put_number(put_z(p, b'","status":'), <uint64_t>row.status)
    p = put_json(put_z(p, b',"detail":"'), row.detail)
    p = put_z(put_z(p, b'","code":"'), row.code)
    p = put_json(put_z(p, b'","fix":"'), row.fix)
    p = put_token(put_z(p, b'","request_id":"'), emit.request_id)
    p = put_token(put_z(p, b'","region":"'), emit.region)
    return put_z(p, b'"}\n')


cdef char *put_html_body(char *p, const fp_error_row *row, const AnswerEmit *emit) noexcept nogil:
    p = put_z(put_z(p, b'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>'), row.title)
    p = put_z(put_z(put_z(p, b"</title>\n<h1>"), row.title), b"</h1>\n<p>")
    p = put_z(put_z(put_z(p, row.detail_html), b"</p>\n<p>"), row.fix_html)
    p = put_z(put_z(put_z(p, b"</p>\n<p><small>"), row.code), b" &middot; request ")
    return put_z(put_token(p, emit.request_id), b"</small></p>\n</html>\n")


# IMF-fixdate of RFC 9110 5.6.7. Days become a civil date by counting years from March, so that the leap day is the
# last.
cdef char *put_date(char *p, uint64_t now) noexcept nogil:
    cdef uint32_t seconds = <uint32_t>(now % DAY)
    cdef uint32_t days = <uint32_t>(now / DAY)
    cdef uint32_t era = (days + 719468) / 146097                    # 719468: from 1 March 0000 to 1970
    cdef uint32_t of_era = (days + 719468) % 146097                 # day in a cycle of 400 years
    cdef uint32_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365
    cdef uint32_t of_year = of_era - (365 * year + year / 4 - year / 100)
    cdef uint32_t shifted = (5 * of_year + 2) / 153                 # 0: March
    cdef uint32_t month = shifted + 2 if shifted < 10 else shifted - 10     # 0: January
    p = put(put_z(p, b"Date: "), FP_DAYS + 3 * ((days + 4) % 7), 3)
    p = put_pair(put_z(p, b", "), of_year - (153 * shifted + 2) / 5 + 1)
    p = put(put_z(p, b" "), FP_MONTHS + 3 * month, 3)
    p = put_number(put_z(p, b" "), era * 400 + year + (1 if month < 2 else 0))
    p = put_pair(put_z(p, b" "), seconds / 3600)
    p = put_pair(put_z(p, b":"), seconds / 60 % 60)
    return put_z(put_pair(put_z(p, b":"), seconds % 60), b" GMT\r\n")


# What every answer of ours carries: who made it, when, for which request, and what becomes of the connection.
cdef char *put_common(char *p, const AnswerEmit *emit, uint32_t body_n) noexcept nogil:
    p = put_z(put_number(put_z(p, b"Content-Length: "), body_n), b"\r\n")
    p = put_token(put_z(put_date(p, emit.now), b"Server: "), emit.server)
    p = put_token(put_z(p, b"\r\nVia: 1.1 "), emit.via)
    p = put_z(put_token(put_z(p, b"\r\nFly-Request-Id: "), emit.request_id), b"\r\n")
    if emit.close:
        p = put_z(p, b"Connection: close\r\n")
    elif emit.minor == 0:
        p = put_z(p, b"Connection: keep-alive\r\n")
    return put_z(p, b"\r\n")


cdef uint32_t answer_error(int error, const AnswerEmit *emit, char *out) noexcept nogil:
    cdef char body[BODY_MAX]
    cdef const fp_error_row *row = row_of(error if error_status(error) else ERR_PP01)
    cdef char *end
    cdef char *p = put_z(put_number(put_z(out, b"HTTP/1.1 "), <uint64_t>row.status), b" ")
    p = put_z(put_z(put_z(p, reason_of(row.status)), b"\r\nflyproxy-error: "), row.code)
    p = put_z(p, b"\r\nCache-Control: no-store\r\nContent-Type: ")
    if emit.kind == AK_JSON:
        end = put_json_body(body, row, emit)
        p = put_z(p, b"application/problem+json\r\n")
    elif emit.kind == AK_HTML:
        end = put_html_body(body, row, emit)
        p = put_z(p, b"text/html; charset=utf-8\r\n")
    else:
        end = put_text_body(body, row, emit)
        p = put_z(p, b"text/plain; charset=utf-8\r\n")
    if row.retry_after:
        p = put_z(put_number(put_z(p, b"Retry-After: "), <uint64_t>row.retry_after), b"\r\n")
    if error == ERR_PH10:
        p = put_z(p, b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE\r\n")
    p = put_common(p, emit, <uint32_t>(end - body))
    if not emit.head_only:
        p = put(p, body, <uint32_t>(end - body))
    return <uint32_t>(p - out)


cdef uint32_t answer_redirect(Slice host, Slice target, uint16_t https_port, const AnswerEmit *emit, char *out,
                              uint32_t cap) noexcept nogil:
    cdef char *p
    if <uint64_t>host.n + target.n + REDIRECT_FIXED > cap:
        return 0
    p = put(put_z(out, b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://"), host.p, host.n)
    if https_port != 443:
        p = put_number(put_z(p, b":"), https_port)
    if target.n == 0 or target.p[0] != c'/':
        p = put_z(p, b"/")      # "?query" of an absolute form, or "*"
    if target.n and target.p[0] != c'*':
        p = put(p, target.p, target.n)
    p = put_common(put_z(p, b"\r\nContent-Type: text/plain; charset=utf-8\r\n"), emit, 17)
    if not emit.head_only:
        p = put_z(p, b"Moved to https.\r\n")
    return <uint32_t>(p - out)
