"""The VM's answer on its way to the client. The head and the first body bytes leave in one call."""

from libc.errno cimport EAGAIN, EPIPE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flyproxy._speedups.errors cimport ERR_PD01, ERR_PL05, ERR_PU06, ERR_PU07, ERR_PU08
from flyproxy._speedups.flow.backhaul cimport backhaul_refused
from flyproxy._speedups.flow.body cimport (
    BODY_DONE, BODY_FULL, BODY_MORE, body_end_of_stream, body_feed, body_start, body_trailers,
)
from flyproxy._speedups.flow.deadlines cimport body_due, down_rearm
from flyproxy._speedups.flow.delivery cimport delivery_answer, delivery_interim
from flyproxy._speedups.flow.exchange cimport exchange_abort, exchange_complete, exchange_fail
from flyproxy._speedups.flow.output cimport conn_cork, outbox_add, outbox_clear, outbox_send
from flyproxy._speedups.flow.retry cimport F_CUT, F_RESET, F_STALE, attempt_failed, attempt_unseen
from flyproxy._speedups.flow.splicing cimport (
    SP_BUDGET, SP_DONE, SP_END, SP_NO_PIPE, SP_SINK_ERROR, SP_SINK_FULL, SP_SOURCE_ERROR, splice_through,
)
from flyproxy._speedups.flow.streams cimport is_stream, stream_end
from flyproxy._speedups.flow.tunnel cimport tunnel_begin
from flyproxy._speedups.flow.worker cimport (
    BODY_CHUNKED, BODY_LENGTH, BODY_NONE, BODY_UNTIL_CLOSE, CF_FIN, CF_REUSED, CF_STALLED, INTERIM_MAX, PH_ANSWER,
    READS_PER_TURN, RENDER, SCRATCH, SPLICE_MIN, TR_HOST, XF_BODY_STREAMED, XF_CLOSE, XF_IDEMPOTENT, XF_KEEP_ALIVE,
    XF_PRISTINE, XF_RESET, XF_SENDING_OVER, XF_UPGRADE, XF_VM_KEEPS, XF_VM_STATUS, Conn, Exchange, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_append, buf_give, buf_len, buf_room
from flyproxy._speedups.net.reactor cimport IO_IN, IO_RDHUP, timer_set
from flyproxy._speedups.net.sockets cimport sock_recv
from flyproxy._speedups.proto.http1 cimport (
    HEADERS_CAP, RS_CHUNKED, RS_KEEP_ALIVE, RS_NO_BODY, RS_SWITCHED, RS_UNTIL_CLOSE, Header, ResponseEmit, ResponseHead,
    Slice, http1_emit_response, http1_parse_response,
)
from flyproxy._speedups.proto.names cimport H_UPGRADE
from flyproxy._speedups.proto.relay_head cimport relay_field
from flyproxy._speedups.shm.counters cimport LIM_BUFFER

cdef enum:
    RESET_WAIT_MS = 200         # how long a reset may take to follow a close
    HEAD_STEP = 8 << 10         # bytes read at least when a head comes in pieces
    CONTINUE = 100
    SWITCHING = 101


# -- the VM's end of stream, or a broken connection

cdef void lost(Worker *w, Exchange *x, int reset) noexcept nogil:
    cdef Conn *u = x.up
    if u.flags & CF_REUSED and buf_len(&u.in_) == 0 and x.interim == 0:
        attempt_failed(w, x, F_STALE)
    else:
        attempt_failed(w, x, F_RESET if reset else F_CUT)


# The VM closed without a word while the request may still be on its way. If nobody has taken it, the VM's kernel is
# about to answer with a reset, which proves that it can be repeated, whatever its method: wait for that a moment.
cdef int reset_may_follow(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    if u.flags & CF_FIN or x.flags & (XF_IDEMPOTENT | XF_BODY_STREAMED | XF_SENDING_OVER) or not attempt_unseen(x):
        return 0
    u.flags |= CF_FIN
    u.s.io &= ~IO_IN
    timer_set(&w.reactor, &u.s, w.reactor.now_ms + RESET_WAIT_MS)
    return 1


cdef void response_ended(Worker *w, Exchange *x) noexcept nogil:
    lost(w, x, 0)


cdef void ended(Worker *w, Exchange *x, int64_t result) noexcept nogil:
    if x.phase < PH_ANSWER:
        if result == -EPIPE:            # what a reset is called after an end (tcp_reset in CLOSE_WAIT)
            x.up.flags |= CF_FIN
        if result < 0 or not reset_may_follow(w, x):
            lost(w, x, result < 0)
        return
    outbox_clear(w)
    if result == 0 and body_end_of_stream(w, &x.response) == BODY_DONE:
        if pass_on(w, x, BODY_DONE):
            exchange_complete(w, x)
        return
    exchange_fail(w, x, ERR_PU08)


# -- body

# What is in the outbox goes to the client. 0: it could not, the exchange is gone.
cdef int pass_on(Worker *w, Exchange *x, int state) noexcept nogil:
    x.bytes_out += w.outbox.bytes
    if state == BODY_DONE and is_stream(x.down):
        stream_end(w, x.down, &x.response, w.outbox.n)
    if outbox_send(w, x.down):
        exchange_abort(w, x, ERR_PD01)
        return 0
    return 1


# 0: go on; 1: the exchange is gone.
cdef int feed(Worker *w, Exchange *x, const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t used, content
    cdef uint32_t taken = 0
    cdef uint32_t waiting = buf_len(&x.down.out)
    cdef int state
    while True:
        state = body_feed(w, &x.response, p + taken, n - taken, &used, &content)
        if state < 0:
            if w.outbox.n:
                outbox_send(w, x.down)          # what came before the fault is the client's
            exchange_fail(w, x, ERR_PU08)
            return 1
        taken += used
        if not pass_on(w, x, state):
            return 1
        if state != BODY_FULL:
            break
        outbox_clear(w)
    if state == BODY_DONE:
        if taken < n:
            x.flags &= ~XF_VM_KEEPS             # bytes after the message: nobody knows what they are
        exchange_complete(w, x)
        return 1
    if waiting == 0 and buf_len(&x.down.out):       # from now on only what the client takes moves its deadline
        down_rearm(w, x.down)
    return 0


cdef int client_behind(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *c = x.down
    cdef uint32_t waiting = buf_len(&c.out)
    if waiting == 0 or waiting + SCRATCH <= w.config.buffer:
        return 0
    if not c.flags & CF_STALLED:
        c.flags |= CF_STALLED
        w.counters.limits[LIM_BUFFER] += 1
    return 1


cdef int splice_body(Worker *w, Exchange *x) noexcept nogil:
    cdef uint64_t moved = 0
    cdef int waiting = x.response_pipe != NULL
    cdef int state = splice_through(w, x.up, x.down, &x.response_pipe, &x.response.left, &moved)
    x.bytes_out += moved
    if state == SP_DONE:
        x.response.done = 1
        exchange_complete(w, x)
    elif state == SP_END or state == SP_SOURCE_ERROR:
        exchange_fail(w, x, ERR_PU08)
    elif state == SP_SINK_ERROR:
        exchange_abort(w, x, ERR_PD01)
    elif state != SP_NO_PIPE:
        timer_set(&w.reactor, &x.up.s, w.reactor.now_ms + w.config.body_idle_ms)
        if state == SP_SINK_FULL and (moved or not waiting):
            down_rearm(w, x.down)
    return state


# 0: wait for events; 1: call again in the next turn; 2: go on reading.
cdef int read_body(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    cdef int64_t n
    cdef int state
    if client_behind(w, x):
        return 0
    if x.response_pipe != NULL or (
            x.response.mode == BODY_LENGTH and not x.response.chunk and x.response.left >= SPLICE_MIN
            and buf_len(&x.down.out) == 0 and buf_len(&u.in_) == 0 and not is_stream(x.down)):
        state = splice_body(w, x)
        if state != SP_NO_PIPE:
            return state == SP_BUDGET
    n = sock_recv(u.s.fd, w.scratch, SCRATCH)
    if n == -EAGAIN:
        u.s.io &= ~IO_IN
        return 0
    if n <= 0:
        ended(w, x, n)
        return 0
    if n < SCRATCH and not u.s.io & IO_RDHUP:
        u.s.io &= ~IO_IN
    timer_set(&w.reactor, &u.s, w.reactor.now_ms + w.config.body_idle_ms)
    outbox_clear(w)
    return 0 if feed(w, x, w.scratch, <uint32_t>n) else 2


# -- head

cdef void fill_emit(Worker *w, Exchange *x, ResponseEmit *emit) noexcept nogil:
    emit.request_id.p = x.request_id
    emit.request_id.n = x.request_id_n
    emit.server.p = w.config.server
    emit.server.n = w.config.server_n
    emit.via.p = w.config.via
    emit.via.n = w.config.via_n
    emit.pristine = 1 if x.flags & XF_PRISTINE else 0
    emit.client_minor = x.minor
    emit.close = 0
    emit.chunked = 0


cdef int pass_interim(Worker *w, Exchange *x) noexcept nogil:
    cdef ResponseEmit emit
    x.interim += 1
    if x.interim > INTERIM_MAX:
        exchange_fail(w, x, ERR_PU06)
        return 1
    if w.response.status == CONTINUE:
        x.awaits_100 = 0
        body_due(w, x)
    if x.minor == 0:                            # RFC 9110 15.2: not to HTTP/1.0 clients
        return 0
    if is_stream(x.down):
        delivery_interim(w, x)
        return 0
    fill_emit(w, x, &emit)
    outbox_clear(w)
    outbox_add(w, w.render, http1_emit_response(&w.response, &emit, w.render, RENDER))
    if outbox_send(w, x.down):
        exchange_abort(w, x, ERR_PD01)
        return 1
    return 0


cdef void decide_framing(Worker *w, Exchange *x, ResponseEmit *emit) noexcept nogil:
    cdef ResponseHead *h = &w.response
    cdef int mode = BODY_LENGTH
    if h.flags & RS_NO_BODY:
        mode = BODY_NONE
    elif h.flags & RS_CHUNKED:
        mode = BODY_UNTIL_CLOSE if is_stream(x.up) else BODY_CHUNKED
    elif h.flags & RS_UNTIL_CLOSE:
        mode = BODY_UNTIL_CLOSE
    emit.chunked = x.minor == 1 and (mode == BODY_CHUNKED or mode == BODY_UNTIL_CLOSE) and not is_stream(x.down)
    body_start(&x.response, mode, h.content_length, emit.chunked)
    if x.minor == 0 and (mode == BODY_CHUNKED or mode == BODY_UNTIL_CLOSE):
        x.flags |= XF_CLOSE | XF_RESET          # to this client the body ends with the connection
    if not x.flags & XF_KEEP_ALIVE or w.draining or not x.request.done:
        x.flags |= XF_CLOSE
    if h.flags & RS_KEEP_ALIVE:
        x.flags |= XF_VM_KEEPS
    emit.close = 1 if x.flags & XF_CLOSE else 0


cdef int pass_head(Worker *w, Exchange *x, const char *rest, uint32_t n) noexcept nogil:
    cdef ResponseEmit emit
    cdef int switched = w.response.flags & RS_SWITCHED
    fill_emit(w, x, &emit)
    x.status = w.response.status
    x.flags |= XF_VM_STATUS
    if switched:
        emit.close = 0
    else:
        decide_framing(w, x, &emit)
    outbox_clear(w)
    if not put_head(w, x, &emit):
        return 1
    x.phase = PH_ANSWER
    timer_set(&w.reactor, &x.up.s, w.reactor.now_ms + w.config.body_idle_ms)
    if switched:
        tunnel_begin(w, x, rest, n)
        return 1
    return feed(w, x, rest, n)


# Onto the client's stream, or into the outbox. 0: the exchange has failed.
cdef int put_head(Worker *w, Exchange *x, const ResponseEmit *emit) noexcept nogil:
    cdef uint32_t length
    if is_stream(x.down):
        return delivery_answer(w, x)
    length = http1_emit_response(&w.response, emit, w.render, RENDER)
    if length == 0:
        exchange_fail(w, x, ERR_PU07)
        return 0
    outbox_add(w, w.render, length)
    return 1


# The head stands in [p, p+n), interim answers before it. 0: it is incomplete, *used bytes are dealt with; 1: exchange
# gone; 2: passed on with all of the rest.
cdef int parse_head(Worker *w, Exchange *x, const char *p, uint32_t n, uint32_t *used) noexcept nogil:
    cdef Conn *u = x.up
    cdef int64_t length
    used[0] = 0
    while used[0] < n:
        length = http1_parse_response(p + used[0], n - used[0], u.scanned, &w.config.limits, x.method,
                                      1 if x.flags & XF_UPGRADE else 0, &w.response)
        if length == 0:
            u.scanned = n - used[0]
            return 0
        u.scanned = 0
        if length < 0:
            exchange_fail(w, x, <int>-length)
            return 1
        used[0] += <uint32_t>length
        if w.response.status >= 200 or w.response.status == 101:
            return 1 if pass_head(w, x, p + used[0], n - used[0]) else 2
        if pass_interim(w, x):
            return 1
    return 0


# A head in pieces is collected in u.in_. While it is judged the buffer counts as used up, so that the connection may be
# pooled by what follows; what was not used is taken back.
cdef int more_head(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    cdef uint32_t used, length
    cdef int64_t n
    cdef int state
    if not buf_room(&w.pool, &u.in_, HEAD_STEP):
        exchange_fail(w, x, ERR_PL05)
        return 0
    n = sock_recv(u.s.fd, u.in_.data + u.in_.end, u.in_.cap - u.in_.end)
    if n == -EAGAIN:
        u.s.io &= ~IO_IN
        return 0
    if n <= 0:
        ended(w, x, n)
        return 0
    u.in_.end += <uint32_t>n
    length = buf_len(&u.in_)
    u.in_.start = u.in_.end
    state = parse_head(w, x, u.in_.data + u.in_.end - length, length, &used)
    if state == 1:
        return 0
    if state == 0:
        u.in_.start = u.in_.end - (length - used)
    if buf_len(&u.in_) == 0:
        buf_give(&w.pool, &u.in_)
    return 2


# As read_body.
cdef int read_head(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    cdef uint32_t used
    cdef int64_t n
    cdef int state
    if buf_len(&u.in_):
        return more_head(w, x)
    n = sock_recv(u.s.fd, w.scratch, SCRATCH)
    if n == -EAGAIN:
        u.s.io &= ~IO_IN
        return 0
    if n <= 0:
        ended(w, x, n)
        return 0
    if n < SCRATCH and not u.s.io & IO_RDHUP:
        u.s.io &= ~IO_IN
    state = parse_head(w, x, w.scratch, <uint32_t>n, &used)
    if state == 0 and used < n and not buf_append(&w.pool, &u.in_, w.scratch + used, <uint32_t>n - used):
        exchange_fail(w, x, ERR_PL05)
        return 0
    return 0 if state == 1 else 2


# -- from a stream

# RFC 8441 5.1: a 2xx accepts the tunnel, and says so with the protocol, or else is an answer like any other.
cdef void settle_upgrade(Worker *w, int end) noexcept nogil:
    cdef ResponseHead *h = &w.response
    cdef Slice value = relay_field(h.headers, h.nheaders, b"upgrade", 7)
    if not h.flags & RS_SWITCHED:
        return
    if value.n == 0 or h.nheaders == HEADERS_CAP:
        h.flags = RS_KEEP_ALIVE | (RS_NO_BODY if h.status == 204 else 0 if end else RS_CHUNKED)
        h.content_length = 0 if end and h.status != 204 else -1
        return
    h.status = SWITCHING
    h.reason.p = b"Switching Protocols"
    h.reason.n = 19
    h.headers[h.nheaders].name = b"Upgrade"
    h.headers[h.nheaders].name_n = 7
    h.headers[h.nheaders].value = value.p
    h.headers[h.nheaders].value_n = value.n
    h.headers[h.nheaders].kind = H_UPGRADE
    h.headers[h.nheaders].drop = 0
    h.nheaders += 1


cdef void response_head(Worker *w, Exchange *x, int end) noexcept nogil:
    cdef Slice own
    if w.response.proxy_error and x.up.carrier.role == TR_HOST:
        backhaul_refused(w, x)
        return
    if w.response.status < 200:
        pass_interim(w, x)
        return
    if x.flags & XF_UPGRADE:
        settle_upgrade(w, end)
    own = relay_field(w.response.headers, w.response.nheaders, b"reason", 6)
    if own.n and x.up.carrier.role == TR_HOST:
        w.response.reason = own
    conn_cork(w, x.down)
    pass_head(w, x, b"", 0)


cdef void response_push(Worker *w, Exchange *x, const char *p, uint32_t n, int end) noexcept nogil:
    cdef uint32_t used, content
    cdef uint32_t waiting = buf_len(&x.down.out)
    cdef int state
    timer_set(&w.reactor, &x.up.s, w.reactor.now_ms + w.config.body_idle_ms)
    outbox_clear(w)
    state = body_feed(w, &x.response, p, n, &used, &content)
    if state == BODY_MORE and end:
        state = body_end_of_stream(w, &x.response)
        if state != BODY_DONE:
            exchange_fail(w, x, ERR_PU08)
            return
    if not pass_on(w, x, state):
        return
    if state == BODY_DONE:
        exchange_complete(w, x)
    elif waiting == 0 and buf_len(&x.down.out):
        down_rearm(w, x.down)


cdef void response_trailers(Worker *w, Exchange *x, const Header *fields, uint32_t n) noexcept nogil:
    body_trailers(w, &x.response, fields, n)
    response_push(w, x, NULL, 0, 1)


cdef int response_read(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    cdef int _k, state
    if is_stream(u):
        return 0                        # what comes is pushed
    for _k in range(READS_PER_TURN):
        if not u.s.io & (IO_IN | IO_RDHUP) and x.response_pipe == NULL:
            return 0
        state = read_body(w, x) if x.phase == PH_ANSWER else read_head(w, x)
        if state != 2:
            return state
    return 1
