# The request on its way to the VM: head, then body, with the VM's back-pressure.
from libc.stdint cimport uint32_t
from flyproxy._speedups.flow.worker cimport Exchange, Worker
from flyproxy._speedups.proto.http1 cimport Header

cdef void request_send(Worker *w, Exchange *x) noexcept nogil       # (the rest of) the head; then the body
# Moves request body bytes. 1: budget used up, call again.
cdef int request_pump(Worker *w, Exchange *x) noexcept nogil
# Body bytes that came on a stream; `end`: they were the last. Trailers end it, too.
cdef void request_push(Worker *w, Exchange *x, const char *p, uint32_t n, int end) noexcept nogil
cdef void request_trailers(Worker *w, Exchange *x, const Header *fields, uint32_t n) noexcept nogil
