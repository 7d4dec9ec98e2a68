"""Deadlines of client connections. One timer each; which deadline it stands for follows from the state:

output waiting > queued for a machine > request body due > head begun > idle. A head's deadline is absolute, from its
first byte: a trickle does not extend it. A body is judged by its pauses and by its rate over windows of five
seconds.
"""

from libc.stdint cimport uint32_t, uint64_t

from flyproxy._speedups.errors cimport ERR_PD02, ERR_PH05, ERR_PH06, ERR_PH16, ERR_PR06
from flyproxy._speedups.flow.answers cimport answer_refused
from flyproxy._speedups.flow.conns cimport conn_close
from flyproxy._speedups.flow.exchange cimport exchange_abort, exchange_fail
from flyproxy._speedups.flow.streams cimport is_stream
from flyproxy._speedups.flow.worker cimport (
    CF_PARTIAL, CF_PROGRESS, DRAIN_IDLE_MS, DS_BUSY, DS_HEAD, DS_LINGER, DS_PROXY, K_DOWN, LINGER_MS, PH_SEND,
    RATE_WINDOW_MS, Conn, Exchange, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_len
from flyproxy._speedups.net.reactor cimport Source, reactor_source, timer_set
from flyproxy._speedups.shm.counters cimport LIM_BODY_RATE


cdef int output_waits(Conn *c) noexcept nogil:
    return buf_len(&c.out) != 0 or (c.x != NULL and c.x.response_pipe != NULL)


cdef uint64_t body_deadline(Worker *w, Exchange *x) noexcept nogil:
    cdef uint64_t idle = x.last_byte_ms + (x.idle_ms if x.idle_ms else w.config.body_idle_ms)
    cdef uint64_t window = x.window_ms + RATE_WINDOW_MS
    return window if w.config.body_rate and window < idle else idle


cdef uint64_t idle_deadline(Worker *w, Conn *c) noexcept nogil:
    cdef uint64_t now = w.reactor.now_ms
    if c.flags & CF_PARTIAL or c.served == 0:
        return now + (c.head_ms if c.head_ms else w.config.head_ms)
    if w.draining:
        return now + DRAIN_IDLE_MS
    return now + (c.idle_ms if c.idle_ms else w.config.keepalive_ms)


cdef void down_rearm(Worker *w, Conn *c) noexcept nogil:
    cdef uint64_t now = w.reactor.now_ms
    cdef uint64_t deadline = 0
    cdef Exchange *x = c.x
    if is_stream(c):
        # The proxy that carries it watches the client; here only the queue has an end.
        deadline = x.queue_until_ms if x != NULL and x.queue != NULL else 0
    elif c.state == DS_LINGER:
        deadline = now + (w.config.write_stall_ms if buf_len(&c.out) else LINGER_MS)
    elif output_waits(c):
        deadline = now + w.config.write_stall_ms
    elif c.state == DS_BUSY:
        if x.queue != NULL:
            deadline = x.queue_until_ms
        elif not x.request.done and x.phase >= PH_SEND:
            deadline = body_deadline(w, x)
    else:
        deadline = idle_deadline(w, c)
    timer_set(&w.reactor, &c.s, deadline)


cdef void body_due(Worker *w, Exchange *x) noexcept nogil:
    x.last_byte_ms = w.reactor.now_ms
    x.window_ms = w.reactor.now_ms
    x.window_bytes = x.bytes_in


cdef void judge_body(Worker *w, Conn *c) noexcept nogil:
    cdef Exchange *x = c.x
    cdef uint64_t now = w.reactor.now_ms
    cdef uint64_t idle = x.idle_ms if x.idle_ms else w.config.body_idle_ms
    if x.request.done or x.phase < PH_SEND:
        return
    if x.awaits_100 or x.head_sent < buf_len(&x.head) or buf_len(&x.up.out) or x.request_pipe != NULL:
        body_due(w, x)                  # it is the VM that does not take it
    elif now >= x.last_byte_ms + idle:
        exchange_fail(w, x, ERR_PH06)
        return
    elif now >= x.window_ms + RATE_WINDOW_MS:
        if x.bytes_in - x.window_bytes < <uint64_t>w.config.body_rate * RATE_WINDOW_MS // 1000:
            w.counters.limits[LIM_BODY_RATE] += 1
            exchange_fail(w, x, ERR_PH06)
            return
        x.window_ms = now
        x.window_bytes = x.bytes_in
    down_rearm(w, c)


cdef void stalled(Worker *w, Conn *c) noexcept nogil:
    # With splice the kernel's progress is only seen here: one more period when bytes went out since the last look.
    if c.flags & CF_PROGRESS:
        c.flags &= ~CF_PROGRESS
        down_rearm(w, c)
    elif c.x != NULL:
        exchange_abort(w, c.x, ERR_PD02)
    else:
        w.counters.errors[ERR_PD02] += 1
        conn_close(w, c)


cdef void down_on_timeout(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Conn *c = <Conn *>source
    if is_stream(c):
        if c.x != NULL and c.x.queue != NULL:
            exchange_fail(w, c.x, ERR_PR06)
    elif c.state == DS_LINGER:
        conn_close(w, c)
    elif output_waits(c):
        stalled(w, c)
    elif c.state == DS_PROXY:
        answer_refused(w, c, ERR_PH16)
    elif c.state == DS_HEAD:
        if c.flags & CF_PARTIAL:
            answer_refused(w, c, ERR_PH05)
        else:
            conn_close(w, c)
    elif c.x.queue != NULL:
        exchange_fail(w, c.x, ERR_PR06)
    else:
        judge_body(w, c)


cdef void down_drain(Worker *w) noexcept nogil:
    cdef uint32_t index
    cdef Conn *c
    for index in range(w.reactor.sources.top):
        c = <Conn *>reactor_source(&w.reactor, index)
        if c.s.kind != K_DOWN or c.s.dead or not c.s.generation & 1:
            continue
        if c.state == DS_HEAD and not c.flags & CF_PARTIAL and not output_waits(c):
            timer_set(&w.reactor, &c.s, w.reactor.now_ms + DRAIN_IDLE_MS)
