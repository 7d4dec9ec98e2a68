"""The client's side of HTTP/1: what a connection does between and during its exchanges.

A request head is parsed where it was received; bytes are kept (``Conn.in_``) only when a head is incomplete or
something follows it. Requests are served one at a time, so pipelined ones are answered in order. A client's FIN
during the last of them is an abort, unless the service says ``half_close``.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint16_t, uint32_t

from flyproxy._speedups.errors cimport ERR_PD01, ERR_PH02, ERR_PH03, ERR_PH04, ERR_PL05, ERR_PL06
from flyproxy._speedups.flow.accept cimport down_read_proxy
from flyproxy._speedups.flow.answers cimport answer_prepared, answer_refused
from flyproxy._speedups.flow.conns cimport conn_close
from flyproxy._speedups.flow.deadlines cimport down_rearm
from flyproxy._speedups.flow.exchange cimport exchange_abort, exchange_begin, exchange_fail, exchange_route
from flyproxy._speedups.flow.output cimport conn_flush
from flyproxy._speedups.flow.request cimport request_pump
from flyproxy._speedups.flow.response cimport response_read
from flyproxy._speedups.flow.streams cimport is_stream, stream_credit, stream_last
from flyproxy._speedups.flow.worker cimport (
    ANSWER_PREPARED, CF_CORKED, CF_FIN, CF_PARTIAL, CF_PIPE_OVER, CF_SHUT, CF_STALLED, DS_BUSY, DS_HEAD, DS_LINGER,
    DS_PROXY, LINGER_BYTES, PH_ANSWER, SCRATCH, XF_HALF_CLOSE, XF_RAW, Conn, Exchange, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_append, buf_consume, buf_give, buf_len, buf_room
from flyproxy._speedups.net.reactor cimport IO_ERR, IO_IN, IO_OUT, IO_RDHUP, Source, reactor_queue
from flyproxy._speedups.net.sockets cimport sock_recv, sock_shutdown_write
from flyproxy._speedups.proto.http1 cimport Slice, http1_count_pipelined, http1_parse_request
from flyproxy._speedups.shm.counters cimport LIM_HEAD, LIM_HEADERS, LIM_PIPELINED, LIM_TARGET

cdef enum:
    READ_STEP = 4 << 10         # bytes read at least when a head comes in pieces


# -- between exchanges

cdef void down_next(Worker *w, Conn *c) noexcept nogil:
    c.state = DS_HEAD
    c.served += 1
    c.scanned = 0
    if buf_len(&c.in_) or c.s.io & (IO_IN | IO_RDHUP) or c.flags & CF_FIN:
        reactor_queue(&w.reactor, &c.s)
    down_rearm(w, c)


cdef void down_last(Worker *w, Conn *c) noexcept nogil:
    if is_stream(c):
        stream_last(w, c)
        return
    c.state = DS_LINGER
    c.scanned = 0
    buf_give(&w.pool, &c.in_)
    c.s.io |= IO_IN
    down_rearm(w, c)
    reactor_queue(&w.reactor, &c.s)


# The answer must survive: a close with unread input would send a reset, and the client's kernel would drop the answer
# on it.
cdef int linger(Worker *w, Conn *c) noexcept nogil:
    cdef int64_t n
    if buf_len(&c.out):
        return 0
    if not c.flags & CF_SHUT:
        c.flags |= CF_SHUT
        sock_shutdown_write(c.s.fd)
        down_rearm(w, c)
    while c.s.io & (IO_IN | IO_RDHUP):
        n = sock_recv(c.s.fd, w.scratch, SCRATCH)
        if n == -EAGAIN:
            c.s.io &= ~IO_IN
            return 0
        c.scanned += <uint32_t>n if n > 0 else 0
        if n <= 0 or c.scanned > LINGER_BYTES:
            conn_close(w, c)
            return 0
    return 0


# -- a request head

cdef void count_limit(Worker *w, int error) noexcept nogil:
    if error == ERR_PH02:
        w.counters.limits[LIM_HEAD] += 1
    elif error == ERR_PH03:
        w.counters.limits[LIM_HEADERS] += 1
    elif error == ERR_PH04:
        w.counters.limits[LIM_TARGET] += 1
    elif error == ERR_PL06:
        w.counters.limits[LIM_PIPELINED] += 1


cdef void refuse(Worker *w, Conn *c, int error) noexcept nogil:
    count_limit(w, error)
    answer_refused(w, c, error)


cdef int64_t parse(Worker *w, Conn *c, const char *p, uint32_t n) noexcept nogil:
    cdef Slice via
    via.p = w.config.via
    via.n = w.config.via_n
    return http1_parse_request(p, n, c.scanned, &w.config.limits, via, &w.request)


# The head in w.request has been understood; `error` is what exchange_begin said.
cdef void start(Worker *w, Conn *c, int error) noexcept nogil:
    cdef Exchange *x = c.x
    c.flags &= ~(CF_PARTIAL | CF_STALLED)
    c.scanned = 0
    if x == NULL:
        refuse(w, c, error)
    elif error == ANSWER_PREPARED:
        answer_prepared(w, x)
    elif error:
        exchange_fail(w, x, error)
    else:
        if x.request.done and buf_len(&c.in_):
            count_ahead(w, c)
        exchange_route(w, x)


cdef int incomplete(Worker *w, Conn *c, uint32_t n) noexcept nogil:
    c.scanned = n
    if c.flags & CF_FIN:
        conn_close(w, c)
        return 0
    if not c.flags & CF_PARTIAL:
        c.flags |= CF_PARTIAL
        down_rearm(w, c)
    return c.s.io & IO_IN


cdef int head_from_socket(Worker *w, Conn *c) noexcept nogil:
    cdef int64_t n, used
    cdef int error
    if not c.s.io & (IO_IN | IO_RDHUP):
        return 0
    n = sock_recv(c.s.fd, w.scratch, SCRATCH)
    if n == -EAGAIN:
        c.s.io &= ~IO_IN
        return 0
    if n <= 0:
        conn_close(w, c)
        return 0
    if n < SCRATCH and not c.s.io & IO_RDHUP:
        c.s.io &= ~IO_IN
    used = parse(w, c, w.scratch, <uint32_t>n)
    if used < 0:
        refuse(w, c, <int>-used)
        return 0
    if used == 0:
        if not buf_append(&w.pool, &c.in_, w.scratch, <uint32_t>n):
            refuse(w, c, ERR_PL05)
            return 0
        return incomplete(w, c, <uint32_t>n)
    c.ahead = 0
    c.pipelined = 0
    error = exchange_begin(w, c)
    if used < n and not buf_append(&w.pool, &c.in_, w.scratch + used, <uint32_t>(n - used)):
        error = ERR_PL05
    start(w, c, error)
    return c.s.io & (IO_IN | IO_RDHUP)


cdef int read_more(Worker *w, Conn *c) noexcept nogil:
    cdef int64_t n
    if not c.s.io & (IO_IN | IO_RDHUP):
        return 0
    if not buf_room(&w.pool, &c.in_, READ_STEP):
        refuse(w, c, ERR_PL05)
        return 0
    n = sock_recv(c.s.fd, c.in_.data + c.in_.end, c.in_.cap - c.in_.end)
    if n == -EAGAIN:
        c.s.io &= ~IO_IN
        return 0
    if n <= 0:
        conn_close(w, c)
        return 0
    c.in_.end += <uint32_t>n
    return 1


cdef int pipeline_over(Conn *c) noexcept nogil:
    if c.pipelined:
        c.pipelined -= 1
        return 0
    return c.flags & CF_PIPE_OVER


cdef int head_from_buffer(Worker *w, Conn *c) noexcept nogil:
    cdef int64_t used
    cdef int error
    if c.scanned == buf_len(&c.in_) and not read_more(w, c):
        return 0
    used = parse(w, c, c.in_.data + c.in_.start, buf_len(&c.in_))
    if used == 0:
        return incomplete(w, c, buf_len(&c.in_))
    if used > 0 and pipeline_over(c):
        used = -ERR_PL06
    if used < 0:
        refuse(w, c, <int>-used)
        return 0
    c.ahead = c.ahead - <uint32_t>used if c.ahead > used else 0
    error = exchange_begin(w, c)
    buf_consume(&w.pool, &c.in_, <uint32_t>used)
    start(w, c, error)
    return c.s.io & (IO_IN | IO_RDHUP)


# -- during an exchange

cdef void count_ahead(Worker *w, Conn *c) noexcept nogil:
    cdef uint32_t found = http1_count_pipelined(c.in_.data + c.in_.start, buf_len(&c.in_), &c.ahead)
    if c.flags & CF_PIPE_OVER:
        return
    if c.pipelined + found > w.config.pipelined:
        c.flags |= CF_PIPE_OVER
        c.pipelined = <uint16_t>w.config.pipelined
    else:
        c.pipelined += <uint16_t>found


cdef void client_finished(Worker *w, Conn *c) noexcept nogil:
    c.flags |= CF_FIN
    if not c.x.flags & XF_HALF_CLOSE and buf_len(&c.in_) == 0:      # else more requests may be in there, whole
        exchange_abort(w, c.x, ERR_PD01)


# The request is whole; what comes now is the next one, or the end.
cdef int read_ahead(Worker *w, Conn *c) noexcept nogil:
    cdef int64_t n
    if c.flags & CF_FIN or not c.s.io & (IO_IN | IO_RDHUP) or buf_len(&c.in_) >= w.config.limits.head:
        return 0
    n = sock_recv(c.s.fd, w.scratch, SCRATCH)
    if n == -EAGAIN:
        c.s.io &= ~IO_IN
    elif n == 0:
        client_finished(w, c)
    elif n < 0 or not buf_append(&w.pool, &c.in_, w.scratch, <uint32_t>n):
        exchange_abort(w, c.x, ERR_PD01)
    else:
        if n < SCRATCH and not c.s.io & IO_RDHUP:
            c.s.io &= ~IO_IN
        count_ahead(w, c)
        return c.s.io & (IO_IN | IO_RDHUP)
    return 0


cdef int during_exchange(Worker *w, Conn *c) noexcept nogil:
    cdef Exchange *x = c.x
    cdef int again = 0
    if x.flags & XF_RAW:
        return 0                        # bytes wait in the kernel until the VM is connected
    if x.phase == PH_ANSWER and c.s.io & IO_OUT and x.up != NULL:
        again = response_read(w, x)
        if c.s.dead or c.x != x:
            return 0
    if not x.request.done:
        again |= request_pump(w, x)
    else:
        again |= read_ahead(w, c)
    return again


cdef int flush(Worker *w, Conn *c) noexcept nogil:
    cdef uint32_t before = buf_len(&c.out)
    if conn_flush(w, c):
        if c.x != NULL:
            exchange_abort(w, c.x, ERR_PD01)
        else:
            conn_close(w, c)
        return 0
    if buf_len(&c.out) != before:
        down_rearm(w, c)
        if c.x != NULL and c.x.up != NULL and is_stream(c.x.up):
            stream_credit(w, c.x.up)
    if buf_len(&c.out) == 0:
        c.flags &= ~CF_STALLED
    return 1


cdef void downs_uncork(Worker *w) noexcept nogil:
    cdef Conn *c = w.corked
    cdef Conn *next
    w.corked = NULL
    while c != NULL:
        next = c.link_next
        c.link_next = NULL
        c.flags &= ~CF_CORKED
        if not c.s.dead and buf_len(&c.out) and flush(w, c) and buf_len(&c.out) == 0:
            if buf_len(&c.in_) or c.s.io & (IO_IN | IO_RDHUP) or c.state == DS_LINGER:
                reactor_queue(&w.reactor, &c.s)
        c = next


cdef int down_on_event(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Conn *c = <Conn *>source
    if source.io & IO_ERR:
        if c.x != NULL:
            exchange_abort(w, c.x, ERR_PD01)
        else:
            conn_close(w, c)
        return 0
    if buf_len(&c.out) and not flush(w, c):
        return 0
    if c.state == DS_BUSY:
        return during_exchange(w, c)
    if c.state == DS_LINGER:
        return linger(w, c)
    if c.state == DS_PROXY:
        return down_read_proxy(w, c)
    if buf_len(&c.out):
        return 0                        # the next request waits until the last answer is out
    if c.flags & CF_FIN and buf_len(&c.in_) == 0:
        conn_close(w, c)
        return 0
    return head_from_buffer(w, c) if buf_len(&c.in_) else head_from_socket(w, c)
