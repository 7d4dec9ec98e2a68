# Raw TCP to another proxy.
from flyproxy._speedups.flow.worker cimport Conn, Exchange, Worker
from flyproxy._speedups.shm.table cimport THost, TMachine

cdef void tcp_relay_open(Worker *w, Exchange *x, const TMachine *m, const THost *h) noexcept nogil
cdef void tcp_relay_greet(Worker *w, Exchange *x) noexcept nogil        # it is connected
cdef int tcp_relay_read(Worker *w, Conn *u) noexcept nogil              # the answer, as an event handler
