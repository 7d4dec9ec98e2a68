"""Idle connections to VMs: a list per machine, newest first, linked through the connections themselves.

A few may stay for ``upstream_idle``; the surplus of a burst leaves after a quarter of a second, so that a burst
neither reconnects for every request nor holds a VM's connections afterwards. A service with a hard limit never has
more than half of it open and idle.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc

from flyproxy._speedups.flow.conns cimport conn_close
from flyproxy._speedups.flow.worker cimport CF_REUSED, POOL_IDLE_MAX, POOL_SURPLUS_MS, US_BUSY, US_IDLE, Conn, Worker
from flyproxy._speedups.mem.buf cimport buf_give
from flyproxy._speedups.net.reactor cimport IO_OUT, reactor_source, timer_set
from flyproxy._speedups.shm.budget cimport BK_OPEN, budget_sum


cdef int pool_setup(Worker *w, uint32_t machines) noexcept nogil:
    w.machines = machines
    w.pool_heads = <uint32_t *>calloc(machines, sizeof(uint32_t))
    w.pool_counts = <uint8_t *>calloc(machines, 1)
    return w.pool_heads != NULL and w.pool_counts != NULL


cdef inline Conn *at(Worker *w, uint32_t link) noexcept nogil:
    return <Conn *>reactor_source(&w.reactor, link - 1) if link else NULL


cdef void pool_remove(Worker *w, Conn *u) noexcept nogil:
    if u.pool_prev:
        at(w, u.pool_prev).pool_next = u.pool_next
    else:
        w.pool_heads[u.machine] = u.pool_next
    if u.pool_next:
        at(w, u.pool_next).pool_prev = u.pool_prev
    u.pool_next = 0
    u.pool_prev = 0
    u.state = US_BUSY
    if w.pool_counts[u.machine]:
        w.pool_counts[u.machine] -= 1
    if u.hard_limit:
        w.pool_limited -= 1


cdef Conn *pool_take(Worker *w, uint32_t machine, uint32_t generation, uint16_t port) noexcept nogil:
    cdef Conn *u
    cdef Conn *older
    if machine >= w.machines:
        return NULL
    u = at(w, w.pool_heads[machine])
    while u != NULL:
        older = at(w, u.pool_next)
        if u.machine_generation != generation or u.s.io & ~IO_OUT:      # anything but writable: not clean any more
            conn_close(w, u)
        elif u.vm_port == port:
            pool_remove(w, u)
            u.flags |= CF_REUSED
            timer_set(&w.reactor, &u.s, 0)
            return u
        u = older
    return NULL


cdef void pool_give(Worker *w, Conn *u) noexcept nogil:
    cdef uint32_t stay = w.config.upstream_idle_ms
    if stay == 0 or w.stopping or (u.hard_limit and budget_sum(&w.shm, BK_OPEN, u.machine) * 2 > u.hard_limit):
        conn_close(w, u)
        return
    if w.pool_counts[u.machine] >= POOL_IDLE_MAX and stay > POOL_SURPLUS_MS:
        stay = POOL_SURPLUS_MS
    buf_give(&w.pool, &u.in_)
    u.state = US_IDLE
    u.x = NULL
    u.pool_prev = 0
    u.pool_next = w.pool_heads[u.machine]
    if u.pool_next:
        at(w, u.pool_next).pool_prev = u.s.index + 1
    w.pool_heads[u.machine] = u.s.index + 1
    if w.pool_counts[u.machine] < 255:
        w.pool_counts[u.machine] += 1
    if u.hard_limit:
        w.pool_limited += 1
    timer_set(&w.reactor, &u.s, w.reactor.now_ms + stay)


cdef void pool_trim(Worker *w, uint32_t machine, uint32_t limit) noexcept nogil:
    cdef Conn *u
    if machine >= w.machines:
        return
    u = at(w, w.pool_heads[machine])
    while u != NULL and budget_sum(&w.shm, BK_OPEN, machine) >= limit:
        conn_close(w, u)
        u = at(w, w.pool_heads[machine])


cdef void pool_trim_all(Worker *w) noexcept nogil:
    # After a wake-up, and those may be many: whoever keeps nothing that another worker could need does not look for it.
    cdef uint32_t index
    cdef Conn *u
    for index in range(w.reactor.sources.top):
        if w.pool_limited == 0:
            return
        u = <Conn *>reactor_source(&w.reactor, index)
        if u.s.generation & 1 and not u.s.dead and u.state == US_IDLE and u.vm_side and u.hard_limit:
            pool_trim(w, u.machine, u.hard_limit)
