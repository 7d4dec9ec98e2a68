"""Failed attempts. An attempt is repeated only when nothing of an answer has reached the client, and

- the request reached nobody (RULE_UNREACHED), or
- it met a pooled connection that the VM had just given up (RULE_STALE), once, if repeating is safe, or
- repeating is safe and the retry budget allows it (RULE_REPEATABLE).

Repeating is safe when every byte sent is still in ``Exchange.head`` and either the method is idempotent (RFC 9110
9.2.2) or no byte can have reached the app: the VM's end of stream came, and its kernel acknowledged none of them with
it. A reset alone proves nothing: it may overtake the acknowledgement of what the app has read, which kernels delay.

A machine that failed is not tried again. But when only the way to its host failed and nobody else is left, it is, once:
by a new transport, or by the third host that leads there now.
"""

from libc.stdint cimport uint8_t, uint32_t

from flyproxy._speedups.errors cimport (
    ERR_PC01, ERR_PC03, ERR_PC05, ERR_PC06, ERR_PR06, ERR_PU01, ERR_PU02, ERR_PU03, ERR_PU05,
)
from flyproxy._speedups.flow.exchange cimport (
    exchange_drop_upstream, exchange_fail, exchange_give_back, exchange_release, exchange_route,
)
from flyproxy._speedups.flow.splicing cimport splice_release
from flyproxy._speedups.flow.streams cimport is_stream
from flyproxy._speedups.flow.worker cimport (
    CF_FIN, PH_ANSWER, PH_WAIT, TRIED_MAX, XF_BODY_STREAMED, XF_CONTENT_SENT, XF_DELIVERY, XF_FULL_SEEN, XF_IDEMPOTENT,
    XF_SENDING_OVER, XF_STALE_RETRIED, XF_UNREACHED, XF_WAY_RETRIED, Exchange, Worker,
)
from flyproxy._speedups.net.sockets cimport sock_acknowledged
from flyproxy._speedups.shm.counters cimport RT_CONNECT_TIMEOUT, RT_HOST, RT_REFUSED, RT_RESET, RT_STALE

cdef enum Rule:
    RULE_UNREACHED = 0
    RULE_STALE
    RULE_REPEATABLE
    RULE_NEVER

cdef enum:
    TOKENS_PER_RETRY = 10
    SYN = 1                     # counts as an acknowledged byte

cdef struct FailureRow:
    uint8_t error
    uint8_t rule
    uint8_t counter
    uint8_t way                 # failed, not the machine

cdef FailureRow[F_COUNT] FAILURES
FAILURES[F_REFUSED] = FailureRow(ERR_PC01, RULE_UNREACHED, RT_REFUSED, 0)
FAILURES[F_UNREACHABLE] = FailureRow(ERR_PC06, RULE_UNREACHED, RT_REFUSED, 0)
FAILURES[F_CONNECT_TIMEOUT] = FailureRow(ERR_PC05, RULE_UNREACHED, RT_CONNECT_TIMEOUT, 0)
FAILURES[F_STALE] = FailureRow(ERR_PC03, RULE_STALE, RT_STALE, 0)
FAILURES[F_RESET] = FailureRow(ERR_PC03, RULE_REPEATABLE, RT_RESET, 0)
FAILURES[F_CUT] = FailureRow(ERR_PU02, RULE_REPEATABLE, RT_RESET, 0)
FAILURES[F_HEAD_TIMEOUT] = FailureRow(ERR_PU05, RULE_NEVER, RT_RESET, 0)
FAILURES[F_HOST_UNREACHABLE] = FailureRow(ERR_PU03, RULE_UNREACHED, RT_HOST, 1)
FAILURES[F_TRANSPORT_LOST] = FailureRow(ERR_PC03, RULE_REPEATABLE, RT_HOST, 1)
FAILURES[F_NO_HTTP2] = FailureRow(ERR_PU01, RULE_UNREACHED, RT_REFUSED, 0)


cdef int attempt_unseen(Exchange *x) noexcept nogil:
    if not x.flags & XF_CONTENT_SENT:
        return 1
    return not is_stream(x.up) and sock_acknowledged(x.up.s.fd) <= x.sent_before + SYN


cdef int repeatable(Exchange *x, int unseen) noexcept nogil:
    return not x.flags & XF_BODY_STREAMED and (unseen or x.flags & XF_IDEMPOTENT)


cdef int may_repeat(Worker *w, Exchange *x, const FailureRow *row, int unseen) noexcept nogil:
    if x.phase >= PH_ANSWER:
        return 0
    if x.flags & XF_DELIVERY and row.rule != RULE_STALE:
        return 0                # the other proxy chose the machine, and may choose another one
    if row.rule == RULE_UNREACHED:      # another host may have been sent a part of the body, which is not kept
        return not x.flags & XF_BODY_STREAMED and x.ntried < TRIED_MAX
    if row.rule == RULE_STALE:
        return repeatable(x, unseen) and not x.flags & XF_STALE_RETRIED
    if row.rule != RULE_REPEATABLE or not repeatable(x, unseen) or x.ntried >= TRIED_MAX:
        return 0
    if w.retry_tokens >= TOKENS_PER_RETRY:
        w.retry_tokens -= TOKENS_PER_RETRY
        return 1
    return 0


cdef int attempt_forgiven(Exchange *x) noexcept nogil:
    cdef uint32_t k
    if x.way_machine == 0 or x.flags & XF_WAY_RETRIED:
        return 0
    x.flags |= XF_WAY_RETRIED
    for k in range(x.ntried):
        if x.tried[k] == x.way_machine - 1:
            x.ntried -= 1
            x.tried[k] = x.tried[x.ntried]
            return 1
    return 0


cdef void attempt_failed(Worker *w, Exchange *x, int failure) noexcept nogil:
    cdef const FailureRow *row = &FAILURES[failure]
    cdef int unseen = x.up == NULL or not x.flags & XF_CONTENT_SENT or (x.up.flags & CF_FIN and attempt_unseen(x))
    again(w, x, row, unseen or row.rule == RULE_UNREACHED)


cdef void attempt_refused(Worker *w, Exchange *x, int error, int unreached) noexcept nogil:
    cdef FailureRow row
    row.error = <uint8_t>error
    row.counter = RT_HOST
    row.way = 0
    row.rule = RULE_NEVER
    if unreached:
        row.rule = RULE_UNREACHED
    elif error == ERR_PC03 or error == ERR_PU02:
        row.rule = RULE_REPEATABLE
    if error == ERR_PR06:
        x.flags |= XF_FULL_SEEN
    again(w, x, &row, unreached)


cdef void again(Worker *w, Exchange *x, const FailureRow *row, int unseen) noexcept nogil:
    exchange_drop_upstream(w, x)
    if row.error == ERR_PR06:
        exchange_give_back(w, x)        # as full for everybody who would be woken
    else:
        exchange_release(w, x)
    splice_release(w, &x.request_pipe)
    x.last_error = row.error
    x.flags = (x.flags & ~XF_UNREACHED) | (XF_UNREACHED if unseen else 0)
    if not may_repeat(w, x, row, unseen):
        exchange_fail(w, x, row.error)
        return
    w.counters.retries[row.counter] += 1
    if row.rule == RULE_STALE:
        x.flags |= XF_STALE_RETRIED
    else:
        if row.way:
            x.way_machine = x.machine + 1
        x.tried[x.ntried] = x.machine
        x.ntried += 1
    x.head_sent = 0
    x.flags &= ~(XF_CONTENT_SENT | XF_SENDING_OVER | XF_UNREACHED)
    x.phase = PH_WAIT
    exchange_route(w, x)
