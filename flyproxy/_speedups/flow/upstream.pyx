"""Connections to VMs. Pooled ones first; a new one carries its exchange through the connect."""

from libc.errno cimport ECONNREFUSED, EMFILE, ENFILE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from flyproxy._speedups.errors cimport ERR_PL05, ERR_PU08
from flyproxy._speedups.flow.conns cimport conn_close, conn_open
from flyproxy._speedups.flow.exchange cimport exchange_fail, exchange_give_back
from flyproxy._speedups.flow.output cimport conn_flush
from flyproxy._speedups.flow.pool cimport pool_take, pool_trim
from flyproxy._speedups.flow.queue cimport queue_leave, queue_wait
from flyproxy._speedups.flow.request cimport request_pump, request_send
from flyproxy._speedups.flow.response cimport response_ended, response_read
from flyproxy._speedups.flow.retry cimport (
    F_CONNECT_TIMEOUT, F_HEAD_TIMEOUT, F_HOST_UNREACHABLE, F_REFUSED, F_UNREACHABLE, attempt_failed,
)
from flyproxy._speedups.flow.streams cimport is_stream, stream_credit
from flyproxy._speedups.flow.tcp_relay cimport tcp_relay_greet, tcp_relay_read
from flyproxy._speedups.flow.tunnel cimport tunnel_begin
from flyproxy._speedups.flow.vm_http2 cimport vm_open
from flyproxy._speedups.flow.wire cimport wire_ready
from flyproxy._speedups.flow.worker cimport (
    BODY_CHUNKED, BODY_UNTIL_CLOSE, CF_FIN, CF_OPEN_COUNTED, CF_REMOTE, K_UP, PH_ANSWER, PH_CONNECT, PH_SEND, US_BUSY,
    US_CONNECTING, US_GREETING, US_IDLE, XF_HTTP2, XF_IDEMPOTENT, XF_RAW, XF_STALE_RETRIED, XF_UPGRADE,
    Conn, Exchange, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_append, buf_len
from flyproxy._speedups.net.reactor cimport IO_ERR, IO_IN, IO_OUT, IO_RDHUP, Source, reactor_queue, timer_set
from flyproxy._speedups.net.sockets cimport Endpoint, sock_connect, sock_error, sock_has_input
from flyproxy._speedups.proto.proxy_protocol cimport proxy_write
from flyproxy._speedups.shm.budget cimport BK_OPEN, budget_admit, budget_release
from flyproxy._speedups.shm.counters cimport LIM_FILES, MachineSeries, counters_bucket, counters_machine
from flyproxy._speedups.shm.segments cimport shm_live, shm_wake
from flyproxy._speedups.shm.table cimport CT_CONNECTIONS, TMachine, TService

cdef enum:
    PROXY_HEADER_MAX = 107


cdef void upstream_attach(Exchange *x, Conn *u, const TMachine *m) noexcept nogil:
    u.machine = m.slot
    u.machine_generation = m.generation
    attach(x, u)


cdef void attach(Exchange *x, Conn *u) noexcept nogil:
    # Chunks are a matter of HTTP/1: a stream has frames and an end of its own.
    x.request.chunk = not is_stream(u) and x.request.mode in (BODY_CHUNKED, BODY_UNTIL_CLOSE)
    x.up = u
    x.sent_before = u.sent
    u.x = x
    u.service = x.service
    u.hard_limit = x.hard_limit


# 1: the exchange rides on a pooled connection.
cdef int take_pooled(Worker *w, Exchange *x, const TMachine *m, uint16_t port) noexcept nogil:
    cdef Conn *u
    if x.flags & (XF_STALE_RETRIED | XF_RAW) or x.proxy_version:
        return 0            # a PROXY header speaks for one client: such connections are not shared
    while True:
        u = pool_take(w, m.slot, m.generation, port)
        if u == NULL:
            return 0
        # What may not be repeated is not sent into a connection that the VM has just closed: look once more.
        if not x.flags & XF_IDEMPOTENT and sock_has_input(u.s.fd):
            conn_close(w, u)
            continue
        queue_leave(w, x)
        attach(x, u)
        x.phase = PH_SEND
        request_send(w, x)
        return 1


cdef int upstream_admit(Worker *w, Exchange *x, const TMachine *m) noexcept nogil:
    cdef uint32_t limit = x.hard_limit if x.concurrency == CT_CONNECTIONS else 0
    cdef uint32_t k
    if budget_admit(&w.shm, BK_OPEN, m.slot, limit):
        return 1
    pool_trim(w, m.slot, limit)
    if budget_admit(&w.shm, BK_OPEN, m.slot, limit):
        return 1
    for k in range(w.shm.sizes.procs):  # the other workers close idle connections of full machines when woken
        if k != w.shm.proc and shm_live(&w.shm) >> k & 1:
            shm_wake(&w.shm, k)
    return 0


cdef void upstream_wait(Worker *w, Exchange *x, const TMachine *m) noexcept nogil:
    # Given back without waking anybody: the others could not connect either.
    exchange_give_back(w, x)
    queue_wait(w, x)


cdef void upstream_open(Worker *w, Exchange *x, const TService *s, const TMachine *m) noexcept nogil:
    cdef Endpoint to
    cdef Conn *u
    cdef int fd
    memcpy(to.address, m.address, 16)
    to.port = m.port if m.port else s.internal_port
    # Upgrades go by HTTP/1.1 whatever the machine speaks besides, and a PROXY header needs a connection of its own.
    if x.flags & XF_HTTP2 and not x.flags & (XF_UPGRADE | XF_RAW) and not x.proxy_version:
        vm_open(w, x, m, &to)
        return
    if take_pooled(w, x, m, to.port):
        return
    if not upstream_admit(w, x, m):
        upstream_wait(w, x, m)
        return
    queue_leave(w, x)
    x.sent_us = w.reactor.now_us
    x.phase = PH_CONNECT
    fd = sock_connect(&to, NULL)
    u = conn_open(w, fd, K_UP) if fd >= 0 else NULL
    if u == NULL:
        connect_refused_here(w, x, m, fd)
        return
    u.flags |= CF_OPEN_COUNTED
    u.vm_port = to.port
    u.state = US_CONNECTING
    u.s.lane = x.down.s.lane
    upstream_attach(x, u, m)
    timer_set(&w.reactor, &u.s, w.reactor.now_ms + w.config.connect_ms)


cdef void connect_refused_here(Worker *w, Exchange *x, const TMachine *m, int error) noexcept nogil:
    budget_release(&w.shm, BK_OPEN, m.slot)
    if error == -EMFILE or error == -ENFILE or error >= 0:
        w.counters.limits[LIM_FILES] += 1
        exchange_fail(w, x, ERR_PL05)
    else:
        attempt_failed(w, x, F_REFUSED if error == -ECONNREFUSED else F_UNREACHABLE)


cdef void upstream_count_connect(Worker *w, const Exchange *x) noexcept nogil:
    cdef MachineSeries *series = counters_machine(&w.shm, x.machine, x.machine_generation)
    cdef uint64_t us = w.reactor.now_us - x.sent_us
    series.connects += 1
    series.connect_count += 1
    series.connect_sum_us += us
    series.connect_buckets[counters_bucket(us)] += 1


cdef int put_proxy_header(Worker *w, Exchange *x) noexcept nogil:
    cdef uint8_t header[PROXY_HEADER_MAX + 1]
    cdef Conn *c = x.down
    cdef uint32_t n
    if not x.proxy_version:
        return 1
    n = proxy_write(x.proxy_version, c.peer.address, c.peer.port, c.local.address, c.local.port, header)
    return buf_append(&w.pool, &x.up.out, <char *>header, n)


cdef void connected(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    if u.flags & CF_REMOTE:
        tcp_relay_greet(w, x)
        return
    upstream_count_connect(w, x)
    u.state = US_BUSY
    timer_set(&w.reactor, &u.s, w.reactor.now_ms + w.config.response_head_ms)
    if not put_proxy_header(w, x):
        exchange_fail(w, x, ERR_PL05)
        return
    if x.flags & XF_RAW:
        tunnel_begin(w, x, NULL, 0)
        return
    x.phase = PH_SEND
    if buf_len(&u.out) and conn_flush(w, u):
        attempt_failed(w, x, F_UNREACHABLE)
        return
    if buf_len(&u.out) == 0:
        request_send(w, x)


cdef int on_connecting(Worker *w, Conn *u) noexcept nogil:
    cdef Exchange *x = u.x
    cdef int error, ready = 1
    if not u.s.io & (IO_OUT | IO_ERR):
        return 0
    error = sock_error(u.s.fd)
    if error == 0:
        ready = wire_ready(w, u)
    if ready == 0:
        return 0
    if u.flags & CF_REMOTE and (error or ready < 0):
        attempt_failed(w, x, F_HOST_UNREACHABLE)
        return 0
    if error:
        attempt_failed(w, x, F_REFUSED if error == ECONNREFUSED else F_UNREACHABLE)
        return 0
    connected(w, x)
    return not u.s.dead and u.s.io & (IO_IN | IO_RDHUP)


cdef int on_busy(Worker *w, Conn *u) noexcept nogil:
    cdef Exchange *x = u.x
    if u.s.io & IO_OUT:                 # also when the answer has begun: what is left of the request still goes
        if buf_len(&u.out) and conn_flush(w, u):
            u.s.io |= IO_IN
        elif is_stream(x.down):
            stream_credit(w, x.down)
        if u.x == x and buf_len(&u.out) == 0 and x.head_sent < buf_len(&x.head):
            request_send(w, x)
    if u.x == x and u.s.io & IO_OUT and not x.request.done and request_pump(w, x):
        reactor_queue(&w.reactor, &x.down.s)
    if u.x != x or u.s.dead:
        return 0
    if u.s.io & IO_ERR:
        u.s.io |= IO_IN                 # the read says what happened
    if u.s.io & (IO_IN | IO_RDHUP):
        return response_read(w, x)
    return 0


cdef int upstream_on_event(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Conn *u = <Conn *>source
    if u.state == US_CONNECTING:
        return on_connecting(w, u)
    if u.state == US_IDLE:
        if source.io & ~IO_OUT:         # an idle VM has nothing to say: it closes, or its state is unknown
            conn_close(w, u)
        return 0
    if u.state == US_GREETING:
        return tcp_relay_read(w, u)
    return on_busy(w, u)


cdef int waits_for_client(Exchange *x) noexcept nogil:
    return (x.head_sent == buf_len(&x.head) and not x.request.done and not x.awaits_100 and buf_len(&x.up.out) == 0
            and x.request_pipe == NULL)


cdef void upstream_on_timeout(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Conn *u = <Conn *>source
    cdef Exchange *x = u.x
    if u.state == US_IDLE or x == NULL:
        conn_close(w, u)
    elif u.state == US_CONNECTING or u.state == US_GREETING:
        attempt_failed(w, x, F_HOST_UNREACHABLE if u.flags & CF_REMOTE or is_stream(u) else F_CONNECT_TIMEOUT)
    elif u.flags & CF_FIN:
        response_ended(w, x)            # waited in vain for a sign whether the request had arrived
    elif x.phase < PH_ANSWER and waits_for_client(x):       # whose own deadline runs
        timer_set(&w.reactor, source, w.reactor.now_ms + w.config.response_head_ms)
    elif x.phase < PH_ANSWER:
        attempt_failed(w, x, F_HEAD_TIMEOUT)
    elif buf_len(&x.down.out) or x.response_pipe != NULL:
        timer_set(&w.reactor, source, w.reactor.now_ms + w.config.body_idle_ms)    # the client is slow, not the VM
    else:
        exchange_fail(w, x, ERR_PU08)
