# Answers that the proxy itself makes, on their way to a client.
from flyproxy._speedups.flow.worker cimport Conn, Exchange, Worker

# Answers and finishes the exchange; the connection is kept where the request was whole and well-formed.
cdef void answer_exchange(Worker *w, Exchange *x, int error) noexcept nogil
# The 301 of force_https in two steps: rendered while the request's head is still there, sent when its bytes are dealt
# with.
cdef void answer_prepare_https(Worker *w, Exchange *x) noexcept nogil
cdef void answer_prepared(Worker *w, Exchange *x) noexcept nogil
# For a request that never became an exchange: answers and closes.
cdef void answer_refused(Worker *w, Conn *c, int error) noexcept nogil
