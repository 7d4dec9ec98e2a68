# Machines that speak HTTP/2 with prior knowledge (h2_backend): requests share a few connections to each.
from flyproxy._speedups.flow.worker cimport Exchange, Transport, Worker
from flyproxy._speedups.net.sockets cimport Endpoint
from flyproxy._speedups.shm.table cimport TMachine

cdef void vm_open(Worker *w, Exchange *x, const TMachine *m, const Endpoint *to) noexcept nogil
cdef int vm_connected(Worker *w, Transport *t) noexcept nogil       # as an event handler, until it is greeted
cdef void vm_forget(Worker *w, Transport *t) noexcept nogil         # it has ended
