# HTTP/1 request heads. Knows the grammar of a head, what each header means for framing and routing, and what may be
# passed on; does not know bodies, tables, clocks or sockets. picohttpparser splits the lines; one strict pass over the
# slices follows. The answer to each kind of bad input is in docs/bad-input.md.
#
#   empty lines -> split -> request line -> each header once -> what only the whole head tells (framing, host, upgrade)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from flyproxy._speedups.errors cimport (
    ERR_PH01, ERR_PH02, ERR_PH03, ERR_PH04, ERR_PH09, ERR_PH10, ERR_PH11, ERR_PH12,
)
from flyproxy._speedups.proto.fields cimport (
    CO_CLOSE, CO_KEEP_ALIVE, CO_OTHER, CO_UPGRADE, UP_NONE, UP_WEBSOCKET, field_accept, field_connection,
    field_content_length, field_has, field_nominates, field_own_via, field_transfer_coding, field_upgrade,
    field_websocket_key,
)
from flyproxy._speedups.proto.head cimport (
    AK_TEXT, HEADERS_CAP, M_CONNECT, M_DELETE, M_GET, M_HEAD, M_OPTIONS, M_OTHER, M_PATCH, M_POST, M_PUT, M_TRACE,
    METHOD_MAX,
    RQ_CHUNKED, RQ_EXPECT, RQ_IDEMPOTENT, RQ_KEEP_ALIVE, RQ_TE_TRAILERS, RQ_UPGRADE, RQ_WEBSOCKET, HeadLimits, Header,
    RequestHead, Slice,
)
from flyproxy._speedups.proto.host cimport host_parse
from flyproxy._speedups.proto.http1_lines cimport lines_nothing_new, lines_strict
from flyproxy._speedups.proto.names cimport (
    H_ACCEPT, H_CONNECTION, H_CONTENT_LENGTH, H_EXPECT, H_HOST, H_SEC_WEBSOCKET_KEY, H_SEC_WEBSOCKET_VERSION, H_TE,
    H_TRANSFER_ENCODING, H_UNKNOWN, H_UPGRADE, H_VIA, HF_KEEP, HF_ONCE, HF_RQ_DROP, HF_RQ_READ,
    fp_header_rules, header_kind, is_twin, reserved_name,
)
from flyproxy._speedups.proto.pico cimport phr_header, pico_request
from flyproxy._speedups.proto.target cimport target_split
from flyproxy._speedups.proto.text cimport FP_DIGIT, equals, is_class

cdef enum:
    EMPTY_LINES_MAX = 4         # before a request line (RFC 9112 2.2)
    NOMINATED_MAX = 16          # headers that Connection may name: each costs a look at every header

cdef struct Pass:               # what one pass over the headers collects
    RequestHead *out
    Slice via
    Slice host
    Slice authority             # of an absolute-form target; p NULL otherwise
    uint32_t options            # ConnectionOption
    uint32_t nominated
    uint8_t upgrade             # UpgradeKind
    uint8_t websocket           # parts of a WebSocket handshake that are right: 1 key, 2 version


# Offset of the request line; n while it has not begun; -1 for a stray CR, a bare LF, or too many empty lines.
cdef int64_t skip_empty_lines(const char *buf, uint32_t n) noexcept nogil:
    cdef uint32_t at = 0, lines
    for lines in range(EMPTY_LINES_MAX + 1):
        if at == n or (buf[at] != c'\r' and buf[at] != c'\n'):
            return at
        if buf[at] == c'\n' or (at + 1 < n and buf[at + 1] != c'\n') or lines == EMPTY_LINES_MAX:
            return -1
        if at + 1 == n:
            return n
        at += 2
    return -1


# The verdict on a head that has no end yet: 0, or what is already wrong with it. picohttpparser wants nine bytes before
# it looks at a version, which a short request may never have.
cdef int64_t check_partial(const char *buf, uint32_t n, uint32_t skipped, const HeadLimits *limits) noexcept nogil:
    cdef const char *end = buf + n
    cdef const char *target = find_space(buf + skipped, end, METHOD_MAX)
    cdef const char *version
    if target == NULL:
        return -ERR_PH01 if end - buf - skipped > METHOD_MAX else (-ERR_PH02 if n >= limits.head else 0)
    version = find_space(target + 1, end, limits.target)
    if target == buf + skipped:
        return -ERR_PH01
    if version == NULL:
        if end - target - 1 > limits.target:
            return -ERR_PH04
    elif memcmp(version + 1, b"HTTP/", <size_t>(end - version - 1) if end - version - 1 < 5 else 5) != 0:
        return -ERR_PH01
    return -ERR_PH02 if n >= limits.head else 0


# The first space among the first `most` bytes of p and the one after them.
cdef const char *find_space(const char *p, const char *end, uint32_t most) noexcept nogil:
    cdef size_t n = <size_t>(end - p)
    return <const char *>memchr(p, c' ', n if n < most + <size_t>1 else most + <size_t>1)


# A request line that picohttpparser refuses may be a good one of another version: METHOD SP target SP HTTP/d.d CRLF.
cdef int64_t explain_refusal(const char *line, uint32_t n) noexcept nogil:
    cdef const char *end = <const char *>memchr(line, c'\r', n)
    cdef const char *version
    if end == NULL or end - line < 12:
        return -ERR_PH01
    version = end - 8
    if memcmp(version, b"HTTP/", 5) != 0 or version[6] != c'.' or (version - 1)[0] != c' ':
        return -ERR_PH01
    if not is_class(version[5], FP_DIGIT) or not is_class(version[7], FP_DIGIT) or version[5] == c'1':
        return -ERR_PH01
    return -ERR_PH09 if memchr(line, c' ', version - 1 - line) != NULL else -ERR_PH01


cdef uint8_t find_method(const char *p, uint32_t n) noexcept nogil:
    if n == 3:
        if memcmp(p, b"GET", 3) == 0:
            return M_GET
        return M_PUT if memcmp(p, b"PUT", 3) == 0 else M_OTHER
    if n == 4:
        if memcmp(p, b"POST", 4) == 0:
            return M_POST
        return M_HEAD if memcmp(p, b"HEAD", 4) == 0 else M_OTHER
    if n == 5:
        if memcmp(p, b"PATCH", 5) == 0:
            return M_PATCH
        return M_TRACE if memcmp(p, b"TRACE", 5) == 0 else M_OTHER
    if n == 6:
        return M_DELETE if memcmp(p, b"DELETE", 6) == 0 else M_OTHER
    if n == 7:
        if memcmp(p, b"OPTIONS", 7) == 0:
            return M_OPTIONS
        return M_CONNECT if memcmp(p, b"CONNECT", 7) == 0 else M_OTHER
    return M_OTHER


# RFC 9112 3: exactly one space on each side of the target, none before the method.
cdef int64_t check_request_line(Pass *x, const char *line, Slice target, int minor,
                                const HeadLimits *limits) noexcept nogil:
    cdef RequestHead *out = x.out
    if out.method_text.n > METHOD_MAX or out.method_text.p != line or target.p != line + out.method_text.n + 1:
        return -ERR_PH01
    if memcmp(target.p + target.n, b" HTTP/1.", 8) != 0:
        return -ERR_PH01
    if minor > 1:
        return -ERR_PH09
    if target.n > limits.target:
        return -ERR_PH04
    out.minor = <uint8_t>minor
    out.method = find_method(out.method_text.p, out.method_text.n)
    if out.method == M_CONNECT:
        return -ERR_PH10
    if out.method in (M_GET, M_HEAD, M_OPTIONS, M_TRACE, M_PUT, M_DELETE):
        out.flags = RQ_IDEMPOTENT
    return target_split(out.method, target.p, target.n, &out.target, &x.authority)


# Sec-WebSocket-Key and -Version are judged when the whole head is known: they mean nothing without Upgrade.
cdef int64_t read_value(Pass *x, const Header *h) noexcept nogil:
    cdef RequestHead *out = x.out
    if h.kind == H_HOST:
        if (out.seen >> H_HOST) & 1:
            return -ERR_PH12
        x.host.p = h.value
        x.host.n = h.value_n
    elif h.kind == H_CONNECTION:
        x.options |= <uint32_t>field_connection(h.value, h.value_n, &x.nominated)
        return -ERR_PH01 if x.nominated > NOMINATED_MAX else 0
    elif h.kind == H_ACCEPT:
        if out.accept == AK_TEXT:
            out.accept = field_accept(h.value, h.value_n)
    elif h.kind == H_CONTENT_LENGTH:
        out.content_length = field_content_length(h.value, h.value_n)
        return out.content_length if out.content_length < 0 else 0
    elif h.kind == H_TRANSFER_ENCODING:
        out.flags |= RQ_CHUNKED
        return field_transfer_coding(h.value, h.value_n) if out.minor else -ERR_PH01
    elif h.kind == H_EXPECT:
        if not equals(h.value, h.value_n, b"100-continue"):
            return -ERR_PH11
        out.flags |= RQ_EXPECT if out.minor else 0      # RFC 9110 10.1.1: ignored in HTTP/1.0
    elif h.kind == H_TE:
        out.flags |= RQ_TE_TRAILERS if field_has(h.value, h.value_n, b"trailers") else 0
    elif h.kind == H_VIA:
        out.own_via += field_own_via(h.value, h.value_n, x.via)
    elif h.kind == H_UPGRADE:
        x.upgrade = UP_NONE if (out.seen >> H_UPGRADE) & 1 else <uint8_t>field_upgrade(h.value, h.value_n)
        out.upgrade.p = h.value
        out.upgrade.n = h.value_n
    elif h.kind == H_SEC_WEBSOCKET_KEY:
        x.websocket |= 1 if field_websocket_key(h.value, h.value_n) else 0
    elif h.kind == H_SEC_WEBSOCKET_VERSION:
        x.websocket |= 2 if equals(h.value, h.value_n, b"13") else 0
    return 0


cdef int64_t read_header(Pass *x, Header *h) noexcept nogil:
    cdef uint8_t rules
    cdef int64_t error = 0
    h.kind = <uint16_t>header_kind(h.name, h.name_n)
    if h.kind == H_UNKNOWN:
        h.drop = reserved_name(h.name, h.name_n) or is_twin(h.name, h.name_n)
        return 0
    rules = fp_header_rules[h.kind]
    h.drop = rules & HF_RQ_DROP
    if rules & HF_ONCE and (x.out.seen >> h.kind) & 1:
        return -ERR_PH01
    if rules & HF_RQ_READ:
        error = read_value(x, h)
    x.out.seen |= <uint64_t>1 << h.kind
    return error


# RFC 9110 7.6.1: what Connection names goes no further; except what it must not be able to strip.
cdef void drop_nominated(RequestHead *out) noexcept nogil:
    cdef uint32_t i, j
    cdef Header *h
    for i in range(out.nheaders):
        if out.headers[i].kind != H_CONNECTION:
            continue
        for j in range(out.nheaders):
            h = &out.headers[j]
            if h.drop or fp_header_rules[h.kind] & HF_KEEP:
                continue
            h.drop = field_nominates(out.headers[i].value, out.headers[i].value_n, h.name, h.name_n)


# RFC 9112 6.3 and 9.3; RFC 9110 7.8: Upgrade counts only in HTTP/1.1, named by Connection. With a body we ignore it, so
# that the byte at which a tunnel begins is never in doubt.
cdef int64_t settle_framing(Pass *x) noexcept nogil:
    cdef RequestHead *out = x.out
    if out.flags & RQ_CHUNKED and out.content_length >= 0:
        return -ERR_PH01
    if not x.options & CO_CLOSE and (out.minor or x.options & CO_KEEP_ALIVE):
        out.flags |= RQ_KEEP_ALIVE
    if x.options & CO_OTHER:
        drop_nominated(out)
    if x.upgrade == UP_NONE or not x.options & CO_UPGRADE or not out.minor:
        return 0
    if out.flags & RQ_CHUNKED or out.content_length > 0:
        return 0
    out.flags |= RQ_UPGRADE
    if x.upgrade == UP_WEBSOCKET:
        if out.method != M_GET or x.websocket != 3:
            return -ERR_PH01    # RFC 6455 4.2.1
        out.flags |= RQ_WEBSOCKET
    return 0


# RFC 9112 3.2: exactly one Host, but HTTP/1.0 may have none; a target in absolute form has the last word.
cdef int64_t settle_host(Pass *x) noexcept nogil:
    cdef RequestHead *out = x.out
    if x.host.p == NULL:
        if out.minor:
            return -ERR_PH12
    elif not host_parse(x.host.p, x.host.n, out.host, &out.host_n, &out.host_port):
        return -ERR_PH12
    if x.authority.p != NULL and not host_parse(x.authority.p, x.authority.n, out.host, &out.host_n, &out.host_port):
        return -ERR_PH12
    return 0


cdef void start(Pass *x, RequestHead *out, Slice via) noexcept nogil:
    x.out = out
    x.via = via
    x.host.p = NULL
    x.options = x.nominated = 0
    x.upgrade = x.websocket = 0
    out.content_length = -1
    out.seen = 0
    out.nheaders = out.flags = out.own_via = 0
    out.host_port = 0
    out.host_n = 0
    out.accept = AK_TEXT


cdef int64_t read_head(Pass *x, const phr_header *raw, uint32_t count) noexcept nogil:
    cdef RequestHead *out = x.out
    cdef Header *h
    cdef int64_t error
    cdef uint32_t i
    for i in range(count):
        h = &out.headers[i]
        h.name = raw[i].name
        h.name_n = <uint32_t>raw[i].name_len
        h.value = raw[i].value
        h.value_n = <uint32_t>raw[i].value_len
        h.pad = 0
        error = read_header(x, h)
        if error < 0:
            return error
    out.nheaders = count
    error = settle_framing(x)
    return error if error < 0 else settle_host(x)


cdef int64_t http1_parse_request(const char *buf, uint32_t n, uint32_t scanned, const HeadLimits *limits, Slice via,
                                 RequestHead *out) noexcept nogil:
    cdef phr_header raw[HEADERS_CAP]
    cdef Pass x
    cdef Slice target
    cdef size_t method_n, target_n, most = limits.headers if limits.headers < HEADERS_CAP else HEADERS_CAP
    cdef size_t count = most
    cdef int minor, used
    cdef int64_t skipped, error
    if n > limits.head:
        n = limits.head         # a head that fits ends by then
    skipped = skip_empty_lines(buf, n)
    if skipped < 0:
        return -ERR_PH01
    if skipped == n:
        return 0
    if lines_nothing_new(buf, n, scanned):
        return check_partial(buf, n, <uint32_t>skipped, limits)
    used = pico_request(buf + skipped, <size_t>(n - skipped), &out.method_text.p, &method_n, &target.p, &target_n,
                        &minor,
                        raw, &count)
    if used == -2:
        return check_partial(buf, n, <uint32_t>skipped, limits)
    if used < 0:
        return -ERR_PH03 if count == most else explain_refusal(buf + skipped, <uint32_t>(n - skipped))
    if not lines_strict(buf + skipped, <uint32_t>used, raw, <uint32_t>count):
        return -ERR_PH01
    start(&x, out, via)
    out.method_text.n = <uint32_t>method_n
    target.n = <uint32_t>target_n
    error = check_request_line(&x, buf + skipped, target, minor, limits)
    if error == 0:
        error = read_head(&x, raw, <uint32_t>count)
    return error if error < 0 else skipped + used


# Has a body, for counting: any sign of one.
cdef bint announces_body(const phr_header *raw, size_t count) noexcept nogil:
    cdef size_t i
    for i in range(count):
        if equals(raw[i].name, <uint32_t>raw[i].name_len, b"transfer-encoding"):
            return True
        if equals(raw[i].name, <uint32_t>raw[i].name_len, b"content-length"):
            return not (raw[i].value_len == 1 and raw[i].value[0] == c'0')
    return False


cdef uint32_t http1_count_pipelined(const char *buf, uint32_t n, uint32_t *scanned) noexcept nogil:
    cdef phr_header raw[HEADERS_CAP]
    cdef const char *method
    cdef const char *target
    cdef size_t method_n, target_n, count
    cdef int minor, used
    cdef int64_t skipped
    cdef uint32_t heads = 0
    while scanned[0] < n:
        skipped = skip_empty_lines(buf + scanned[0], n - scanned[0])
        if skipped < 0 or skipped == n - scanned[0]:
            break
        count = HEADERS_CAP
        used = pico_request(buf + scanned[0] + skipped, <size_t>(n - scanned[0] - skipped), &method, &method_n, &target,
                            &target_n, &minor, raw, &count)
        if used < 0 or not lines_strict(buf + scanned[0] + skipped, <uint32_t>used, raw, <uint32_t>count):
            break
        if announces_body(raw, count):
            break
        scanned[0] += <uint32_t>(skipped + used)
        heads += 1
    return heads
