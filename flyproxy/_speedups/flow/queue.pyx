"""Waiting for room. A release marks the service's queue; queue_run lets waiters try in order, services in turn.

Nobody tries from inside a release: a long queue of failing exchanges would otherwise recurse through itself.

A worker says that it waits (budget_wait) before it tries, so no release can fall between the two. A wake-up can still
be lost on another worker whose waiter has left in the meantime, or with a worker that was killed: QUEUE_RETRY_MS mends
that. It is also how often another host that said "full" is asked again: what happens there wakes nobody here.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from flyproxy._speedups.errors cimport ERR_PR06
from flyproxy._speedups.flow.deadlines cimport down_rearm
from flyproxy._speedups.flow.exchange cimport exchange_fail, exchange_route
from flyproxy._speedups.flow.worker cimport PH_WAIT, QUEUE_MAX, QUEUE_RETRY_MS, XF_FULL_SEEN, Exchange, Queue, Worker
from flyproxy._speedups.shm.budget cimport budget_wait
from flyproxy._speedups.shm.counters cimport LIM_QUEUE


cdef Queue *find(Worker *w, uint32_t service, uint32_t generation) noexcept nogil:
    # Few services are full at a time: a list is enough.
    cdef Queue *q = w.queues
    while q != NULL:
        if q.service == service and q.generation == generation:
            return q
        q = q.next
    q = <Queue *>calloc(1, sizeof(Queue))
    if q != NULL:
        q.service = service
        q.generation = generation
        q.next = w.queues
        w.queues = q
    return q


# At the end; from `at` on, before those that began later: who comes back from asking another host.
cdef void insert(Queue *q, Exchange *x, Exchange *at) noexcept nogil:
    while at != NULL and at.start_us < x.start_us:
        at = at.queue_next
    x.queue = q
    x.queue_next = at
    x.queue_prev = at.queue_prev if at != NULL else q.tail
    if x.queue_prev != NULL:
        x.queue_prev.queue_next = x
    else:
        q.head = x
    if at != NULL:
        at.queue_prev = x
    else:
        q.tail = x
    q.count += 1


cdef void queue_wait(Worker *w, Exchange *x) noexcept nogil:
    cdef Queue *q
    if x.queue != NULL:                 # tried again in vain: keeps its place
        return
    if x.queue_until_ms and w.reactor.now_ms >= x.queue_until_ms:       # over while another host was asked
        exchange_fail(w, x, ERR_PR06)
        return
    q = find(w, x.service, x.service_generation)
    if q == NULL or q.count >= QUEUE_MAX or w.config.queue_ms == 0 or w.stopping:
        w.counters.limits[LIM_QUEUE] += 1
        exchange_fail(w, x, ERR_PR06)
        return
    x.phase = PH_WAIT
    insert(q, x, q.head if x.queue_until_ms else NULL)
    if x.queue_until_ms == 0:
        x.queue_until_ms = w.reactor.now_ms + w.config.queue_ms
    down_rearm(w, x.down)
    if q.head == x and not x.flags & XF_FULL_SEEN:
        q.dirty = 1                     # a release may have come since the choice: queue_run tries once more
        w.queue_dirty = 1
    x.flags &= ~XF_FULL_SEEN


cdef int queue_busy(Worker *w, uint32_t service) noexcept nogil:
    cdef Queue *q = w.queues
    while q != NULL:
        if q.service == service and q.head != NULL:
            return 1
        q = q.next
    return 0


cdef void queue_leave(Worker *w, Exchange *x) noexcept nogil:
    cdef Queue *q = x.queue
    if q == NULL:
        return
    if x.queue_prev != NULL:
        x.queue_prev.queue_next = x.queue_next
    else:
        q.head = x.queue_next
    if x.queue_next != NULL:
        x.queue_next.queue_prev = x.queue_prev
    else:
        q.tail = x.queue_prev
    q.count -= 1
    x.queue = NULL
    w.queue_dirty = 1                   # an empty queue is given back by queue_run


cdef void queue_mark(Worker *w, uint32_t service) noexcept nogil:
    cdef Queue *q = w.queues
    while q != NULL:
        if q.service == service:
            q.dirty = 1
            w.queue_dirty = 1
        q = q.next


cdef void queue_mark_all(Worker *w) noexcept nogil:
    cdef Queue *q = w.queues
    while q != NULL:
        q.dirty = 1
        w.queue_dirty = 1
        q = q.next


cdef int serve_one(Worker *w, Queue *q) noexcept nogil:
    cdef Exchange *x = q.head
    if x == NULL:
        return 0
    budget_wait(&w.shm, q.service)
    exchange_route(w, x)
    return q.head != x                  # still first: still full


cdef void drop_empty(Worker *w) noexcept nogil:
    cdef Queue **link = &w.queues
    cdef Queue *q
    while link[0] != NULL:
        q = link[0]
        if q.head == NULL:
            link[0] = q.next
            free(q)
        else:
            link = &q.next


cdef void queue_run(Worker *w) noexcept nogil:
    cdef Queue *q
    cdef int progress = 1
    if w.queues != NULL and w.reactor.now_ms >= w.queues_tried_ms + QUEUE_RETRY_MS:
        queue_mark_all(w)
    if not w.queue_dirty:
        return
    w.queues_tried_ms = w.reactor.now_ms
    while progress:
        progress = 0
        q = w.queues
        while q != NULL:
            if q.dirty:
                if serve_one(w, q):
                    progress = 1
                else:
                    q.dirty = 0
            q = q.next
    w.queue_dirty = 0
    drop_empty(w)


cdef void queues_clear(Worker *w) noexcept nogil:
    cdef Queue *q
    while w.queues != NULL:
        q = w.queues
        w.queues = q.next
        free(q)
