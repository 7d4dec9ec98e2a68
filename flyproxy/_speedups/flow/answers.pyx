"""Answers that the proxy itself makes: errors from the table in flyproxy/errors.py, and the 301 of force_https."""

from libc.stdint cimport uint32_t

from flyproxy._speedups.errors cimport ERR_PL04, ERR_PL05
from flyproxy._speedups.flow.accesslog cimport log_refused
from flyproxy._speedups.flow.conns cimport conn_close
from flyproxy._speedups.flow.delivery cimport delivery_refuse
from flyproxy._speedups.flow.downstream cimport down_last
from flyproxy._speedups.flow.exchange cimport exchange_complete, exchange_finish
from flyproxy._speedups.flow.ids cimport request_id
from flyproxy._speedups.flow.output cimport outbox_add, outbox_clear, outbox_send
from flyproxy._speedups.flow.worker cimport (
    RENDER, XF_CLOSE, XF_KEEP_ALIVE, XF_DELIVERY, XF_RAW, XF_VM_STATUS, Conn, Exchange, Worker,
)
from flyproxy._speedups.proto.answer cimport AnswerEmit, answer_error, answer_redirect, error_status
from flyproxy._speedups.proto.http1 cimport AK_TEXT, M_HEAD, Slice

cdef enum:
    HTTPS_PORT = 443


cdef void fill(Worker *w, AnswerEmit *emit, const char *id, uint32_t id_n) noexcept nogil:
    emit.request_id.p = id
    emit.request_id.n = id_n
    emit.region.p = w.config.region
    emit.region.n = w.config.region_n
    emit.server.p = w.config.server
    emit.server.n = w.config.server_n
    emit.via.p = w.config.via
    emit.via.n = w.config.via_n
    emit.now = w.reactor.wall_us / 1000000


cdef void fill_exchange(Worker *w, Exchange *x, AnswerEmit *emit) noexcept nogil:
    fill(w, emit, x.request_id, x.request_id_n)
    if not x.request.done or w.draining or not x.flags & XF_KEEP_ALIVE:
        x.flags |= XF_CLOSE
    emit.kind = x.accept
    emit.head_only = x.method == M_HEAD
    emit.close = 1 if x.flags & XF_CLOSE else 0
    emit.minor = x.minor


cdef void send_answer(Worker *w, Exchange *x, uint32_t n, int status) noexcept nogil:
    cdef Conn *c = x.down
    x.status = <unsigned short>status
    x.flags &= ~XF_VM_STATUS
    x.bytes_out += n
    outbox_clear(w)
    outbox_add(w, w.render, n)
    if outbox_send(w, c):
        exchange_finish(w, x)
        conn_close(w, c)
    else:
        exchange_complete(w, x)


cdef void answer_exchange(Worker *w, Exchange *x, int error) noexcept nogil:
    cdef AnswerEmit emit
    cdef Conn *c = x.down
    if x.flags & XF_DELIVERY:
        delivery_refuse(w, x, error)
        return
    if x.flags & XF_RAW or error_status(error) == 0:    # nothing that an HTTP answer could say
        exchange_finish(w, x)
        conn_close(w, c)
        return
    if error == ERR_PL04 or error == ERR_PL05:
        x.flags |= XF_CLOSE             # what is short is not held by the connection that was refused
    fill_exchange(w, x, &emit)
    send_answer(w, x, answer_error(error, &emit, w.render), error_status(error))


cdef void answer_prepare_https(Worker *w, Exchange *x) noexcept nogil:
    cdef AnswerEmit emit
    fill_exchange(w, x, &emit)
    w.rendered = answer_redirect(host_of(w), w.request.target, HTTPS_PORT, &emit, w.render, RENDER)


cdef void answer_prepared(Worker *w, Exchange *x) noexcept nogil:
    send_answer(w, x, w.rendered, 301)


cdef Slice host_of(Worker *w) noexcept nogil:
    cdef Slice host
    host.p = w.request.host
    host.n = w.request.host_n
    return host


cdef void answer_refused(Worker *w, Conn *c, int error) noexcept nogil:
    cdef AnswerEmit emit
    cdef char id[48]
    w.counters.errors[error] += 1
    fill(w, &emit, id, request_id(w, id))
    emit.kind = AK_TEXT
    emit.head_only = 0
    emit.close = 1
    emit.minor = 1
    if w.config.access_log:
        log_refused(w, c, error, emit.request_id)
    outbox_clear(w)
    if error_status(error):
        outbox_add(w, w.render, answer_error(error, &emit, w.render))
    if outbox_send(w, c) or error_status(error) == 0:
        conn_close(w, c)
    else:
        down_last(w, c)
