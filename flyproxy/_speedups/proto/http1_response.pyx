# HTTP/1 response heads, as VMs send them. The mirror of http1_request: the same strictness, because one byte taken two
# ways poisons a pooled connection for the next request. Everything malformed is PU06, everything too large PU07.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from flyproxy._speedups.errors cimport ERR_PU06, ERR_PU07
from flyproxy._speedups.proto.fields cimport (
    CO_CLOSE, CO_OTHER, CO_UPGRADE, field_connection, field_content_length, field_nominates, field_transfer_coding,
)
from flyproxy._speedups.proto.head cimport (
    HEADERS_CAP, M_HEAD, RS_CHUNKED, RS_KEEP_ALIVE, RS_NO_BODY, RS_SWITCHED, RS_UNTIL_CLOSE, HeadLimits, Header,
    ResponseHead,
)
from flyproxy._speedups.proto.http1_lines cimport lines_nothing_new, lines_strict
from flyproxy._speedups.proto.names cimport (
    H_CONNECTION, H_CONTENT_LENGTH, H_TRANSFER_ENCODING, H_UNKNOWN, H_UPGRADE, HF_KEEP, HF_ONCE, HF_RS_DROP, HF_RS_READ,
    fp_header_rules, header_kind, is_twin,
)
from flyproxy._speedups.proto.pico cimport phr_header, pico_response
from flyproxy._speedups.proto.text cimport equals, starts

cdef enum:
    NOMINATED_MAX = 16          # headers that Connection may name: each costs a look at every header
    UPGRADE_REQUIRED = 426


# "HTTP/1.x NNN" and then a space or the end of the line: picohttpparser takes more.
cdef bint status_line_strict(const char *buf, int minor, int status) noexcept nogil:
    return minor <= 1 and 100 <= status <= 599 and buf[8] == c' ' and buf[9] == c'0' + status // 100


cdef int64_t read_value(ResponseHead *out, const Header *h, uint32_t *options, uint32_t *nominated) noexcept nogil:
    if h.kind == H_CONNECTION:
        options[0] |= <uint32_t>field_connection(h.value, h.value_n, nominated)
        return -ERR_PU06 if nominated[0] > NOMINATED_MAX else 0
    if h.kind == H_CONTENT_LENGTH:
        out.content_length = field_content_length(h.value, h.value_n)
        return -ERR_PU06 if out.content_length < 0 else 0
    if h.kind == H_TRANSFER_ENCODING:
        out.flags |= RS_CHUNKED
        return -ERR_PU06 if out.minor == 0 or field_transfer_coding(h.value, h.value_n) < 0 else 0
    return 0


# flyproxy-* is ours alone; so is the request id. Everything else that begins with Fly- is the app's to say.
cdef void read_unknown(ResponseHead *out, Header *h) noexcept nogil:
    if starts(h.name, h.name_n, b"flyproxy-"):
        h.drop = 1
        out.proxy_error |= equals(h.name, h.name_n, b"flyproxy-error")
    else:
        h.drop = equals(h.name, h.name_n, b"fly-request-id") or is_twin(h.name, h.name_n)


cdef int64_t read_headers(ResponseHead *out, const phr_header *raw, uint32_t count, uint32_t *options) noexcept nogil:
    cdef Header *h
    cdef uint32_t i, nominated = 0
    cdef uint8_t rules
    cdef int64_t error = 0
    for i in range(count):
        h = &out.headers[i]
        h.name = raw[i].name
        h.name_n = <uint32_t>raw[i].name_len
        h.value = raw[i].value
        h.value_n = <uint32_t>raw[i].value_len
        h.pad = 0
        h.kind = <uint16_t>header_kind(h.name, h.name_n)
        if h.kind == H_UNKNOWN:
            read_unknown(out, h)
            continue
        rules = fp_header_rules[h.kind]
        h.drop = (rules & HF_RS_DROP) != 0
        if rules & HF_ONCE and rules & HF_RS_READ and (out.seen >> h.kind) & 1:
            return -ERR_PU06
        if rules & HF_RS_READ:
            error = read_value(out, h, options, &nominated)
            if error < 0:
                return error
        out.seen |= <uint64_t>1 << h.kind
    out.nheaders = count
    return 0


cdef void drop_nominated(ResponseHead *out) noexcept nogil:
    cdef uint32_t i, j
    cdef Header *h
    for i in range(out.nheaders):
        if out.headers[i].kind != H_CONNECTION:
            continue
        for j in range(out.nheaders):
            h = &out.headers[j]
            if not h.drop and not fp_header_rules[h.kind] & HF_KEEP:
                h.drop = field_nominates(out.headers[i].value, out.headers[i].value_n, h.name, h.name_n)


cdef void keep_upgrade(ResponseHead *out) noexcept nogil:
    cdef uint32_t i
    for i in range(out.nheaders):
        if out.headers[i].kind == H_UPGRADE:
            out.headers[i].drop = 0


# RFC 9112 6.3, in its order. A 1xx, 204 or 304 with a body of its own cannot be told from one without: what was
# declared is not passed on, and the connection is not used again (but 304 may say how long the 200 would have been).
cdef int64_t settle_framing(ResponseHead *out, uint32_t options, uint8_t method, uint8_t upgrade) noexcept nogil:
    cdef bint reusable = out.minor == 1 and not options & CO_CLOSE
    if out.flags & RS_CHUNKED and out.content_length >= 0:
        return -ERR_PU06
    if out.status == 101:
        if not upgrade or not options & CO_UPGRADE or not (out.seen >> H_UPGRADE) & 1 or out.minor == 0:
            return -ERR_PU06
        out.flags = RS_NO_BODY | RS_SWITCHED
        out.content_length = -1
        keep_upgrade(out)
        return 0
    if out.status < 200 or out.status == 204:
        reusable = reusable and not out.flags & RS_CHUNKED and out.content_length <= 0
        out.flags = RS_NO_BODY
        out.content_length = -1
    elif method == M_HEAD or out.status == 304:
        out.flags = RS_NO_BODY
    elif not out.flags & RS_CHUNKED and out.content_length < 0:
        out.flags = RS_UNTIL_CLOSE
        reusable = False
    if reusable:
        out.flags |= RS_KEEP_ALIVE
    if out.status == UPGRADE_REQUIRED:
        keep_upgrade(out)       # RFC 9110 15.5.22
    return 0


cdef int64_t http1_parse_response(const char *buf, uint32_t n, uint32_t scanned, const HeadLimits *limits,
                                  uint8_t method,
                                  uint8_t upgrade, ResponseHead *out) noexcept nogil:
    cdef phr_header raw[HEADERS_CAP]
    cdef size_t reason_n, most = limits.headers if limits.headers < HEADERS_CAP else HEADERS_CAP
    cdef size_t count = most
    cdef int minor, status, used = -2
    cdef uint32_t options = 0
    cdef int64_t error
    if n > limits.head:
        n = limits.head
    if n and not lines_nothing_new(buf, n, scanned):
        used = pico_response(buf, n, &minor, &status, &out.reason.p, &reason_n, raw, &count)
    if used == -2:
        return -ERR_PU07 if n >= limits.head else 0
    if used < 0:
        return -ERR_PU07 if count == most else -ERR_PU06
    if not status_line_strict(buf, minor, status) or not lines_strict(buf, <uint32_t>used, raw, <uint32_t>count):
        return -ERR_PU06
    out.reason.n = <uint32_t>reason_n
    out.status = <uint16_t>status
    out.minor = <uint8_t>minor
    out.content_length = -1
    out.seen = 0
    out.nheaders = out.flags = 0
    out.proxy_error = 0
    error = read_headers(out, raw, <uint32_t>count, &options)
    if error < 0:
        return error
    if options & CO_OTHER:
        drop_nominated(out)
    error = settle_framing(out, options, method, upgrade)
    return error if error < 0 else used
