"""The request on its way to the VM. Body bytes are read from the client only when the VM took the ones before."""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from flyproxy._speedups.errors cimport ERR_PD01, ERR_PH14, ERR_PL05, ERR_PP01
from flyproxy._speedups.flow.backhaul cimport backhaul_send
from flyproxy._speedups.flow.body cimport BODY_DONE, BODY_FULL, body_end_of_stream, body_feed, body_trailers
from flyproxy._speedups.flow.deadlines cimport body_due, down_rearm
from flyproxy._speedups.flow.exchange cimport exchange_abort, exchange_fail
from flyproxy._speedups.flow.output cimport conn_flush, outbox_clear, outbox_send
from flyproxy._speedups.flow.retry cimport F_STALE, attempt_failed
from flyproxy._speedups.flow.splicing cimport (
    SP_BUDGET, SP_DONE, SP_END, SP_NO_PIPE, SP_SINK_ERROR, SP_SOURCE_ERROR, splice_through,
)
from flyproxy._speedups.flow.streams cimport is_stream, stream_credit, stream_end
from flyproxy._speedups.flow.worker cimport (
    BODY_LENGTH, CF_FIN, CF_REUSED, READS_PER_TURN, SCRATCH, SPLICE_MIN, TR_HOST, XF_BODY_STREAMED, XF_CLOSE,
    XF_CONTENT_SENT, XF_SENDING_OVER, Conn, Exchange, Outbox, Worker,
)
from flyproxy._speedups.mem.buf cimport Buf, buf_append, buf_consume, buf_give, buf_len, buf_room
from flyproxy._speedups.net.reactor cimport IO_IN, IO_OUT, IO_RDHUP, reactor_queue, timer_set
from flyproxy._speedups.net.sockets cimport sock_recv, sock_send
from flyproxy._speedups.proto.http1 cimport Header
from flyproxy._speedups.shm.counters cimport LIM_CHUNK_EXTENSION, LIM_TRAILERS

cdef enum:
    KEPT_MAX = (64 << 10) + SCRATCH     # a stream's first window, and a read that did not fit into it


cdef void sending_over(Worker *w, Exchange *x) noexcept nogil:
    # The VM takes no more. It may have answered before it closed: what it sent is read before the attempt is judged.
    # What is left of the body may stand before the client's next request, so there will be none.
    x.flags |= XF_SENDING_OVER | XF_CLOSE
    x.up.s.io |= IO_IN
    reactor_queue(&w.reactor, &x.up.s)


cdef void request_send(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *u = x.up
    cdef uint32_t n = buf_len(&x.head) - x.head_sent
    cdef int64_t sent
    timer_set(&w.reactor, &u.s, w.reactor.now_ms + w.config.response_head_ms)
    if n and is_stream(u):
        body_due(w, x)
        backhaul_send(w, x)
        if x.up != u:
            return
    elif n:
        if x.head_sent == 0:
            x.sent_us = w.reactor.now_us
            body_due(w, x)              # neither queue nor connect counts against the client
        sent = sock_send(u.s.fd, x.head.data + x.head_sent, n)
        if sent == -EAGAIN:
            u.s.io &= ~IO_OUT
            return
        if sent < 0 and u.flags & CF_REUSED and not x.flags & XF_CONTENT_SENT:
            attempt_failed(w, x, F_STALE)       # what may wait there to be read answers no request of ours
            return
        if sent < 0:
            sending_over(w, x)
            return
        x.flags |= XF_CONTENT_SENT
        u.sent += <uint64_t>sent
        x.head_sent += <uint32_t>sent
        if sent < n:
            u.s.io &= ~IO_OUT
            return
    if not x.request.done:
        down_rearm(w, x.down)
        if request_pump(w, x):
            reactor_queue(&w.reactor, &x.down.s)


cdef void progressed(Worker *w, Exchange *x, uint64_t content) noexcept nogil:
    x.bytes_in += content
    x.awaits_100 = 0
    x.last_byte_ms = w.reactor.now_ms
    timer_set(&w.reactor, &x.up.s, w.reactor.now_ms + w.config.response_head_ms)
    if x.request.done:
        down_rearm(w, x.down)


cdef void count_limit(Worker *w, Exchange *x, int error) noexcept nogil:
    if error == ERR_PH14:
        w.counters.limits[LIM_TRAILERS] += 1
    elif x.request.chunked.extension_n > w.config.limits.chunk_extension:
        w.counters.limits[LIM_CHUNK_EXTENSION] += 1


# Towards another host the body follows the head at once, and may meet a refusal. What has gone is kept until then: no
# more than the first window, because credit for another says that the machine has taken some of it.
cdef int keep_body(Worker *w, Exchange *x) noexcept nogil:
    cdef Outbox *box = &w.outbox
    cdef int k
    if x.request.mode != BODY_LENGTH or not is_stream(x.up) or x.up.carrier.role != TR_HOST:
        return 0
    if x.kept + box.bytes > KEPT_MAX or not buf_room(&w.pool, &x.head, <uint32_t>box.bytes):
        return 0
    for k in range(box.n):
        buf_append(&w.pool, &x.head, <char *>box.iov[k].iov_base, <uint32_t>box.iov[k].iov_len)
    x.kept += <uint32_t>box.bytes
    x.head_sent = buf_len(&x.head)
    return 1


# From now on the body cannot be sent again, so what is kept of it is of no use.
cdef void body_gone(Worker *w, Exchange *x) noexcept nogil:
    cdef Buf head
    memset(&head, 0, sizeof(Buf))
    x.flags |= XF_BODY_STREAMED
    if x.kept and buf_append(&w.pool, &head, x.head.data + x.head.start, buf_len(&x.head) - x.kept):
        buf_give(&w.pool, &x.head)
        x.head = head
        x.kept = 0
        x.head_sent = buf_len(&x.head)


# 0: go on; 1: the exchange is gone or nothing more can be sent.
cdef int feed(Worker *w, Exchange *x, const char *p, uint32_t n, uint32_t *taken) noexcept nogil:
    cdef uint32_t used, content
    cdef int state
    taken[0] = 0
    while True:
        outbox_clear(w)
        state = body_feed(w, &x.request, p + taken[0], n - taken[0], &used, &content)
        if state < 0:
            count_limit(w, x, -state)
            exchange_fail(w, x, -state)
            return 1
        taken[0] += used
        if not x.flags & XF_BODY_STREAMED and not keep_body(w, x):
            body_gone(w, x)
        if state == BODY_DONE and is_stream(x.up):
            stream_end(w, x.up, &x.request, w.outbox.n)
        if outbox_send(w, x.up):
            sending_over(w, x)
            return 1
        progressed(w, x, content)
        if state != BODY_FULL:
            return 0


cdef int pump_buffered(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *c = x.down
    cdef uint32_t taken
    if feed(w, x, c.in_.data + c.in_.start, buf_len(&c.in_), &taken):
        return 1
    buf_consume(&w.pool, &c.in_, taken)
    if is_stream(c):
        stream_credit(w, c)
    return 0


# A stream's body ends with the stream, where no length told it before.
cdef void end_body(Worker *w, Exchange *x) noexcept nogil:
    outbox_clear(w)
    if body_end_of_stream(w, &x.request) != BODY_DONE:
        exchange_abort(w, x, ERR_PD01)
        return
    if is_stream(x.up):
        stream_end(w, x.up, &x.request, 0)
    elif outbox_send(w, x.up):
        sending_over(w, x)
        return
    progressed(w, x, 0)


cdef void request_push(Worker *w, Exchange *x, const char *p, uint32_t n, int end) noexcept nogil:
    cdef Conn *v = x.down
    cdef uint32_t taken = 0
    if end:
        v.flags |= CF_FIN
    if not x.request.done and x.up != NULL and x.head_sent == buf_len(&x.head) and not x.flags & XF_SENDING_OVER:
        if buf_len(&v.in_) == 0 and buf_len(&x.up.out) == 0 and n and feed(w, x, p, n, &taken):
            return
    if x.request.done:
        return
    if taken < n and not buf_append(&w.pool, &v.in_, p + taken, n - taken):
        exchange_fail(w, x, ERR_PL05)
        return
    if v.flags & CF_FIN or taken < n:
        request_pump(w, x)


cdef void request_trailers(Worker *w, Exchange *x, const Header *fields, uint32_t n) noexcept nogil:
    body_trailers(w, &x.request, fields, n)
    request_push(w, x, NULL, 0, 1)


# 1: nothing more can go out now. What could be sent again is not read ahead of the window: it would not be kept.
cdef int sink_full(Worker *w, Exchange *x) noexcept nogil:
    cdef uint32_t waiting = buf_len(&x.up.out)
    if waiting == 0:
        return 0
    return not is_stream(x.up) or not x.flags & XF_BODY_STREAMED or waiting + SCRATCH > w.config.buffer


cdef int pump_socket(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *c = x.down
    cdef uint32_t taken
    cdef int64_t n = sock_recv(c.s.fd, w.scratch, SCRATCH)
    if n == -EAGAIN:
        c.s.io &= ~IO_IN
        return 1
    if n <= 0:
        exchange_abort(w, x, ERR_PD01)          # its body will never be whole
        return 1
    if n < SCRATCH and not c.s.io & IO_RDHUP:
        c.s.io &= ~IO_IN
    if feed(w, x, w.scratch, <uint32_t>n, &taken):
        return 1
    if taken < n and not buf_append(&w.pool, &c.in_, w.scratch + taken, <uint32_t>n - taken):
        exchange_fail(w, x, ERR_PP01)
        return 1
    return 0


cdef int pump_splice(Worker *w, Exchange *x) noexcept nogil:
    cdef uint64_t moved = 0
    cdef int state = splice_through(w, x.down, x.up, &x.request_pipe, &x.request.left, &moved)
    if moved or x.request_pipe != NULL:
        x.flags |= XF_BODY_STREAMED
    if moved:
        x.request.done = x.request.left == 0 and state == SP_DONE
        progressed(w, x, moved)
    if state == SP_END or state == SP_SOURCE_ERROR:
        exchange_abort(w, x, ERR_PD01)
    elif state == SP_SINK_ERROR:
        sending_over(w, x)
    return state


cdef int request_pump(Worker *w, Exchange *x) noexcept nogil:
    cdef Conn *c = x.down
    cdef Conn *u = x.up
    cdef int _k, state
    if u == NULL or x.head_sent < buf_len(&x.head) or x.flags & XF_SENDING_OVER:
        return 0
    for _k in range(READS_PER_TURN):
        if x.request.done:
            return c.s.io & (IO_IN | IO_RDHUP)      # the next request, or the end: has been announced already
        if buf_len(&u.out):
            if conn_flush(w, u):
                sending_over(w, x)
                return 0
            if is_stream(c):
                stream_credit(w, c)
            if sink_full(w, x):
                return 0
        if buf_len(&c.in_):
            if pump_buffered(w, x):
                return 0
            continue
        if is_stream(c):
            if c.flags & CF_FIN:
                end_body(w, x)
            return 0
        if x.request_pipe == NULL and not c.s.io & (IO_IN | IO_RDHUP):
            return 0
        if x.request_pipe != NULL or (
                x.request.mode == BODY_LENGTH and x.request.left >= SPLICE_MIN and not is_stream(u)):
            state = pump_splice(w, x)
            if state == SP_DONE:
                continue
            if state != SP_NO_PIPE:
                return state == SP_BUDGET
        if pump_socket(w, x):
            return 0
    return 1
