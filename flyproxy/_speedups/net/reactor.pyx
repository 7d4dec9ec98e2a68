"""The event loop. A turn is: wait, queue what is ready by lane, serve one source of each lane in turn, free what was
closed.

Nothing is freed inside a turn, because later events of the same batch may still name it. An event carries index and
generation, so one that outlived its source finds nobody.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from flyproxy._speedups.mem.slab cimport SLAB_NONE, slab_at, slab_clear, slab_give, slab_init, slab_take

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR
    unsigned int EPOLLET
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC, CLOCK_REALTIME
    int clock_gettime(int clock, timespec *ts)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef int reactor_init(Reactor *r, uint32_t element, uint32_t lanes, void *owner) noexcept nogil:
    memset(r, 0, sizeof(Reactor))
    r.owner = owner
    r.nlanes = lanes
    r.lane_head = SLAB_NONE
    r.lane_tail = SLAB_NONE
    memset(r.wheel, 0xFF, sizeof(r.wheel))
    r.lanes = <Lane *>calloc(lanes, sizeof(Lane))
    r.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    if r.lanes == NULL or r.epoll_fd < 0 or not slab_init(&r.sources, element):
        return 0
    reactor_clock(r)
    r.wheel_tick = r.now_ms / TICK_MS
    return 1


cdef void reactor_clear(Reactor *r) noexcept nogil:
    cdef uint32_t index
    cdef Source *s
    for index in range(r.sources.top):
        s = reactor_source(r, index)
        if s.generation & 1 and not s.dead:
            close(s.fd)
    close(r.epoll_fd)
    slab_clear(&r.sources)
    free(r.lanes)
    free(r.dead)


cdef Source *reactor_add_bare(Reactor *r, int kind) noexcept nogil:
    cdef uint32_t index = slab_take(&r.sources)
    cdef Source *s
    if index == SLAB_NONE:
        return NULL
    s = reactor_source(r, index)
    r.generation += 2
    s.fd = -1
    s.index = index
    s.generation = r.generation | 1
    s.lane = r.nlanes - 1
    s.kind = <unsigned char>kind
    s.timer_slot = -1
    return s


cdef Source *reactor_add(Reactor *r, int fd, int kind, int level) noexcept nogil:
    cdef epoll_event event
    cdef Source *s = reactor_add_bare(r, kind)
    if s == NULL:
        return NULL
    s.fd = fd
    if not level:
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
        event.data.u64 = (<uint64_t>s.generation << 32) | s.index
        if epoll_ctl(r.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            s.generation = 0
            slab_give(&r.sources, s.index)
            return NULL
    return s


cdef int reactor_watch(Reactor *r, Source *s, int on) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = (<uint64_t>s.generation << 32) | s.index
    return epoll_ctl(r.epoll_fd, EPOLL_CTL_ADD if on else EPOLL_CTL_DEL, s.fd, &event)


cdef void reactor_close(Reactor *r, Source *s) noexcept nogil:
    cdef uint32_t *grown
    if s.dead:
        return
    s.dead = 1
    timer_drop(r, s)
    # Our descriptors are never duplicated, except listeners, which reactor_watch takes out first: close leaves epoll
    # too.
    if s.fd >= 0:
        close(s.fd)
    if r.dead_n == r.dead_cap:
        grown = <uint32_t *>realloc(r.dead, (r.dead_cap * 2 + 64) * sizeof(uint32_t))
        if grown == NULL:
            return          # the element is lost, not its descriptor
        r.dead = grown
        r.dead_cap = r.dead_cap * 2 + 64
    r.dead[r.dead_n] = s.index
    r.dead_n += 1


cdef void reactor_queue(Reactor *r, Source *s) noexcept nogil:
    cdef Lane *lane
    if s.queued or s.dead:
        return
    s.queued = 1
    s.ready_next = SLAB_NONE
    r.ready += 1
    lane = &r.lanes[s.lane]
    if lane.active:
        reactor_source(r, lane.tail).ready_next = s.index
        lane.tail = s.index
        return
    lane.active = 1
    lane.head = s.index
    lane.tail = s.index
    lane.next = SLAB_NONE
    if r.lane_head == SLAB_NONE:
        r.lane_head = s.lane
    else:
        r.lanes[r.lane_tail].next = s.lane
    r.lane_tail = s.lane


cdef void reactor_move_lane(Reactor *r, Source *s, uint32_t lane) noexcept nogil:
    if not s.queued:        # a queued source moves when it is queued the next time
        s.lane = lane if lane < r.nlanes else r.nlanes - 1


cdef Source *pop(Reactor *r) noexcept nogil:
    cdef uint32_t number = r.lane_head
    cdef Lane *lane = &r.lanes[number]
    cdef Source *s = reactor_source(r, lane.head)
    r.lane_head = lane.next
    if r.lane_head == SLAB_NONE:
        r.lane_tail = SLAB_NONE
    lane.head = s.ready_next
    if lane.head == SLAB_NONE:
        lane.active = 0
    else:                   # the lane goes to the end of the round
        lane.next = SLAB_NONE
        if r.lane_head == SLAB_NONE:
            r.lane_head = number
        else:
            r.lanes[r.lane_tail].next = number
        r.lane_tail = number
    s.queued = 0
    r.ready -= 1
    return s


cdef void reactor_serve(Reactor *r) noexcept nogil:
    cdef uint32_t left = r.ready
    cdef uint32_t k
    cdef Source *s
    while left > 0 and r.lane_head != SLAB_NONE:
        left -= 1
        s = pop(r)
        if not s.dead and r.on_event[s.kind](r.owner, s) and not s.dead:
            reactor_queue(r, s)
    k = 0
    while k < r.dead_n:
        s = reactor_source(r, r.dead[k])
        if s.queued:        # still in a ready list: freed in the turn that pops it
            k += 1
            continue
        s.generation = 0
        slab_give(&r.sources, r.dead[k])
        r.dead_n -= 1
        r.dead[k] = r.dead[r.dead_n]


cdef void reactor_clock(Reactor *r) noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    r.now_us = <uint64_t>ts.tv_sec * 1000000 + <uint64_t>ts.tv_nsec / 1000
    r.now_ms = r.now_us / 1000
    clock_gettime(CLOCK_REALTIME, &ts)
    r.wall_us = <uint64_t>ts.tv_sec * 1000000 + <uint64_t>ts.tv_nsec / 1000


cdef int reactor_wait(Reactor *r, int timeout_ms) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef int n = epoll_wait(r.epoll_fd, events, EVENTS, timeout_ms)
    cdef int k
    cdef uint32_t bits
    cdef Source *s
    reactor_clock(r)
    if n < 0:
        return 0 if errno == EINTR else -errno
    for k in range(n):
        s = <Source *>slab_at(&r.sources, <uint32_t>events[k].data.u64)
        if s == NULL or s.generation != <uint32_t>(events[k].data.u64 >> 32) or s.dead:
            continue
        bits = events[k].events
        s.io |= <unsigned char>(
            (IO_IN if bits & EPOLLIN else 0) | (IO_OUT if bits & EPOLLOUT else 0)
            | (IO_RDHUP if bits & EPOLLRDHUP else 0) | (IO_ERR if bits & (EPOLLERR | EPOLLHUP) else 0))
        reactor_queue(r, s)
    return n


cdef void timer_drop(Reactor *r, Source *s) noexcept nogil:
    if s.timer_slot < 0:
        return
    if s.timer_prev != SLAB_NONE:
        reactor_source(r, s.timer_prev).timer_next = s.timer_next
    else:
        r.wheel[s.timer_slot] = s.timer_next
    if s.timer_next != SLAB_NONE:
        reactor_source(r, s.timer_next).timer_prev = s.timer_prev
    s.timer_slot = -1


cdef void timer_place(Reactor *r, Source *s) noexcept nogil:
    cdef uint64_t tick = (s.deadline_ms + TICK_MS - 1) / TICK_MS
    cdef uint32_t slot
    timer_drop(r, s)
    if tick <= r.wheel_tick:
        tick = r.wheel_tick + 1
    elif tick >= r.wheel_tick + WHEEL_SLOTS:
        tick = r.wheel_tick + WHEEL_SLOTS - 1
    slot = <uint32_t>(tick % WHEEL_SLOTS)
    s.due_ms = tick * TICK_MS
    s.timer_slot = <int>slot
    s.timer_prev = SLAB_NONE
    s.timer_next = r.wheel[slot]
    if s.timer_next != SLAB_NONE:
        reactor_source(r, s.timer_next).timer_prev = s.index
    r.wheel[slot] = s.index


cdef void reactor_timers(Reactor *r) noexcept nogil:
    cdef uint64_t now_tick = r.now_ms / TICK_MS
    cdef uint32_t slot
    cdef Source *s
    while r.wheel_tick < now_tick:
        r.wheel_tick += 1
        slot = <uint32_t>(r.wheel_tick % WHEEL_SLOTS)
        while r.wheel[slot] != SLAB_NONE:   # popped one by one: a handler may change the list
            s = reactor_source(r, r.wheel[slot])
            timer_drop(r, s)
            if s.deadline_ms == 0:
                continue
            if s.deadline_ms > r.now_ms:
                timer_place(r, s)
                continue
            s.deadline_ms = 0
            if r.on_timeout[s.kind] != NULL:
                r.on_timeout[s.kind](r.owner, s)
