# Frames written into the caller's buffer. Room is checked before the first byte and before any state changes: a command
# that says 0 has done nothing.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memmove
from flyproxy._speedups.proto.head cimport (
    HOST_CAP, M_HEAD, RQ_EXPECT, RQ_TE_TRAILERS, RQ_UPGRADE, Slice,
)
from flyproxy._speedups.proto.hpack cimport FF_INDEX, FF_NEVER, HPACK_OVERHEAD
from flyproxy._speedups.proto.hpack_encode cimport hpack_begin, hpack_put, hpack_room
from flyproxy._speedups.proto.http2_budget cimport B_WINDOW, budget_earn
from flyproxy._speedups.proto.http2_frames cimport (
    FF_END_HEADERS, FF_END_STREAM, FT_CONTINUATION, FT_DATA, FT_HEADERS, put_frame_head, put_ping, put_rst_stream,
    put_window_update,
)
from flyproxy._speedups.proto.http2_sched cimport SchedNode, sched_next, sched_ready, sched_sent, sched_stalled
from flyproxy._speedups.proto.http2_states cimport (
    OUT_DATA, OUT_DATA_END, OUT_HEADERS, OUT_HEADERS_END, OUT_RST, ST_HALF_REMOTE, V_OK, stream_step,
)
from flyproxy._speedups.proto.http2_streams cimport stream_open, stream_remember_reset
from flyproxy._speedups.proto.http2_types cimport H2_BLOCK_MAX, H2_FRAME_HEAD, SF_ANNOUNCED, SF_HEAD, SF_TUNNEL
from flyproxy._speedups.proto.http2_window cimport WINDOW_MAX, receiving_drained, receiving_grow
from flyproxy._speedups.proto.names cimport (
    H_AUTHORIZATION, H_CONNECTION, H_CONTENT_LENGTH, H_COOKIE, H_DATE, H_KEEP_ALIVE, H_PROXY_AUTHORIZATION,
    H_PROXY_CONNECTION, H_RANGE, H_SET_COOKIE, H_TRACEPARENT, H_TRACESTATE, H_TRANSFER_ENCODING, H_UPGRADE,
    H_X_FORWARDED_FOR, H_X_REQUEST_START,
)
from flyproxy._speedups.proto.text cimport put, put_number, put_pair, put_z

cdef enum:
    SMALL = 1024                # more than pseudo fields but :path, framing fields and the block's beginning take

# What cannot be guessed by asking the table must not be in it; what changes each time is not worth an entry.
cdef uint64_t SECRET = (<uint64_t>1 << H_AUTHORIZATION | <uint64_t>1 << H_PROXY_AUTHORIZATION
                        | <uint64_t>1 << H_COOKIE | <uint64_t>1 << H_SET_COOKIE)
cdef uint64_t CHANGING = (<uint64_t>1 << H_CONTENT_LENGTH | <uint64_t>1 << H_DATE | <uint64_t>1 << H_RANGE
                          | <uint64_t>1 << H_TRACEPARENT | <uint64_t>1 << H_TRACESTATE
                          | <uint64_t>1 << H_X_FORWARDED_FOR | <uint64_t>1 << H_X_REQUEST_START)
# 8.2.2: a head from HTTP/1 may have kept these (Upgrade of a 101 or 426); here they would make it malformed.
cdef uint64_t HOP = (<uint64_t>1 << H_CONNECTION | <uint64_t>1 << H_KEEP_ALIVE | <uint64_t>1 << H_PROXY_CONNECTION
                     | <uint64_t>1 << H_TRANSFER_ENCODING | <uint64_t>1 << H_UPGRADE)

cdef struct Writer:             # a field block on its way into io.out, behind the room for the head of its first frame
    Http2 *c
    char *start
    char *at


# -- field blocks

# Room for a block with `text` bytes of path and so many fields, cut into frames of the peer's size.
cdef bint block_fits(const Http2 *c, const H2Io *io, uint32_t text, const Header *a, uint32_t na, const Header *b,
                     uint32_t nb) noexcept nogil:
    cdef uint64_t room = text + SMALL
    cdef uint32_t i
    for i in range(na):
        room += hpack_room(&a[i])
    for i in range(nb):
        room += hpack_room(&b[i])
    return room + (room / c.peer.frame + 1) * H2_FRAME_HEAD <= io.out_cap - io.out_n


# The peer of a trusted connection is one of ours: what it would refuse must not be sent, since a block too large to
# read costs every rider the connection (H2_BLOCK_MAX). No encoding is longer than what 6.5.2 counts.
cdef bint http2_fits(const Http2 *c, uint32_t text, const Header *a, uint32_t na, const Header *b,
                     uint32_t nb) noexcept nogil:
    cdef uint32_t most = H2_BLOCK_MAX if c.peer.list_max > H2_BLOCK_MAX else c.peer.list_max
    cdef uint64_t size = text + SMALL
    cdef uint32_t i
    if not c.config.trusted:
        return True
    for i in range(na):
        size += 0 if a[i].drop else a[i].name_n + a[i].value_n + HPACK_OVERHEAD
    for i in range(nb):
        size += 0 if b[i].drop else b[i].name_n + b[i].value_n + HPACK_OVERHEAD
    return size <= most


cdef void block_begin(Writer *w, Http2 *c, H2Io *io) noexcept nogil:
    w.c = c
    w.start = io.out + io.out_n + H2_FRAME_HEAD
    w.at = hpack_begin(&c.encoder, w.start)


cdef void put_field(Writer *w, const Header *field) noexcept nogil:
    cdef Header h = field[0]
    if h.kind < 64 and (SECRET >> h.kind) & 1:
        h.pad = FF_NEVER
    elif not h.pad & FF_NEVER:
        h.pad = 0 if h.kind < 64 and (CHANGING >> h.kind) & 1 else FF_INDEX
    w.at = hpack_put(&w.c.encoder, w.c.pool, &h, w.at)


cdef void put_fields(Writer *w, const Header *fields, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if not fields[i].drop and not (fields[i].kind < 64 and (HOP >> fields[i].kind) & 1):
            put_field(w, &fields[i])


cdef void put_text(Writer *w, const char *name, uint32_t name_n, Slice value, uint8_t flags) noexcept nogil:
    cdef Header h
    h.name = name
    h.name_n = name_n
    h.value = value.p
    h.value_n = value.n
    h.kind = 0
    h.drop = 0
    h.pad = flags
    w.at = hpack_put(&w.c.encoder, w.c.pool, &h, w.at)


cdef inline Slice text(const char *p, uint32_t n) noexcept nogil:
    cdef Slice s
    s.p = p
    s.n = n
    return s


cdef void put_length(Writer *w, long long length) noexcept nogil:
    cdef char digits[24]
    if length >= 0:
        put_text(w, b"content-length", 14,
                 text(digits, <uint32_t>(put_number(digits, <uint64_t>length) - digits)), 0)


# Frame heads go in between, the last first, so that each byte moves once.
cdef void block_end(Writer *w, uint32_t id, bint end, H2Io *io) noexcept nogil:
    cdef uint32_t most = w.c.peer.frame, n = <uint32_t>(w.at - w.start), more = (n - 1) / most if n else 0, i, length
    cdef uint8_t last = FF_END_STREAM if end else 0
    cdef char *to
    for i in range(more, 0, -1):
        length = n - i * most if i == more else most
        to = w.start + i * (most + H2_FRAME_HEAD)
        memmove(to, w.start + i * most, length)
        put_frame_head(to - H2_FRAME_HEAD, length, FT_CONTINUATION, FF_END_HEADERS if i == more else 0, id)
    put_frame_head(w.start - H2_FRAME_HEAD, n if more == 0 else most, FT_HEADERS,
                   last | (FF_END_HEADERS if more == 0 else 0), id)
    io.out_n = <uint32_t>(w.start + n + more * H2_FRAME_HEAD - io.out)


# -- heads

cdef Slice authority_of(const RequestHead *head, char *out) noexcept nogil:
    cdef char *end = put(out, head.host, head.host_n)
    if head.host_port:
        end = put_number(put_z(end, b":"), head.host_port)
    return text(out, <uint32_t>(end - out))


# A target without path gets one, in the part of the arena that only reading uses.
cdef Slice path_of(const RequestHead *head, H2Io *io) noexcept nogil:
    cdef char *out = io.arena + io.arena_cap - H2_BLOCK_MAX
    if head.target.n and head.target.p[0] != c'?':
        return head.target
    put(put_z(out, b"/"), head.target.p, head.target.n)
    return text(out, head.target.n + 1)


cdef H2Stream *open_ours(Http2 *c, const RequestHead *head) noexcept nogil:
    cdef uint32_t id = c.last_ours + 2 if c.last_ours else 1
    cdef H2Stream *stream
    if c.config.server or c.failed or c.draining or c.goaway_last != WINDOW_MAX or id > WINDOW_MAX:
        return NULL
    if c.count - c.peer_count >= c.peer.streams or (head.flags & RQ_UPGRADE and not c.peer.connect_protocol):
        return NULL
    stream = stream_open(c, id)
    if stream == NULL:
        return NULL
    c.last_ours = id
    stream.flags = SF_ANNOUNCED
    if head.method == M_HEAD:
        stream.flags |= SF_HEAD
    if head.flags & RQ_UPGRADE:
        stream.flags |= SF_TUNNEL
    return stream


cdef H2Stream *http2_request(Http2 *c, const RequestHead *head, bint https, const Header *extra, uint32_t nextra,
                             bint end, H2Io *io) noexcept nogil:
    cdef Writer w
    cdef char authority[HOST_CAP + 8]
    cdef H2Stream *stream
    cdef uint32_t text_n = head.target.n + head.upgrade.n * (head.flags & RQ_UPGRADE != 0)
    if head.target.n >= H2_BLOCK_MAX or not http2_fits(c, text_n, head.headers, head.nheaders, extra, nextra):
        return NULL
    if not block_fits(c, io, text_n, head.headers, head.nheaders, extra, nextra):
        return NULL
    stream = open_ours(c, head)
    if stream == NULL:
        return NULL
    block_begin(&w, c, io)
    if head.flags & RQ_UPGRADE:
        put_text(&w, b":method", 7, text(b"CONNECT", 7), FF_INDEX)
        put_text(&w, b":protocol", 9, head.upgrade, FF_INDEX)
    else:
        put_text(&w, b":method", 7, head.method_text, 0)
    put_text(&w, b":scheme", 7, text(b"https", 5) if https else text(b"http", 4), 0)
    put_text(&w, b":authority", 10, authority_of(head, authority), FF_INDEX)
    put_text(&w, b":path", 5, path_of(head, io), 0)
    put_fields(&w, head.headers, head.nheaders)
    put_fields(&w, extra, nextra)
    put_length(&w, head.content_length if not head.flags & RQ_UPGRADE else -1)
    if head.flags & RQ_TE_TRAILERS:
        put_text(&w, b"te", 2, text(b"trailers", 8), FF_INDEX)
    if head.flags & RQ_EXPECT:
        put_text(&w, b"expect", 6, text(b"100-continue", 12), FF_INDEX)
    stream_step(&stream.state, OUT_HEADERS_END if end else OUT_HEADERS)
    block_end(&w, stream.id, end, io)
    return stream


cdef int http2_response(Http2 *c, H2Stream *stream, const ResponseHead *head, const Header *extra, uint32_t nextra,
                        bint end, H2Io *io) noexcept nogil:
    cdef Writer w
    cdef char status[4]
    if c.failed or not http2_fits(c, 0, head.headers, head.nheaders, extra, nextra):
        return 0
    if not block_fits(c, io, 0, head.headers, head.nheaders, extra, nextra):
        return 0
    if stream_step(&stream.state, OUT_HEADERS_END if end else OUT_HEADERS) != V_OK:
        return 0
    status[0] = <char>(c'0' + head.status / 100)
    put_pair(status + 1, head.status % 100)
    block_begin(&w, c, io)
    put_text(&w, b":status", 7, text(status, 3), 0)
    put_fields(&w, head.headers, head.nheaders)
    put_fields(&w, extra, nextra)
    put_length(&w, head.content_length)
    block_end(&w, stream.id, end, io)
    if end:
        sched_stalled(&c.sched, &stream.node)
    return 1


cdef int http2_trailers(Http2 *c, H2Stream *stream, const Header *fields, uint32_t n, H2Io *io) noexcept nogil:
    cdef Writer w
    if c.failed or not http2_fits(c, 0, fields, n, NULL, 0) or not block_fits(c, io, 0, fields, n, NULL, 0):
        return 0
    if stream_step(&stream.state, OUT_HEADERS_END) != V_OK:
        return 0
    block_begin(&w, c, io)
    put_fields(&w, fields, n)
    block_end(&w, stream.id, True, io)
    sched_stalled(&c.sched, &stream.node)
    return 1


# -- bodies

cdef uint32_t http2_sendable(const Http2 *c, const H2Stream *stream) noexcept nogil:
    cdef int32_t least = stream.send_left if stream.send_left < c.send_left else c.send_left
    if least <= 0:
        return 0
    return <uint32_t>least if <uint32_t>least < c.peer.frame else c.peer.frame


cdef int http2_data(Http2 *c, H2Stream *stream, uint32_t n, bint end, H2Io *io) noexcept nogil:
    if c.failed or (n and n > http2_sendable(c, stream)) or io.out_cap - io.out_n < H2_FRAME_HEAD:
        return 0
    if stream_step(&stream.state, OUT_DATA_END if end else OUT_DATA) != V_OK:
        return 0
    stream.send_left -= <int32_t>n
    c.send_left -= <int32_t>n
    put_frame_head(io.out + io.out_n, n, FT_DATA, FF_END_STREAM if end else 0, stream.id)
    io.out_n += H2_FRAME_HEAD
    budget_earn(&c.budgets, B_WINDOW, 2)
    if stream.node.next != NULL:
        sched_sent(&c.sched, &stream.node, n)
    if end:
        sched_stalled(&c.sched, &stream.node)
    return 1


cdef void http2_ready(Http2 *c, H2Stream *stream) noexcept nogil:
    if stream.send_left > 0:
        sched_ready(&c.sched, &stream.node)


cdef void http2_stalled(Http2 *c, H2Stream *stream) noexcept nogil:
    sched_stalled(&c.sched, &stream.node)


# A stream without window leaves the ring: EV_WINDOW is when to say http2_ready again.
cdef H2Stream *http2_next(Http2 *c, uint32_t *room) noexcept nogil:
    cdef SchedNode *node
    cdef H2Stream *stream
    cdef uint32_t most
    while c.send_left > 0 and not c.failed:
        node = sched_next(&c.sched, room)
        if node == NULL:
            return NULL
        stream = <H2Stream *>node
        most = http2_sendable(c, stream)
        if most == 0:
            sched_stalled(&c.sched, node)
            continue
        room[0] = most if most < room[0] else room[0]
        return stream
    return NULL


# -- small frames

cdef int http2_reset(Http2 *c, H2Stream *stream, uint32_t code, H2Io *io) noexcept nogil:
    if io.out_cap - io.out_n < 13:
        return 0
    sched_stalled(&c.sched, &stream.node)
    if c.failed or stream_step(&stream.state, OUT_RST) != V_OK:
        return 1                # over already
    io.out_n = <uint32_t>(put_rst_stream(io.out + io.out_n, stream.id, code) - io.out)
    stream_remember_reset(c, stream.id)
    return 1


cdef int http2_update(Http2 *c, H2Stream *stream, uint32_t due, H2Io *io) noexcept nogil:
    if due and stream.state < ST_HALF_REMOTE and not c.failed:      # the peer still sends
        io.out_n = <uint32_t>(put_window_update(io.out + io.out_n, stream.id, due) - io.out)
    return 1


cdef int http2_drained(Http2 *c, H2Stream *stream, uint32_t n, H2Io *io) noexcept nogil:
    if io.out_cap - io.out_n < 13:
        return 0
    return http2_update(c, stream, receiving_drained(&stream.receiving, n), io)


cdef int http2_grow(Http2 *c, H2Stream *stream, uint32_t target, H2Io *io) noexcept nogil:
    if io.out_cap - io.out_n < 13:
        return 0
    return http2_update(c, stream, receiving_grow(&stream.receiving, target), io)


cdef int http2_ping(Http2 *c, const char *data, H2Io *io) noexcept nogil:
    if c.failed or io.out_cap - io.out_n < 17:
        return 0
    io.out_n = <uint32_t>(put_ping(io.out + io.out_n, 0, data) - io.out)
    return 1
