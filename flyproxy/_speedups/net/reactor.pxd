# The event loop: epoll, ready lists per lane (one lane per app, served round robin), timers. Knows fds and no protocol.
# Sources are edge-triggered (listeners level-triggered); what epoll said is kept in Source.io until a call says EAGAIN.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from flyproxy._speedups.mem.slab cimport Slab, slab_at

cdef enum:
    KINDS = 8                   # capacity of the dispatch tables
    WHEEL_SLOTS = 2048
    TICK_MS = 16                # so the wheel spans 32 s; a later deadline is placed at its end and moved on from there
    EVENTS = 512                # per epoll_wait

cdef enum Io:
    IO_IN = 1                   # a read may succeed
    IO_OUT = 2                  # a write may succeed
    IO_RDHUP = 4                # the other side has shut down its sending half
    IO_ERR = 8                  # error or hang-up: reads and writes will say which

cdef struct Source:
    int32_t fd
    uint32_t index
    uint32_t generation
    uint32_t lane
    uint32_t ready_next
    uint32_t timer_prev
    uint32_t timer_next
    int32_t timer_slot          # -1: not in the wheel
    uint64_t due_ms             # when the wheel will look at it
    uint64_t deadline_ms        # when it is really due; 0: never
    uint8_t kind                # index of the dispatch tables
    uint8_t io                  # Io bits
    uint8_t queued
    uint8_t dead                # closed in this turn; freed at its end

cdef struct Lane:
    uint32_t head
    uint32_t tail
    uint32_t next
    uint32_t active

# 1: call me again in the next turn without an event (its read budget was used up).
ctypedef int (*EventHandler)(void *owner, Source *source) noexcept nogil
ctypedef void (*TimeoutHandler)(void *owner, Source *source) noexcept nogil

cdef struct Reactor:
    int32_t epoll_fd
    uint32_t nlanes
    Lane *lanes                 # [nlanes]; the last one is for sources of no app
    uint32_t lane_head
    uint32_t lane_tail
    uint32_t ready              # sources queued
    uint32_t generation         # of the last source added; odd numbers name living sources
    uint32_t dead_n
    uint32_t dead_cap
    uint32_t *dead              # indexes closed in this turn
    uint64_t now_ms             # CLOCK_MONOTONIC, once per turn
    uint64_t now_us
    uint64_t wall_us            # CLOCK_REALTIME
    uint64_t wheel_tick
    uint32_t wheel[WHEEL_SLOTS]  # head of each slot's list
    Slab sources                # elements begin with a Source
    void *owner
    EventHandler on_event[KINDS]
    TimeoutHandler on_timeout[KINDS]

cdef int reactor_init(Reactor *r, uint32_t element, uint32_t lanes, void *owner) noexcept nogil
cdef void reactor_clear(Reactor *r) noexcept nogil
# A registered source for fd, or NULL (memory, epoll). level: level-triggered, reading only.
cdef Source *reactor_add(Reactor *r, int fd, int kind, int level) noexcept nogil
# A source that has no descriptor: only queued and timed.
cdef Source *reactor_add_bare(Reactor *r, int kind) noexcept nogil
cdef int reactor_watch(Reactor *r, Source *s, int on) noexcept nogil        # listeners: in and out of epoll
# Closes the fd; memory is freed at the end of the turn.
cdef void reactor_close(Reactor *r, Source *s) noexcept nogil
cdef void reactor_queue(Reactor *r, Source *s) noexcept nogil               # call its handler (again) soon
cdef void reactor_move_lane(Reactor *r, Source *s, uint32_t lane) noexcept nogil
cdef void reactor_clock(Reactor *r) noexcept nogil
cdef void reactor_timers(Reactor *r) noexcept nogil
# One wait (at most timeout_ms) for events; they are only queued. Number of events, or a negative errno.
cdef int reactor_wait(Reactor *r, int timeout_ms) noexcept nogil
# Serves what is queued now, each source once, lanes in turn; then frees the dead.
cdef void reactor_serve(Reactor *r) noexcept nogil
cdef void timer_place(Reactor *r, Source *s) noexcept nogil
cdef void timer_drop(Reactor *r, Source *s) noexcept nogil

cdef inline Source *reactor_source(Reactor *r, uint32_t index) noexcept nogil:
    return <Source *>slab_at(&r.sources, index)

# Moves the deadline (0: none). Later than before costs two stores; the wheel is touched only for an earlier one.
cdef inline void timer_set(Reactor *r, Source *s, uint64_t deadline_ms) noexcept nogil:
    s.deadline_ms = deadline_ms
    if deadline_ms != 0 and (s.timer_slot < 0 or deadline_ms < s.due_ms):
        timer_place(r, s)
