"""Streams as connections. An exchange writes to one with outbox_send, as to a socket; what comes on it is pushed into
the exchange by the transport that carries it.

Back-pressure: bytes for a stream without window wait in ``Conn.out``, and whoever produces them looks there first.
Bytes from a stream are given back as window only when their sink has taken them, so what a slow reader can make us hold
is one stream window. That begins with 64 KB and doubles when the reader has taken a whole one within two round trips:
so it comes to rest between the reader's rate times the round trip and four times that. What all windows of a worker
have grown is bounded, and each step takes at most an eighth of what is left: early streams leave room for later ones.
"""

from libc.errno cimport ECONNRESET, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from flyproxy._speedups.flow.conns cimport conn_close
from flyproxy._speedups.flow.deadlines cimport down_on_timeout
from flyproxy._speedups.flow.request cimport request_pump, request_push
from flyproxy._speedups.flow.response cimport response_push, response_read
from flyproxy._speedups.flow.transport cimport (
    frames_begin, frames_end, transport_mark, transport_rested, transport_woken,
)
from flyproxy._speedups.flow.tunnel cimport tunnel_push
from flyproxy._speedups.flow.upstream cimport upstream_on_timeout
from flyproxy._speedups.flow.worker cimport (
    CF_END, CF_END_SENT, CF_TRAILERS, DS_BUSY, DS_LINGER, K_STREAM, PH_ANSWER, PH_TUNNEL, US_CONNECTING, Conn, Exchange,
    Outbox, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_append, buf_consume, buf_give, buf_len, buf_room
from flyproxy._speedups.net.reactor cimport IO_OUT, reactor_add_bare, reactor_queue
from flyproxy._speedups.proto.chunked cimport chunked_emit_trailers
from flyproxy._speedups.proto.head cimport HEADERS_CAP, Header
from flyproxy._speedups.proto.http2 cimport (
    CANCEL, NO_ERROR, ST_CLOSED, H2Stream, http2_data, http2_drained, http2_grow, http2_next, http2_ready,
    http2_release, http2_reset, http2_sendable, http2_stalled, http2_trailers,
)
from flyproxy._speedups.proto.relay_head cimport relay_trailer_fields
from flyproxy._speedups.shm.counters cimport LIM_WINDOWS

cdef enum:
    FRAMES_MAX = 64 << 10       # bytes of frames collected before a write; more data waits its turn
    RESET_ROOM = 256
    WINDOW_MOST = (32 << 20) - (128 << 10)  # a stalled client makes us hold that much: the largest buffer, less a read
    WINDOWS_MOST = 256 << 20    # by which all windows of a worker may have grown
    STEP_PART = 8               # of what is left of that, for one step of one stream
    GROW_FLOOR_US = 2000        # a round trip is taken to be at least so long


cdef Conn *stream_open(Worker *w, Transport *t, int vm_side) noexcept nogil:
    cdef Conn *v = <Conn *>reactor_add_bare(&w.reactor, K_STREAM)
    if v == NULL:
        return NULL
    v.carrier = t
    v.vm_side = <uint8_t>vm_side
    v.state = US_CONNECTING if vm_side else DS_BUSY
    v.s.io = IO_OUT
    v.window_us = w.reactor.now_us
    if t.streams != NULL:
        t.streams.link_prev = v
    v.link_next = t.streams
    t.streams = v
    if t.count == 0 and vm_side:
        transport_woken(w, t)
    t.count += 1
    if vm_side:
        w.ups += 1
    else:
        w.downs += 1
    return v


cdef inline int over(const Conn *v) noexcept nogil:
    return v.h2.state >= ST_CLOSED


cdef void stream_release(Worker *w, Conn *v) noexcept nogil:
    cdef Transport *t = v.carrier
    if v.h2 != NULL:
        w.windows -= v.h2.receiving.target - t.h2.config.stream_window
        v.h2.owner = NULL
        http2_release(&t.h2, v.h2)
        v.h2 = NULL


cdef void stream_leave(Worker *w, Conn *v) noexcept nogil:
    cdef Transport *t = v.carrier
    if v.h2 != NULL and not over(v) and frames_begin(w, t, RESET_ROOM):
        # RFC 9113 8.1: after a whole answer the rest of the request is not wanted, which is no error.
        http2_reset(&t.h2, v.h2, NO_ERROR if v.flags & CF_END_SENT and not v.vm_side else CANCEL, &w.h2)
        frames_end(w, t)
    stream_release(w, v)
    if v.link_prev != NULL:
        v.link_prev.link_next = v.link_next
    else:
        t.streams = v.link_next
    if v.link_next != NULL:
        v.link_next.link_prev = v.link_prev
    v.link_next = v.link_prev = NULL
    t.count -= 1
    if v.vm_side:
        w.ups -= 1
    else:
        w.downs -= 1
    if t.count == 0:
        transport_rested(w, t)


# -- writing

cdef inline int ends_with(const Conn *v, uint32_t left) noexcept nogil:
    return left == 0 and v.flags & CF_END and not v.flags & CF_TRAILERS


cdef void send_trailers(Worker *w, Conn *v) noexcept nogil:
    cdef Header fields[HEADERS_CAP]
    cdef Transport *t = v.carrier
    cdef uint32_t n = relay_trailer_fields(v.in_.data + v.in_.start, buf_len(&v.in_), fields, HEADERS_CAP)
    if not frames_begin(w, t, 2 * buf_len(&v.in_) + 4096):
        return
    # RFC 9110 6.5.1: trailers may be discarded, and what the other proxy would not read is. The end must come.
    if http2_trailers(&t.h2, v.h2, fields, n, &w.h2) or http2_data(&t.h2, v.h2, 0, True, &w.h2):
        v.flags = (v.flags & ~CF_TRAILERS) | CF_END_SENT
    frames_end(w, t)
    buf_give(&w.pool, &v.in_)


# An end without a byte of data.
cdef void send_end(Worker *w, Conn *v) noexcept nogil:
    cdef Transport *t = v.carrier
    if v.flags & CF_TRAILERS:
        send_trailers(w, v)
    elif frames_begin(w, t, RESET_ROOM):
        if http2_data(&t.h2, v.h2, 0, True, &w.h2):
            v.flags |= CF_END_SENT
        frames_end(w, t)


cdef int keep(Worker *w, Conn *v) noexcept nogil:
    cdef Outbox *box = &w.outbox
    cdef int k
    if not buf_room(&w.pool, &v.out, <uint32_t>box.bytes):
        return ENOMEM
    for k in range(box.n):
        buf_append(&w.pool, &v.out, <char *>box.iov[k].iov_base, <uint32_t>box.iov[k].iov_len)
    if v.h2 != NULL:
        http2_ready(&v.carrier.h2, v.h2)
    return 0


# The outbox as one frame, when nobody else waits for a turn and all of it may go at once.
cdef int write_now(Worker *w, Conn *v) noexcept nogil:
    cdef Outbox *box = &w.outbox
    cdef Transport *t = v.carrier
    cdef uint32_t n = <uint32_t>box.bytes
    cdef int k, end
    if v.h2 == NULL or buf_len(&v.out) or t.h2.sched.head != NULL or not t.open:
        return 0
    if n > http2_sendable(&t.h2, v.h2) or buf_len(&t.c.out) + n > FRAMES_MAX:
        return 0
    if not frames_begin(w, t, n + RESET_ROOM):
        return 0
    end = ends_with(v, 0)
    if not http2_data(&t.h2, v.h2, n, end, &w.h2):
        return 0
    for k in range(box.n):
        memcpy(w.h2.out + w.h2.out_n, box.iov[k].iov_base, box.iov[k].iov_len)
        w.h2.out_n += <uint32_t>box.iov[k].iov_len
    frames_end(w, t)
    if end:
        v.flags |= CF_END_SENT
    return 1


cdef int stream_write(Worker *w, Conn *v) noexcept nogil:
    if v.h2 != NULL and over(v):
        return ECONNRESET
    v.sent += w.outbox.bytes
    if write_now(w, v):
        if v.flags & CF_END and not v.flags & CF_END_SENT:
            send_end(w, v)
        return 0
    transport_mark(w, v.carrier)
    return keep(w, v)


cdef void keep_trailers(Worker *w, Conn *v, Body *body) noexcept nogil:
    cdef int64_t n
    buf_give(&w.pool, &v.in_)               # a part of the request that the app did not wait for
    if buf_len(&body.trailer):              # from a stream: text already
        if buf_append(&w.pool, &v.in_, body.trailer.data + body.trailer.start, buf_len(&body.trailer)):
            v.flags |= CF_TRAILERS
        return
    if body.trailer.data == NULL or body.chunked.trailer_n == 0:
        return
    n = chunked_emit_trailers(&body.chunked, body.trailer.data + body.chunked.trailer_cap, body.chunked.trailer_n + 2)
    if n <= 2:
        return
    if buf_append(&w.pool, &v.in_, body.trailer.data + body.chunked.trailer_cap, <uint32_t>n - 2):
        v.flags |= CF_TRAILERS


cdef void stream_end(Worker *w, Conn *v, Body *body, int more) noexcept nogil:
    if v.flags & CF_END:
        return
    v.flags |= CF_END
    if body != NULL:
        keep_trailers(w, v, body)
    if not more and v.h2 != NULL and buf_len(&v.out) == 0:
        if not over(v):
            send_end(w, v)
        transport_mark(w, v.carrier)


cdef void stream_last(Worker *w, Conn *v) noexcept nogil:
    v.state = DS_LINGER
    if v.flags & CF_END_SENT or over(v):
        conn_close(w, v)


# The bytes of one turn of a stream. 0: the transport's output is full.
cdef int fill_one(Worker *w, Transport *t, H2Stream *stream, uint32_t room) noexcept nogil:
    cdef Conn *v = <Conn *>stream.owner
    cdef uint32_t n
    cdef int end
    if v == NULL:
        http2_stalled(&t.h2, stream)
        return 1
    n = buf_len(&v.out)
    if n > room:
        n = room
    if not frames_begin(w, t, n + RESET_ROOM):
        return 0
    end = ends_with(v, buf_len(&v.out) - n)
    if not http2_data(&t.h2, stream, n, end, &w.h2):
        http2_stalled(&t.h2, stream)
        return 1
    memcpy(w.h2.out + w.h2.out_n, v.out.data + v.out.start, n)
    w.h2.out_n += n
    frames_end(w, t)
    buf_consume(&w.pool, &v.out, n)
    if end:
        v.flags |= CF_END_SENT
    elif buf_len(&v.out) == 0:
        http2_stalled(&t.h2, stream)
        if v.flags & CF_TRAILERS:
            send_trailers(w, v)
    if v.flags & CF_END_SENT and v.state == DS_LINGER and not v.vm_side:
        conn_close(w, v)
    else:
        reactor_queue(&w.reactor, &v.s)     # who fills it may go on
    return 1


cdef void streams_fill(Worker *w, Transport *t) noexcept nogil:
    cdef uint32_t room = 0
    cdef H2Stream *stream
    while buf_len(&t.c.out) < FRAMES_MAX:
        stream = http2_next(&t.h2, &room)
        if stream == NULL or not fill_one(w, t, stream, room):
            return


# -- reading

# Bytes that came on the stream and that its sink has not taken yet.
cdef uint32_t held(const Conn *v) noexcept nogil:
    cdef const Exchange *x = v.x
    if x == NULL:
        return 0
    if v.vm_side:
        return buf_len(&x.down.out)
    return buf_len(&v.in_) + (buf_len(&x.up.out) if x.up != NULL else 0)


cdef void widen(Worker *w, Conn *v, uint32_t target) noexcept nogil:
    cdef uint64_t most = WINDOWS_MOST
    cdef uint64_t more = target if 2 * target < WINDOW_MOST else WINDOW_MOST - target
    if w.config.memory and w.config.memory / 4 < most:
        most = w.config.memory / 4      # a buffer may be twice as large as what it holds
    if w.windows + more * STEP_PART > most:
        w.counters.limits[LIM_WINDOWS] += 1
    elif http2_grow(&v.carrier.h2, v.h2, target + <uint32_t>more, &w.h2):
        w.windows += more


# A whole window within two round trips: the window may be what limits the stream.
cdef void grow(Worker *w, Conn *v, uint32_t drained) noexcept nogil:
    cdef Transport *t = v.carrier
    cdef uint32_t target = v.h2.receiving.target
    cdef uint64_t trip = t.rtt_us if t.rtt_us > GROW_FLOOR_US else GROW_FLOOR_US
    v.received += drained
    if v.received < target:
        return
    if target < WINDOW_MOST and w.reactor.now_us - v.window_us < 2 * trip:
        widen(w, v, target)
    v.received = 0
    v.window_us = w.reactor.now_us


cdef void stream_credit(Worker *w, Conn *v) noexcept nogil:
    cdef Transport *t = v.carrier
    cdef uint32_t waits = held(v)
    cdef uint32_t due
    if v.h2 == NULL or v.owed <= waits or t.dead:
        return
    if w.config.memory and w.pool.used > w.config.memory and waits:
        return                  # over budget: this reader's peer waits until it has taken all
    due = v.owed - waits
    if not frames_begin(w, t, RESET_ROOM):
        return
    if http2_drained(&t.h2, v.h2, due, &w.h2):
        v.owed -= due
        grow(w, v, due)
    frames_end(w, t)


cdef void stream_data(Worker *w, Conn *v, const H2Event *ev) noexcept nogil:
    cdef Exchange *x = v.x
    v.owed += ev.window
    if x == NULL:
        stream_credit(w, v)             # nobody wants it any more
        return
    if x.phase == PH_TUNNEL:
        tunnel_push(w, x, v, ev.data.p, ev.data.n, ev.end)
    elif v.vm_side:
        response_push(w, x, ev.data.p, ev.data.n, ev.end)
    else:
        request_push(w, x, ev.data.p, ev.data.n, ev.end)
    if not v.s.dead:
        stream_credit(w, v)


# -- as a source of the reactor: there is room in `out`, or time has passed

# What has left `out` may have come from a stream, too, on a host in between.
cdef void credit_source(Worker *w, const Conn *v) noexcept nogil:
    cdef Conn *source = v.x.down if v.vm_side else v.x.up
    if source != NULL and is_stream(source):
        stream_credit(w, source)


cdef int stream_on_event(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Conn *v = <Conn *>source
    cdef Exchange *x = v.x
    cdef int again = 0
    if x == NULL or v.state == US_CONNECTING:
        return 0
    credit_source(w, v)
    if v.vm_side:
        if not x.request.done and request_pump(w, x):
            reactor_queue(&w.reactor, &x.down.s)
        return 0
    if x.phase == PH_ANSWER and x.up != NULL:
        again = response_read(w, x)
        if v.s.dead or v.x != x:
            return 0
    if not x.request.done and x.up != NULL:
        request_pump(w, x)
    return again


cdef void stream_on_timeout(void *owner, Source *source) noexcept nogil:
    if (<Conn *>source).vm_side:
        upstream_on_timeout(owner, source)
    else:
        down_on_timeout(owner, source)
