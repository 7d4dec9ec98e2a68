"""Byte relays. Small reads are copied (one call in, one out); a read that fills the scratch marks a direction as bulk,
and it is spliced from then on until a splice finds little.

End of stream goes through once everything before it has gone; a reset goes through as a reset.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flyproxy._speedups.errors cimport ERR_NONE, ERR_PD01, ERR_PU08
from flyproxy._speedups.flow.conns cimport conn_abort, conn_close
from flyproxy._speedups.flow.delivery cimport delivery_accept_relay
from flyproxy._speedups.flow.exchange cimport exchange_count, exchange_finish
from flyproxy._speedups.flow.output cimport conn_flush, outbox_add, outbox_clear, outbox_send
from flyproxy._speedups.flow.splicing cimport (
    SP_BUDGET, SP_END, SP_NO_PIPE, SP_SINK_ERROR, SP_SOURCE_DRY, SP_SOURCE_ERROR, splice_through,
)
from flyproxy._speedups.flow.streams cimport is_stream, stream_credit, stream_end
from flyproxy._speedups.flow.wire cimport wire_end, wire_recv
from flyproxy._speedups.flow.worker cimport (
    CF_BULK, CF_FIN, CF_SHUT, K_TUNNEL, PH_TUNNEL, READS_PER_TURN, SCRATCH, XF_DELIVERY, XF_RAW, Conn, Exchange, Worker,
)
from flyproxy._speedups.mem.buf cimport buf_consume, buf_len
from flyproxy._speedups.net.pipes cimport Pipe
from flyproxy._speedups.net.reactor cimport IO_ERR, IO_IN, IO_OUT, IO_RDHUP, Source, reactor_queue, timer_set
from flyproxy._speedups.net.sockets cimport sock_error
from flyproxy._speedups.shm.counters cimport AppSeries, counters_app

cdef enum:
    BULK_ENDS = 16 << 10        # a splice that moves less goes back to copying

cdef enum Flow:
    FLOW_WAIT = 0
    FLOW_AGAIN                  # budget used up
    FLOW_OVER                   # the tunnel is gone


cdef void end(Worker *w, Exchange *x, int error, int reset) noexcept nogil:
    cdef Conn *c = x.down
    cdef Conn *u = x.up
    x.error = <unsigned char>error
    exchange_finish(w, x)
    if reset:
        conn_abort(w, c)
        conn_abort(w, u)
    else:
        conn_close(w, c)
        conn_close(w, u)


cdef void tunnel_broken(Worker *w, Exchange *x, Conn *c) noexcept nogil:
    end(w, x, ERR_PU08 if c.vm_side else ERR_PD01, 1)


cdef void count(Worker *w, Exchange *x, Conn *source, uint64_t n) noexcept nogil:
    cdef AppSeries *series
    if not x.flags & XF_DELIVERY:       # the other proxy counts for the app
        series = counters_app(&w.shm, x.app, x.app_generation)
        series.data_out += n if source.vm_side else 0
        series.data_in += 0 if source.vm_side else n
    x.bytes_out += n if source.vm_side else 0
    x.bytes_in += 0 if source.vm_side else n
    if w.config.tunnel_idle_ms:
        timer_set(&w.reactor, &x.down.s, w.reactor.now_ms + w.config.tunnel_idle_ms)


cdef int source_ended(Worker *w, Exchange *x, Conn *source, Conn *sink) noexcept nogil:
    source.flags |= CF_FIN
    if not sink.flags & CF_SHUT:
        if not is_stream(sink) and not wire_end(sink):
            return FLOW_WAIT            # tried again when the sink is writable
        sink.flags |= CF_SHUT
        if is_stream(sink):
            stream_end(w, sink, NULL, 0)
    if sink.flags & CF_FIN and source.flags & CF_SHUT:
        end(w, x, ERR_NONE, 0)
        return FLOW_OVER
    return FLOW_WAIT


cdef int copy(Worker *w, Exchange *x, Conn *source, Conn *sink) noexcept nogil:
    cdef int64_t n = wire_recv(source, w.scratch, SCRATCH)
    if n == -EAGAIN:
        source.s.io &= ~IO_IN
        return FLOW_WAIT
    if n < 0:
        tunnel_broken(w, x, source)
        return FLOW_OVER
    if n == 0:
        return source_ended(w, x, source, sink)
    if n == SCRATCH:
        source.flags |= CF_BULK
    elif not source.s.io & IO_RDHUP:
        source.s.io &= ~IO_IN
    count(w, x, source, <uint64_t>n)
    outbox_clear(w)
    outbox_add(w, w.scratch, <uint32_t>n)
    if outbox_send(w, sink):
        tunnel_broken(w, x, sink)
        return FLOW_OVER
    return FLOW_AGAIN


cdef int splice(Worker *w, Exchange *x, Conn *source, Conn *sink, Pipe **pipe) noexcept nogil:
    cdef uint64_t endless = <uint64_t>1 << 62
    cdef uint64_t moved = 0
    cdef int state = splice_through(w, source, sink, pipe, &endless, &moved)
    if moved:
        count(w, x, source, moved)
    if state == SP_NO_PIPE:
        return copy(w, x, source, sink)
    if state == SP_END:
        return source_ended(w, x, source, sink)
    if state == SP_SOURCE_ERROR or state == SP_SINK_ERROR:
        tunnel_broken(w, x, source if state == SP_SOURCE_ERROR else sink)
        return FLOW_OVER
    if state == SP_SOURCE_DRY and moved < BULK_ENDS:
        source.flags &= ~CF_BULK
    return FLOW_AGAIN if state == SP_BUDGET else FLOW_WAIT


cdef int flow(Worker *w, Exchange *x, Conn *source, Conn *sink, Pipe **pipe) noexcept nogil:
    cdef int _k, state
    for _k in range(READS_PER_TURN):
        if buf_len(&sink.out):
            if conn_flush(w, sink):
                tunnel_broken(w, x, sink)
                return FLOW_OVER
            if buf_len(&sink.out):
                return FLOW_WAIT
        if is_stream(source):
            stream_credit(w, source)
        if source.flags & CF_FIN:
            return FLOW_WAIT if sink.flags & CF_SHUT else source_ended(w, x, source, sink)
        if is_stream(source):
            return FLOW_WAIT            # what comes is pushed
        if pipe[0] == NULL and not source.s.io & (IO_IN | IO_RDHUP):
            return FLOW_WAIT
        if pipe[0] != NULL or (source.flags & CF_BULK and not is_stream(sink)):
            return splice(w, x, source, sink, pipe)
        state = copy(w, x, source, sink)
        if state != FLOW_AGAIN:
            return state
    return FLOW_AGAIN


cdef void tunnel_push(Worker *w, Exchange *x, Conn *source, const char *p, uint32_t n, int end) noexcept nogil:
    cdef Conn *sink = x.down if source.vm_side else x.up
    if end:
        source.flags |= CF_FIN
    if n:
        count(w, x, source, n)
        outbox_clear(w)
        outbox_add(w, p, n)
        if outbox_send(w, sink):
            tunnel_broken(w, x, sink)
            return
    if source.flags & CF_FIN and buf_len(&sink.out) == 0 and not sink.flags & CF_SHUT:
        source_ended(w, x, source, sink)


cdef int tunnel_on_event(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Exchange *x = (<Conn *>source).x
    cdef int upward, downward
    if source.io & IO_ERR:
        source.io |= IO_IN | IO_OUT     # what is still readable goes on first; then the read names the error
    upward = flow(w, x, x.down, x.up, &x.request_pipe)
    if upward == FLOW_OVER:
        return 0
    downward = flow(w, x, x.up, x.down, &x.response_pipe)
    if downward == FLOW_OVER:
        return 0
    if source.io & IO_ERR and not (upward or downward) and sock_error(source.fd):
        tunnel_broken(w, x, <Conn *>source)    # a reset that cannot be read, for what is before it finds no taker
        return 0
    return upward == FLOW_AGAIN or downward == FLOW_AGAIN


cdef void tunnel_on_timeout(void *owner, Source *source) noexcept nogil:
    cdef Worker *w = <Worker *>owner
    cdef Conn *c = <Conn *>source
    if not c.vm_side:                   # the idle deadline is kept on the client's side
        end(w, c.x, ERR_NONE, 0)


cdef void tunnel_begin(Worker *w, Exchange *x, const char *rest, uint32_t n) noexcept nogil:
    cdef Conn *c = x.down
    cdef Conn *u = x.up
    x.phase = PH_TUNNEL
    x.request.done = 1
    x.response.done = 1
    if not is_stream(c):
        c.flags &= ~CF_FIN              # an end that came before the tunnel is read again, and goes through it
    c.s.kind = K_TUNNEL
    u.s.kind = K_TUNNEL
    timer_set(&w.reactor, &u.s, 0)
    timer_set(&w.reactor, &c.s, 0)
    if w.config.tunnel_idle_ms:
        timer_set(&w.reactor, &c.s, w.reactor.now_ms + w.config.tunnel_idle_ms)
    if n:
        outbox_add(w, rest, n)
    exchange_count(w, x)
    x.bytes_out += n
    if rest != NULL and outbox_send(w, c):
        tunnel_broken(w, x, c)
        return
    if x.flags & XF_RAW and x.flags & XF_DELIVERY and not delivery_accept_relay(w, x):
        tunnel_broken(w, x, c)
        return
    # Bytes that the client sent behind its request belong to the new protocol.
    if buf_len(&c.in_):
        x.bytes_in += buf_len(&c.in_)
        outbox_clear(w)
        outbox_add(w, c.in_.data + c.in_.start, buf_len(&c.in_))
        if outbox_send(w, u):
            tunnel_broken(w, x, u)
            return
        buf_consume(&w.pool, &c.in_, buf_len(&c.in_))
    reactor_queue(&w.reactor, &c.s)
    reactor_queue(&w.reactor, &u.s)
