"""Towards machines of other hosts. HTTP rides on transports, built when the first request needs one and kept warm. More
are opened as streams crowd, one for each port of the host, and beyond that when all are full; of two the emptier is
taken. A host that cannot be reached is left alone for a second: requests go elsewhere without waiting for it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from flyproxy._speedups.errors cimport ERR_PH02, ERR_PL05, ERR_PU03
from flyproxy._speedups.flow.conns cimport conn_close
from flyproxy._speedups.flow.exchange cimport exchange_drop_upstream, exchange_fail, exchange_give_back
from flyproxy._speedups.flow.hosts cimport (
    host_connect, host_connect_deadline, host_epoch, host_first_port, host_greet, host_link, host_read_answer,
    host_send_hello, host_towards,
)
from flyproxy._speedups.flow.ids cimport random_choice
from flyproxy._speedups.flow.output cimport outbox_add, outbox_clear, outbox_send
from flyproxy._speedups.flow.queue cimport queue_leave, queue_wait
from flyproxy._speedups.flow.request cimport request_send
from flyproxy._speedups.flow.retry cimport F_HOST_UNREACHABLE, attempt_failed, attempt_refused
from flyproxy._speedups.flow.streams cimport stream_end, stream_open
from flyproxy._speedups.flow.tcp_relay cimport tcp_relay_open
from flyproxy._speedups.flow.transport cimport frames_begin, frames_end, transport_end, transport_new, transport_start
from flyproxy._speedups.flow.upstream cimport upstream_attach
from flyproxy._speedups.flow.wire cimport wire_ready
from flyproxy._speedups.flow.worker cimport (
    CF_END, CF_END_SENT, HOST_TRANSPORTS, K_TRANSPORT, PH_CONNECT, PH_SEND, TR_HOST, US_BUSY, US_CONNECTING,
    US_GREETING, XF_CONTENT_SENT, XF_RAW, XF_UPGRADE, Conn, Exchange, HostLink, Transport, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_len
from flyproxy._speedups.net.reactor cimport IO_ERR, IO_IN, IO_OUT, timer_set
from flyproxy._speedups.net.sockets cimport sock_error
from flyproxy._speedups.proto.answer cimport error_by_code
from flyproxy._speedups.proto.head cimport Header, Slice
from flyproxy._speedups.proto.hello cimport HA_BUSY, HA_OK, HA_OLD_DESTINATION, HELLO_TRANSPORT, Hello, HelloAnswer
from flyproxy._speedups.proto.hpack cimport FF_NEVER
from flyproxy._speedups.proto.http2 cimport http2_fits, http2_request
from flyproxy._speedups.proto.http1 cimport put_decimal
from flyproxy._speedups.proto.relay_head cimport RELAY_CLIENT, relay_control, relay_field, relay_parse
from flyproxy._speedups.proto.text cimport put_hex_bytes
from flyproxy._speedups.shm.counters cimport LIM_STREAMS
from flyproxy._speedups.shm.table cimport (
    HOSTS_MAX, TApp, THost, TMachine, TService, table_app, table_host, table_machine, table_service_by_id,
)

cdef enum:
    REST_MS = 1000
    CROWDED = 64                # streams on the emptier of two from which another transport is opened
    LAST_STREAM = 1 << 21       # id from which a transport makes room for a fresh one: after a million requests
    CONTROL_FIELDS = 5


# -- one transport of several

cdef int stays(const Transport *t, int hops) noexcept nogil:
    return not t.dead and not t.going and not t.h2.draining and t.hops == hops


# One that is about to be open is taken to carry as much as ours do.
cdef int usable(Worker *w, const Transport *t, int hops) noexcept nogil:
    return stays(t, hops) and t.count < (t.h2.peer.streams if t.open else w.config.backhaul_streams)


# Those that leave, held by long streams, and those with other hops do not count.
cdef uint32_t standing(const HostLink *link, int hops) noexcept nogil:
    cdef const Transport *t = link.transports
    cdef uint32_t n = 0
    while t != NULL:
        n += stays(t, hops)
        t = t.sibling
    return n


# Of two random ones that are open the emptier; else one that is about to be.
cdef Transport *choose(Worker *w, HostLink *link, int hops) noexcept nogil:
    cdef Transport *ready[HOST_TRANSPORTS]
    cdef Transport *coming = NULL
    cdef Transport *t = link.transports
    cdef Transport *a
    cdef Transport *b
    cdef uint64_t random = random_choice(w)
    cdef uint32_t n = 0
    while t != NULL:
        if usable(w, t, hops) and not t.open:
            coming = t
        elif usable(w, t, hops) and n < HOST_TRANSPORTS:
            ready[n] = t
            n += 1
        t = t.sibling
    if n == 0:
        return coming
    a = ready[<uint32_t>random % n]
    b = ready[<uint32_t>(random >> 32) % n]
    return b if b.count < a.count else a


cdef Transport *connect(Worker *w, HostLink *link, const THost *h, int hops, uint32_t others) noexcept nogil:
    cdef uint32_t port = (host_first_port(w) + others) % h.nports
    cdef Conn *c = host_connect(w, h, port, K_TRANSPORT)
    cdef Transport *t
    if c == NULL:
        return NULL
    t = transport_new(w, c, TR_HOST)
    if t == NULL:
        conn_close(w, c)
        return NULL
    c.state = US_CONNECTING
    t.host = h.slot
    t.host_generation = h.generation
    t.hops = <uint8_t>hops
    t.port = <uint8_t>port
    t.sibling = link.transports
    link.transports = t
    timer_set(&w.reactor, &c.s, host_connect_deadline(w))
    return t


cdef void backhaul_forget(Worker *w, Transport *t) noexcept nogil:
    cdef HostLink *link = &w.host_links[t.host] if t.host < HOSTS_MAX else NULL
    cdef Transport **at
    if link == NULL:
        return
    if not t.open and link.generation == t.host_generation:
        link.rest_until_ms = w.reactor.now_ms + REST_MS
    at = &link.transports
    while at[0] != NULL:
        if at[0] == t:
            at[0] = t.sibling
            return
        at = &at[0].sibling


# Once more: with a newer epoch when the host has been started anew since its record was read, as before when a worker
# of it that was about to leave took us. `answer` NULL: there was none.
cdef int greet_again(Worker *w, Transport *t, const THost *h, const HelloAnswer *answer) noexcept nogil:
    cdef HostLink *link = &w.host_links[h.slot]
    cdef Conn *c
    if t.retried:
        return 0
    if answer != NULL and answer.status == HA_OLD_DESTINATION and answer.epoch > host_epoch(link, h):
        link.epoch = answer.epoch
    elif answer != NULL and answer.status != HA_BUSY:
        return 0
    t.retried = 1
    c = host_connect(w, h, t.port, K_TRANSPORT)
    if c == NULL:
        return 0
    t.c.transport = NULL
    conn_close(w, t.c)
    t.c = c
    c.transport = t
    c.state = US_CONNECTING
    timer_set(&w.reactor, &c.s, host_connect_deadline(w))
    return 1


cdef int connected(Worker *w, Transport *t, const THost *h) noexcept nogil:
    cdef Hello hello
    cdef Conn *c = t.c
    cdef int ready = -1
    if not c.s.io & (IO_OUT | IO_ERR):
        return 0
    if h != NULL and sock_error(c.s.fd) == 0:
        ready = wire_ready(w, c)
    if ready == 0:
        return 0
    if ready > 0:
        host_greet(w, h, t.port, &hello)
        hello.kind = HELLO_TRANSPORT
        hello.hops = t.hops
        if host_send_hello(w, c, &hello):
            c.state = US_GREETING
            return 1
    transport_end(w, t, F_HOST_UNREACHABLE)
    return 0


cdef int backhaul_read(Worker *w, Transport *t) noexcept nogil:
    cdef const THost *h = table_host(&w.table, t.host)
    cdef HelloAnswer answer
    cdef int got
    if h != NULL and (h.generation != t.host_generation or t.port >= h.nports):
        h = NULL
    if t.c.state == US_CONNECTING:
        return connected(w, t, h) and t.c.s.io & IO_IN
    got = host_read_answer(w, t.c, &answer)
    if got == 0:
        return 0
    if got > 0 and answer.status == HA_OK:
        transport_start(w, t)
        return 1
    if h != NULL and greet_again(w, t, h, &answer if got > 0 else NULL):
        return 0
    transport_end(w, t, F_HOST_UNREACHABLE)
    return 0


cdef void backhaul_opened(Worker *w, Transport *t) noexcept nogil:
    cdef Conn *v = t.streams
    cdef Conn *next
    while v != NULL and not t.dead:
        next = v.link_next
        if v.state == US_CONNECTING and v.x != NULL:
            v.state = US_BUSY
            v.x.phase = PH_SEND
            request_send(w, v.x)
        v = next


# -- a request

cdef uint32_t put_client(const Conn *c, char *out) noexcept nogil:
    cdef uint8_t raw[RELAY_CLIENT]
    memcpy(raw, c.peer.address, 16)
    raw[16] = <uint8_t>(c.peer.port >> 8)
    raw[17] = <uint8_t>c.peer.port
    memcpy(raw + 18, c.local.address, 16)
    raw[34] = <uint8_t>(c.local.port >> 8)
    raw[35] = <uint8_t>c.local.port
    put_hex_bytes(out, raw, RELAY_CLIENT)
    return 2 * RELAY_CLIENT


# What the other proxy must know, and nobody but a proxy may say.
cdef uint32_t control_fields(Worker *w, Exchange *x, const TApp *app, const TMachine *m, const TService *s,
                             Header *out, char *text) noexcept nogil:
    cdef uint32_t port_n = put_decimal(text, s.internal_port)
    cdef uint32_t edge_n = put_decimal(text + 8, x.down.service_port)
    out[0] = relay_control(b"flyproxy-app", 12, app.name, app.name_n)
    out[1] = relay_control(b"flyproxy-machine", 16, m.id, m.id_n)
    out[2] = relay_control(b"flyproxy-port", 13, text, port_n)
    out[3] = relay_control(b"flyproxy-edge-port", 18, text + 8, edge_n)
    if not x.proxy_version:
        return 4
    out[4] = relay_control(b"flyproxy-client", 15, text + 16, put_client(x.down, text + 16))
    out[4].pad = FF_NEVER
    return 5


cdef void backhaul_send(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *v = x.up
    cdef Transport *t = v.carrier
    cdef const TMachine *m = table_machine(&w.table, x.machine, x.machine_generation)
    cdef const TApp *app = table_app(&w.table, x.app, x.app_generation)
    cdef const TService *s = table_service_by_id(&w.table, x.service, x.service_generation)
    cdef Header extra[CONTROL_FIELDS]
    cdef char text[16 + 2 * RELAY_CLIENT]
    cdef uint32_t n, head_n
    cdef int end
    if m == NULL or app == NULL or s == NULL:
        attempt_failed(w, x, F_HOST_UNREACHABLE)
        return
    head_n = relay_parse(x.head.data, buf_len(&x.head), &w.request)
    n = control_fields(w, x, app, m, s, extra, text) if t.role == TR_HOST else 0
    if head_n == 0 or not http2_fits(&t.h2, w.request.target.n, w.request.headers, w.request.nheaders, extra, n):
        exchange_fail(w, x, ERR_PH02)       # the peer would end the transport, with all its riders
        return
    end = x.request.done and buf_len(&x.head) == head_n and not x.flags & XF_UPGRADE
    if not frames_begin(w, t, 2 * head_n + 4096):
        exchange_fail(w, x, ERR_PL05)
        return
    v.h2 = http2_request(&t.h2, &w.request, False, extra, n, end, &w.h2)
    if v.h2 == NULL:                # more have waited for the transport to open than it takes
        exchange_drop_upstream(w, x)
        wait_for_stream(w, x)
        return
    frames_end(w, t)
    if t.h2.last_ours >= LAST_STREAM:
        t.going = 1                 # ids are never used twice (RFC 9113 5.1.1)
    v.h2.owner = v
    x.head_sent = buf_len(&x.head)
    x.flags |= XF_CONTENT_SENT
    x.sent_us = w.reactor.now_us
    if end:
        v.flags |= CF_END | CF_END_SENT
    elif buf_len(&x.head) > head_n:
        send_kept_body(w, x, v, head_n)


cdef void send_kept_body(Worker *w, Exchange *x, Conn *v, uint32_t head_n) noexcept nogil:
    outbox_clear(w)
    outbox_add(w, x.head.data + x.head.start + head_n, buf_len(&x.head) - head_n)
    if x.request.done:
        stream_end(w, v, NULL, 1)
    outbox_send(w, v)


# Until one of its streams ends. As in upstream_open nobody is woken: the others would find no room, either.
cdef void wait_for_stream(Worker *w, Exchange *x) noexcept nogil:
    w.counters.limits[LIM_STREAMS] += x.queue_until_ms == 0
    exchange_give_back(w, x)
    queue_wait(w, x)


cdef void open_stream(Worker *w, Exchange *x, const TMachine *m, const THost *h, int hops) noexcept nogil:
    cdef HostLink *link = host_link(w, h)
    cdef Transport *t = choose(w, link, hops)
    cdef Transport *fresh = NULL
    cdef Conn *v
    cdef uint32_t others = <uint32_t>HOST_TRANSPORTS
    if t == NULL or (t.open and t.count >= CROWDED):
        others = standing(link, hops)
    if t == NULL and others >= HOST_TRANSPORTS:         # each carries as much as it may
        wait_for_stream(w, x)
        return
    queue_leave(w, x)
    # One for each port of the host while they are crowded; more only when all are full.
    if others < HOST_TRANSPORTS and (t == NULL or others < h.nports) and w.reactor.now_ms >= link.rest_until_ms:
        fresh = connect(w, link, h, hops, others)
        if fresh == NULL:
            link.rest_until_ms = w.reactor.now_ms + REST_MS
    if t == NULL:
        t = fresh
    if t == NULL:
        attempt_failed(w, x, F_HOST_UNREACHABLE)
        return
    x.sent_us = w.reactor.now_us
    x.phase = PH_CONNECT
    v = stream_open(w, t, 1)
    if v == NULL:
        exchange_fail(w, x, ERR_PL05)
        return
    upstream_attach(x, v, m)
    v.s.lane = x.down.s.lane
    if t.open:
        v.state = US_BUSY
        x.phase = PH_SEND
        request_send(w, x)


cdef void backhaul_open(Worker *w, Exchange *x, const TMachine *m) noexcept nogil:
    cdef int hops = 0
    cdef const THost *h = host_towards(w, x, m, &hops)
    cdef int known = h != NULL and h.nports != 0 and w.boot_epoch != 0
    if known and not x.flags & XF_RAW:
        open_stream(w, x, m, h, hops)
        return
    queue_leave(w, x)
    if not known or w.reactor.now_ms < host_link(w, h).rest_until_ms:
        attempt_failed(w, x, F_HOST_UNREACHABLE)
        return
    x.sent_us = w.reactor.now_us
    x.phase = PH_CONNECT
    tcp_relay_open(w, x, m, h)


cdef void backhaul_refused(Worker *w, Exchange *x) noexcept nogil:
    cdef Slice code = relay_field(w.response.headers, w.response.nheaders, b"error", 5)
    cdef Slice unreached = relay_field(w.response.headers, w.response.nheaders, b"unreached", 9)
    cdef int error = error_by_code(code.p, code.n)
    attempt_refused(w, x, error if error else <int>ERR_PU03, unreached.n != 0)
