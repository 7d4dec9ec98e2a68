# The VM's answer on its way to the client: heads, interim answers, body, with the client's back-pressure.
from flyproxy._speedups.flow.worker cimport Exchange, Worker

# Reads what the VM sent. 1: budget used up, call again.
cdef void response_ended(Worker *w, Exchange *x) noexcept nogil     # the VM has closed: judge what there is
cdef int response_read(Worker *w, Exchange *x) noexcept nogil
