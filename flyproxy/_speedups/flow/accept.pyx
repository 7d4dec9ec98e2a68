"""From an accepted socket to a connection that knows what it carries."""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from flyproxy._speedups.errors cimport ERR_PH16, ERR_PH17, ERR_PL03, ERR_PL04
from flyproxy._speedups.flow.answers cimport answer_refused
from flyproxy._speedups.flow.conns cimport conn_close, conn_count_app, conn_open
from flyproxy._speedups.flow.deadlines cimport down_rearm
from flyproxy._speedups.flow.exchange cimport exchange_bind, exchange_fail, exchange_new, exchange_route
from flyproxy._speedups.flow.worker cimport (
    CF_BOUND, CF_PROXY_COUNTED, DS_HEAD, DS_PROXY, K_DOWN, XF_RAW, Conn, Exchange, Listener, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_consume, buf_len, buf_room
from flyproxy._speedups.net.reactor cimport IO_IN, reactor_move_lane
from flyproxy._speedups.net.sockets cimport Endpoint, sock_local, sock_recv
from flyproxy._speedups.proto.proxy_protocol cimport ProxyHeader, proxy_parse
from flyproxy._speedups.shm.budget cimport BK_PROXY, budget_admit
from flyproxy._speedups.shm.counters cimport LIM_CONNECTIONS
from flyproxy._speedups.shm.table cimport (
    ADDR_APP, H_HTTP, H_TLS, TApp, TPort, table_address, table_http_port, table_port, table_raw_port,
)

cdef enum:
    PROXY_READ = 1024           # more than any v1 header; v2 headers may be longer and then take several reads


cdef void begin_relay(Worker *w, Conn *c, const TApp *app, const TPort *port) noexcept nogil:
    cdef Exchange *x = exchange_new(w, c)
    cdef int error
    if x == NULL:
        conn_close(w, c)
        return
    x.flags = XF_RAW
    x.request.done = 1
    x.app = app.id
    x.app_generation = app.generation
    reactor_move_lane(&w.reactor, &c.s, app.id)
    error = exchange_bind(w, x, app, port) if conn_count_app(w, c, app) else ERR_PL04
    if error:
        exchange_fail(w, x, error)
    else:
        exchange_route(w, x)


cdef void opened(Worker *w, Conn *c) noexcept nogil:
    cdef const TApp *app = NULL
    cdef const TPort *port = NULL
    if table_address(&w.table, c.local.address, &app) == ADDR_APP and app != NULL:
        c.flags |= CF_BOUND
        c.app = app.id
        c.app_generation = app.generation
    elif not table_http_port(&w.table, c.service_port):
        app = table_raw_port(&w.table, c.service_port)
    if app != NULL:
        port = table_port(&w.table, app, c.service_port)
    if port != NULL and not port.handlers & (H_HTTP | H_TLS):
        begin_relay(w, c, app, port)
        return
    c.state = DS_HEAD
    if port != NULL:
        c.head_ms = port.head_timeout_ms
    down_rearm(w, c)


cdef void refuse_over_limit(Worker *w, Conn *c) noexcept nogil:
    if table_http_port(&w.table, c.service_port):
        answer_refused(w, c, ERR_PL03)
    else:                       # nobody there would understand an HTTP answer
        w.counters.errors[<int>ERR_PL03] += 1
        conn_close(w, c)


cdef void down_accepted(Worker *w, Listener *listener, int fd, const Endpoint *peer, int trusted) noexcept nogil:
    cdef Conn *c = conn_open(w, fd, K_DOWN)
    if c == NULL:
        return
    w.counters.accepted += 1
    c.peer = peer[0]
    c.service_port = listener.service_port
    if sock_local(fd, &c.local) < 0:
        conn_close(w, c)
    elif not budget_admit(&w.shm, BK_PROXY, 0, w.config.connections):
        w.counters.limits[LIM_CONNECTIONS] += 1
        refuse_over_limit(w, c)
    elif listener.proxy_protocol and not trusted:
        c.flags |= CF_PROXY_COUNTED
        answer_refused(w, c, ERR_PH17)
    else:
        c.flags |= CF_PROXY_COUNTED
        if listener.proxy_protocol:
            c.state = DS_PROXY
            down_rearm(w, c)
        else:
            opened(w, c)


cdef int down_read_proxy(Worker *w, Conn *c) noexcept nogil:
    cdef ProxyHeader header
    cdef int64_t n
    if not buf_room(&w.pool, &c.in_, PROXY_READ):
        answer_refused(w, c, ERR_PH16)
        return 0
    n = sock_recv(c.s.fd, c.in_.data + c.in_.end, c.in_.cap - c.in_.end)
    if n == -EAGAIN:
        c.s.io &= ~IO_IN
        return 0
    if n <= 0:
        answer_refused(w, c, ERR_PH16)
        return 0
    c.in_.end += <uint32_t>n
    n = proxy_parse(<unsigned char *>c.in_.data + c.in_.start, buf_len(&c.in_), &header)
    if n == 0:
        return 1
    if n < 0:
        answer_refused(w, c, ERR_PH16)
        return 0
    buf_consume(&w.pool, &c.in_, <uint32_t>n)
    if header.known:
        memcpy(c.peer.address, header.source, 16)
        memcpy(c.local.address, header.dest, 16)
        c.peer.port = header.source_port
        c.local.port = header.dest_port
    opened(w, c)
    return 1
