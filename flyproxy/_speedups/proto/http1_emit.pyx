# Heads written anew, one pass each: what was kept, in its order, then what is ours. A raw run of the input is never
# copied through. The room needed is bounded once, before the first byte, so nothing below looks at the end of `out`.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memchr
from flyproxy._speedups.proto.fields cimport field_port, field_traceparent
from flyproxy._speedups.proto.head cimport (
    HOST_CAP, RQ_CHUNKED, RQ_EXPECT, RQ_TE_TRAILERS, RQ_UPGRADE, RS_NO_BODY, RS_SWITCHED, Header, RequestEmit,
    RequestHead,
    ResponseEmit, ResponseHead, Slice,
)
from flyproxy._speedups.proto.names cimport (
    H_SERVER, H_TRACEPARENT, H_TRACESTATE, H_VIA, H_X_FORWARDED_FOR, H_X_FORWARDED_PORT,
)
from flyproxy._speedups.proto.text cimport put, put_hex4, put_number, put_z

cdef enum:
    FIXED_REQUEST = 1024        # more than every constant text, number, trace id and separator below adds up to
    FIXED_RESPONSE = 256
    TRACEPARENT = 55            # bytes
    UPGRADE_REQUIRED = 426


# Lines kept or joined into ours take at most four bytes more than their parts. Tracestate is written twice.
cdef uint64_t room_for_headers(const Header *headers, uint32_t n) noexcept nogil:
    cdef uint64_t room = 0
    cdef uint32_t i
    for i in range(n):
        room += headers[i].name_n + headers[i].value_n + 4
        if headers[i].kind == H_TRACESTATE:
            room += headers[i].value_n + 2
    return room


cdef uint64_t room_for_request(const RequestHead *head, const RequestEmit *emit) noexcept nogil:
    return (room_for_headers(head.headers,
                             head.nheaders) + FIXED_REQUEST + HOST_CAP + head.method_text.n + head.target.n
            + head.upgrade.n * <uint64_t>(head.flags & RQ_UPGRADE != 0) + 2 * emit.client_ip.n + 2 * emit.local_ip.n
            + emit.region.n + emit.request_id.n + emit.via.n)


cdef inline char *put_slice(char *p, Slice s) noexcept nogil:
    return put(p, s.p, s.n)


# The values of one kind of header as one list that goes on with ours: "a, b, ".
cdef char *put_joined(char *p, const Header *headers, uint32_t n, uint64_t seen, uint16_t kind) noexcept nogil:
    cdef uint32_t i
    if (seen >> kind) & 1:
        for i in range(n):
            if headers[i].kind == kind and headers[i].value_n:
                p = put_z(put(p, headers[i].value, headers[i].value_n), b", ")
    return p


# The one header of its kind, or NULL when there is none or more than one.
cdef const Header *only(const RequestHead *head, uint16_t kind) noexcept nogil:
    cdef uint32_t i
    cdef const Header *found = NULL
    if (head.seen >> kind) & 1:
        for i in range(head.nheaders):
            if head.headers[i].kind == kind:
                if found != NULL:
                    return NULL
                found = &head.headers[i]
    return found


# RFC 9112 3.3: without Host the authority is the address and port that the client spoke to.
cdef char *put_host(char *p, const RequestHead *head, const RequestEmit *emit) noexcept nogil:
    cdef uint16_t port = head.host_port
    p = put_z(p, b" HTTP/1.1\r\nHost: ")
    if head.host_n:
        p = put(p, head.host, head.host_n)
    elif memchr(emit.local_ip.p, c':', emit.local_ip.n) != NULL:
        p = put_z(put_slice(put_z(p, b"["), emit.local_ip), b"]")
    else:
        p = put_slice(p, emit.local_ip)
    if head.host_n == 0 and emit.port != (443 if emit.https else 80):
        port = emit.port
    if port:
        p = put_number(put_z(p, b":"), port)
    return put_z(p, b"\r\n")


cdef char *put_forwarded(char *p, const RequestHead *head, const RequestEmit *emit) noexcept nogil:
    cdef const Header *port = only(head, H_X_FORWARDED_PORT)
    p = put_z(put_slice(put_z(p, b"Fly-Client-IP: "), emit.client_ip), b"\r\nX-Forwarded-For: ")
    p = put_joined(p, head.headers, head.nheaders, head.seen, H_X_FORWARDED_FOR)
    p = put_slice(put_z(put_slice(p, emit.client_ip), b", "), emit.local_ip)
    if emit.https:
        p = put_z(p, b"\r\nX-Forwarded-Proto: https\r\nFly-Forwarded-Proto: https\r\nX-Forwarded-Ssl: on\r\n"
                     b"Fly-Forwarded-Ssl: on\r\nX-Forwarded-Port: ")
    else:
        p = put_z(p, b"\r\nX-Forwarded-Proto: http\r\nFly-Forwarded-Proto: http\r\nX-Forwarded-Ssl: off\r\n"
                     b"Fly-Forwarded-Ssl: off\r\nX-Forwarded-Port: ")
    if port != NULL and field_port(port.value, port.value_n):
        p = put(p, port.value, port.value_n)
    else:
        p = put_number(p, emit.port)
    return put_number(put_z(p, b"\r\nFly-Forwarded-Port: "), emit.port)


# The joined tracestate after its name; nothing, not even the name, when every value is empty.
cdef char *put_state(char *line, char *after_name, const RequestHead *head) noexcept nogil:
    cdef char *p = put_joined(after_name, head.headers, head.nheaders, head.seen, H_TRACESTATE)
    return line if p == after_name else p - 2


# W3C Trace Context: a valid parent keeps its trace id and flags, else a trace begins, not sampled. tracestate goes on
# only with the parent that it belongs to.
cdef char *put_trace(char *p, const RequestHead *head, const RequestEmit *emit) noexcept nogil:
    cdef const Header *parent = only(head, H_TRACEPARENT)
    cdef const char *ours
    cdef uint32_t i
    if parent != NULL and not field_traceparent(parent.value, parent.value_n):
        parent = NULL
    p = put_z(p, b"\r\ntraceparent: ")
    ours = p
    p = put_z(p, b"00-")
    if parent != NULL:
        p = put(p, parent.value + 3, 32)
    else:
        for i in range(4):
            p = put_hex4(p, emit.random + 4 * i)
    p = put_z(p, b"-")
    p = put_hex4(put_hex4(p, emit.random + 16), emit.random + 20)
    p = put_z(p, b"-")
    p = put(p, parent.value + 53, 2) if parent != NULL else put_z(p, b"00")
    p = put(put_z(p, b"\r\nFly-Traceparent: "), ours, TRACEPARENT)
    if parent == NULL or not (head.seen >> H_TRACESTATE) & 1:
        return put_z(p, b"\r\n")
    p = put_state(p, put_z(p, b"\r\ntracestate: "), head)
    p = put_state(p, put_z(p, b"\r\nFly-Tracestate: "), head)
    return put_z(p, b"\r\n")


cdef char *put_request_framing(char *p, const RequestHead *head) noexcept nogil:
    if head.flags & RQ_CHUNKED:
        p = put_z(p, b"Transfer-Encoding: chunked\r\n")
    elif head.content_length >= 0:
        p = put_z(put_number(put_z(p, b"Content-Length: "), <uint64_t>head.content_length), b"\r\n")
    if head.flags & RQ_EXPECT:
        p = put_z(p, b"Expect: 100-continue\r\n")
    if head.flags & RQ_UPGRADE:
        p = put_z(put_slice(put_z(p, b"Upgrade: "), head.upgrade), b"\r\nConnection: Upgrade")
        p = put_z(p, b", TE\r\nTE: trailers\r\n") if head.flags & RQ_TE_TRAILERS else put_z(p, b"\r\n")
    elif head.flags & RQ_TE_TRAILERS:
        p = put_z(p, b"Connection: TE\r\nTE: trailers\r\n")
    return put_z(p, b"\r\n")


cdef uint32_t http1_emit_request(const RequestHead *head, const RequestEmit *emit, char *out,
                                 uint32_t cap) noexcept nogil:
    cdef char *p
    cdef uint32_t i
    if room_for_request(head, emit) > cap:
        return 0
    p = put_z(put_slice(out, head.method_text), b" ")
    if head.target.p[0] == c'?':  # an absolute form without path
        p = put_z(p, b"/")
    p = put_host(put_slice(p, head.target), head, emit)
    for i in range(head.nheaders):
        if not head.headers[i].drop:
            p = put_header(p, &head.headers[i])
    p = put_forwarded(p, head, emit)
    p = put_slice(put_z(p, b"\r\nFly-Region: "), emit.region)
    p = put_slice(put_z(p, b"\r\nFly-Request-Id: "), emit.request_id)
    p = put_joined(put_z(p, b"\r\nVia: "), head.headers, head.nheaders, head.seen, H_VIA)
    p = put_slice(put_z(p, b"1.1 ") if head.minor else put_z(p, b"1.0 "), emit.via)
    p = put_number(put_z(p, b"\r\nX-Request-Start: t="), emit.start_us)
    p = put_request_framing(put_trace(p, head, emit), head)
    return <uint32_t>(p - out)


# Informational answers have no say about the connection. A body that only the end can end says so, whatever was asked.
cdef char *put_connection(char *p, const ResponseHead *head, const ResponseEmit *emit, bint chunked) noexcept nogil:
    cdef bint close = emit.close or not (head.flags & RS_NO_BODY or head.content_length >= 0 or chunked)
    if head.flags & RS_SWITCHED:
        return put_z(p, b"Connection: Upgrade\r\n")
    if head.status < 200:
        return p
    if head.status == UPGRADE_REQUIRED:
        p = put_z(p, b"Connection: Upgrade\r\n")
    if close:
        return put_z(p, b"Connection: close\r\n")
    return p if emit.client_minor else put_z(p, b"Connection: keep-alive\r\n")


cdef char *put_ours(char *p, const ResponseHead *head, const ResponseEmit *emit) noexcept nogil:
    p = put_joined(put_z(p, b"Via: "), head.headers, head.nheaders, head.seen, H_VIA)
    p = put_slice(put_z(p, b"1.1 ") if head.minor else put_z(p, b"1.0 "), emit.via)
    p = put_slice(put_z(p, b"\r\nServer: "), emit.server)
    return put_z(put_slice(put_z(p, b"\r\nFly-Request-Id: "), emit.request_id), b"\r\n")


cdef uint32_t http1_emit_response(const ResponseHead *head, const ResponseEmit *emit, char *out,
                                  uint32_t cap) noexcept nogil:
    cdef const Header *h
    cdef bint chunked = emit.chunked and emit.client_minor and not head.flags & RS_NO_BODY
    cdef uint32_t i
    cdef char *p
    if (room_for_headers(head.headers, head.nheaders) + FIXED_RESPONSE + head.reason.n + emit.via.n + emit.server.n
            + emit.request_id.n) > cap:
        return 0
    p = put_z(put_number(put_z(out, b"HTTP/1.1 "), head.status), b" ")
    p = put_z(put_slice(p, head.reason), b"\r\n")
    for i in range(head.nheaders):
        h = &head.headers[i]
        if not h.drop and (emit.pristine or (h.kind != H_SERVER and h.kind != H_VIA)):
            p = put_header(p, h)
    if not emit.pristine:
        p = put_ours(p, head, emit)
    if chunked:
        p = put_z(p, b"Transfer-Encoding: chunked\r\n")
    elif head.content_length >= 0:
        p = put_z(put_number(put_z(p, b"Content-Length: "), <uint64_t>head.content_length), b"\r\n")
    return <uint32_t>(put_z(put_connection(p, head, emit, chunked), b"\r\n") - out)
