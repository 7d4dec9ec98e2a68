"""The engine's thread. A turn: sleep until something is ready, enter the table, timers, ready connections, waiting
exchanges.

The Python side talks to it through a bounded mailbox with one writer and one reader; nothing here waits for it.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from flyproxy._speedups.flow.conns cimport conn_close
from flyproxy._speedups.flow.deadlines cimport down_drain, down_on_timeout
from flyproxy._speedups.flow.downstream cimport down_on_event
from flyproxy._speedups.flow.exchange cimport exchange_finish
from flyproxy._speedups.flow.ids cimport ids_init
from flyproxy._speedups.flow.listener cimport (
    listener_add, listener_on_event, listener_on_timeout, listener_remove, listeners_clear, listeners_refresh,
)
from flyproxy._speedups.flow.pool cimport pool_setup, pool_trim_all
from flyproxy._speedups.flow.queue cimport queue_mark_all, queue_run, queues_clear
from flyproxy._speedups.flow.streams cimport stream_on_event, stream_on_timeout
from flyproxy._speedups.flow.transport cimport (
    transport_on_event, transport_on_timeout, transports_clear, transports_count, transports_drain, transports_flush,
    transports_init,
)
from flyproxy._speedups.flow.tunnel cimport tunnel_on_event, tunnel_on_timeout
from flyproxy._speedups.flow.upstream cimport upstream_on_event, upstream_on_timeout
from flyproxy._speedups.flow.worker cimport (
    K_DOWN, K_LISTENER, K_STREAM, K_TRANSPORT, K_TUNNEL, K_UP, K_WAKE, MAILBOX, Config, Conn, Exchange, HostLink,
    Letter, Listener, Worker,
)
from flyproxy._speedups.mem.buf cimport pool_clear, pool_init
from flyproxy._speedups.mem.slab cimport slab_clear, slab_init
from flyproxy._speedups.net.pipes cimport pipes_clear, pipes_init
from flyproxy._speedups.net.reactor cimport (
    Source, reactor_add, reactor_clear, reactor_init, reactor_serve, reactor_source, reactor_timers, reactor_wait,
    reactor_watch,
)
from flyproxy._speedups.net.tls cimport TLS_BYTES, Tls, tls_party_clear
from flyproxy._speedups.shm.counters cimport (
    MEM_BUFFERS, MEM_CONNECTIONS, MEM_PIPES, MEM_TLS, counters_bucket, counters_worker,
)
from flyproxy._speedups.shm.platform cimport fp_acquire_u32, fp_acquire_u64, fp_monotonic_ns, fp_release_u32
from flyproxy._speedups.shm.segments cimport PS_DRAINING, ProcBeat, shm_beat, shm_wake
from flyproxy._speedups.proto.hello cimport HELLO_KEY
from flyproxy._speedups.shm.table cimport HOSTS_MAX, table_enter, table_init, table_leave

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *p, size_t n)
    int dup(int fd)

cdef enum:
    SLEEP_MS = 50               # longest sleep: the beat and the timers go on when nothing happens
    HELD_MAX = 64 << 20         # bytes of free buffers kept
    TOKENS_FLOOR = 100          # tenths: ten retries a second are always allowed


cdef int on_wake(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef uint64_t count
    source.io = 0
    if read(source.fd, &count, 8) != 8:
        return 0                # somebody else's wake-up was read already
    pool_trim_all(w)            # another worker may need a connection to a full machine
    queue_mark_all(w)           # or has just left room in one
    return 0


cdef void set_handlers(Worker *w) noexcept nogil:
    w.reactor.on_event[K_WAKE] = on_wake
    w.reactor.on_event[K_LISTENER] = listener_on_event
    w.reactor.on_event[K_DOWN] = down_on_event
    w.reactor.on_event[K_UP] = upstream_on_event
    w.reactor.on_event[K_TUNNEL] = tunnel_on_event
    w.reactor.on_event[K_TRANSPORT] = transport_on_event
    w.reactor.on_event[K_STREAM] = stream_on_event
    w.reactor.on_timeout[K_LISTENER] = listener_on_timeout
    w.reactor.on_timeout[K_DOWN] = down_on_timeout
    w.reactor.on_timeout[K_UP] = upstream_on_timeout
    w.reactor.on_timeout[K_TUNNEL] = tunnel_on_timeout
    w.reactor.on_timeout[K_TRANSPORT] = transport_on_timeout
    w.reactor.on_timeout[K_STREAM] = stream_on_timeout


cdef int worker_init(Worker *w) noexcept nogil:
    cdef Source *wake
    if not reactor_init(&w.reactor, sizeof(Conn), w.shm.sizes.apps + 1, w):
        return 0
    set_handlers(w)
    pool_init(&w.pool, HELD_MAX)
    pipes_init(&w.pipes)
    if not slab_init(&w.exchanges, sizeof(Exchange)) or not pool_setup(w, w.shm.sizes.machines):
        return 0
    w.host_links = <HostLink *>calloc(HOSTS_MAX, sizeof(HostLink))
    if w.host_links == NULL or not transports_init(w):
        return 0
    ids_init(w)
    table_init(&w.table, &w.shm)
    w.counters = counters_worker(&w.shm)
    w.retry_tokens = TOKENS_FLOOR
    # The reactor closes what it watches; the descriptor in shm stays the caller's.
    wake = reactor_add(&w.reactor, dup(w.shm.wake_fd[w.shm.proc]), K_WAKE, 1)
    return wake != NULL and reactor_watch(&w.reactor, wake, 1) == 0


# -- the mailbox

cdef int worker_post(Worker *w, int command, long number, void *pointer) noexcept nogil:
    cdef Letter *letter
    if w.posted - fp_acquire_u32(&w.opened) >= MAILBOX:
        return 0
    letter = &w.mailbox[w.posted % MAILBOX]
    letter.command = command
    letter.number = number
    letter.pointer = pointer
    fp_release_u32(&w.posted, w.posted + 1)
    shm_wake(&w.shm, w.shm.proc)
    return 1


cdef void begin_drain(Worker *w) noexcept nogil:
    w.draining = 1
    w.owner_epoch = 0           # let go of the listening sockets
    down_drain(w)
    transports_drain(w)


cdef void obey(Worker *w, Letter *letter) noexcept nogil:
    if letter.command == CMD_SETTINGS:
        free(w.config)
        w.config = <Config *>letter.pointer
    elif letter.command == CMD_LISTENER_ADD:
        listener_add(w, <int>letter.number, <Listener *>letter.pointer)
    elif letter.command == CMD_LISTENER_REMOVE:
        listener_remove(w, <uint32_t>letter.number)
    elif letter.command == CMD_BACKHAUL:
        memcpy(w.backhaul_key, letter.pointer, HELLO_KEY)
        memcpy(w.mesh_address, <char *>letter.pointer + HELLO_KEY, sizeof(w.mesh_address))
        w.boot_epoch = <uint32_t>letter.number
        memset(letter.pointer, 0, HELLO_KEY)
        free(letter.pointer)
    elif letter.command == CMD_DRAIN:
        begin_drain(w)
    elif letter.command == CMD_STOP:
        w.stopping = 1


cdef void read_mail(Worker *w) noexcept nogil:
    while w.opened != fp_acquire_u32(&w.posted):
        obey(w, &w.mailbox[w.opened % MAILBOX])
        fp_release_u32(&w.opened, w.opened + 1)


# -- the loop

cdef void beat(Worker *w) noexcept nogil:
    cdef ProcBeat *own = shm_beat(&w.shm, w.shm.proc)
    own.engine_turns += 1
    own.engine_ns = w.reactor.now_us * 1000
    own.connections = w.downs
    own.upstreams = w.ups


cdef void count_turn(Worker *w) noexcept nogil:
    cdef uint64_t us = fp_monotonic_ns() / 1000 - w.reactor.now_us
    w.counters.turn_count += 1
    w.counters.turn_sum_us += us
    w.counters.turn_buckets[counters_bucket(us)] += 1


cdef void each_second(Worker *w) noexcept nogil:
    cdef uint64_t second = w.reactor.now_ms / 1000
    if w.second == second:
        return
    w.second = second
    if not w.draining and fp_acquire_u32(&shm_beat(&w.shm, w.shm.proc).state) == PS_DRAINING:
        begin_drain(w)          # the master says so in shared memory when the Python side does not answer
    if w.retry_tokens < TOKENS_FLOOR:
        w.retry_tokens = TOKENS_FLOOR
    w.counters.memory[MEM_BUFFERS] = w.pool.used
    w.counters.memory[MEM_CONNECTIONS] = (<uint64_t>w.reactor.sources.used * w.reactor.sources.element
                                          + <uint64_t>w.exchanges.used * w.exchanges.element)
    transports_count(w)
    w.counters.memory[MEM_TLS] = <uint64_t>w.tls.open * (sizeof(Tls) + TLS_BYTES)
    w.counters.memory[MEM_PIPES] = <uint64_t>(w.pipes.open - w.pipes.idle) * (64 << 10)


cdef void turn(Worker *w) noexcept nogil:
    cdef int busy = w.reactor.ready != 0 or w.queue_dirty or w.dirty != NULL
    table_leave(&w.table)
    reactor_wait(&w.reactor, 0 if busy else SLEEP_MS)
    table_enter(&w.table)
    beat(w)
    read_mail(w)
    if fp_acquire_u64(&w.shm.root.owner_epoch) != w.owner_epoch:
        listeners_refresh(w)
    reactor_timers(&w.reactor)
    reactor_serve(&w.reactor)
    queue_run(w)
    transports_flush(w)
    each_second(w)
    count_turn(w)


cdef void worker_run(Worker *w) noexcept nogil:
    while not w.stopping:
        turn(w)
    table_leave(&w.table)


cdef void worker_clear(Worker *w) noexcept nogil:
    cdef uint32_t index
    cdef Conn *c
    listeners_clear(w)
    table_enter(&w.table)
    transports_clear(w)
    for index in range(w.reactor.sources.top):
        c = <Conn *>reactor_source(&w.reactor, index)
        if not c.s.generation & 1 or c.s.dead or c.s.kind == K_LISTENER or c.s.kind == K_WAKE:
            continue
        if c.x != NULL:
            exchange_finish(w, c.x)
        conn_close(w, c)
    beat(w)
    table_leave(&w.table)
    queues_clear(w)
    pipes_clear(&w.pipes)
    reactor_clear(&w.reactor)
    slab_clear(&w.exchanges)
    tls_party_clear(&w.tls)
    pool_clear(&w.pool)
    free(w.host_links)
    free(w.vm_transports)
    free(w.pool_heads)
    free(w.pool_counts)
    free(w.config)
