"""HTTP/2 to machines. A transport to a machine is like one to another host, without a hello: what comes on it is not
trusted, so the codec's abuse budgets hold, and nothing that it says of itself (``flyproxy-*``) is believed.
"""

from libc.errno cimport ECONNREFUSED, EMFILE, ENFILE
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc

from flyproxy._speedups.errors cimport ERR_PL05
from flyproxy._speedups.flow.conns cimport conn_close, conn_open
from flyproxy._speedups.flow.exchange cimport exchange_fail
from flyproxy._speedups.flow.queue cimport queue_leave
from flyproxy._speedups.flow.request cimport request_send
from flyproxy._speedups.flow.retry cimport F_REFUSED, F_UNREACHABLE, attempt_failed
from flyproxy._speedups.flow.streams cimport stream_open
from flyproxy._speedups.flow.transport cimport transport_end, transport_new, transport_start
from flyproxy._speedups.flow.upstream cimport upstream_admit, upstream_attach, upstream_count_connect, upstream_wait
from flyproxy._speedups.flow.worker cimport (
    CF_OPEN_COUNTED, K_TRANSPORT, PH_CONNECT, PH_SEND, TR_VM, US_BUSY, US_CONNECTING, Conn, Exchange, Transport, Worker,
)
from flyproxy._speedups.net.reactor cimport IO_ERR, IO_OUT, timer_set
from flyproxy._speedups.net.sockets cimport Endpoint, sock_connect, sock_error
from flyproxy._speedups.shm.budget cimport BK_OPEN, budget_release
from flyproxy._speedups.shm.counters cimport LIM_FILES

cdef enum:
    CROWDED = 100               # streams on one connection from which another is opened


cdef Transport **link_of(Worker *w, uint32_t machine) noexcept nogil:
    if w.vm_transports == NULL:
        w.vm_transports = <Transport **>calloc(w.machines, sizeof(Transport *))
    if w.vm_transports == NULL or machine >= w.machines:
        return NULL
    return &w.vm_transports[machine]


cdef int may_take(const Transport *t) noexcept nogil:
    return not t.dead and not t.going and t.count < CROWDED and (not t.open or t.count < t.h2.peer.streams)


# The emptiest that may take one more. Those to a machine that had the slot before end by themselves.
cdef Transport *choose(Transport *t, uint32_t generation, uint16_t port) noexcept nogil:
    cdef Transport *best = NULL
    while t != NULL:
        if t.c.machine_generation != generation:
            t.going = 1
        elif t.c.vm_port == port and may_take(t) and (best == NULL or t.count < best.count):
            best = t
        t = t.sibling
    return best


cdef Transport *connect(Worker *w, Exchange *x, const TMachine *m, const Endpoint *to) noexcept nogil:
    cdef Transport **link = link_of(w, m.slot)
    cdef Transport *t
    cdef int fd = sock_connect(to, NULL)
    cdef Conn *c = conn_open(w, fd, K_TRANSPORT) if fd >= 0 else NULL
    if c == NULL or link == NULL:
        budget_release(&w.shm, BK_OPEN, m.slot)
        refused_here(w, x, fd)
        return NULL
    c.state = US_CONNECTING
    c.flags |= CF_OPEN_COUNTED
    c.machine = m.slot
    c.machine_generation = m.generation
    c.service = x.service
    c.hard_limit = x.hard_limit
    c.vm_port = to.port
    t = transport_new(w, c, TR_VM)
    if t == NULL:
        conn_close(w, c)
        exchange_fail(w, x, ERR_PL05)
        return NULL
    t.sibling = link[0]
    link[0] = t
    timer_set(&w.reactor, &c.s, w.reactor.now_ms + w.config.connect_ms)
    return t


cdef void refused_here(Worker *w, Exchange *x, int error) noexcept nogil:
    if error == -EMFILE or error == -ENFILE or error >= 0:
        w.counters.limits[LIM_FILES] += 1
        exchange_fail(w, x, ERR_PL05)
    else:
        attempt_failed(w, x, F_REFUSED if error == -ECONNREFUSED else F_UNREACHABLE)


cdef void vm_open(Worker *w, Exchange *x, const TMachine *m, const Endpoint *to) noexcept nogil:
    cdef Transport **link = link_of(w, m.slot)
    cdef Transport *t = choose(link[0], m.generation, to.port) if link != NULL else NULL
    cdef Conn *v
    if t == NULL:
        if not upstream_admit(w, x, m):
            upstream_wait(w, x, m)
            return
        t = connect(w, x, m, to)
        if t == NULL:
            return
    queue_leave(w, x)
    v = stream_open(w, t, 1)
    if v == NULL:
        exchange_fail(w, x, ERR_PL05)
        return
    x.sent_us = w.reactor.now_us
    x.phase = PH_CONNECT
    upstream_attach(x, v, m)
    v.s.lane = x.down.s.lane
    if t.open:
        v.state = US_BUSY
        x.phase = PH_SEND
        request_send(w, x)


cdef int vm_connected(Worker *w, Transport *t) noexcept nogil:
    cdef Conn *c = t.c
    cdef int error
    if not c.s.io & (IO_OUT | IO_ERR):
        return 0
    error = sock_error(c.s.fd)
    if error:
        transport_end(w, t, F_REFUSED if error == ECONNREFUSED else F_UNREACHABLE)
        return 0
    if t.streams != NULL and t.streams.x != NULL:
        upstream_count_connect(w, t.streams.x)
    c.state = US_BUSY
    transport_start(w, t)
    timer_set(&w.reactor, &c.s, w.reactor.now_ms + w.config.connect_ms)    # its SETTINGS are due
    return 1


cdef void vm_forget(Worker *w, Transport *t) noexcept nogil:
    cdef Transport **at = link_of(w, t.c.machine)
    while at != NULL and at[0] != NULL:
        if at[0] == t:
            at[0] = t.sibling
            return
        at = &at[0].sibling
