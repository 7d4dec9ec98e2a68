# The request on its way to the VM: head, then body, with the VM's back-pressure.
from flyproxy._speedups.flow.worker cimport Exchange, Worker

cdef void request_send(Worker *w, Exchange *x) noexcept nogil       # (the rest of) the head; then the body
# Moves request body bytes. 1: budget used up, call again.
cdef int request_pump(Worker *w, Exchange *x) noexcept nogil
