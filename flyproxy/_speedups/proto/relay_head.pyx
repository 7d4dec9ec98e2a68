# Heads between our own proxies. Knows how http1_emit_request writes a head and which of its fields a transport carries
# in another form; does not know who may say what. One pass, no second look at what one of us has already checked.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp
from flyproxy._speedups.proto.fields cimport field_content_length
from flyproxy._speedups.proto.head cimport (
    AK_TEXT, HEADERS_CAP, RQ_CHUNKED, RQ_EXPECT, RQ_KEEP_ALIVE, RQ_TE_TRAILERS, RQ_UPGRADE, Header, RequestHead, Slice,
)
from flyproxy._speedups.proto.host cimport host_parse
from flyproxy._speedups.proto.hpack cimport FF_NEVER
from flyproxy._speedups.proto.http1_emit cimport put_header, put_request_framing
from flyproxy._speedups.proto.http1_request cimport find_method
from flyproxy._speedups.proto.names cimport (
    H_AUTHORIZATION, H_CONTENT_LENGTH, H_COOKIE, H_COUNT, H_EXPECT, H_HOST, H_SEC_WEBSOCKET_KEY, H_TE, H_TRACEPARENT,
    H_TRACESTATE, H_TRANSFER_ENCODING, H_UNKNOWN, H_UPGRADE, H_X_FORWARDED_FOR, H_X_REQUEST_START, HF_RS_DROP,
    fp_header_rules, header_kind,
)
from flyproxy._speedups.proto.text cimport equals, find_byte, put, put_number, put_z, starts

cdef enum:
    VERSION_TEXT = 10           # bytes of " HTTP/1.1" and CR
    FIXED = 256                 # more than the constant text of a head, its port and its framing
    CONTROL = 9                 # bytes of "flyproxy-"

# Kinds that the head itself says: framing, the host, and what is about one connection.
cdef uint64_t SAID = <uint64_t>1 << H_HOST | <uint64_t>1 << H_EXPECT
# A table entry for one of these would push out one that is used again.
cdef uint64_t CHANGING = (<uint64_t>1 << H_AUTHORIZATION | <uint64_t>1 << H_COOKIE | <uint64_t>1 << H_TRACEPARENT
                          | <uint64_t>1 << H_TRACESTATE | <uint64_t>1 << H_X_FORWARDED_FOR
                          | <uint64_t>1 << H_X_REQUEST_START | <uint64_t>1 << H_SEC_WEBSOCKET_KEY)


cdef void fill_said() noexcept nogil:
    global SAID
    cdef uint32_t kind
    for kind in range(1, <uint32_t>H_COUNT):
        if fp_header_rules[kind] & HF_RS_DROP:
            SAID |= <uint64_t>1 << kind


fill_said()


cdef inline bint is_control(const char *name, uint32_t n) noexcept nogil:
    return starts(name, n, b"flyproxy-")


# -- text to fields

# The line "name: value" at `at`, the space optional; where the next begins, or NULL when no whole line of that form is
# there.
cdef inline const char *next_line(const char *at, const char *end, Header *h) noexcept nogil:
    cdef const char *colon = find_byte(at, end, c':')
    cdef const char *stop
    if colon == NULL:
        return NULL
    stop = find_byte(colon + 1, end, c'\n')
    if stop == NULL or stop == colon + 1:
        return NULL
    h.name = at
    h.name_n = <uint32_t>(colon - at)
    h.value = colon + 2 if colon[1] == c' ' else colon + 1
    h.value_n = <uint32_t>(stop - 1 - h.value)
    return stop + 1 if h.name_n and (stop - 1)[0] == c'\r' else NULL


cdef inline bint at_empty_line(const char *at, const char *end) noexcept nogil:
    return end - at >= 2 and at[0] == c'\r' and at[1] == c'\n'


# "METHOD target HTTP/1.1"; where the next line begins, or NULL.
cdef const char *take_request_line(const char *p, const char *end, RequestHead *out) noexcept nogil:
    cdef const char *stop = find_byte(p, end, c'\n')
    cdef const char *target = find_byte(p, end, c' ')
    cdef const char *version
    if stop == NULL or target == NULL:
        return NULL
    version = stop - VERSION_TEXT
    if version <= target + 1 or memcmp(version, b" HTTP/1.1\r", VERSION_TEXT) != 0:
        return NULL
    out.method_text.p = p
    out.method_text.n = <uint32_t>(target - p)
    out.method = find_method(p, out.method_text.n)
    out.target.p = target + 1
    out.target.n = <uint32_t>(version - target - 1)
    return stop + 1


# False: a value that none of us writes.
cdef bint take_said(const Header *h, RequestHead *out) noexcept nogil:
    if h.kind == H_HOST:
        return host_parse(h.value, h.value_n, out.host, &out.host_n, &out.host_port)
    if h.kind == H_CONTENT_LENGTH:
        out.content_length = field_content_length(h.value, h.value_n)
        return out.content_length >= 0
    if h.kind == H_TRANSFER_ENCODING:
        out.flags |= RQ_CHUNKED
    elif h.kind == H_EXPECT:
        out.flags |= RQ_EXPECT
    elif h.kind == H_TE:
        out.flags |= RQ_TE_TRAILERS
    elif h.kind == H_UPGRADE:
        out.flags |= RQ_UPGRADE
        out.upgrade.p = h.value
        out.upgrade.n = h.value_n
    return True


cdef inline bint changing(const Header *h) noexcept nogil:
    if h.kind != H_UNKNOWN:
        return (CHANGING >> h.kind) & 1
    if not 13 <= h.name_n <= 15 or not starts(h.name, h.name_n, b"fly-"):
        return False
    return (equals(h.name, h.name_n, b"fly-request-id") or equals(h.name, h.name_n, b"fly-client-ip")
            or equals(h.name, h.name_n, b"fly-traceparent") or equals(h.name, h.name_n, b"fly-tracestate"))


cdef void start(RequestHead *out) noexcept nogil:
    out.upgrade.p = NULL
    out.upgrade.n = 0
    out.content_length = -1
    out.seen = 0
    out.nheaders = out.own_via = 0
    out.flags = RQ_KEEP_ALIVE
    out.host_port = 0
    out.host_n = 0
    out.minor = 1
    out.accept = AK_TEXT


cdef uint32_t relay_parse(const char *p, uint32_t n, RequestHead *out) noexcept nogil:
    cdef const char *end = p + n
    cdef const char *at = take_request_line(p, end, out)
    cdef Header *h = out.headers
    start(out)
    while at != NULL and not at_empty_line(at, end):
        if out.nheaders == HEADERS_CAP:
            return 0
        at = next_line(at, end, h)
        if at == NULL:
            return 0
        h.kind = <uint16_t>header_kind(h.name, h.name_n)
        h.drop = 0
        out.seen |= <uint64_t>1 << h.kind
        if (SAID >> h.kind) & 1:
            if not take_said(h, out):
                return 0
            continue
        h.pad = FF_NEVER if changing(h) else 0
        h += 1
        out.nheaders += 1
    return <uint32_t>(at + 2 - p) if at != NULL and out.host_n else 0


cdef uint32_t relay_trailer_fields(const char *p, uint32_t n, Header *out, uint32_t cap) noexcept nogil:
    cdef const char *end = p + n
    cdef uint32_t count = 0
    while count < cap and p < end and not at_empty_line(p, end):
        p = next_line(p, end, &out[count])
        if p == NULL:
            break
        out[count].kind = <uint16_t>header_kind(out[count].name, out[count].name_n)
        out[count].drop = out[count].pad = 0
        count += not is_control(out[count].name, out[count].name_n)
    return count


# -- fields to text

# Of what a public client may not send, the edge has set anew what is here; other dropped fields are nobody's.
cdef inline bint goes_on(const Header *h) noexcept nogil:
    if h.kind != H_UNKNOWN:
        return not (SAID >> h.kind) & 1
    return not h.drop or starts(h.name, h.name_n, b"fly-") or starts(h.name, h.name_n, b"x-forwarded-")


cdef uint32_t relay_request_text(const RequestHead *head, char *out, uint32_t cap) noexcept nogil:
    cdef uint64_t room = (FIXED + head.method_text.n + head.target.n + head.host_n
                          + head.upgrade.n * <uint64_t>(head.flags & RQ_UPGRADE != 0))
    cdef uint32_t i
    cdef char *p
    for i in range(head.nheaders):
        room += head.headers[i].name_n + head.headers[i].value_n + 4
    if room > cap:
        return 0
    p = put_z(out, b"GET") if head.flags & RQ_UPGRADE else put(out, head.method_text.p, head.method_text.n)
    p = put(put_z(p, b" "), head.target.p, head.target.n)
    p = put(put_z(p, b" HTTP/1.1\r\nHost: "), head.host, head.host_n)
    if head.host_port:
        p = put_number(put_z(p, b":"), head.host_port)
    p = put_z(p, b"\r\n")
    for i in range(head.nheaders):
        if goes_on(&head.headers[i]):
            p = put_header(p, &head.headers[i])
    return <uint32_t>(put_request_framing(p, head) - out)


cdef uint32_t relay_trailer_text(const Header *fields, uint32_t n, char *out, uint32_t cap) noexcept nogil:
    cdef uint64_t room = 0
    cdef uint32_t i
    cdef char *p = out
    for i in range(n):
        room += fields[i].name_n + fields[i].value_n + 4
    if room > cap:
        return 0
    for i in range(n):
        if not fields[i].drop and not is_control(fields[i].name, fields[i].name_n):
            p = put_header(p, &fields[i])
    return <uint32_t>(p - out)


# -- what the other proxy says to us

cdef Slice relay_field(const Header *headers, uint32_t n, const char *name, uint32_t name_n) noexcept nogil:
    cdef Slice found, none
    cdef const Header *h
    cdef uint32_t i
    none.p = found.p = NULL
    none.n = found.n = 0
    for i in range(n):
        h = &headers[i]
        if h.name_n != CONTROL + name_n or memcmp(h.name, b"flyproxy-", CONTROL) != 0:
            continue
        if memcmp(h.name + CONTROL, name, name_n) != 0:
            continue
        if found.p != NULL:
            return none
        found.p = h.value
        found.n = h.value_n
    return found
