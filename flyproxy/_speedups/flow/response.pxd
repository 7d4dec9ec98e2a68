# The VM's answer on its way to the client: heads, interim answers, body, with the client's back-pressure.
from libc.stdint cimport uint32_t
from flyproxy._speedups.flow.worker cimport Exchange, Worker
from flyproxy._speedups.proto.http1 cimport Header

# Reads what the VM sent. 1: budget used up, call again.
cdef void response_ended(Worker *w, Exchange *x) noexcept nogil     # the VM has closed: judge what there is
cdef int response_read(Worker *w, Exchange *x) noexcept nogil
# From a stream: its head (in w.response), body bytes (`end`: the last), trailers, which end it.
cdef void response_head(Worker *w, Exchange *x, int end) noexcept nogil
cdef void response_push(Worker *w, Exchange *x, const char *p, uint32_t n, int end) noexcept nogil
cdef void response_trailers(Worker *w, Exchange *x, const Header *fields, uint32_t n) noexcept nogil
