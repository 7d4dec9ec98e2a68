"""One request and its answer, from the parsed head to the last count.

An exchange ends in exchange_finish, whatever happened; the ways there are complete (the answer went out whole), fail
(we answer or cut) and abort (the client has gone).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from flyproxy._speedups.errors cimport ERR_PE03, ERR_PE04, ERR_PH15, ERR_PL04, ERR_PL05, ERR_PP01, ERR_PR01, ERR_PR04
from flyproxy._speedups.flow.accesslog cimport log_exchange
from flyproxy._speedups.flow.answers cimport answer_exchange, answer_prepare_https
from flyproxy._speedups.flow.backhaul cimport backhaul_open
from flyproxy._speedups.flow.body cimport body_clear, body_start
from flyproxy._speedups.flow.conns cimport conn_abort, conn_close, conn_count_app
from flyproxy._speedups.flow.delivery cimport delivery_route
from flyproxy._speedups.flow.downstream cimport down_last, down_next
from flyproxy._speedups.flow.ids cimport random_bytes, random_choice, request_id
from flyproxy._speedups.flow.pool cimport pool_give
from flyproxy._speedups.flow.queue cimport queue_busy, queue_leave, queue_mark, queue_wait
from flyproxy._speedups.flow.retry cimport attempt_forgiven
from flyproxy._speedups.flow.splicing cimport splice_release
from flyproxy._speedups.flow.streams cimport is_stream
from flyproxy._speedups.flow.upstream cimport upstream_open
from flyproxy._speedups.flow.worker cimport (
    ANSWER_PREPARED, BODY_CHUNKED, BODY_LENGTH, BODY_NONE, CF_BOUND, DS_BUSY, PH_ANSWER, VIA_MAX, XF_ADMITTED, XF_CLOSE,
    XF_COUNTED, XF_DELIVERY, XF_FULL_SEEN, XF_HALF_CLOSE, XF_HTTP2, XF_IDEMPOTENT, XF_KEEP_ALIVE, XF_PRISTINE, XF_RAW,
    XF_RESET, XF_UPGRADE, XF_VM_KEEPS, XF_VM_STATUS, Conn, Exchange, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_append, buf_give, buf_len, buf_take
from flyproxy._speedups.mem.slab cimport SLAB_NONE, slab_at, slab_give, slab_take
from flyproxy._speedups.net.reactor cimport IO_ERR, IO_IN, IO_RDHUP, reactor_move_lane
from flyproxy._speedups.net.sockets cimport sock_acknowledged, sock_has_input
from flyproxy._speedups.proto.http1 cimport (
    RQ_CHUNKED, RQ_EXPECT, RQ_IDEMPOTENT, RQ_KEEP_ALIVE, RQ_UPGRADE, RequestEmit, RequestHead, Slice, http1_cookie,
    http1_emit_request, http1_header,
)
from flyproxy._speedups.proto.proxy_protocol cimport put_address
from flyproxy._speedups.route.choose cimport (
    CHOOSE_FULL, CHOOSE_UNHEALTHY, CHOSEN, Choose, route_choose, route_key, route_key_address,
)
from flyproxy._speedups.shm.budget cimport BK_INFLIGHT, budget_release, budget_wake
from flyproxy._speedups.shm.counters cimport (
    LIM_HARD_LIMIT, LIM_MEMORY, AppSeries, counters_app, counters_http, counters_machine,
)
from flyproxy._speedups.shm.table cimport (
    BAL_HASH_COOKIE, BAL_HASH_HEADER, BAL_HASH_IP, HOST_HERE, H_HTTP, H_PROXY_PROTO, H_TLS, TApp, TPort, TService,
    table_app, table_app_by_host, table_port, table_service, table_service_by_id,
)

cdef enum:
    ADDED_BYTES = 1536              # room for the headers that the proxy adds
    BODY_MERGED = 16 << 10          # body bytes that go out in one send with the head
    MUCH_SENT = 64 << 10            # bytes of one request
    TOKENS_MAX = 1000               # tenths of a retry: 100 retries saved up
    TOKENS_EARNED = 2               # by each request: a fifth of a retry


cdef Exchange *exchange_new(Worker *w, Conn *c) noexcept nogil:
    cdef uint32_t index = slab_take(&w.exchanges)
    cdef Exchange *x
    if index == SLAB_NONE:
        return NULL
    x = <Exchange *>slab_at(&w.exchanges, index)
    x.index = index
    x.down = c
    x.start_us = w.reactor.now_us
    x.request_id_n = <uint8_t>request_id(w, x.request_id)
    c.x = x
    c.state = DS_BUSY
    w.counters.requests += 1
    w.retry_tokens += TOKENS_EARNED
    if w.retry_tokens > TOKENS_MAX:
        w.retry_tokens = TOKENS_MAX
    return x


cdef Slice slice_of(const char *p, uint32_t n) noexcept nogil:
    cdef Slice s
    s.p = p
    s.n = n
    return s


cdef Slice local_text(Worker *w, Conn *c) noexcept nogil:
    # Connections mostly share one local address: its text is kept from the last time.
    if w.local_text_n == 0 or memcmp(w.local_address, c.local.address, 16) != 0:
        memcpy(w.local_address, c.local.address, 16)
        w.local_text_n = <uint8_t>put_address(c.local.address, w.local_text)
    return slice_of(w.local_text, w.local_text_n)


cdef int render_head(Worker *w, Exchange *x) noexcept nogil:
    cdef RequestEmit emit
    cdef char peer[48]
    cdef Conn *c = x.down
    cdef uint32_t cap = 4096
    cdef uint32_t n
    emit.client_ip = slice_of(peer, put_address(c.peer.address, peer))
    emit.local_ip = local_text(w, c)
    emit.region = slice_of(w.config.region, w.config.region_n)
    emit.request_id = slice_of(x.request_id, x.request_id_n)
    emit.via = slice_of(w.config.via, w.config.via_n)
    emit.random = random_bytes(w, 24)
    emit.start_us = w.reactor.wall_us
    emit.port = c.service_port
    emit.https = 0
    while cap <= 2 * w.config.limits.head + 8 * ADDED_BYTES:
        if not buf_take(&w.pool, &x.head, cap):
            return ERR_PL05
        n = http1_emit_request(&w.request, &emit, x.head.data, x.head.cap)
        if n:
            x.head.end = n
            return 0
        buf_give(&w.pool, &x.head)
        cap *= 2
    return ERR_PP01


cdef uint64_t balance_key(Worker *w, Conn *c, const TService *s) noexcept nogil:
    cdef Slice found = slice_of(NULL, 0)
    if s.balance == BAL_HASH_HEADER:
        found = http1_header(&w.request, s.key, s.key_n)
    elif s.balance == BAL_HASH_COOKIE:
        found = http1_cookie(&w.request, s.key, s.key_n)
    if found.n:
        return route_key(&w.table, found.p, found.n)
    return route_key_address(&w.table, c.peer.address)      # also for a client without the header or cookie


cdef int exchange_bind(Worker *w, Exchange *x, const TApp *app, const TPort *port) noexcept nogil:
    cdef const TService *s = table_service(&w.table, app, port.service)
    if s == NULL:
        return ERR_PP01
    x.service = s.id
    x.service_generation = s.generation
    x.hard_limit = s.hard_limit
    x.concurrency = s.concurrency
    x.proxy_version = port.proxy_version if port.handlers & H_PROXY_PROTO else 0
    if s.half_close:
        x.flags |= XF_HALF_CLOSE
    if port.h2_backend:
        x.flags |= XF_HTTP2
    if port.pristine:
        x.flags |= XF_PRISTINE
    x.idle_ms = port.idle_timeout_ms
    x.down.idle_ms = port.idle_timeout_ms
    x.down.head_ms = port.head_timeout_ms
    if s.balance == BAL_HASH_IP or x.flags & XF_RAW:
        x.key = route_key_address(&w.table, x.down.peer.address)
    elif s.balance:
        x.key = balance_key(w, x.down, s)
    return 0


cdef void take_request(Worker *w, Exchange *x) noexcept nogil:
    cdef RequestHead *h = &w.request
    x.method = h.method
    x.minor = h.minor
    x.accept = h.accept
    x.log_method_n = <uint8_t>h.method_text.n if h.method_text.n < 255 else 255
    x.log_target_n = h.target.n
    if h.flags & RQ_KEEP_ALIVE:
        x.flags |= XF_KEEP_ALIVE
    if h.flags & RQ_UPGRADE:
        x.flags |= XF_UPGRADE
    if h.flags & RQ_IDEMPOTENT:
        x.flags |= XF_IDEMPOTENT
    if h.flags & RQ_CHUNKED:
        body_start(&x.request, BODY_CHUNKED, 0, 1)
    elif h.content_length > 0:
        body_start(&x.request, BODY_LENGTH, h.content_length, 0)
    else:
        body_start(&x.request, BODY_NONE, 0, 0)
    x.awaits_100 = h.flags & RQ_EXPECT != 0 and not x.request.done
    x.last_byte_ms = w.reactor.now_ms
    x.window_ms = w.reactor.now_ms


cdef void keep_for_log(Worker *w, Exchange *x) noexcept nogil:
    # An error comes before the head is rendered: the log still wants the request line and the host.
    cdef RequestHead *h = &w.request
    if not w.config.access_log or x.head.data != NULL:
        return
    if buf_take(&w.pool, &x.head, h.method_text.n + h.target.n + h.host_n + 32):
        buf_append(&w.pool, &x.head, h.method_text.p, h.method_text.n)
        buf_append(&w.pool, &x.head, b" ", 1)
        buf_append(&w.pool, &x.head, h.target.p, h.target.n)
        buf_append(&w.pool, &x.head, b" HTTP/1.1\r\nHost: ", 17)
        buf_append(&w.pool, &x.head, h.host, h.host_n)
        buf_append(&w.pool, &x.head, b"\r\n", 2)


cdef int exchange_begin(Worker *w, Conn *c) noexcept nogil:
    cdef Exchange *x = exchange_new(w, c)
    cdef int error
    if x == NULL:
        return ERR_PL05
    take_request(w, x)
    error = admit(w, c, x)
    if error:
        keep_for_log(w, x)
    return error


cdef int admit(Worker *w, Conn *c, Exchange *x) noexcept nogil:
    cdef const TApp *app
    cdef const TPort *port
    cdef int error
    if w.config.memory and w.pool.used > w.config.memory:
        w.counters.limits[LIM_MEMORY] += 1
        return ERR_PL05
    if w.request.own_via > VIA_MAX:
        return ERR_PH15
    if c.flags & CF_BOUND:
        app = table_app(&w.table, c.app, c.app_generation)
    else:
        app = table_app_by_host(&w.table, w.request.host, w.request.host_n)
    if app == NULL:
        return ERR_PE03
    x.app = app.id
    x.app_generation = app.generation
    reactor_move_lane(&w.reactor, &c.s, app.id)
    port = table_port(&w.table, app, c.service_port)
    if port == NULL or not port.handlers & H_HTTP or port.handlers & H_TLS:
        return ERR_PE04                     # what asks for TLS is never served in plain
    if not conn_count_app(w, c, app):
        return ERR_PL04
    if port.force_https:
        answer_prepare_https(w, x)
        return ANSWER_PREPARED
    error = exchange_bind(w, x, app, port)
    return error if error else render_head(w, x)


cdef void merge_body(Worker *w, Exchange *x) noexcept nogil:
    # A small body that is already here goes out with the head, and can be repeated with it.
    cdef Conn *c = x.down
    cdef uint32_t n = buf_len(&c.in_)
    if x.request.mode != BODY_LENGTH or n == 0:
        return
    if n > x.request.left:
        n = <uint32_t>x.request.left
    if n > BODY_MERGED or n > x.head.cap - x.head.end:
        return
    memcpy(x.head.data + x.head.end, c.in_.data + c.in_.start, n)
    x.head.end += n
    x.kept += n
    x.bytes_in += n
    x.request.left -= n
    x.request.done = x.request.left == 0
    c.in_.start += n
    if buf_len(&c.in_) == 0:
        buf_give(&w.pool, &c.in_)


# Its hosts are asked again: what they said of room may have changed.
cdef void wait_for_room(Worker *w, Exchange *x) noexcept nogil:
    x.ntried = 0
    queue_wait(w, x)


cdef void exchange_route(Worker *w, Exchange *x) noexcept nogil:
    cdef const TService *s = table_service_by_id(&w.table, x.service, x.service_generation)
    cdef Choose choice
    cdef int result
    if s == NULL:
        exchange_fail(w, x, ERR_PR04)
        return
    if x.flags & XF_DELIVERY:
        delivery_route(w, x)
        return
    if x.head_sent == 0 and not x.request.done:
        merge_body(w, x)
    if x.queue == NULL and w.queues != NULL and queue_busy(w, x.service):
        wait_for_room(w, x)
        return
    choice.random = random_choice(w)
    choice.key = x.key
    choice.ntried = x.ntried
    memcpy(choice.tried, x.tried, sizeof(x.tried))
    result = route_choose(&w.table, s, &choice)
    if result == CHOSEN:
        x.machine = choice.machine.slot
        x.machine_generation = choice.machine.generation
        x.flags |= XF_ADMITTED
        if choice.machine.host_slot == HOST_HERE:
            upstream_open(w, x, s, choice.machine)
        else:
            backhaul_open(w, x, choice.machine)
    elif result == CHOOSE_FULL or x.flags & XF_FULL_SEEN:
        w.counters.limits[LIM_HARD_LIMIT] += x.queue_until_ms == 0
        wait_for_room(w, x)
    elif attempt_forgiven(x):
        exchange_route(w, x)
    elif x.last_error:
        exchange_fail(w, x, x.last_error)
    else:
        exchange_fail(w, x, ERR_PR01 if result == CHOOSE_UNHEALTHY else ERR_PR04)


cdef int exchange_give_back(Worker *w, Exchange *x) noexcept nogil:
    if not x.flags & XF_ADMITTED:
        return 0
    x.flags &= ~XF_ADMITTED
    budget_release(&w.shm, BK_INFLIGHT, x.machine)
    return 1


cdef void exchange_release(Worker *w, Exchange *x) noexcept nogil:
    if exchange_give_back(w, x):
        queue_mark(w, x.service)
        budget_wake(&w.shm, x.service)


cdef void exchange_drop_upstream(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    if u != NULL:
        x.up = NULL
        u.x = NULL
        conn_close(w, u)


cdef void exchange_count(Worker *w, Exchange *x) noexcept nogil:
    cdef uint64_t now = w.reactor.now_us
    cdef AppSeries *series
    if x.flags & XF_COUNTED or not x.app_generation:
        return
    x.flags |= XF_COUNTED
    if x.flags & XF_RAW:
        return                  # relays count their bytes as they pass
    if not x.flags & XF_DELIVERY:       # else the other proxy counts for the app
        series = counters_app(&w.shm, x.app, x.app_generation)
        series.data_in += x.bytes_in + x.head.end - x.kept
        series.data_out += x.bytes_out
        if x.status:
            counters_http(&series.http, x.status, now - x.start_us)
    if x.flags & XF_VM_STATUS:
        counters_http(&counters_machine(&w.shm, x.machine, x.machine_generation).http, x.status, now - x.sent_us)


cdef void exchange_finish(Worker *w, Exchange *x) noexcept nogil:
    if x.error:
        w.counters.errors[x.error] += 1
    exchange_count(w, x)
    if w.config.access_log and not x.flags & XF_DELIVERY:
        log_exchange(w, x)
    queue_leave(w, x)
    exchange_release(w, x)
    splice_release(w, &x.request_pipe)
    splice_release(w, &x.response_pipe)
    body_clear(w, &x.request)
    body_clear(w, &x.response)
    buf_give(&w.pool, &x.head)
    x.down.x = NULL
    if x.up != NULL:
        x.up.x = NULL
    slab_give(&w.exchanges, x.index)


# Nothing left over on either side, and the VM has not begun to close. After a splice nobody has seen the socket dry
# yet: look.
cdef int is_clean(Conn *u) noexcept nogil:
    if buf_len(&u.in_) or buf_len(&u.out) or u.s.io & (IO_RDHUP | IO_ERR):
        return 0
    if u.s.io & IO_IN:
        if sock_has_input(u.s.fd):
            return 0
        u.s.io &= ~IO_IN
    return 1


# A VM may answer before it has read the request. A connection with half of one in it must not see another. What our own
# kernel still holds is only worth asking for when it may be much.
cdef int all_sent(Exchange *x, Conn *u) noexcept nogil:
    if x.head_sent < buf_len(&x.head) or not x.request.done or x.request_pipe != NULL:
        return 0
    return x.bytes_in + buf_len(&x.head) < MUCH_SENT or sock_acknowledged(u.s.fd) > u.sent


cdef void exchange_complete(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *c = x.down
    cdef Conn *u = x.up
    cdef int keep = x.flags & XF_KEEP_ALIVE and not x.flags & XF_CLOSE and x.request.done
    if u != NULL:
        x.up = NULL
        u.x = NULL
        # A connection that began with a PROXY header speaks for one client and is never shared.
        if x.flags & XF_VM_KEEPS and not is_stream(u) and all_sent(x, u) and not x.proxy_version and is_clean(u):
            pool_give(w, u)
        else:
            conn_close(w, u)
    exchange_finish(w, x)
    if keep:
        down_next(w, c)
    else:
        down_last(w, c)


cdef void exchange_fail(Worker *w, Exchange *x, int error) noexcept nogil:
    cdef Conn *c = x.down
    cdef int reset
    x.error = <uint8_t>error
    exchange_drop_upstream(w, x)
    if x.phase < PH_ANSWER:
        answer_exchange(w, x, error)
        return
    # The head is out: the only honest sign left is a cut, behind what came before it. Where the framing ends with the
    # connection, only a reset shows it.
    reset = x.flags & XF_RESET
    exchange_finish(w, x)
    if reset or is_stream(c):
        conn_abort(w, c)
    else:
        down_last(w, c)


cdef void exchange_abort(Worker *w, Exchange *x, int error) noexcept nogil:
    cdef Conn *c = x.down
    x.error = <uint8_t>error
    exchange_drop_upstream(w, x)
    exchange_finish(w, x)
    conn_close(w, c)
