# One request and its answer: begun from a parsed head, routed, and ended in exactly one place (exchange_finish).
from libc.stdint cimport uint32_t
from flyproxy._speedups.flow.worker cimport Conn, Exchange, Worker
from flyproxy._speedups.shm.table cimport TApp, TPort, TService

# A new exchange on the client's connection with its ids and times; NULL: out of memory.
cdef Exchange *exchange_new(Worker *w, Conn *c) noexcept nogil
# The head in w.request becomes c.x: app, service and the head for the VM. 0, the ErrorCode to
# answer, or ANSWER_PREPARED. On any result but 0 the caller first puts the rest of the input aside, then answers.
cdef int exchange_begin(Worker *w, Conn *c) noexcept nogil
cdef int exchange_bind(Worker *w, Exchange *x, const TApp *app, const TPort *port) noexcept nogil
# Chooses a machine and goes there, or waits, or fails.
cdef void exchange_route(Worker *w, Exchange *x) noexcept nogil
# The client gets the error as an answer, or, when an answer has begun, sees it cut.
cdef void exchange_fail(Worker *w, Exchange *x, int error) noexcept nogil
# The client is gone: the VM is told by a close.
cdef void exchange_abort(Worker *w, Exchange *x, int error) noexcept nogil
# The answer has gone out whole.
cdef void exchange_complete(Worker *w, Exchange *x) noexcept nogil
# Counts, logs, releases; x is gone afterwards, its connections are not.
cdef void exchange_finish(Worker *w, Exchange *x) noexcept nogil
# The answer's counters: at the end, or when an upgrade has been answered.
cdef void exchange_count(Worker *w, Exchange *x) noexcept nogil
# Gives the VM's unit of BK_INFLIGHT back and lets waiters know.
cdef void exchange_release(Worker *w, Exchange *x) noexcept nogil
# The same without waking who waits, for a machine that turned out to be full. 0: there was nothing to give back.
cdef int exchange_give_back(Worker *w, Exchange *x) noexcept nogil
# Takes the VM's connection off the exchange and closes it.
cdef void exchange_drop_upstream(Worker *w, Exchange *x) noexcept nogil
