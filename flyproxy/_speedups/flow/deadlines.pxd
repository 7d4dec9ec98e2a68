# What a client connection's deadline is, and what happens when it comes.
from flyproxy._speedups.flow.worker cimport Conn, Exchange, Worker
from flyproxy._speedups.net.reactor cimport Source

# Sets the deadline that the connection's state asks for. Call it whenever that state changes.
cdef void down_rearm(Worker *w, Conn *c) noexcept nogil
cdef void down_on_timeout(void *owner, Source *source) noexcept nogil
cdef void body_due(Worker *w, Exchange *x) noexcept nogil   # from now on the client owes its body
cdef void down_drain(Worker *w) noexcept nogil              # a drain begins: idle connections get a short deadline
