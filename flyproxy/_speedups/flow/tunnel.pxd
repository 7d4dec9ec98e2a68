# Byte relays: raw TCP services, and what follows a 101. Both ways with back-pressure and true half-close.
from libc.stdint cimport uint32_t
from flyproxy._speedups.flow.worker cimport Exchange, Worker
from flyproxy._speedups.net.reactor cimport Source

# Both sockets become one tunnel. The outbox may hold bytes for the client (the head of a 101); [rest, rest+n) came
# after it from the VM.
cdef void tunnel_begin(Worker *w, Exchange *x, const char *rest, uint32_t n) noexcept nogil
cdef int tunnel_on_event(void *owner, Source *source) noexcept nogil
cdef void tunnel_on_timeout(void *owner, Source *source) noexcept nogil
