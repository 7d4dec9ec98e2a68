"""What other proxies bring. Nothing is believed but a hello that is authentic, for us, fresh and from a known host at
its own address; what it names is a machine and a declared service, never an address or a free port.

This host is the authority on its machines. What it refuses carries ``flyproxy-error`` (or, for a relay, stands in the
8-byte answer), so the other proxy can tell it from what an app said, and try another machine.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, strlen

from flyproxy._speedups.errors cimport ERR_PE04, ERR_PL05, ERR_PR02, ERR_PR06, ERR_PU07
from flyproxy._speedups.flow.backhaul cimport backhaul_open
from flyproxy._speedups.flow.body cimport body_start
from flyproxy._speedups.flow.conns cimport conn_close, conn_open
from flyproxy._speedups.flow.exchange cimport exchange_fail, exchange_finish, exchange_new, exchange_route
from flyproxy._speedups.flow.hosts cimport host_link
from flyproxy._speedups.flow.streams cimport stream_last, stream_open
from flyproxy._speedups.flow.transport cimport frames_begin, frames_end, transport_new, transport_start
from flyproxy._speedups.flow.upstream cimport upstream_open
from flyproxy._speedups.flow.wire cimport wire_ready, wire_recv, wire_secure, wire_send
from flyproxy._speedups.flow.worker cimport (
    BODY_LENGTH, BODY_NONE, BODY_UNTIL_CLOSE, CF_END, CF_END_SENT, K_DOWN, K_TRANSPORT, TR_SERVER, TS_HELLO, US_BUSY,
    XF_ADMITTED, XF_CONTENT_SENT, XF_DELIVERY, XF_HALF_CLOSE, XF_HTTP2, XF_IDEMPOTENT, XF_MAY_RELAY, XF_RAW,
    XF_UNREACHED, XF_UPGRADE, Conn, Exchange, HostLink, Listener, Transport, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_give, buf_len, buf_room, buf_take
from flyproxy._speedups.net.reactor cimport IO_IN, reactor_move_lane, timer_set
from flyproxy._speedups.net.sockets cimport Endpoint, sock_local
from flyproxy._speedups.net.tls cimport tls_feed, tls_names
from flyproxy._speedups.proto.answer cimport error_code, error_number, error_status
from flyproxy._speedups.proto.head cimport RQ_EXPECT, RQ_IDEMPOTENT, RQ_UPGRADE, RS_SWITCHED, Header, Slice
from flyproxy._speedups.proto.hello cimport (
    HA_BUSY, HA_MALFORMED, HA_NOT_AUTHENTIC, HA_OK, HA_OLD_DESTINATION, HA_OLD_SOURCE, HA_REFUSED, HA_STALE,
    HA_WRONG_HOST, HELLO_ANSWER, HELLO_MAX, HELLO_TRANSPORT, Hello, HelloAnswer, hello_answer_write, hello_authentic,
    hello_parse,
)
from flyproxy._speedups.proto.http1_lookup cimport http1_header
from flyproxy._speedups.proto.http2 cimport (
    H2_BLOCK_MAX, REFUSED_STREAM, H2Event, http2_fits, http2_release, http2_reset, http2_response,
)
from flyproxy._speedups.proto.names cimport H_UPGRADE
from flyproxy._speedups.proto.relay_head cimport RELAY_CLIENT, relay_control, relay_field, relay_request_text
from flyproxy._speedups.proto.text cimport get_hex_bytes, get_number
from flyproxy._speedups.shm.budget cimport BK_INFLIGHT, budget_admit
from flyproxy._speedups.shm.counters cimport LIM_HARD_LIMIT, LIM_HELLOS
from flyproxy._speedups.shm.replay cimport replay_seen
from flyproxy._speedups.shm.table cimport (
    H_PROXY_PROTO, HOST_HERE, HOST_UNKNOWN, THost, TApp, TMachine, TPort, TService, table_app_by_id, table_host_by_id,
    table_machine, table_machine_by_id, table_port, table_service_by_id, table_service_by_port,
)

cdef extern from "fp_status.h" nogil:
    const char *reason_of "fp_reason"(int status) noexcept

cdef enum:
    HELLO_MS = 5000             # with the TLS handshake
    HELLOS_MAX = 256            # connections of a worker that have not said who they are
    SKEW_MS = 30000             # by which two hosts' clocks may differ
    HEAD_ROOM = 4096            # most heads fit
    TLS_HANDSHAKE = 0x16        # the first byte of a TLS connection (RFC 8446 5.1); of a plain hello it is 0x0D
    TUNNEL_STATUS = 200         # what accepts an extended CONNECT (RFC 8441 5)


# -- hellos

cdef void delivery_accepted(Worker *w, Listener *listener, int fd, const Endpoint *peer) noexcept nogil:
    cdef Conn *c = conn_open(w, fd, K_TRANSPORT)
    if c == NULL:
        return
    w.ups -= 1                  # who connects to us is waited for when we leave
    w.downs += 1
    c.vm_side = 0
    c.peer = peer[0]
    c.state = TS_HELLO
    w.hellos += 1
    if w.hellos > HELLOS_MAX:
        w.counters.limits[LIM_HELLOS] += 1
        refuse_hello(w, c, HA_BUSY)
        return
    if sock_local(fd, &c.local) < 0 or not w.boot_epoch:
        conn_close(w, c)
        return
    timer_set(&w.reactor, &c.s, w.reactor.now_ms + HELLO_MS)


cdef int same_text(const char *a, uint32_t a_n, const char *b, uint32_t b_n) noexcept nogil:
    return a_n == b_n and memcmp(a, b, a_n) == 0


# In TLS with a certificate for its id; plain only if we have none, or its record says that it has none.
cdef int speaks_as(Worker *w, const Conn *c, const THost *source) noexcept nogil:
    if c.tls != NULL:
        return tls_names(c.tls, source.id, source.id_n)
    return w.tls.context == NULL or not source.tls


# The HelloStatus of an authentic hello.
cdef int judge(Worker *w, Conn *c, const Hello *hello) noexcept nogil:
    cdef uint64_t now_ms = w.reactor.wall_us / 1000
    cdef const THost *source
    cdef HostLink *link
    cdef int seen
    if not same_text(hello.dest, hello.dest_n, w.host, w.host_n) or hello.dest_port != c.local.port:
        return HA_WRONG_HOST
    if hello.dest_epoch < w.boot_epoch:         # a newer one: this process belongs to the boot before
        return HA_OLD_DESTINATION
    if hello.time_ms + SKEW_MS < now_ms or hello.time_ms > now_ms + SKEW_MS:
        return HA_STALE
    source = table_host_by_id(&w.table, hello.source, hello.source_n)
    if source == NULL or memcmp(source.address, c.peer.address, 16) != 0:
        return HA_NOT_AUTHENTIC
    if not speaks_as(w, c, source):
        return HA_NOT_AUTHENTIC
    link = host_link(w, source)
    if hello.source_epoch < link.epoch or hello.source_epoch < source.epoch:
        return HA_OLD_SOURCE
    seen = replay_seen(&w.shm, hello.nonce, w.reactor.now_ms / 1000)
    if seen:
        return HA_STALE if seen > 0 else HA_BUSY
    link.epoch = hello.source_epoch
    return HA_OK


cdef int say(Worker *w, Conn *c, int status, int error) noexcept nogil:
    cdef HelloAnswer answer
    cdef uint8_t out[HELLO_ANSWER]
    answer.version = 1
    answer.status = <uint8_t>status
    answer.code = error_number(error)
    answer.epoch = w.boot_epoch
    hello_answer_write(&answer, out)
    return wire_send(c, <const char *>out, HELLO_ANSWER) == HELLO_ANSWER   # a new connection takes that at once


cdef int refuse_hello(Worker *w, Conn *c, int status) noexcept nogil:
    w.counters.hellos_refused[status] += 1
    say(w, c, status, 0)
    conn_close(w, c)
    return 0


# The first bytes are those of TLS: it gets them.
cdef int begin_tls(Worker *w, Conn *c) noexcept nogil:
    if not wire_secure(w, c, NULL, 0):
        conn_close(w, c)
        return 0
    tls_feed(c.tls, &c.in_)
    return 1


cdef int delivery_read_hello(Worker *w, Conn *c) noexcept nogil:
    cdef Hello hello
    cdef int64_t n
    cdef int status
    status = wire_ready(w, c)
    if status <= 0:
        if status < 0:
            conn_close(w, c)
        return 0
    if not buf_room(&w.pool, &c.in_, HELLO_MAX - buf_len(&c.in_)):
        conn_close(w, c)
        return 0
    n = wire_recv(c, c.in_.data + c.in_.end, HELLO_MAX - buf_len(&c.in_))
    if n == -EAGAIN:
        c.s.io &= ~IO_IN
        return 0
    if n <= 0:
        conn_close(w, c)
        return 0
    c.in_.end += <uint32_t>n
    if c.in_.data[c.in_.start] == TLS_HANDSHAKE and c.tls == NULL and w.tls.context != NULL:
        return begin_tls(w, c)
    n = hello_parse(<uint8_t *>c.in_.data + c.in_.start, buf_len(&c.in_), &hello)
    if n == 0 and buf_len(&c.in_) < HELLO_MAX:
        return 1
    if n <= 0 or n != buf_len(&c.in_):          # nobody speaks before our answer
        return refuse_hello(w, c, HA_MALFORMED)
    if not hello_authentic(<uint8_t *>c.in_.data + c.in_.start, <uint32_t>n, w.backhaul_key):
        return refuse_hello(w, c, HA_NOT_AUTHENTIC)
    status = judge(w, c, &hello)
    if status != HA_OK:
        return refuse_hello(w, c, status)
    buf_give(&w.pool, &c.in_)
    c.state = US_BUSY
    w.hellos -= 1
    if hello.kind == HELLO_TRANSPORT:
        take_transport(w, c, &hello)
    else:
        take_relay(w, c, &hello)
    return 0


cdef void take_transport(Worker *w, Conn *c, const Hello *hello) noexcept nogil:
    cdef Transport *t
    if w.draining:
        refuse_hello(w, c, HA_BUSY)
        return
    if not say(w, c, HA_OK, 0):
        conn_close(w, c)
        return
    t = transport_new(w, c, TR_SERVER)
    if t == NULL:
        conn_close(w, c)
        return
    t.hops = hello.hops
    transport_start(w, t)


# -- what is brought

# The exchange's app, service and machine; 0, or the ErrorCode.
cdef int bind(Worker *w, Exchange *x, Slice app_name, Slice machine, uint16_t internal_port,
              uint16_t edge_port) noexcept nogil:
    cdef const TMachine *m = table_machine_by_id(&w.table, machine.p, machine.n)
    cdef const TApp *app = table_app_by_id(&w.table, m.app) if m != NULL else NULL
    cdef const TService *s
    cdef const TPort *port
    if app == NULL or not same_text(app.name, app.name_n, app_name.p, app_name.n):
        return ERR_PR02
    s = table_service_by_port(&w.table, app, internal_port)
    if s == NULL:
        return ERR_PE04
    port = table_port(&w.table, app, edge_port)
    x.app = app.id
    x.app_generation = app.generation
    x.service = s.id
    x.service_generation = s.generation
    x.hard_limit = s.hard_limit
    x.concurrency = s.concurrency
    x.machine = m.slot
    x.machine_generation = m.generation
    x.proxy_version = port.proxy_version if port != NULL and port.handlers & H_PROXY_PROTO else 0
    x.flags |= XF_DELIVERY | (XF_HALF_CLOSE if s.half_close else 0)
    x.flags |= XF_HTTP2 if port != NULL and port.h2_backend else 0
    reactor_move_lane(&w.reactor, &x.down.s, app.id)
    return 0


cdef void delivery_route(Worker *w, Exchange *x) noexcept nogil:
    cdef const TMachine *m = table_machine(&w.table, x.machine, x.machine_generation)
    cdef const TService *s = table_service_by_id(&w.table, x.service, x.service_generation)
    if m == NULL or s == NULL:
        exchange_fail(w, x, ERR_PR02)
        return
    if m.host_slot != HOST_HERE:
        if x.flags & XF_MAY_RELAY and m.host_slot != HOST_UNKNOWN:
            backhaul_open(w, x, m)
        else:
            exchange_fail(w, x, ERR_PR02)
        return
    if not budget_admit(&w.shm, BK_INFLIGHT, m.slot, s.hard_limit):
        w.counters.limits[LIM_HARD_LIMIT] += 1
        exchange_fail(w, x, ERR_PR06)
        return
    x.flags |= XF_ADMITTED
    upstream_open(w, x, s, m)


cdef Slice text_slice(const char *p, uint32_t n) noexcept nogil:
    cdef Slice s
    s.p = p
    s.n = n
    return s


cdef void take_relay(Worker *w, Conn *c, const Hello *hello) noexcept nogil:
    cdef Exchange *x
    cdef int error
    c.s.kind = K_DOWN
    timer_set(&w.reactor, &c.s, 0)
    memcpy(c.peer.address, hello.client, 16)
    memcpy(c.local.address, hello.local, 16)
    c.peer.port = hello.client_port
    c.local.port = hello.local_port
    c.service_port = hello.edge_port
    x = exchange_new(w, c)
    if x == NULL:
        say(w, c, HA_BUSY, 0)
        conn_close(w, c)
        return
    memcpy(x.request_id, hello.request_id, hello.request_id_n)
    x.request_id_n = hello.request_id_n
    x.flags = XF_RAW | XF_DELIVERY | (XF_MAY_RELAY if hello.hops else 0)
    x.request.done = 1
    error = bind(w, x, text_slice(hello.app, hello.app_n), text_slice(hello.machine, hello.machine_n),
                 hello.service_port, hello.edge_port)
    if error:
        exchange_fail(w, x, error)
    else:
        exchange_route(w, x)


cdef int delivery_accept_relay(Worker *w, Exchange *x) noexcept nogil:
    return say(w, x.down, HA_OK, 0)


cdef Slice control(Worker *w, const char *name, uint32_t name_n) noexcept nogil:
    return relay_field(w.request.headers, w.request.nheaders, name, name_n)


cdef int take_client(Worker *w, Exchange *x) noexcept nogil:
    cdef Slice client = control(w, b"client", 6)
    cdef uint8_t raw[RELAY_CLIENT]
    cdef Conn *v = x.down
    if client.n != 2 * RELAY_CLIENT or not get_hex_bytes(client.p, raw, RELAY_CLIENT):
        return 0
    memcpy(v.peer.address, raw, 16)
    memcpy(v.local.address, raw + 18, 16)
    v.peer.port = <uint16_t>(raw[16] << 8 | raw[17])
    v.local.port = <uint16_t>(raw[34] << 8 | raw[35])
    return 1


cdef void take_head(Worker *w, Exchange *x, int end) noexcept nogil:
    x.method = w.request.method
    x.minor = 1
    x.accept = w.request.accept
    x.log_method_n = <uint8_t>w.request.method_text.n
    x.log_target_n = w.request.target.n
    if w.request.flags & RQ_UPGRADE:
        x.flags |= XF_UPGRADE
    if w.request.flags & RQ_IDEMPOTENT:
        x.flags |= XF_IDEMPOTENT
    if end or w.request.flags & RQ_UPGRADE:
        body_start(&x.request, BODY_NONE, 0, 0)
    elif w.request.content_length >= 0:
        body_start(&x.request, BODY_LENGTH, w.request.content_length, 0)
    else:
        body_start(&x.request, BODY_UNTIL_CLOSE, 0, 1)
    x.awaits_100 = w.request.flags & RQ_EXPECT != 0 and not x.request.done


cdef int render(Worker *w, Exchange *x) noexcept nogil:
    cdef Slice id = http1_header(&w.request, b"fly-request-id", 14)
    cdef uint32_t cap = 4096
    cdef uint32_t n
    if id.n and id.n < sizeof(x.request_id):
        memcpy(x.request_id, id.p, id.n)
        x.request_id_n = <uint8_t>id.n
    while cap <= 4 * H2_BLOCK_MAX:
        if not buf_take(&w.pool, &x.head, cap):
            return ERR_PL05
        n = relay_request_text(&w.request, x.head.data, x.head.cap)
        if n:
            x.head.end = n
            return 0
        buf_give(&w.pool, &x.head)
        cap *= 2
    return ERR_PL05


cdef void delivery_request(Worker *w, Transport *t, const H2Event *ev) noexcept nogil:
    cdef Conn *v = stream_open(w, t, 0)
    cdef Exchange *x = exchange_new(w, v) if v != NULL else NULL
    cdef Slice port = control(w, b"port", 4)
    cdef Slice edge_port = control(w, b"edge-port", 9)
    cdef int error
    if x == NULL:
        give_back(w, t, v, ev)
        return
    v.h2 = ev.stream
    v.h2.owner = v
    v.service_port = <uint16_t>get_number(edge_port.p, edge_port.n, 65535)
    x.flags = XF_DELIVERY | (XF_MAY_RELAY if t.hops else 0)
    take_head(w, x, ev.end)
    error = ev.error
    if not error:
        error = bind(w, x, control(w, b"app", 3), control(w, b"machine", 7),
                     <uint16_t>get_number(port.p, port.n, 65535), v.service_port)
    if not error and x.proxy_version and not take_client(w, x):
        error = ERR_PR02
    if not error:
        error = render(w, x)
    if error:
        exchange_fail(w, x, error)
    else:
        exchange_route(w, x)


cdef void give_back(Worker *w, Transport *t, Conn *v, const H2Event *ev) noexcept nogil:
    if frames_begin(w, t, HEAD_ROOM):
        http2_reset(&t.h2, ev.stream, REFUSED_STREAM, &w.h2)
        frames_end(w, t)
    http2_release(&t.h2, ev.stream)
    if v != NULL:
        conn_close(w, v)


# -- what is answered

cdef int put_head(Worker *w, Exchange *x, const Header *extra, uint32_t n, int end) noexcept nogil:
    cdef Conn *v = x.down
    cdef Transport *t = v.carrier
    cdef int done
    if not http2_fits(&t.h2, 0, w.response.headers, w.response.nheaders, extra, n):
        return 0                # the peer would end the transport, with all its riders
    if not frames_begin(w, t, HEAD_ROOM):
        return 0
    done = http2_response(&t.h2, v.h2, &w.response, extra, n, end, &w.h2)
    if not done and frames_begin(w, t, 2 * H2_BLOCK_MAX):       # a large head
        done = http2_response(&t.h2, v.h2, &w.response, extra, n, end, &w.h2)
    frames_end(w, t)
    if done and end:
        v.flags |= CF_END | CF_END_SENT
    return done


cdef void drop_upgrade(Worker *w, Header *extra) noexcept nogil:
    cdef uint32_t i
    for i in range(w.response.nheaders):
        if w.response.headers[i].kind == H_UPGRADE:
            extra[0].value = w.response.headers[i].value
            extra[0].value_n = w.response.headers[i].value_n
            w.response.headers[i].drop = 1


# A reason phrase that is the app's own: HTTP/2 has no place for it but a field, and those have no space at their ends.
cdef Slice own_reason(Worker *w) noexcept nogil:
    cdef Slice own = w.response.reason
    cdef const char *usual = reason_of(w.response.status)
    while own.n and own.p[0] in (c' ', c'\t'):
        own.p += 1
        own.n -= 1
    while own.n and own.p[own.n - 1] in (c' ', c'\t'):
        own.n -= 1
    if same_text(own.p, own.n, usual, <uint32_t>strlen(usual)):
        own.n = 0
    return own


cdef int delivery_answer(Worker *w, Exchange *x) noexcept nogil:
    cdef Header extra[1]
    cdef Slice reason = own_reason(w)
    cdef int switched = w.response.flags & RS_SWITCHED
    cdef int n = 0
    if switched:
        extra[0] = relay_control(b"flyproxy-upgrade", 16, b"", 0)
        drop_upgrade(w, extra)
        w.response.status = TUNNEL_STATUS
        n = 1
    elif reason.n:
        extra[0] = relay_control(b"flyproxy-reason", 15, reason.p, reason.n)
        n = 1
    if not put_head(w, x, extra, n, not switched and x.response.done):
        exchange_fail(w, x, ERR_PU07)
        return 0
    return 1


cdef int delivery_interim(Worker *w, Exchange *x) noexcept nogil:
    return put_head(w, x, NULL, 0, 0)


cdef void refuse_stream(Worker *w, Exchange *x, int error) noexcept nogil:
    cdef Header extra[2]
    cdef Conn *v = x.down
    cdef int unreached = not x.flags & XF_CONTENT_SENT or x.flags & XF_UNREACHED
    extra[0] = relay_control(b"flyproxy-error", 14, error_code(error), 4)
    extra[1] = relay_control(b"flyproxy-unreached", 18, b"1", 1)
    w.response.status = <uint16_t>(error_status(error) if error_status(error) else 502)
    w.response.nheaders = 0
    w.response.content_length = -1
    put_head(w, x, extra, 2 if unreached else 1, 1)
    exchange_finish(w, x)
    stream_last(w, v)


cdef void delivery_refuse(Worker *w, Exchange *x, int error) noexcept nogil:
    cdef Conn *c = x.down
    if not x.flags & XF_RAW:
        refuse_stream(w, x, error)
        return
    exchange_finish(w, x)
    say(w, c, HA_REFUSED, error)
    conn_close(w, c)
