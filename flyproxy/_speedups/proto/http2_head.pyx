# Heads of HTTP/2. Knows which fields a message may have and what they mean, as http1_request does for HTTP/1; does not
# know streams. Where HTTP/2 itself calls a message malformed the stream is reset; where we are stricter it is answered.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport strlen
from flyproxy._speedups.errors cimport ERR_PH01, ERR_PH02, ERR_PH04, ERR_PH10, ERR_PH11, ERR_PH12
from flyproxy._speedups.proto.fields cimport (
    field_accept, field_content_length, field_own_via,
)
from flyproxy._speedups.proto.head cimport (
    AK_TEXT, HOST_CAP, M_CONNECT, M_DELETE, M_GET, M_HEAD, M_OPTIONS, M_PUT, M_TRACE, METHOD_MAX,
    RQ_CHUNKED, RQ_EXPECT, RQ_IDEMPOTENT, RQ_KEEP_ALIVE, RQ_TE_TRAILERS, RQ_UPGRADE, RQ_WEBSOCKET, RS_CHUNKED,
    RS_KEEP_ALIVE, RS_NO_BODY, RS_SWITCHED, Slice,
)
from flyproxy._speedups.proto.host cimport host_parse
from flyproxy._speedups.proto.hpack cimport (
    FF_MALFORMED, H2_AUTHORITY, H2_METHOD, H2_PATH, H2_PROTOCOL, H2_SCHEME, H2_STATUS, H2_UNKNOWN_PSEUDO,
)
from flyproxy._speedups.proto.http1_request cimport find_method
from flyproxy._speedups.proto.http1_response cimport read_unknown
from flyproxy._speedups.proto.http2_types cimport SF_HEAD, SF_TUNNEL
from flyproxy._speedups.proto.names cimport (
    H_ACCEPT, H_CONNECTION, H_CONTENT_LENGTH, H_COOKIE, H_EXPECT, H_HOST, H_KEEP_ALIVE, H_PROXY_CONNECTION, H_TE,
    H_TRANSFER_ENCODING, H_UNKNOWN, H_UPGRADE, H_VIA, HF_NO_TRAILER, HF_ONCE, HF_RQ_DROP, HF_RS_DROP, fp_header_rules,
    is_twin, reserved_name,
)
from flyproxy._speedups.proto.target cimport target_split
from flyproxy._speedups.proto.text cimport FP_DIGIT, FP_TOKEN, all_class, equals, put, put_z, same

cdef extern from "fp_status.h" nogil:
    const char *reason_of "fp_reason"(int status) noexcept

cdef enum:
    PSEUDO_KINDS = H2_UNKNOWN_PSEUDO - H2_METHOD

cdef struct Pseudo:             # values by PseudoField - H2_METHOD; p NULL: absent
    Slice[PSEUDO_KINDS] value
    uint32_t n                  # fields that are pseudo fields, all in front


# 8.2.2: what is about a connection has no place in HTTP/2.
cdef bint connection_specific(const Header *h) noexcept nogil:
    if h.kind in (H_CONNECTION, H_TRANSFER_ENCODING, H_UPGRADE, H_KEEP_ALIVE, H_PROXY_CONNECTION):
        return True
    return h.kind == H_TE and not equals(h.value, h.value_n, b"trailers")


# 8.3: in front, each once, only those that are allowed (a set of bits).
cdef int take_pseudo(const Header *fields, uint32_t n, uint32_t allowed, Pseudo *x) noexcept nogil:
    cdef uint32_t i, kind
    for i in range(<uint32_t>PSEUDO_KINDS):
        x.value[i].p = NULL
        x.value[i].n = 0
    x.n = n
    for i in range(n):
        if fields[i].pad & FF_MALFORMED:
            return HEAD_MALFORMED
        if fields[i].kind < H2_METHOD:
            x.n = i if x.n == n else x.n
            continue
        kind = fields[i].kind - H2_METHOD
        if x.n != n or kind >= PSEUDO_KINDS or not (allowed >> kind) & 1 or x.value[kind].p != NULL:
            return HEAD_MALFORMED
        x.value[kind].p = fields[i].value
        x.value[kind].n = fields[i].value_n
    return 0


cdef int check_target(const Pseudo *x, const H2Config *config, RequestHead *out) noexcept nogil:
    cdef Slice path = x.value[H2_PATH - H2_METHOD], scheme = x.value[H2_SCHEME - H2_METHOD], authority
    if out.method == M_CONNECT and path.p == NULL:
        return ERR_PH10
    if path.n > config.target:
        return ERR_PH04
    if not equals(scheme.p, scheme.n, b"http") and not equals(scheme.p, scheme.n, b"https"):
        return ERR_PH01
    return ERR_PH01 if target_split(out.method, path.p, path.n, &out.target, &authority) < 0 else 0


# As in Upgrade (RFC 9110 7.8): a name, and a version behind a slash.
cdef bint is_protocol(Slice s) noexcept nogil:
    cdef uint32_t i = 0
    while i < s.n and s.p[i] != c'/':
        i += 1
    if not i or not all_class(s.p, i, FP_TOKEN):
        return False
    return i == s.n or (i + 1 < s.n and all_class(s.p + i + 1, s.n - i - 1, FP_TOKEN))


# 8.3.1 and, for :protocol, RFC 8441 4.
cdef int take_request_line(const Pseudo *x, const H2Config *config, RequestHead *out) noexcept nogil:
    cdef Slice protocol = x.value[H2_PROTOCOL - H2_METHOD], path = x.value[H2_PATH - H2_METHOD]
    cdef bint scheme = x.value[H2_SCHEME - H2_METHOD].p != NULL
    out.method_text = x.value[H2_METHOD - H2_METHOD]
    if out.method_text.n == 0 or out.method_text.n > METHOD_MAX:
        return HEAD_MALFORMED
    if not all_class(out.method_text.p, out.method_text.n, FP_TOKEN):
        return HEAD_MALFORMED
    out.method = find_method(out.method_text.p, out.method_text.n)
    if out.method in (M_GET, M_HEAD, M_OPTIONS, M_TRACE, M_PUT, M_DELETE):
        out.flags |= RQ_IDEMPOTENT
    if out.method == M_CONNECT and protocol.p == NULL:
        return HEAD_MALFORMED if scheme or path.p != NULL else 0
    if not scheme or path.n == 0 or (path.p[0] != c'/' and not (path.n == 1 and path.p[0] == c'*')):
        return HEAD_MALFORMED
    if protocol.p == NULL:
        return 0
    if out.method != M_CONNECT or not config.connect_protocol or not is_protocol(protocol):
        return HEAD_MALFORMED
    out.upgrade = protocol
    out.flags |= RQ_UPGRADE | (RQ_WEBSOCKET if equals(protocol.p, protocol.n, b"websocket") else 0)
    return 0


# Returns like head_request; *refused keeps the first refusal, so that a malformed field further on still counts.
cdef int read_request_field(RequestHead *out, Header *h, const H2Config *config, Slice *host,
                            int *refused) noexcept nogil:
    cdef uint8_t rules
    if connection_specific(h):
        return HEAD_MALFORMED
    if h.kind == H_UNKNOWN:
        h.drop = reserved_name(h.name, h.name_n) or is_twin(h.name, h.name_n)
        return 0
    rules = fp_header_rules[h.kind]
    h.drop = rules & HF_RQ_DROP
    if (rules & HF_ONCE or h.kind == H_HOST) and (out.seen >> h.kind) & 1:
        return HEAD_MALFORMED
    out.seen |= <uint64_t>1 << h.kind
    if h.kind == H_HOST:
        host.p = h.value
        host.n = h.value_n
    elif h.kind == H_CONTENT_LENGTH:
        out.content_length = field_content_length(h.value, h.value_n)
        return HEAD_MALFORMED if out.content_length < 0 else 0
    elif h.kind == H_TE:
        out.flags |= RQ_TE_TRAILERS
    elif h.kind == H_VIA:
        out.own_via += field_own_via(h.value, h.value_n, config.via)
    elif h.kind == H_ACCEPT and out.accept == AK_TEXT:
        out.accept = field_accept(h.value, h.value_n)
    elif h.kind == H_EXPECT:
        if equals(h.value, h.value_n, b"100-continue"):
            out.flags |= RQ_EXPECT
        elif refused[0] == 0:
            refused[0] = ERR_PH11
    return 0


# 8.2.3: the crumbs of a cookie are one line again.
cdef void join_cookies(RequestHead *out, char *at) noexcept nogil:
    cdef Header *first = NULL
    cdef Header *h
    cdef char *start = at
    cdef uint32_t i, kept = 0, crumbs = 0
    for i in range(out.nheaders):
        crumbs += out.headers[i].kind == H_COOKIE
    if crumbs < 2:
        return
    for i in range(out.nheaders):
        h = &out.headers[i]
        if h.kind == H_COOKIE:
            if first != NULL:
                at = put(put_z(at, b"; "), h.value, h.value_n)
                continue
            first = &out.headers[kept]
            at = put(at, h.value, h.value_n)
        out.headers[kept] = h[0]
        kept += 1
    first.value = start
    first.value_n = <uint32_t>(at - start)
    out.nheaders = kept


# 8.3.1: :authority has the last word, and Host must not say otherwise.
cdef int settle_host(RequestHead *out, Slice authority, Slice host) noexcept nogil:
    cdef char[HOST_CAP] other
    cdef uint8_t other_n = 0
    cdef uint16_t other_port = 0
    cdef Slice which = authority if authority.p != NULL else host
    if which.p == NULL or not host_parse(which.p, which.n, out.host, &out.host_n, &out.host_port):
        return ERR_PH12
    if authority.p == NULL or host.p == NULL:
        return 0
    if not host_parse(host.p, host.n, other, &other_n, &other_port):
        return ERR_PH12
    if other_n != out.host_n or other_port != out.host_port or not same(other, out.host, other_n):
        return ERR_PH12
    return 0


cdef void start(RequestHead *out) noexcept nogil:
    out.content_length = -1
    out.seen = 0
    out.nheaders = out.own_via = 0
    out.flags = RQ_KEEP_ALIVE
    out.upgrade.p = NULL
    out.upgrade.n = 0
    out.target.p = NULL
    out.target.n = 0
    out.host_port = 0
    out.host_n = 0
    out.minor = 1
    out.accept = AK_TEXT


cdef int settle_body(RequestHead *out, uint8_t end) noexcept nogil:
    if out.method == M_CONNECT:
        return HEAD_MALFORMED if out.content_length >= 0 else 0
    if end:
        return HEAD_MALFORMED if out.content_length > 0 else 0
    if out.content_length < 0:
        out.flags |= RQ_CHUNKED
    return 0


cdef int head_request(HpackOut *block, const H2Config *config, uint8_t end, RequestHead *out) noexcept nogil:
    cdef Pseudo x
    cdef Slice host
    cdef uint32_t i
    cdef int refused, late = 0
    start(out)
    host.p = NULL
    host.n = 0
    if block.overflow:
        out.method = out.method_text.n = 0
        return ERR_PH02
    if take_pseudo(block.fields, block.nfields, 0b11111, &x) < 0 or take_request_line(&x, config, out) < 0:
        return HEAD_MALFORMED
    refused = check_target(&x, config, out)
    for i in range(x.n, block.nfields):
        out.headers[out.nheaders] = block.fields[i]
        if read_request_field(out, &out.headers[out.nheaders], config, &host, &late) < 0:
            return HEAD_MALFORMED
        out.nheaders += 1
    if settle_body(out, end) < 0:
        return HEAD_MALFORMED
    join_cookies(out, block.arena + block.arena_n)
    if refused == 0:
        refused = settle_host(out, x.value[H2_AUTHORITY - H2_METHOD], host)
    return refused if refused else late


# -- responses

cdef int read_response_field(ResponseHead *out, Header *h) noexcept nogil:
    cdef uint8_t rules
    if connection_specific(h) or h.kind == H_TE:
        return HEAD_MALFORMED
    if h.kind == H_UNKNOWN:
        read_unknown(out, h)
        return 0
    rules = fp_header_rules[h.kind]
    h.drop = (rules & HF_RS_DROP) != 0
    if h.kind == H_CONTENT_LENGTH:
        if (out.seen >> h.kind) & 1:
            return HEAD_MALFORMED
        out.content_length = field_content_length(h.value, h.value_n)
        if out.content_length < 0:
            return HEAD_MALFORMED
    out.seen |= <uint64_t>1 << h.kind
    return 0


# The body of a response is delimited by its stream: without a length it goes out chunked in HTTP/1.
cdef int settle_response(ResponseHead *out, uint8_t flags, uint8_t end) noexcept nogil:
    out.flags = RS_KEEP_ALIVE
    if out.status < 200:
        out.flags |= RS_NO_BODY
        out.content_length = -1
        return HEAD_MALFORMED if end or out.status == 101 else 0    # 8.1, 8.6
    if flags & SF_TUNNEL and out.status < 300:
        out.flags |= RS_NO_BODY | RS_SWITCHED
        out.content_length = -1
    elif flags & SF_HEAD or out.status == 304 or out.status == 204:
        out.flags |= RS_NO_BODY
        out.content_length = -1 if out.status == 204 else out.content_length
    elif end:
        if out.content_length > 0:
            return HEAD_MALFORMED
        out.content_length = 0
    elif out.content_length < 0:
        out.flags |= RS_CHUNKED
    return 0


cdef int head_response(HpackOut *block, uint8_t flags, uint8_t end, ResponseHead *out) noexcept nogil:
    cdef Pseudo x
    cdef Slice status
    cdef uint32_t i
    out.content_length = -1
    out.seen = 0
    out.nheaders = 0
    out.minor = 1
    out.proxy_error = 0
    if block.overflow or take_pseudo(block.fields, block.nfields, 1 << (H2_STATUS - H2_METHOD), &x) < 0:
        return HEAD_MALFORMED
    status = x.value[H2_STATUS - H2_METHOD]
    if status.n != 3 or not all_class(status.p, 3, FP_DIGIT) or status.p[0] < c'1' or status.p[0] > c'5':
        return HEAD_MALFORMED
    out.status = <uint16_t>((status.p[0] - c'0') * 100 + (status.p[1] - c'0') * 10 + status.p[2] - c'0')
    out.reason.p = reason_of(out.status)        # HTTP/2 has none
    out.reason.n = <uint32_t>strlen(out.reason.p)
    for i in range(x.n, block.nfields):
        out.headers[out.nheaders] = block.fields[i]
        if read_response_field(out, &out.headers[out.nheaders]) < 0:
            return HEAD_MALFORMED
        out.nheaders += 1
    return settle_response(out, flags, end)


cdef int head_trailers(Header *fields, uint32_t n) noexcept nogil:
    cdef Header *h
    cdef uint32_t i
    for i in range(n):
        h = &fields[i]
        if h.pad & FF_MALFORMED or h.kind >= H2_METHOD or connection_specific(h):
            return HEAD_MALFORMED
        if h.kind == H_UNKNOWN:
            h.drop = reserved_name(h.name, h.name_n) or is_twin(h.name, h.name_n)
        else:
            h.drop = (fp_header_rules[h.kind] & HF_NO_TRAILER) != 0
    return 0
