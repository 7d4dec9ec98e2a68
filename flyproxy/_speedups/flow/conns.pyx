"""Birth and death of connections. Whatever is counted at birth is taken back here and nowhere else."""

from flyproxy._speedups.flow.pool cimport pool_remove
from flyproxy._speedups.flow.streams cimport is_stream, stream_leave
from flyproxy._speedups.flow.wire cimport wire_abandon, wire_close
from flyproxy._speedups.flow.worker cimport (
    CF_APP_COUNTED, CF_OPEN_COUNTED, CF_PROXY_COUNTED, K_DOWN, TS_HELLO, US_CONNECTING, US_IDLE, Conn, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_give
from flyproxy._speedups.net.reactor cimport Source, reactor_add, reactor_close
from flyproxy._speedups.net.sockets cimport sock_reset_on_close
from flyproxy._speedups.shm.budget cimport BK_APP, BK_OPEN, BK_PROXY, budget_admit, budget_release, budget_wake
from flyproxy._speedups.shm.counters cimport LIM_APP_CONNECTIONS, counters_app, counters_machine
from flyproxy._speedups.shm.table cimport TApp

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef Conn *conn_open(Worker *w, int fd, int kind) noexcept nogil:
    cdef Source *s = reactor_add(&w.reactor, fd, kind, 0)
    cdef Conn *c = <Conn *>s
    if s == NULL:
        close(fd)
        return NULL
    c.vm_side = kind != K_DOWN
    if c.vm_side:
        w.ups += 1
    else:
        w.downs += 1
    return c


cdef void uncount_app(Worker *w, Conn *c) noexcept nogil:
    if c.flags & CF_APP_COUNTED:
        c.flags &= ~CF_APP_COUNTED
        budget_release(&w.shm, BK_APP, c.counted_app)
        counters_app(&w.shm, c.counted_app, c.counted_generation).disconnects += 1


cdef int conn_count_app(Worker *w, Conn *c, const TApp *app) noexcept nogil:
    if c.flags & CF_APP_COUNTED and c.counted_app == app.id and c.counted_generation == app.generation:
        return 1
    uncount_app(w, c)
    if not budget_admit(&w.shm, BK_APP, app.id, w.config.app_connections):
        w.counters.limits[LIM_APP_CONNECTIONS] += 1
        counters_app(&w.shm, app.id, app.generation).dropped += 1
        return 0
    c.flags |= CF_APP_COUNTED
    c.counted_app = app.id
    c.counted_generation = app.generation
    counters_app(&w.shm, app.id, app.generation).connects += 1
    return 1


cdef void uncount_open(Worker *w, Conn *c) noexcept nogil:
    budget_release(&w.shm, BK_OPEN, c.machine)
    budget_wake(&w.shm, c.service)
    if c.state != US_CONNECTING:
        counters_machine(&w.shm, c.machine, c.machine_generation).disconnects += 1


cdef void conn_close(Worker *w, Conn *c) noexcept nogil:
    if c.s.dead:
        return
    wire_close(c)
    # Closed before it is uncounted: what is given back may be taken by another worker at once.
    reactor_close(&w.reactor, &c.s)
    w.hellos -= c.state == TS_HELLO
    if is_stream(c):
        stream_leave(w, c)
    elif c.vm_side:
        w.ups -= 1
        if c.state == US_IDLE:
            pool_remove(w, c)
        if c.flags & CF_OPEN_COUNTED:
            uncount_open(w, c)
    else:
        w.downs -= 1
        uncount_app(w, c)
        if c.flags & CF_PROXY_COUNTED:
            budget_release(&w.shm, BK_PROXY, 0)
    buf_give(&w.pool, &c.in_)
    buf_give(&w.pool, &c.out)
    c.x = NULL


cdef void conn_abort(Worker *w, Conn *c) noexcept nogil:
    if not is_stream(c):
        wire_abandon(c)
        sock_reset_on_close(c.s.fd)
    conn_close(w, c)
