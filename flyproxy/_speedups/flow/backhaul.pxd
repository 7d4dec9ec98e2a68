# The edge's side of the backhaul: requests and relays towards machines of other hosts.
from flyproxy._speedups.flow.worker cimport Exchange, Transport, Worker
from flyproxy._speedups.shm.table cimport TMachine

# The exchange goes to a machine of another host, directly or through a third one.
cdef void backhaul_open(Worker *w, Exchange *x, const TMachine *m) noexcept nogil
# The head of the exchange, and the part of its body that is kept with it, onto its stream.
cdef void backhaul_send(Worker *w, Exchange *x) noexcept nogil
# Not open yet: connected, or its hello answered. As an event handler.
cdef int backhaul_read(Worker *w, Transport *t) noexcept nogil
cdef void backhaul_opened(Worker *w, Transport *t) noexcept nogil       # who waited may send
cdef void backhaul_forget(Worker *w, Transport *t) noexcept nogil       # it has ended
# The other proxy's own answer stands in w.response.
cdef void backhaul_refused(Worker *w, Exchange *x) noexcept nogil
