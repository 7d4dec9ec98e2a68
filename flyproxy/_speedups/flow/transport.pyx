"""A transport: frames between a socket and its streams.

All that its streams say in one turn leaves in one send at the end of the turn. It is alive as long as bytes come: after
a second of silence a PING asks, and three seconds without an answer end it, so a half-open connection costs its riders
seconds, not minutes. Where only our direction is dead the kernel ends it, for what we sent is not acknowledged. One
budget over all riders would let one of them sever the others: towards other proxies there is none.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from flyproxy._speedups.errors cimport ERR_PC03, ERR_PD01, ERR_PU03, ERR_PU08
from flyproxy._speedups.flow.backhaul cimport backhaul_forget, backhaul_opened, backhaul_read
from flyproxy._speedups.flow.conns cimport conn_close
from flyproxy._speedups.flow.delivery cimport delivery_read_hello, delivery_request
from flyproxy._speedups.flow.downstream cimport downs_uncork
from flyproxy._speedups.flow.exchange cimport exchange_abort, exchange_fail
from flyproxy._speedups.flow.response cimport response_head, response_trailers
from flyproxy._speedups.flow.request cimport request_trailers
from flyproxy._speedups.flow.retry cimport (
    F_CONNECT_TIMEOUT, F_HOST_UNREACHABLE, F_NO_HTTP2, F_RESET, F_TRANSPORT_LOST, attempt_failed,
    attempt_refused,
)
from flyproxy._speedups.flow.streams cimport stream_data, stream_release, streams_fill
from flyproxy._speedups.flow.tunnel cimport tunnel_broken
from flyproxy._speedups.flow.vm_http2 cimport vm_connected, vm_forget
from flyproxy._speedups.flow.wire cimport wire_recv, wire_send
from flyproxy._speedups.flow.worker cimport (
    PH_ANSWER, PH_TUNNEL, READS_PER_TURN, SCRATCH, TR_HOST, TR_SERVER, TR_VM, US_CONNECTING, Conn, Exchange, Transport,
    Worker,
)
from flyproxy._speedups.mem.buf cimport buf_append, buf_consume, buf_give, buf_len, buf_room
from flyproxy._speedups.mem.slab cimport slab_clear, slab_init
from flyproxy._speedups.net.reactor cimport IO_ERR, IO_IN, IO_OUT, IO_RDHUP, Source, reactor_queue, timer_set
from flyproxy._speedups.net.sockets cimport sock_unacknowledged
from flyproxy._speedups.proto.head cimport HEADERS_CAP, Header
from flyproxy._speedups.proto.http2 cimport (
    EV_DATA, EV_ERROR, EV_GOAWAY, EV_NONE, EV_PONG, EV_REQUEST, EV_RESET, EV_RESPONSE, EV_SETTINGS, EV_TRAILERS,
    EV_WINDOW, H2_ARENA, H2_CONTROL_ROOM, H2Config, H2Event, H2Stream, http2_clear, http2_drain, http2_drain_end,
    http2_init, http2_ping, http2_read, http2_ready, http2_start,
)
from flyproxy._speedups.proto.http2_window cimport WINDOW_MAX
from flyproxy._speedups.shm.counters cimport HELLO_SILENT

cdef enum:
    LIST_MAX = 128 << 10        # bytes of a decoded head with 32 for each field
    STREAM_WINDOW = 64 << 10    # at first
    HPACK_TABLE = 4096
    OUT_MAX = 1 << 20           # bytes of frames not taken by the peer: nothing more is read from it
    WRITES_PER_TURN = 4
    TICK_MS = 1000              # how often a transport is looked at, at least
    QUIET_MS = 1000             # silence after which a PING asks, while somebody waits
    IDLE_QUIET_MS = 5000        # and while nobody does
    DEAD_MS = 3000              # and how long its answer may take
    DRAIN_PATIENCE_MS = 2000    # for the answer to the PING between two GOAWAYs


cdef int transports_init(Worker *w) noexcept nogil:
    w.h2.arena_cap = 2 * LIST_MAX + H2_ARENA
    w.h2.arena = <char *>malloc(w.h2.arena_cap)
    w.h2.fields = <Header *>malloc(HEADERS_CAP * sizeof(Header))
    w.h2.request = &w.request
    w.h2.response = &w.response
    w.h2_client.trusted = 1
    w.h2_client.decoder_table = HPACK_TABLE
    w.h2_client.encoder_table = HPACK_TABLE
    w.h2_client.stream_window = STREAM_WINDOW
    w.h2_client.connection_window = WINDOW_MAX
    w.h2_client.list_max = LIST_MAX
    w.h2_client.headers = HEADERS_CAP
    w.h2_client.target = LIST_MAX
    w.h2_server = w.h2_client
    w.h2_server.server = 1
    w.h2_server.connect_protocol = 1
    w.h2_vm = w.h2_client
    w.h2_vm.trusted = 0
    return w.h2.arena != NULL and w.h2.fields != NULL and slab_init(&w.h2_streams, sizeof(H2Stream))


cdef void transports_clear(Worker *w) noexcept nogil:
    while w.transports != NULL:
        transport_end(w, w.transports, F_HOST_UNREACHABLE)
    transports_flush(w)
    slab_clear(&w.h2_streams)
    free(w.h2.arena)
    free(w.h2.fields)


cdef const H2Config *config_of(Worker *w, int role) noexcept nogil:
    if role == TR_SERVER:
        return &w.h2_server
    return &w.h2_client if role == TR_HOST else &w.h2_vm


cdef Transport *transport_new(Worker *w, Conn *c, int role) noexcept nogil:
    cdef Transport *t = <Transport *>calloc(1, sizeof(Transport))
    if t == NULL:
        return NULL
    w.h2_server.streams = w.config.backhaul_streams
    http2_init(&t.h2, config_of(w, role), &w.pool, &w.h2_streams, w.reactor.now_ms)
    t.role = <uint8_t>role
    t.c = c
    c.transport = t
    t.heard_ms = w.reactor.now_ms
    t.used_ms = w.reactor.now_ms
    t.next = w.transports
    if t.next != NULL:
        t.next.prev = t
    w.transports = t
    return t


cdef void transport_start(Worker *w, Transport *t) noexcept nogil:
    t.greeted = 1
    if frames_begin(w, t, 2 * H2_CONTROL_ROOM):
        http2_start(&t.h2, &w.h2)
        frames_end(w, t)
    if t.role != TR_VM:
        sock_unacknowledged(t.c.s.fd, DEAD_MS)
        ask(w, t)
    timer_set(&w.reactor, &t.c.s, w.reactor.now_ms + TICK_MS)


# -- its end

cdef void lose_stream(Worker *w, Transport *t, Conn *v, int failure) noexcept nogil:
    cdef Exchange *x = v.x
    if v.state != US_CONNECTING:
        failure = F_TRANSPORT_LOST if t.dead and t.role == TR_HOST else F_RESET
    stream_release(w, v)
    if x == NULL:
        conn_close(w, v)
    elif x.phase == PH_TUNNEL:
        tunnel_broken(w, x, v)
    elif not v.vm_side:
        exchange_abort(w, x, ERR_PD01)
    elif x.phase == PH_ANSWER:
        exchange_fail(w, x, ERR_PU08)
    else:
        attempt_failed(w, x, failure)


# What it means for those that wait that it broke off.
cdef int broken(const Transport *t) noexcept nogil:
    return F_NO_HTTP2 if t.role == TR_VM else F_HOST_UNREACHABLE


cdef void transport_end(Worker *w, Transport *t, int failure) noexcept nogil:
    cdef Conn *c = t.c
    if t.dead:
        return
    t.dead = 1
    if t.role == TR_HOST:
        backhaul_forget(w, t)
    elif t.role == TR_VM:
        vm_forget(w, t)
    t.open = 0
    if t.prev != NULL:
        t.prev.next = t.next
    else:
        w.transports = t.next
    if t.next != NULL:
        t.next.prev = t.prev
    while t.streams != NULL:
        lose_stream(w, t, t.streams, failure)
    http2_clear(&t.h2)
    transport_mark(w, t)        # what still points here is gone at the end of the turn, and so is this
    c.transport = NULL
    conn_close(w, c)


# -- frames out

cdef int frames_begin(Worker *w, Transport *t, uint32_t room) noexcept nogil:
    cdef Conn *c = t.c
    if t.dead or not buf_room(&w.pool, &c.out, room):
        return 0
    w.h2.out = c.out.data
    w.h2.out_n = c.out.end
    w.h2.out_cap = c.out.cap
    w.h2.now_ms = w.reactor.now_ms
    return 1


cdef void frames_end(Worker *w, Transport *t) noexcept nogil:
    t.c.out.end = w.h2.out_n
    transport_mark(w, t)


cdef void transport_mark(Worker *w, Transport *t) noexcept nogil:
    if not t.dirty:
        t.dirty = 1
        t.next_dirty = w.dirty
        w.dirty = t


cdef void flush(Worker *w, Transport *t) noexcept nogil:
    cdef Conn *c = t.c
    cdef int64_t sent
    cdef int _k
    if buf_len(&c.out) > OUT_MAX:       # reading has stopped, and what epoll said is not said again
        reactor_queue(&w.reactor, &c.s)
    for _k in range(WRITES_PER_TURN):
        streams_fill(w, t)
        if buf_len(&c.out) == 0:
            buf_give(&w.pool, &c.out)
            return
        if not c.s.io & IO_OUT or not t.greeted:
            return
        sent = wire_send(c, c.out.data + c.out.start, buf_len(&c.out))
        if sent < 0 and sent != -EAGAIN:
            transport_end(w, t, broken(t))
            return
        if sent < buf_len(&c.out):
            c.s.io &= ~IO_OUT
        if sent > 0:
            buf_consume(&w.pool, &c.out, <uint32_t>sent)
    transport_mark(w, t)


cdef void transports_flush(Worker *w) noexcept nogil:
    cdef Transport *t = w.dirty
    cdef Transport *next
    w.dirty = NULL
    while t != NULL:
        next = t.next_dirty
        t.dirty = 0
        if t.dead:
            free(t)
        else:
            flush(w, t)
        t = next


# -- frames in

cdef void stream_was_reset(Worker *w, Transport *t, Conn *v, const H2Event *ev) noexcept nogil:
    cdef Exchange *x = v.x
    if x != NULL and v.vm_side and x.phase < PH_ANSWER and ev.retry:
        attempt_refused(w, x, ERR_PC03 if t.role == TR_VM else ERR_PU03, 1)
    else:
        lose_stream(w, t, v, F_RESET)


cdef void trailers(Worker *w, Conn *v, const H2Event *ev) noexcept nogil:
    if v.x == NULL or v.x.phase == PH_TUNNEL:
        return
    if v.vm_side:
        response_trailers(w, v.x, w.h2.fields, ev.nfields)
    else:
        request_trailers(w, v.x, w.h2.fields, ev.nfields)


cdef void window(Worker *w, Transport *t, H2Stream *stream) noexcept nogil:
    cdef Conn *v = <Conn *>stream.owner if stream != NULL else NULL
    if v != NULL and buf_len(&v.out):
        http2_ready(&t.h2, stream)
    transport_mark(w, t)


cdef void opened(Worker *w, Transport *t) noexcept nogil:
    if t.open:
        return
    t.open = 1
    if t.role != TR_SERVER:
        backhaul_opened(w, t)


cdef void answered(Worker *w, Transport *t, const H2Event *ev) noexcept nogil:
    cdef uint64_t then
    cdef uint64_t us
    memcpy(&then, ev.data.p, 8)
    us = w.reactor.now_us - then
    t.pinging = 0
    if t.rtt_us == 0 or us < t.rtt_us:
        t.rtt_us = <uint32_t>(us if us else 1)


cdef void happened(Worker *w, Transport *t, H2Event *ev) noexcept nogil:
    cdef Conn *v = <Conn *>ev.stream.owner if ev.stream != NULL else NULL
    if ev.type == EV_DATA and v != NULL:
        stream_data(w, v, ev)
    elif ev.type == EV_REQUEST:
        delivery_request(w, t, ev)
    elif ev.type == EV_RESPONSE and v != NULL and v.x != NULL:
        response_head(w, v.x, ev.end)
    elif ev.type == EV_WINDOW:
        window(w, t, ev.stream)
    elif ev.type == EV_TRAILERS and v != NULL:
        trailers(w, v, ev)
    elif ev.type == EV_RESET and v != NULL:
        stream_was_reset(w, t, v, ev)
    elif ev.type == EV_SETTINGS:
        opened(w, t)
    elif ev.type == EV_PONG:
        answered(w, t, ev)
    elif ev.type == EV_GOAWAY:
        t.going = 1
    elif ev.type == EV_ERROR:
        if t.c.s.io & IO_OUT:           # the GOAWAY says why; nobody waits for it to arrive
            wire_send(t.c, t.c.out.data + t.c.out.start, buf_len(&t.c.out))
        transport_end(w, t, broken(t))


# All frames in [p, p + n); what is not whole yet is kept. 0: the transport is gone.
cdef int take_frames(Worker *w, Transport *t, const char *p, uint32_t n) noexcept nogil:
    cdef H2Event ev
    cdef uint32_t used = 0
    while True:
        if not frames_begin(w, t, 2 * H2_CONTROL_ROOM):
            if not t.dead:
                transport_end(w, t, broken(t))
            return 0
        used += <uint32_t>http2_read(&t.h2, p + used, n - used, &w.h2, &ev)
        if w.h2.out_n != t.c.out.end:
            frames_end(w, t)
        if ev.type == EV_NONE:
            break
        happened(w, t, &ev)
        if t.dead:
            return 0
    if used < n and not buf_append(&w.pool, &t.c.in_, p + used, n - used):
        transport_end(w, t, broken(t))
        return 0
    if buf_len(&t.c.out) == 0:
        buf_give(&w.pool, &t.c.out)
    if t.count == 0:
        if t.going:
            transport_end(w, t, broken(t))
            return 0
        if t.h2.draining == 2:
            transport_rested(w, t)
    return 1


cdef int read_frames(Worker *w, Transport *t) noexcept nogil:
    cdef Conn *c = t.c
    cdef uint32_t kept
    cdef int64_t n
    cdef int _k, alive
    for _k in range(READS_PER_TURN):
        if not c.s.io & (IO_IN | IO_RDHUP) or buf_len(&c.out) > OUT_MAX:
            return 0
        kept = buf_len(&c.in_)
        if kept:
            memcpy(w.frames, c.in_.data + c.in_.start, kept)
        n = wire_recv(c, w.frames + kept, SCRATCH)
        if n == -EAGAIN:
            c.s.io &= ~IO_IN
            return 0
        if n <= 0:
            transport_end(w, t, broken(t))
            return 0
        if n < SCRATCH and not c.s.io & IO_RDHUP:
            c.s.io &= ~IO_IN
        t.heard_ms = w.reactor.now_ms
        buf_give(&w.pool, &c.in_)
        alive = take_frames(w, t, w.frames, kept + <uint32_t>n)
        downs_uncork(w)
        if not alive:
            return 0
    return 1


cdef int transport_on_event(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Conn *c = <Conn *>source
    cdef Transport *t = c.transport
    if t == NULL:
        return delivery_read_hello(w, c)
    if not t.greeted:
        return vm_connected(w, t) if t.role == TR_VM else backhaul_read(w, t)
    if source.io & IO_ERR:
        source.io |= IO_IN              # the read says what happened
    if source.io & IO_OUT and buf_len(&c.out):
        transport_mark(w, t)
    return read_frames(w, t)


# -- its life

cdef void ask(Worker *w, Transport *t) noexcept nogil:
    if t.pinging or not frames_begin(w, t, H2_CONTROL_ROOM):
        return
    if http2_ping(&t.h2, <const char *>&w.reactor.now_us, &w.h2):
        t.pinging = 1
        t.ping_us = w.reactor.now_us
    frames_end(w, t)


cdef void transport_rested(Worker *w, Transport *t) noexcept nogil:
    t.used_ms = w.reactor.now_ms
    if (t.going or t.h2.draining == 2) and not t.dead:
        timer_set(&w.reactor, &t.c.s, w.reactor.now_ms)     # not from inside of what its streams do


cdef int is_dead(Worker *w, Transport *t) noexcept nogil:
    return t.pinging and w.reactor.now_ms >= t.ping_us / 1000 + DEAD_MS and w.reactor.now_ms >= t.heard_ms + DEAD_MS


cdef int has_ended(Worker *w, Transport *t) noexcept nogil:
    cdef uint32_t idle_ms = w.config.upstream_idle_ms if t.role == TR_VM else w.config.backhaul_idle_ms
    if t.count:
        return 0
    if t.going or t.h2.draining == 2:
        return buf_len(&t.c.out) == 0
    return t.role != TR_SERVER and w.reactor.now_ms >= t.used_ms + idle_ms


cdef inline uint64_t quiet_ms(const Transport *t) noexcept nogil:
    return QUIET_MS if t.count else IDLE_QUIET_MS


cdef uint64_t next_look(Worker *w, const Transport *t) noexcept nogil:
    cdef uint64_t now = w.reactor.now_ms
    cdef uint64_t due = t.ping_us / 1000 + DEAD_MS if t.pinging else t.heard_ms + quiet_ms(t)
    return due if now < due < now + TICK_MS else now + TICK_MS


# What rides on it from now on learns soon whether the way has died meanwhile.
cdef void transport_woken(Worker *w, Transport *t) noexcept nogil:
    cdef uint64_t due
    if t.role != TR_HOST or not t.open:
        return
    if w.reactor.now_ms >= t.heard_ms + QUIET_MS:
        ask(w, t)
    due = next_look(w, t)
    if due < t.c.s.deadline_ms:         # never later than planned: riders that come and go would put it off for ever
        timer_set(&w.reactor, &t.c.s, due)


cdef void transport_on_timeout(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Conn *c = <Conn *>source
    cdef Transport *t = c.transport
    if t == NULL:
        w.counters.hellos_refused[HELLO_SILENT] += 1
        conn_close(w, c)
        return
    if not t.open and not (t.greeted and t.role == TR_SERVER):
        transport_end(w, t, F_CONNECT_TIMEOUT if t.role == TR_VM else F_HOST_UNREACHABLE)
        return
    if is_dead(w, t) or has_ended(w, t):
        transport_end(w, t, broken(t))
        return
    if w.reactor.now_ms >= t.heard_ms + quiet_ms(t) and t.role != TR_VM:    # a machine may think for long
        ask(w, t)
    if t.h2.draining == 1 and frames_begin(w, t, H2_CONTROL_ROOM):
        http2_drain_end(&t.h2, &w.h2)   # its patience was one tick
        frames_end(w, t)
    timer_set(&w.reactor, source, next_look(w, t))


cdef void transports_drain(Worker *w) noexcept nogil:
    cdef Transport *t = w.transports
    while t != NULL:
        if t.role == TR_SERVER and t.greeted and frames_begin(w, t, H2_CONTROL_ROOM):
            http2_drain(&t.h2, &w.h2)
            frames_end(w, t)
            timer_set(&w.reactor, &t.c.s, w.reactor.now_ms + DRAIN_PATIENCE_MS)
        t = t.next


cdef void transports_count(Worker *w) noexcept nogil:
    cdef Transport *t = w.transports
    w.counters.transports = 0
    w.counters.streams = 0
    while t != NULL:
        w.counters.transports += 1
        w.counters.streams += t.count
        t = t.next
